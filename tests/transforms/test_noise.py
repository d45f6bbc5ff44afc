"""Noise on gradients, its statistics and its keys; perturbations at small gradients, their size, place and time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests.support import relaxed

TREE = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(4), "s": jnp.zeros(())}


# --- add_noise ---


@pytest.mark.parametrize("gamma", [0.55, 0.0, 2.0])
def test_noise_is_gaussian_with_variance_eta_over_t_to_the_gamma(gamma):
    n, eta = 200_000, 0.09
    tx = gdjax.add_noise(eta, gamma, key=1)
    g = jnp.zeros(n)
    state = tx.init(g)
    for t in range(1, 5):
        u, state = tx.update(g, state)
        z = np.float64(u) / np.sqrt(eta / t**gamma)
        # Five standard deviations of each estimate.
        assert abs(z.mean()) < 5 / np.sqrt(n)
        assert abs(z.var() - 1) < 5 * np.sqrt(2 / n)
        assert abs(np.mean(np.abs(z) < 1) - 0.682689) < 5 * np.sqrt(0.22 / n)
        assert abs(np.mean(np.abs(z) < 2) - 0.954500) < 5 * np.sqrt(0.05 / n)


def test_noise_is_added_to_the_gradient():
    tx = gdjax.add_noise(0.01, 0.55, key=0)
    g = jax.tree.map(lambda x: x + 3, TREE)
    noise, _ = tx.update(TREE, tx.init(TREE))
    u, _ = tx.update(g, tx.init(g))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b + 3, rtol=1e-6), u, noise)


def draws(tx, steps=3, g=TREE):
    state, found = tx.init(g), []
    for _ in range(steps):
        u, state = tx.update(g, state)
        found.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(u)]))
    return np.stack(found)


def test_noise_is_a_function_of_key_and_step():
    a = draws(gdjax.add_noise(0.01, 0.0, key=3))
    np.testing.assert_array_equal(a, draws(gdjax.add_noise(0.01, 0.0, key=jax.random.key(3))))
    np.testing.assert_array_equal(a, draws(gdjax.add_noise(0.01, 0.0, seed=3)))
    np.testing.assert_array_equal(a, draws(gdjax.add_noise(0.01, 0.0, key=jax.random.PRNGKey(3))))
    # The variance is constant here, so that a key used twice would show.
    everything = np.concatenate([a, draws(gdjax.add_noise(0.01, 0.0, key=4))])
    assert np.unique(everything).size == everything.size  # no number twice: in leaves, steps or keys


@pytest.mark.parametrize("g", [0.0, 1.5])
def test_noise_is_optax_noise_bit_for_bit(g):
    # Both compiled, so that XLA rounds the sum the same way; from gradients of 0 the draws themselves.
    tree = jax.tree.map(lambda x: x + g, TREE)
    ours, theirs = gdjax.add_noise(0.01, 0.55, key=5), optax.add_noise(0.01, 0.55, key=5)
    state, want_state = ours.init(tree), theirs.init(tree)
    for _ in range(10):
        u, state = jax.jit(ours.update)(tree, state)
        with relaxed():
            want, want_state = jax.jit(theirs.update)(tree, want_state)
        jax.tree.map(np.testing.assert_array_equal, u, want)
        assert state.count == want_state.count
        np.testing.assert_array_equal(jax.random.key_data(state.rng_key), jax.random.key_data(want_state.rng_key))


@pytest.mark.full
def test_noisy_sgd_is_noise_then_descent():
    np.testing.assert_array_equal(
        draws(gdjax.noisy_sgd(0.25, 0.04, 0.5, key=2)), -0.25 * draws(gdjax.add_noise(0.04, 0.5, key=2))
    )
    with relaxed():
        want = draws(optax.noisy_sgd(0.25, key=2))
    np.testing.assert_allclose(draws(gdjax.noisy_sgd(0.25, key=2)), want, rtol=1e-6)


def test_scheduled_noise():
    tx = gdjax.add_noise(lambda count: jnp.where(count == 1, 0.0, 1.0), 0.0, key=0)
    assert list(np.any(draws(tx) != 0, axis=1)) == [True, False, True]


@pytest.mark.parametrize(
    ("name", "make"),
    [("add_noise", lambda lib: lib.add_noise(0.01, 0.55)), ("noisy_sgd", lambda lib: lib.noisy_sgd(0.25))],
)
def test_noise_without_a_key_is_that_of_key_0_with_one_warning(name, make):
    with pytest.warns(UserWarning) as warned:
        tx = make(gdjax)
    assert [str(w.message) for w in warned] == [
        f"gdjax.{name}: no key: the noise is that of key=0, in every run the same; pass key=, a PRNG key or an int"
    ]
    assert warned[0].filename == __file__
    with relaxed(), pytest.warns(UserWarning):
        want = draws(make(optax))
    np.testing.assert_allclose(draws(tx), want, rtol=1e-6)


def test_noise_has_one_key():
    with pytest.raises(ValueError, match="give key or seed, not both"):
        gdjax.add_noise(0.01, 0.55, key=0, seed=0)


# --- escape_saddles ---


def perturbations(samples, radius, key=0):
    """Perturbations of a tree of 11 numbers, one for each of many keys."""

    def one(key):
        tx = gdjax.escape_saddles(gdjax.sgd(0.1), radius, 0.0, 0, key)
        return tx.update(TREE, tx.init(TREE))[0]

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(key), samples))
    return np.concatenate([np.reshape(x, (samples, -1)) for x in jax.tree.leaves(found)], axis=1).astype(np.float64)


def test_perturbations_are_uniform_in_the_ball():
    n, samples, radius = 11, 4000, 0.5
    xi = perturbations(samples, radius)
    assert xi.shape == (samples, n)
    distance = np.linalg.norm(xi, axis=1)
    assert np.all(distance <= radius * (1 + 1e-6))
    # Uniform in the ball: (distance / radius)^n is uniform in [0, 1]. Kolmogorov-Smirnov at the level 0.001.
    u = np.sort((distance / radius) ** n)
    assert np.max(np.abs(u - (np.arange(samples) + 0.5) / samples)) < 1.95 / np.sqrt(samples)
    # No direction is preferred: the mean is 0, the covariance radius^2 / (n + 2) times the identity, to 5 deviations.
    variance = radius**2 / (n + 2)
    assert np.max(np.abs(xi.mean(axis=0))) < 5 * np.sqrt(variance / samples)
    assert np.max(np.abs(np.cov(xi.T) - variance * np.eye(n))) < 5 * variance * np.sqrt(2 / samples)


def when_perturbed(norms, wait, threshold=0.5, inner=None):
    """The counts at which the update is not that of `inner`, for gradients of the given norms."""
    inner = gdjax.sgd(0.1) if inner is None else inner
    tx = gdjax.escape_saddles(inner, 0.25, threshold, wait, key=0)
    direction = {"a": jnp.array([0.0, 0.75]), "b": jnp.array([-1.0])}  # of norm 1.25
    state, alone, found = tx.init(direction), inner.init(direction), []
    for count, norm in enumerate(norms):
        g = jax.tree.map(lambda x, norm=norm: x * (norm / 1.25), direction)
        u, state = tx.update(g, state)
        want, alone = inner.update(g, alone)
        xi = np.concatenate([a - b for a, b in zip(jax.tree.leaves(u), jax.tree.leaves(want), strict=True)])
        if np.any(xi != 0):
            assert np.linalg.norm(xi) <= 0.25 * (1 + 1e-6)
            found.append(count)
        jax.tree.map(np.testing.assert_array_equal, state.inner_state, alone)
        assert int(state.count) == count + 1 and (not found or int(state.last_noise) == found[-1])
    return found


@pytest.mark.full
def test_perturbs_where_the_gradient_is_small_and_the_wait_is_over():
    assert when_perturbed([0.0] * 12, wait=3) == [0, 4, 8]
    assert when_perturbed([0.0] * 5, wait=0) == [0, 1, 2, 3, 4]
    assert when_perturbed([2.0] * 6, wait=0) == []
    assert when_perturbed([2, 2, 0, 2, 0, 0, 2, 2, 0, 0], wait=2) == [2, 5, 8]


def test_threshold_is_on_the_global_norm_and_belongs_to_the_small_side():
    above = float(np.nextafter(np.float32(1.25), np.float32(2)))
    assert when_perturbed([1.25, above, 1.25, 1.26], wait=0, threshold=1.25) == [0, 2]
    # Every element of the direction is below 1.2, its norm is not.
    assert when_perturbed([1.25], wait=0, threshold=1.2) == []


def test_inner_may_keep_state():
    assert when_perturbed([0.1] * 6, wait=1, inner=gdjax.adam(0.1)) == [0, 2, 4]
    assert when_perturbed([0.1] * 3, wait=1, inner=gdjax.sgd(0.1, 0.9)) == [0, 2]


def test_every_perturbation_is_a_new_one():
    found = draws(gdjax.perturbed_gradient_descent(0.1, radius=1.0, threshold=0.0, wait=0, key=0), steps=4)
    assert np.unique(found).size == found.size
    other = draws(gdjax.perturbed_gradient_descent(0.1, radius=1.0, threshold=0.0, wait=0, key=1), steps=4)
    assert not np.any(found == other)


def test_perturbed_gradient_descent_is_sgd_that_escapes():
    ours = gdjax.perturbed_gradient_descent(0.1, radius=0.5, threshold=1.0, wait=2, key=7)
    np.testing.assert_array_equal(draws(ours, 7), draws(gdjax.escape_saddles(gdjax.sgd(0.1), 0.5, 1.0, 2, 7), 7))
    g = jax.tree.map(lambda x: x + 2, TREE)
    np.testing.assert_array_equal(draws(ours, 2, g), draws(gdjax.sgd(0.1), 2, g))


@pytest.mark.full
def test_radius_is_in_units_of_the_parameters():
    np.testing.assert_allclose(perturbations(20, 2.0), 4 * perturbations(20, 0.5), rtol=1e-6)
    assert np.all(perturbations(20, 0.0) == 0)


def test_escape_saddles_needs_a_key():
    with pytest.raises(ValueError, match="gdjax.escape_saddles: key is None"):
        gdjax.escape_saddles(gdjax.sgd(0.1), 1.0, 1.0, 1, None)
