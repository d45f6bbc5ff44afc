"""Bounds on gradients: against NumPy, and where a norm taken plainly over- or underflows, stalls or divides by 0."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests import oracles, trees
from tests.support import relaxed


def apply(tx, grads):
    updates, _ = tx.update(grads, tx.init(grads))
    return updates


def over_steps(tx, dtype="float32"):
    """The updates for each of 50 trees of random gradients."""
    with oracles.precision(dtype):
        noise = jax.tree.map(lambda x: jnp.asarray(x, dtype), oracles.NOISE)
        return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda g: apply(tx, g)))(noise))


def assert_close(got, want, rtol):
    for leaf in oracles.SHAPES:
        np.testing.assert_allclose(got[leaf], want[leaf], rtol=rtol, err_msg=leaf)


# 17 numbers of variance 1: their norm is 4 or so, and clipping to that clips about half of the trees.
@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("max_norm", [0.5, 4.0])
def test_global_norm_oracle(max_norm, dtype, rtol):
    want = {k: np.zeros_like(x, np.float64) for k, x in oracles.NOISE.items()}
    clipped = 0
    for t in range(oracles.STEPS):
        norm = np.sqrt(sum(np.sum(np.float64(x[t]) ** 2) for x in oracles.NOISE.values()))
        clipped += norm > max_norm
        for k, x in oracles.NOISE.items():
            want[k][t] = np.float64(x[t]) * min(1, max_norm / norm)
    assert clipped == 50 if max_norm == 0.5 else 10 < clipped < 40
    assert_close(over_steps(gdjax.clip_by_global_norm(max_norm), dtype), want, rtol)


@pytest.mark.parametrize("factory", ["clip", "clip_by_global_norm"])
def test_optax(factory):
    with relaxed():
        want = over_steps(getattr(optax, factory)(0.75))
    assert_close(over_steps(getattr(gdjax, factory)(0.75)), want, 1e-6)


@pytest.mark.parametrize("max_norm", [5.0, 5.5, np.inf])
def test_gradients_inside_the_bound_stay_bit_for_bit(max_norm):
    grads = {"a": jnp.array(3.0), "b": jnp.array([0.0, -4.0])}  # of norm 5
    jax.tree.map(np.testing.assert_array_equal, apply(gdjax.clip_by_global_norm(max_norm), grads), grads)


def test_one_factor_for_the_whole_tree():
    got = apply(gdjax.clip_by_global_norm(1.0), {"a": jnp.array(3.0), "b": [jnp.array(-4.0), None]})
    np.testing.assert_allclose([got["a"], got["b"][0]], [0.6, -0.8], rtol=1e-7)


# The gradients, the bound, and what must come out. Half-precision results are rounded once: half an ulp is 2^-11 in
# float16 and 2^-8 in bfloat16, relative.
EXTREMES = {
    "float16 squares overflow": (np.full(300, 300, np.float16), 1.0, np.full(300, 300**-0.5), 2**-11),
    "float16 norm overflows": (np.full(300, 60000, np.float16), 1.0, np.full(300, 300**-0.5), 2**-11),
    "zeros": (np.zeros(3, np.float32), 1.0, np.zeros(3), 0),
    "float32 squares overflow": (np.full(2, 1e20, np.float32), 1.0, np.full(2, 0.5**0.5), 1e-6),
    "float32 squares underflow": (np.array([3e-30, -4e-30], np.float32), 1e-30, [0.6e-30, -0.8e-30], 1e-6),
    "bfloat16": (np.full(300, 1, jnp.bfloat16), 1.0, np.full(300, 300**-0.5), 2**-8),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name):
    grads, max_norm, want, rtol = EXTREMES[name]
    got = apply(gdjax.clip_by_global_norm(max_norm), jnp.asarray(grads))
    assert got.dtype == grads.dtype
    np.testing.assert_allclose(np.float64(got), want, rtol=rtol)
    # As constants of a compiled step too, whose squares XLA takes by its own rules.
    got = jax.jit(lambda: apply(gdjax.clip_by_global_norm(max_norm), jnp.asarray(grads)))()
    np.testing.assert_allclose(np.float64(got), want, rtol=rtol)


def test_zero_gradients_known_to_the_compiler():
    def step(p):
        return apply(gdjax.clip_by_global_norm(1.0), jax.grad(lambda p: jnp.zeros(()))(p))

    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2)), "c": jnp.ones(())}
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0), jax.jit(step)(params))


# Summed in bfloat16 256 and 33 ones stay 256, and 4096 and 33 times 16 stay 4096.
@pytest.mark.parametrize("value, want", [(1, 17), (4, 68)])
def test_norm_of_many_bfloat16_leaves(value, want):
    grads = [jnp.full((), x, jnp.bfloat16) for x in [16 * value] + [value] * 33]
    norm = jax.jit(gdjax.global_norm)(grads)
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, want, rtol=1e-6)
    got = apply(gdjax.clip_by_global_norm(want / 4), grads)
    assert [float(x) for x in got] == [float(x) / 4 for x in grads]


def test_zero_bound():
    for g in (0.0, 1e-30, 7.0, 1e30):
        np.testing.assert_array_equal(apply(gdjax.clip_by_global_norm(0.0), jnp.full(3, g)), np.zeros(3))


def test_nan_spreads_to_every_leaf():
    got = apply(gdjax.clip_by_global_norm(1.0), {"a": jnp.array(np.nan), "b": jnp.ones(3)})
    assert all(np.all(np.isnan(x)) for x in jax.tree.leaves(got))


@pytest.mark.parametrize("g", [0.0, 2.0])
def test_derivative_through_the_norm_is_finite(g):
    slope = jax.grad(lambda x: apply(gdjax.clip_by_global_norm(1.0), {"a": x, "b": jnp.zeros(2)})["a"].sum())
    assert np.all(np.isfinite(slope(jnp.full(3, g))))


def test_scheduled_bound():
    tx = gdjax.clip_by_global_norm(lambda count: jnp.where(count < 1, 2.0, 0.5))
    state = tx.init(jnp.zeros(2))
    for step, bound in enumerate((2.0, 0.5, 0.5)):
        assert int(state.count) == step
        u, state = tx.update(jnp.array([3.0, 4.0]), state)
        np.testing.assert_allclose(u, [0.6 * bound, 0.8 * bound], rtol=1e-6)


def test_clip_elementwise():
    got = apply(gdjax.clip(1.5), jnp.array([-3.0, -1.5, -0.25, 0.0, 1.0, 2.0, np.inf]))
    np.testing.assert_array_equal(got, np.float32([-1.5, -1.5, -0.25, 0, 1, 1.5, 1.5]))
    np.testing.assert_array_equal(apply(gdjax.clip(0.0), jnp.array([-3.0, 0.0, 2.0])), np.zeros(3))


def test_clip_complex_keeps_the_argument():
    got = apply(gdjax.clip(1.0), jnp.array([3 + 4j, 0.3 - 0.4j, 0j]))
    np.testing.assert_allclose(got, [0.6 + 0.8j, 0.3 - 0.4j, 0], rtol=1e-6)


@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("threshold", [0.25, 1.0])
def test_block_rms_oracle(threshold, dtype, rtol):
    want = {}
    for k, x in oracles.NOISE.items():
        rms = np.sqrt(np.mean(np.float64(x) ** 2, axis=tuple(range(1, x.ndim)), keepdims=True))
        want[k] = np.float64(x) * np.minimum(1, threshold / rms)
    assert_close(over_steps(gdjax.clip_by_block_rms(threshold), dtype), want, rtol)


@pytest.mark.parametrize("factory", [gdjax.clip_by_block_rms, lambda bound: gdjax.normalize()])
@pytest.mark.parametrize(
    "size, dtype",
    [(1e37, "float32"), (1e-37, "float32"), (1e20, "float32"), (1e-30, "float32"), (3e4, "float16"), (1.0, "bfloat16")],
)
def test_block_rms_and_normalize_of_extremes(factory, size, dtype):
    got = apply(factory(size / 8), jnp.full(4, size, dtype))
    want = size / 8 if factory is gdjax.clip_by_block_rms else 0.5
    assert got.dtype == dtype
    np.testing.assert_allclose(np.float64(got), want, rtol=1e-6 if dtype == "float32" else 2**-8)


@pytest.mark.parametrize("tx", [gdjax.clip_by_block_rms(0.0), gdjax.clip_by_block_rms(1.0), gdjax.normalize()])
def test_zeros_stay_zeros_with_finite_derivatives(tx):
    zeros = {"a": jnp.zeros(3), "b": jnp.zeros(()), "c": jnp.zeros((0, 2))}
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0), apply(tx, zeros))
    slope = jax.grad(lambda g: sum(jnp.sum(u) for u in jax.tree.leaves(apply(tx, g))))(zeros)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))


def test_block_rms_is_of_each_array_and_keeps_what_is_inside():
    grads = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.5, -0.5]), "c": jnp.array([np.nan, 1.0])}
    got = apply(gdjax.clip_by_block_rms(0.5), grads)
    np.testing.assert_allclose(got["a"], np.array([3, 4]) / 25**0.5 / 2**0.5, rtol=1e-6)
    np.testing.assert_array_equal(got["b"], grads["b"])
    assert np.isnan(got["c"]).all()


@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-6), ("float64", 1e-14)])
def test_normalize_oracle(dtype, rtol):
    squares = sum(np.sum(np.float64(x).reshape(oracles.STEPS, -1) ** 2, 1) for x in oracles.NOISE.values())
    want = {k: np.float64(x) / np.sqrt(squares).reshape(-1, *[1] * (x.ndim - 1)) for k, x in oracles.NOISE.items()}
    assert_close(over_steps(gdjax.normalize(), dtype), want, rtol)


@pytest.mark.parametrize("factory, name", [
    (gdjax.clip, "max_delta"), (gdjax.clip_by_global_norm, "max_norm"), (gdjax.clip_by_block_rms, "threshold"),
])  # fmt: skip
def test_negative_bound(factory, name):
    with pytest.raises(ValueError, match=f"gdjax.{factory.__name__}: {name} must be at least 0, got -1"):
        factory(-1.0)


GROUPS = {"a": jnp.asarray([3.0]), "b": {"c": jnp.asarray([4.0])}}


def clipped(tx: Any, grads: Any = GROUPS) -> Any:
    return apply(tx, grads)


@pytest.mark.full
def test_by_the_norm_of_all_or_of_each_group():
    clip = gdjax.clip_by_global_norm(1.0)
    each = {"a": jnp.ones(1), "b": {"c": jnp.ones(1)}}
    over_all = {"a": jnp.asarray([0.6]), "b": {"c": jnp.asarray([0.8])}}
    labels = gdjax.label_by_path({"a": "first", ".*": "rest"})
    inner = {"first": gdjax.scale(1.0), "rest": gdjax.scale(1.0)}
    trees.assert_close(clipped(gdjax.chain(clip, gdjax.partition(inner, labels))), over_all)
    trees.assert_close(clipped(gdjax.partition(dict.fromkeys(inner, clip), labels)), each)
    for groups in ({"a": 1, "b": 2}, labels, lambda tree: {"a": 1, "b": 2}):
        tx = gdjax.clip_by_global_norm(1.0, groups=groups)
        trees.assert_close(clipped(tx), each)
        trees.assert_close(clipped(gdjax.chain(gdjax.scale(2.0), tx)), each)
        trees.assert_close(clipped(gdjax.chain(gdjax.clip_by_global_norm(10.0, groups={".*": 1}), tx)), each)
    trees.assert_close(clipped(gdjax.clip_by_global_norm(1.0, groups={".": "all"})), over_all)
    assert jax.tree.leaves(gdjax.clip_by_global_norm(1.0, groups={"a": 1}).init(GROUPS)) == []


def test_groups_of_leaves_that_are_not_there():
    tx = gdjax.clip_by_global_norm(1.0, groups=lambda tree: {"a": 1, "b": 2})
    updates = clipped(tx, {"a": None, "b": {"c": jnp.asarray([4.0]), "d": jnp.asarray([3.0])}})
    trees.assert_close(updates, {"a": None, "b": {"c": jnp.asarray([0.8]), "d": jnp.asarray([0.6])}})
    tx = gdjax.clip_by_global_norm(1.0, groups={"a": 1, ".*": 2})
    masked = gdjax.masked(tx, {"a": False, "b": True})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trees.assert_close(clipped(masked), {"a": jnp.asarray([3.0]), "b": {"c": jnp.ones(1)}})


def test_errors_of_groups():
    with pytest.raises(TypeError, match="^gdjax.clip_by_global_norm: groups must be a dict from pattern to label or"):
        gdjax.clip_by_global_norm(1.0, groups=3)
    with pytest.raises(ValueError, match="no rule matches b/c"):
        clipped(gdjax.clip_by_global_norm(1.0, groups={"a": 1}))
    with pytest.raises(TypeError, match="^gdjax.clip_by_global_norm: the groups' function returned None"):
        clipped(gdjax.clip_by_global_norm(1.0, groups=lambda tree: None))


def test_a_tree_of_two_precisions_has_one_norm():
    with trees.precision("float64"):
        g = {"wide": jnp.asarray([3.0, 0.0], jnp.float64), "plain": jnp.asarray([4.0], jnp.float32)}
        np.testing.assert_allclose(gdjax.global_norm(g), 5.0)
        tx = gdjax.clip_by_global_norm(2.5)
        u, _ = tx.update(g, tx.init(g))
        assert u["wide"].dtype == jnp.float64 and u["plain"].dtype == jnp.float32
        np.testing.assert_allclose(np.concatenate([u["wide"], u["plain"]]), [1.5, 0.0, 2.0])
