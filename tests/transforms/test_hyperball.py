"""Hyperball against its formula in NumPy: the norm is kept, the step has its length, and the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def unit(x):
    return x / np.linalg.norm(x)


def by_hand(w, u, lr):
    """The formula of the paper for one matrix, in which u goes down the gradient."""
    radius = np.linalg.norm(w)
    return radius * unit(w + lr * radius * unit(u))


def tree(seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    shapes = {"wide": (3, 5), "tall": (6, 2), "b": (4,), "scale": ()}
    return {k: jnp.asarray(rng.normal(size=shape), dtype) for k, shape in shapes.items()}


RATE = gdjax.linear_schedule(0.3, 0.05, 6)
ADAM = 0.02
INNER = {
    "AdamH": lambda: gdjax.adamw(ADAM, weight_decay=0.0),
    "MuonH": lambda: gdjax.muon(ADAM),
    "sgd": lambda: gdjax.sgd(ADAM, momentum=0.9),
}


@pytest.mark.optimized  # compiled quickly, the inner optimizer alone and within are rounded each in its way
@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow if x == "AdamH" else []) for x in INNER])
def test_against_the_formula(name):
    inner = INNER[name]()
    tx = gdjax.hyperball(inner, RATE)
    params = tree()
    state, plain, first = tx.init(params), inner.init(params), params
    for t in range(6):
        grads = tree(t + 1)
        u, plain = inner.update(grads, plain, params)
        updates, state = jax.jit(tx.update)(grads, state, params)
        new = gdjax.apply_updates(params, updates)
        for k in ("wide", "tall"):
            expected = by_hand(np.asarray(params[k], float), np.asarray(u[k], float), float(RATE(t)))
            np.testing.assert_allclose(new[k], expected, rtol=2e-5, atol=2e-6)
            np.testing.assert_allclose(np.linalg.norm(new[k]), np.linalg.norm(first[k]), rtol=1e-6)
        for k in ("b", "scale"):
            np.testing.assert_array_equal(updates[k], u[k])
        params = new


@pytest.mark.full
def test_each_matrix_has_its_own_norm():
    """Layers, experts, and q, k, v in one array."""
    rng = np.random.default_rng(0)
    shapes = {"experts": (2, 3, 4, 5), "qkv": (4, 7)}
    params = {k: jnp.asarray(rng.normal(size=shape), "float32") for k, shape in shapes.items()}
    grads = {k: jnp.asarray(rng.normal(size=shape), "float32") for k, shape in shapes.items()}
    roles = {"experts": gdjax_matrix(-2, -1), "qkv": gdjax_matrix(-2, -1, (3, 2, 2))}
    tx = gdjax.hyperball(gdjax.sgd(1.0), 0.1, lambda tree: roles)
    state = tx.init(params)
    assert [r.shape for r in state.radius["experts"]] == [(6,)]
    assert [r.shape for r in state.radius["qkv"]] == [(1,)] * 3
    updates, new_state = tx.update(grads, state, params)
    jax.tree.map(np.testing.assert_array_equal, new_state.radius, state.radius)
    new = gdjax.apply_updates(params, updates)
    for i in np.ndindex(2, 3):
        expected = by_hand(np.asarray(params["experts"][i], float), -np.asarray(grads["experts"][i], float), 0.1)
        np.testing.assert_allclose(new["experts"][i], expected, rtol=1e-5, atol=1e-6)
    for part in (slice(0, 3), slice(3, 5), slice(5, 7)):
        w, g = (np.asarray(x["qkv"][:, part], float) for x in (params, grads))
        np.testing.assert_allclose(new["qkv"][:, part], by_hand(w, -g, 0.1), rtol=1e-5, atol=1e-6)


def gdjax_matrix(*axes):
    from gdjax.linalg.matrices import Matrix

    return Matrix(*axes)


def test_16_bit_parameters_do_not_drift():
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), "bfloat16")}
    tx = gdjax.hyperball(gdjax.sgd(1.0), 0.02)
    state = tx.init(params)
    assert state.radius["w"][0].dtype == jnp.float32
    norm = lambda p: np.linalg.norm(np.asarray(p["w"], "float64"))
    first = norm(params)
    np.testing.assert_allclose(state.radius["w"][0], [first], rtol=1e-6)

    def step(carry, key):
        params, state = carry
        grads = {"w": jax.random.normal(key, (16, 8), "bfloat16")}
        updates, state = tx.update(grads, state, params)
        return (gdjax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, state), jax.random.split(jax.random.key(0), 300))
    np.testing.assert_allclose(norm(params), first, rtol=3e-3)


def test_zeros():
    zeros = {"w": jnp.zeros((3, 2)), "v": jnp.ones((3, 2))}
    tx = gdjax.hyperball(gdjax.sgd(0.5), 0.1)
    state = tx.init(zeros)
    updates, _ = tx.update({"w": jnp.ones((3, 2)), "v": jnp.zeros((3, 2))}, state, zeros)
    np.testing.assert_array_equal(updates["w"], jnp.full((3, 2), -0.5))  # no norm to keep
    np.testing.assert_array_equal(updates["v"], jnp.zeros((3, 2)))  # no direction
    opposite, _ = gdjax.hyperball(gdjax.sgd(1.0), 1.0).update(zeros, state, zeros)
    np.testing.assert_array_equal(opposite["v"], jnp.zeros((3, 2)))  # the sum is 0, which has no direction


def test_a_size_that_over_or_underflows():
    for size in (1e-30, 1e30):
        params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)) * size, "float32")}
        grads = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)) / size, "float32")}
        tx = gdjax.hyperball(gdjax.scale(-1.0), 0.1)
        new = gdjax.apply_updates(params, tx.update(grads, tx.init(params), params)[0])
        expected = by_hand(*(np.asarray(x["w"], float) * f for x, f in ((params, 1), (grads, -1))), 0.1)
        np.testing.assert_allclose(new["w"], expected, rtol=1e-5)


def test_no_number_spoils_its_own_matrix_alone():
    params = tree()
    for bad in (jnp.nan, jnp.inf):
        grads = tree(1)
        grads["wide"] = grads["wide"].at[0, 0].set(bad)
        tx = gdjax.hyperball(gdjax.sgd(0.1), 0.1)
        updates, state = tx.update(grads, tx.init(params), params)
        assert np.isnan(updates["wide"]).all() and np.isfinite(updates["tall"]).all()
        assert np.isfinite(state.radius["wide"][0]).all()


def test_complex():
    params = {"w": jnp.asarray([[1 + 1j, 2], [0, 1j]], "complex64")}
    tx = gdjax.hyperball(gdjax.sgd(1.0), 0.1)
    state = tx.init(params)
    assert state.radius["w"][0].dtype == jnp.float32
    updates, _ = tx.update({"w": 1j * params["w"] + 1}, state, params)
    p, g = (np.asarray(x, complex) for x in (params["w"], 1j * params["w"] + 1))
    np.testing.assert_allclose(params["w"] + updates["w"], by_hand(p, -g, 0.1), rtol=1e-5)


def test_leaves_alike_share_one_trace():
    count = []
    for n in (1, 5):
        params = {f"w{i}": jnp.ones((4, 3)) for i in range(n)}
        tx = gdjax.hyperball(gdjax.sgd(0.1), 0.1)
        text = jax.jit(tx.update).lower(params, tx.init(params), params).as_text()
        count.append(text.count("sqrt"))
    assert count[0] == count[1]


def test_errors():
    params = tree()
    tx = gdjax.hyperball(gdjax.sgd(0.1), 0.1)
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"gdjax.hyperball.*params"):
        tx.update(params, state)
    other = gdjax.hyperball(gdjax.sgd(0.1), 0.1, lambda tree: jax.tree.map(lambda x: None, tree)).init(params)
    with pytest.raises(ValueError, match=r"gdjax.hyperball: params\['tall'\]: the state has norms of other matrices"):
        tx.update(params, other, params)
    with pytest.raises(TypeError, match="inner is 0.1"):
        gdjax.hyperball(0.1, 0.1)
