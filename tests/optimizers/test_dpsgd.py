"""DP-SGD against NumPy without noise, and its descent with some."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

RNG = np.random.default_rng(0)
DATA = (RNG.normal(size=(64, 3)) + np.array([1.0, -2.0, 0.5])).astype("float32")


def descend(tx, steps):
    """On |x - data|^2 / 2, with the gradient of each example."""

    @jax.jit
    def step(params, state):
        grads = jax.vmap(lambda x: params - x)(jnp.asarray(DATA))
        u, state = tx.update(grads, state, params)
        return gdjax.apply_updates(params, u), state

    params = jnp.zeros(3)
    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


@pytest.mark.parametrize("momentum, nesterov", [(None, False), (0.5, False), (0.5, True)])
def test_oracle_without_noise(momentum, nesterov):
    x, v, b = np.zeros(3), 0.0, momentum or 0.0
    for _ in range(20):
        g = x - np.float64(DATA)
        u = np.mean(g * np.minimum(1, 1.5 / np.linalg.norm(g, axis=1, keepdims=True)), 0)
        v = u + b * v
        x = x - 0.1 * (u + b * v if nesterov else v)
    got = descend(gdjax.dpsgd(0.1, 1.5, 0.0, 0, momentum, nesterov), 20)
    np.testing.assert_allclose(got, x, rtol=1e-5)


def test_it_descends_through_the_noise():
    got = descend(gdjax.dpsgd(0.1, 1.0, 0.1, seed=0, momentum=0.5), 60)
    np.testing.assert_allclose(got, DATA.mean(0), atol=0.3)


def test_nesterov_needs_a_momentum():
    with pytest.raises(ValueError, match="^gdjax.dpsgd: nesterov=True needs a momentum, got None"):
        gdjax.dpsgd(0.1, 1.0, 1.0, 0, nesterov=True)


def test_the_key_has_two_names():
    assert gdjax.dpsgd(0.1, 1.0, 1.0, 3) == gdjax.dpsgd(0.1, 1.0, 1.0, key=3)
    by_seed = gdjax.dpsgd(0.1, 1.0, 1.0, seed=3)
    np.testing.assert_array_equal(descend(by_seed, 2), descend(gdjax.dpsgd(0.1, 1.0, 1.0, key=3), 2))
    with pytest.raises(ValueError, match="^gdjax.dpsgd: give key or seed, not both"):
        gdjax.dpsgd(0.1, 1.0, 1.0, 3, seed=3)
    with pytest.raises(ValueError, match="^gdjax.dpsgd: key is None"):
        gdjax.dpsgd(0.1, 1.0, 1.0)
