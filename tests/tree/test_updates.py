"""How updates reach the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests.trees import assert_close, assert_equal, random_tree


def test_apply_updates_adds():
    p, u = random_tree(0), random_tree(1)
    assert_equal(gdjax.apply_updates(p, u), jax.tree.map(lambda x, y: x + y, p, u))
    assert_equal(jax.jit(gdjax.apply_updates)(p, u), gdjax.apply_updates(p, u))


@pytest.mark.parametrize(
    ("params", "updates"), [("bfloat16", "float32"), ("float32", "bfloat16"), ("float16", "float16")]
)
def test_params_keep_their_dtype_and_are_rounded_once(params: str, updates: str):
    p, u = jnp.asarray(1.0, params), jnp.asarray(2.0**-6 + 2.0**-12, updates)
    got = gdjax.apply_updates(p, u)
    exact = float(p) + float(u)
    assert got.dtype == params
    assert float(got) == float(jnp.asarray(exact, params))


def test_a_narrow_param_takes_what_a_wide_update_adds_up_to():
    # Rounding the update to the parameter's dtype first would lose it here: 1 + 2^-8 + 2^-9 is a tie in bfloat16.
    p, u = jnp.asarray(1.0, "bfloat16"), jnp.asarray(2.0**-8 + 2.0**-20, "float32")
    assert float(gdjax.apply_updates(p, u)) == 1 + 2.0**-7


def test_none_on_either_side():
    p = {"a": None, "b": jnp.ones(2), "c": jnp.ones(2), "d": None}
    got = gdjax.apply_updates(p, {"a": None, "b": None, "c": jnp.ones(2), "d": jnp.ones(2)})
    assert got["a"] is None and got["d"] is None
    np.testing.assert_array_equal(got["b"], [1, 1])
    np.testing.assert_array_equal(got["c"], [2, 2])


def test_numbers_and_numpy():
    assert float(gdjax.apply_updates(1.0, jnp.float32(2.0))) == 3
    np.testing.assert_array_equal(
        gdjax.apply_updates({"x": np.ones(2, "float32")}, {"x": np.ones(2, "float32")})["x"], 2
    )
    assert gdjax.apply_updates({}, {}) == {}


def test_structures_must_match():
    with pytest.raises(ValueError, match=r"^gdjax.apply_updates: updates\['b'\] is missing"):
        gdjax.apply_updates({"a": jnp.ones(2), "b": jnp.ones(2)}, {"a": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"^gdjax.apply_updates: updates\['b'\] has no counterpart in the params"):
        gdjax.apply_updates({"a": jnp.ones(2)}, {"a": jnp.ones(2), "b": jnp.ones(2)})
    with pytest.raises(
        ValueError, match=r"^gdjax.apply_updates: params\['a'\]: update shape \(1,\) does not match \(2,\)"
    ):
        gdjax.apply_updates({"a": jnp.ones(2)}, {"a": jnp.ones(1)})


def test_who_sees_a_gradient_of_another_shape():
    """`update` where it has something to compare with, else `apply_updates`, as the page for those who come from Optax
    says."""
    params, gradients = {"w": jnp.ones((2, 3))}, {"w": jnp.ones((2, 1))}
    for tx, given in [(gdjax.sgd(0.1), params), (gdjax.sgd(0.1, momentum=0.9), None), (gdjax.adam(0.1), None)]:
        with pytest.raises(ValueError, match=r"params\['w'\]"):
            tx.update(gradients, tx.init(params), given)
    for tx, given in [(gdjax.sgd(0.1), None), (gdjax.clip(1.0), params), (gdjax.scale(2.0), params)]:
        updates, _ = tx.update(gradients, tx.init(params), given)
        with pytest.raises(ValueError, match=r"apply_updates: params\['w'\]: update shape \(2, 1\)"):
            gdjax.apply_updates(params, updates)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_incremental_update(dtype: str):
    new, old = random_tree(0, dtype), random_tree(1, dtype)
    got = gdjax.incremental_update(new, old, 0.25)

    def wanted(x, y):
        x, y = np.asarray(x, "float64"), np.asarray(y, "float64")
        return jnp.asarray(0.25 * x + 0.75 * y).astype(dtype)

    assert_close(
        got, jax.tree.map(wanted, new, old), rtol=float(jnp.finfo(dtype).eps), atol=float(jnp.finfo(dtype).eps)
    )
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(dtype)}
    assert_equal(gdjax.incremental_update(new, old, 1.0), new)
    assert_equal(gdjax.incremental_update(new, old, 0.0), old)


def test_incremental_update_traced_and_with_none():
    got = jax.jit(gdjax.incremental_update)({"a": jnp.ones(2), "b": None}, {"a": jnp.zeros(2), "b": None}, 0.5)
    assert got["b"] is None
    np.testing.assert_array_equal(got["a"], [0.5, 0.5])


@pytest.mark.parametrize("compile", [lambda f: f, jax.jit])
def test_incremental_update_where_there_is_nothing_new(compile):
    new, old = {"a": jnp.ones(2), "b": None}, {"a": jnp.zeros(2), "b": jnp.ones(3)}
    for lib in (optax, gdjax):
        got = compile(lib.incremental_update)(new, old, 0.5)
        assert got["b"] is None
        np.testing.assert_array_equal(got["a"], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"incremental_update: new_tensors\['b'\] has no counterpart in the old_tens"):
        gdjax.incremental_update(old, new, 0.5)
    with pytest.raises(ValueError, match=r"periodic_update: new_tensors\['b'\] is None, old_tensors\['b'\] is not"):
        gdjax.periodic_update(new, old, 1, 2)


@pytest.mark.parametrize("period", [1, 3])
def test_periodic_update(period: int):
    new, old = random_tree(0), random_tree(1)
    update = jax.jit(gdjax.tree.updates.periodic_update)
    for steps in range(5):
        got = update(new, old, steps, period)
        assert_equal(got, new if steps % period == 0 else old)
        assert_equal(got, optax.periodic_update(new, old, steps, period))


def test_periodic_update_keeps_the_dtypes_of_the_copy():
    got = gdjax.tree.updates.periodic_update(
        {"a": jnp.ones(2), "b": None}, {"a": jnp.zeros(2, "bfloat16"), "b": None}, 4, 2
    )
    assert got["b"] is None and got["a"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(got["a"], [1, 1])
