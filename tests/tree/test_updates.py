"""How updates reach the parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests.oracles import precision
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


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "int4", "int8"])
def test_a_frozen_leaf_may_have_few_bits(dtype: str):
    """The base of an adapter."""
    p = {"base": jnp.ones((4, 4)).astype(dtype), "adapter": jnp.ones((4, 4), "bfloat16")}
    tx = gdjax.partition(
        {"frozen": gdjax.set_to_zero(), "train": gdjax.sgd(0.5)}, {"base": "frozen", "adapter": "train"}
    )
    new = gdjax.apply_updates(p, tx.update(p, tx.init(p), p)[0])
    assert new["base"].dtype == dtype and float(new["adapter"][0, 0]) == 0.5
    np.testing.assert_array_equal(np.asarray(new["base"], np.float32), 1.0)


def test_a_narrow_param_takes_what_a_wide_update_adds_up_to():
    # Rounding the update to the parameter's dtype first would lose it here: 1 + 2^-8 + 2^-9 is a tie in bfloat16.
    p, u = jnp.asarray(1.0, "bfloat16"), jnp.asarray(2.0**-8 + 2.0**-20, "float32")
    assert float(gdjax.apply_updates(p, u)) == 1 + 2.0**-7


@pytest.mark.parametrize("kinds", [("bfloat16", "float16"), ("float16", "bfloat16")])
def test_neither_of_two_narrow_dtypes_holds_the_other(kinds: tuple[str, str]):
    """float16 ends at 65504 and at 6e-8, bfloat16 has 8 bits: their sum is that of float32, rounded once."""
    p, u = jnp.asarray([2.0**-13, 1.0, 60000.0], kinds[0]), jnp.asarray([0.0, 2.0**-12, 2.0], kinds[1])
    exact = np.asarray(p, np.float32) + np.asarray(u, np.float32)
    np.testing.assert_array_equal(gdjax.apply_updates(p, u), exact.astype(p.dtype))
    large = jnp.asarray([1e-8, 1e5], "bfloat16")
    np.testing.assert_array_equal(gdjax.apply_updates(large, jnp.zeros(2, "float16")), large)


def test_a_complex_param_takes_a_real_update_of_as_many_bytes():
    with precision("float64"):
        p, u = jnp.asarray([1 + 2j], "complex64"), jnp.asarray([0.25], "float64")
        got = gdjax.apply_updates(p, u)
    assert got.dtype == "complex64"
    np.testing.assert_array_equal(got, [1.25 + 2j])


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


def at_random(p: Any, u: Any, key: Any = 0) -> Any:
    return gdjax.apply_updates(p, u, key, rounding="stochastic")


@pytest.mark.parametrize(
    ("dtype", "update"), [("bfloat16", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32")]
)
def test_stochastic_rounding_has_the_sum_as_its_mean(dtype: str, update: str):
    """To 4 standard deviations, between neighbours, over the elements of an array and over keys."""
    n = 100_000
    p, u = jnp.full(n, -1.0, dtype), jnp.full(n, 2.0**-12, update)
    got = np.asarray(at_random(p, u), np.float64)
    low, gap = -1.0, 2.0**-8 if dtype == "bfloat16" else 2.0**-11
    assert set(np.unique(got)) == {low, low + gap}
    share = 2.0**-12 / gap
    assert abs(got.mean() - (low + 2.0**-12)) < 4 * gap * np.sqrt(share * (1 - share) / n)
    over_keys = jax.vmap(lambda key: at_random(p[:1], u[:1], key))(jax.random.split(jax.random.key(1), 20_000))
    assert abs(np.asarray(over_keys, np.float64).mean() - (low + 2.0**-12)) < 4 * gap * np.sqrt(
        share * (1 - share) / 20_000
    )


def test_stochastic_rounding_of_steps_and_leaves_is_independent():
    p, u = {k: jnp.ones(4000, jnp.bfloat16) for k in "ab"}, {k: jnp.full(4000, 2.0**-8) for k in "ab"}
    ups = [np.asarray(at_random(p, u, key)[k]) > 1 for key in jax.random.split(jax.random.key(0)) for k in "ab"]
    for i, x in enumerate(ups):
        assert abs(x.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
        for y in ups[:i]:
            assert abs(np.mean(x == y) - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_stochastic_rounding_leaves_the_rest_as_it_is():
    p = {"wide": jnp.ones(3), "n": jnp.arange(3), "none": None, "x": jnp.ones(3, jnp.bfloat16), "one": 1.0}
    u = {"wide": jnp.full(3, 1e-4), "n": np.zeros(3, jax.dtypes.float0), "none": None, "x": None, "one": jnp.float32(1)}
    assert_equal(at_random(p, u), gdjax.apply_updates(p, u))
    exact = jnp.asarray([1.0, jnp.inf, -jnp.inf, jnp.nan, 0.0], jnp.bfloat16)
    assert_equal(at_random(exact, jnp.zeros(5)), exact)


def test_stochastic_rounding_in_jit_scan_and_with_every_kind_of_key():
    p, u = random_tree(0, "bfloat16"), random_tree(1)
    wanted = at_random(p, u, jax.random.key(5))
    assert_equal(at_random(p, u, 5), wanted)
    assert_equal(at_random(p, u, jax.random.PRNGKey(5)), wanted)
    assert_equal(jax.jit(at_random)(p, u, jax.random.key(5)), wanted)
    scanned, _ = jax.lax.scan(lambda p, key: (at_random(p, u, key), None), p, jax.random.key(5)[None])
    assert_equal(scanned, wanted)


def test_stochastic_rounding_and_its_key_come_together():
    p = jnp.ones(2, jnp.bfloat16)
    with pytest.raises(ValueError, match="apply_updates: rounding='stochastic' needs a key, another one in each step"):
        gdjax.apply_updates(p, p, rounding="stochastic")
    with pytest.raises(ValueError, match="apply_updates: a key, and rounding='nearest', which needs none"):
        gdjax.apply_updates(p, p, jax.random.key(0))
    with pytest.raises(ValueError, match="rounding must be 'nearest' or 'stochastic', got 'random'"):
        gdjax.apply_updates(p, p, 0, rounding="random")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="apply_updates: key must be a PRNG key or an int, got 0.5"):
        gdjax.apply_updates(p, p, 0.5, rounding="stochastic")  # type: ignore[arg-type]


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
