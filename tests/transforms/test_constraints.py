"""Parameters that stay at least 0, and gradients rid of NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def test_nonnegative():
    tx = gdjax.keep_params_nonnegative()
    p = jnp.array([1.0, 1.0, 0.0, 0.0, -0.0, -2.0, 1.0])
    u = jnp.array([-3.0, 2.0, -1.0, 0.0, -0.0, 1.0, np.nan])
    got = tx.update({"w": u, "none": None}, tx.init(p), {"w": p, "none": None})[0]
    assert got["none"] is None
    np.testing.assert_array_equal(got["w"], [-1, 2, 0, 0, 0, 2, np.nan])
    after = np.asarray(gdjax.apply_updates(p, got["w"]))
    assert (after[:6] == [0, 3, 0, 0, 0, 0]).all()


@pytest.mark.parametrize("narrow, wide", [
    ("bfloat16", "float32"), ("float16", "float32"), ("bfloat16", "bfloat16"), ("float32", "bfloat16"),
])  # fmt: skip
def test_nonnegative_in_every_pair_of_dtypes(narrow, wide):
    p = jnp.asarray(np.random.default_rng(0).uniform(0, 1, 1000) ** 8, wide)
    tx = gdjax.keep_params_nonnegative()
    u, _ = tx.update(jnp.full(1000, -2.0, narrow), tx.init(p), p)
    assert u.dtype == max(jnp.dtype(narrow), jnp.dtype(wide), key=lambda dtype: dtype.itemsize)
    after = np.float64(gdjax.apply_updates(p, u))
    assert (after >= 0).all() and (after <= 2**-7 * np.float64(p) + 1e-7).all()


def test_nonnegative_leaves_integers_and_differentiates():
    params = {"w": jnp.array([1.0, 2.0]), "n": jnp.array([-1, 2])}
    grads = {"w": jnp.array([-2.0, 1.0]), "n": np.zeros(2, jax.dtypes.float0)}
    tx = gdjax.keep_params_nonnegative()
    got = tx.update(grads, tx.init(params), params)[0]
    assert got["n"].dtype == jax.dtypes.float0
    slope = jax.grad(lambda g, p: jnp.sum(tx.update(g, gdjax.EmptyState(), p)[0]), (0, 1))(grads["w"], params["w"])
    np.testing.assert_array_equal(slope, [[0, 1], [-1, 0]])


@pytest.mark.parametrize("call, error, message", [
    (lambda tx: tx.update(jnp.ones(2), tx.init(jnp.ones(2))), ValueError, "this transform needs params"),
    (lambda tx: tx.update({"w": jnp.ones(2)}, tx.init(jnp.ones(2)), {"w": jnp.ones(3)}), ValueError,
     r"params\['w'\]: gradient shape \(2,\) does not match parameter shape \(3,\)"),
    (lambda tx: tx.update(jnp.ones(2, "complex64"), tx.init(jnp.ones(2)), jnp.ones(2, "complex64")), TypeError,
     "params: does not support complex numbers"),
])  # fmt: skip
def test_nonnegative_errors(call, error, message):
    with pytest.raises(error, match=f"^gdjax.keep_params_nonnegative: {message}"):
        call(gdjax.keep_params_nonnegative())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_zero_nans(dtype):
    grads = {"a": jnp.array([np.nan, 1.0, -0.0, np.inf], dtype), "b": jnp.ones((), dtype), "none": None}
    tx = gdjax.zero_nans()
    state = tx.init(grads)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(state)] == [((), bool)] * 2
    u, state = tx.update(grads, state)
    np.testing.assert_array_equal(u["a"].astype("complex64"), np.array([0, 1, 0, np.inf], "complex64"))
    assert (u["a"].dtype, bool(u["b"] == 1), u["none"]) == (dtype, True, None)
    assert (bool(state.found_nan["a"]), bool(state.found_nan["b"])) == (True, False)
    _, state = tx.update(jax.tree.map(jnp.ones_like, grads), state)
    assert not state.found_nan["a"]  # it is of the last gradient only


def test_zero_nans_with_an_integer():
    params = {"w": jnp.ones(2), "n": jnp.arange(2)}
    tx = gdjax.zero_nans()
    grads = {"w": jnp.array([np.nan, 1.0]), "n": np.zeros(2, jax.dtypes.float0)}
    u, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(u["w"], [0, 1])
    assert u["n"].dtype == jax.dtypes.float0 and not state.found_nan["n"]  # as Optax has it
