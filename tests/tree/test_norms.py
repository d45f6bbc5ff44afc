"""Numbers of a whole tree: against NumPy in float64, against Optax, and where Optax gives way."""

import math
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import tree
from gdjax.core.base import MaskedNode
from gdjax.tree import norms
from gdjax.xla import write_order
from tests.support import relaxed
from tests.trees import precision, random_tree


def exact_norm(leaves) -> float:
    return math.sqrt(math.fsum(float(abs(x)) ** 2 for leaf in leaves for x in np.asarray(leaf).ravel()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_global_norm(dtype: str):
    with precision(dtype):
        x = random_tree(0, dtype)
        wanted = exact_norm(np.asarray(leaf).astype("complex128") for leaf in jax.tree.leaves(x))
        got = gdjax.global_norm(x)
        assert got.dtype == (jnp.float64 if dtype == "float64" else jnp.float32) and got.shape == ()
        np.testing.assert_allclose(float(got), wanted, rtol=1e-6 if dtype != "float64" else 1e-14)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e-13, 1e-12, 1.0, 1e12, 1e18, 1e20, 1e30, 1e37])
def test_global_norm_neither_overflows_nor_vanishes(scale: float):
    x = {"a": jnp.asarray([3.0 * scale, 0.0], "float32"), "b": jnp.asarray(4.0 * scale, "float32")}
    np.testing.assert_allclose(gdjax.global_norm(x), 5 * scale, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e-100, 1e100, 1e160, 2.757e304])
def test_float64_norms_of_its_whole_range(size: float):
    with precision("float64"):
        x = jnp.asarray([3.0, -4.0]) * size
        np.testing.assert_allclose(gdjax.global_norm(x), 5 * size, rtol=1e-12)
        mixed = {"a": x, "b": jnp.zeros(2, "float32")}
        if 1e-170 < size < 1e170:
            np.testing.assert_allclose(gdjax.global_norm(mixed), 5 * size, rtol=1e-12)
        large = {"a": jnp.ones(2), "b": jnp.asarray([3e30, 4e30], "float32")}
        np.testing.assert_allclose(gdjax.global_norm(large), 5e30, rtol=1e-6)


def way(sums: Any, may_repeat: bool) -> Any:
    return lambda x: norms._by_passes(x, sums, lambda: may_repeat)


WAYS = way(norms._one_sum, True), way(norms._three_sums, False)  # of a CPU, and of other devices


@pytest.mark.parametrize("scale, passes", [(1.0, 1), (1e12, 1), (1e-11, 1), (1e-15, 2), (1e20, 2), (0.0, 2)])
def test_a_second_pass_is_taken_only_where_squares_are_lost(scale: float, passes: int):
    taken = []

    def sums(x: Any, factor: Any, scale: float) -> Any:
        jax.debug.callback(lambda f: taken.append(f.item()), factor)
        return norms._one_sum(x, factor, scale)

    leaf = jnp.full(write_order.OWN + 1, scale)  # of those that read a factor of their own
    norm = way(sums, True)([leaf, leaf])
    jax.effects_barrier()
    np.testing.assert_allclose(norm, scale * (2 * leaf.size) ** 0.5, rtol=1e-6)
    assert len(taken) == 2 * passes and set(taken[:2]) == {1.0}


SCALES = [1e-37, 1.0, 5e37, 1e-30, 1e-20, 1e-12, 1e12, 1e20, 1e30]


def leaves_of_a_norm(dtype: str, scale: float) -> tuple[list[Any], Any]:
    x = [jnp.zeros((2, 2), dtype), jnp.asarray(3 * scale, dtype), jnp.asarray([4 * scale, 0.0], dtype), jnp.arange(2)]
    return x, exact_norm(np.asarray(leaf).astype("complex128") for leaf in x)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("scale", SCALES)
def test_both_ways_to_take_a_norm(dtype: str, scale: float):
    x, wanted = leaves_of_a_norm(dtype, scale)
    for norm in WAYS:
        got = jax.jit(norm)(x)
        assert got.dtype == jnp.float32 and got.shape == ()
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("scale", [*SCALES[:3], *(pytest.param(x, marks=pytest.mark.slow) for x in SCALES[3:])])
def test_both_ways_to_take_a_norm_of_constants(dtype: str, scale: float):
    x, wanted = leaves_of_a_norm(dtype, scale)
    for norm in WAYS:
        np.testing.assert_allclose(jax.jit(lambda norm=norm: norm(x))(), wanted, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_both_ways_with_what_is_not_finite(bad: float):
    for norm in WAYS:
        np.testing.assert_array_equal(norm([jnp.ones(2), jnp.array([1.0, bad])]), abs(bad))


def test_a_norm_is_lowered_for_any_device():
    exported = jax.export.export(jax.jit(gdjax.global_norm), platforms=("cpu", "tpu", "cuda"))(jnp.ones(4))
    assert exported.call(jnp.full(4, 3e30)) == jnp.float32(6e30)


def test_global_norm_of_sixteen_bit_extremes():
    np.testing.assert_allclose(gdjax.global_norm(jnp.full((4,), 65504, "float16")), 2 * 65504.0)
    np.testing.assert_allclose(gdjax.global_norm(jnp.full((4,), 6e-8, "float16")), 2 * float(jnp.float16(6e-8)))


def test_global_norm_of_many_leaves_does_not_stall():
    # A sum in bfloat16 stops at 256.
    leaves = [jnp.ones((), "bfloat16")] * 300
    np.testing.assert_allclose(gdjax.global_norm(leaves), math.sqrt(300), rtol=1e-6)


@pytest.mark.slow
def test_global_norm_of_a_million_ones():
    np.testing.assert_allclose(gdjax.global_norm(jnp.ones((10**6,), "bfloat16")), 1e3, rtol=1e-6)


def test_global_norm_of_nothing():
    for empty in ({}, [], {"a": None}, {"a": jnp.zeros((0, 3))}):
        got = gdjax.global_norm(empty)
        assert got == 0 and got.dtype == jnp.float32


def test_global_norm_of_what_is_not_finite():
    assert np.isnan(gdjax.global_norm([jnp.ones(2), jnp.array([1.0, jnp.nan])]))
    assert np.isposinf(gdjax.global_norm([jnp.ones(2), jnp.array([1.0, -jnp.inf])]))


def test_global_norm_of_numbers():
    np.testing.assert_allclose(gdjax.global_norm({"a": 3.0, "b": np.float32(4.0)}), 5)


@pytest.mark.slow
def test_derivative_of_global_norm():
    slope = jax.grad(gdjax.global_norm)
    np.testing.assert_allclose(slope(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(slope(jnp.zeros(3)), [0, 0, 0])
    np.testing.assert_allclose(slope(jnp.array([3e25, 4e25])), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(gdjax.global_norm)(jnp.array([3e-25, 4e-25])), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(slope(jnp.array([1.8e38, 2.4e38])), [0.6, 0.8], rtol=1e-6)
    curvature = jax.hessian(gdjax.global_norm)(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(curvature, [[0.128, -0.096], [-0.096, 0.072]], rtol=1e-6)
    # A complex number, beside whole ones, which have no derivative.
    x, up = {"a": jnp.array([3.0 + 4.0j]), "n": jnp.array([12])}, jnp.array([1.0 + 1.0j])
    with relaxed():
        moved = jax.jvp(lambda a: gdjax.global_norm(x | {"a": a}), (x["a"],), (up,))
    np.testing.assert_allclose(moved, [13, 7 / 13], rtol=1e-6)


def test_global_norm_does_not_depend_on_the_order():
    leaves = jax.tree.leaves(random_tree(0)) * 5
    np.testing.assert_allclose(gdjax.global_norm(leaves), gdjax.global_norm(leaves[::-1]), rtol=2e-7)


def test_global_norm_under_vmap():
    x = random_tree(0, lead=(3,))
    many = jax.vmap(gdjax.global_norm)(x)
    np.testing.assert_allclose(
        many, [gdjax.global_norm(jax.tree.map(lambda a, i=i: a[i], x)) for i in range(3)], rtol=1e-6
    )


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 100])
def test_pairwise_sum(n: int):
    x = jnp.arange(1.0, n + 1)
    assert tree.pairwise_sum(x) == n * (n + 1) / 2
    assert tree.pairwise_sum(x).shape == ()


def test_global_norm_of_whole_numbers():
    # In int32 the square of 100,000 wraps.
    got = tree.norm({"a": jnp.array([100_000, 0]), "b": jnp.array([True])})
    np.testing.assert_allclose(got, math.sqrt(1e10 + 1), rtol=1e-6)


def flat(x) -> np.ndarray:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    wide = [x.astype("complex128" if x.dtype.kind == "c" else "float64").ravel() for x in leaves]
    return np.concatenate(wide)


NUMBERS = {
    "sum": lambda x: np.sum(flat(x)),
    "vdot": lambda x: np.vdot(flat(x), 2 * flat(x)),
    "norm": lambda x: np.linalg.norm(flat(x)),
    "norm 1": lambda x: np.linalg.norm(flat(x), 1),
    "norm inf": lambda x: np.linalg.norm(flat(x), np.inf),
    "norm squared": lambda x: np.linalg.norm(flat(x)) ** 2,
}


def number(lib, name: str, x):
    if name == "vdot":
        return lib.vdot(x, jax.tree.map(lambda y: y + y, x))
    kind, _, how = name.partition(" ")
    if kind == "norm":
        return lib.norm(x, **{"": {}, "1": {"ord": 1}, "inf": {"ord": math.inf}, "squared": {"squared": True}}[how])
    return getattr(lib, kind)(x)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("name", list(NUMBERS))
def test_numbers_of_a_tree(name: str, dtype: str):
    with precision(dtype):
        x = random_tree(0, dtype, {"a": (3,), "b": [(3,)]})
        got = number(tree, name, x)
        wide = "float64" if dtype == "float64" else "float32"
        assert got.dtype == (dtype if dtype == "complex64" and name in ("sum", "vdot") else wide) and got.shape == ()
        rtol = 1e-13 if dtype == "float64" else 2e-6
        np.testing.assert_allclose(got, NUMBERS[name](x), rtol=rtol, atol=rtol)
        if jnp.dtype(dtype).itemsize > 2:
            with relaxed():
                theirs = number(optax.tree, name, x)
            np.testing.assert_allclose(got, theirs, rtol=rtol, atol=rtol)
            assert got.dtype == theirs.dtype


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int32"])
def test_extremes(name: str, dtype: str):
    x = {"a": jnp.array([3, -4], dtype), "b": jnp.array(2, dtype), "c": jnp.zeros((0,), dtype)}
    got = getattr(tree, name)(x)
    assert got == {"max": 3, "min": -4}[name] and got.dtype == dtype
    if dtype != "int32":  # which Optax turns into float32
        with relaxed():
            assert got == getattr(optax.tree, name)(x)
    assert np.isnan(getattr(tree, name)([jnp.ones(2), jnp.array(jnp.nan)]))


def test_extremes_of_whole_numbers_are_exact():
    assert tree.max({"a": jnp.array([2**24 + 1])}) == 2**24 + 1  # in Optax 2^24


@pytest.mark.full
def test_sums_of_many_dtypes():
    x = {"a": jnp.ones(2, "bfloat16"), "b": jnp.ones(3, "int32"), "c": jnp.array([True, True])}
    assert tree.sum(x) == 7 and tree.sum(x).dtype == jnp.float32
    assert tree.sum({"b": x["b"], "c": x["c"]}).dtype == jnp.int32
    assert tree.vdot(x, x) == 7 and tree.vdot(x, x).dtype == jnp.float32
    assert tree.max(x) == 1
    assert tree.sum({"a": 1.5, "b": np.float32(2)}) == 3.5


@pytest.mark.full
def test_sums_do_not_stall_in_sixteen_bits():
    ones = [jnp.ones((), "bfloat16")] * 300
    assert tree.sum(ones) == tree.vdot(ones, ones) == tree.norm(ones, 1) == tree.sum(ones, True) == 300


@pytest.mark.parametrize("empty", [{}, {"a": None}, {"a": MaskedNode()}, {"a": jnp.zeros((0, 2))}])
def test_numbers_of_nothing(empty):
    zeros = tree.sum(empty), tree.vdot(empty, empty), tree.norm(empty), tree.norm(empty, 1), tree.norm(empty, "inf")
    for x in zeros:
        assert x == 0 and x.dtype == jnp.float32 and x.shape == ()
    assert tree.max(empty) == -math.inf and tree.min(empty) == math.inf
    assert tree.size(empty) == 0 and tree.allclose(empty, empty)


def test_float0_leaves_do_not_count():
    x = {"a": jnp.ones(2), "b": np.zeros(3, jax.dtypes.float0)}
    assert tree.sum(x) == tree.vdot(x, x) == tree.norm(x, 1) == 2 and tree.max(x) == 1


def test_size():
    x = {"a": jnp.zeros((2, 3)), "b": 1.0, "c": None, "d": jnp.zeros((0,))}
    assert tree.size(x) == optax.tree.size(x) == 7


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_neither_overflow_nor_vanish(scale: float):
    x = [jnp.array([3.0 * scale]), jnp.array(-4.0 * scale)]
    for order, wanted in [(None, 5), (2, 5), (1, 7), ("inf", 4), ("infinity", 4), (jnp.inf, 4)]:
        np.testing.assert_allclose(tree.norm(x, order), wanted * scale, rtol=1e-6)


@pytest.mark.full
def test_derivatives_of_norms_at_zero():
    for order in (1, 2, "inf"):
        assert np.isfinite(jax.grad(lambda x, order=order: tree.norm(x, order))(jnp.zeros(3))).all()
    np.testing.assert_array_equal(jax.grad(lambda x: tree.norm(x, squared=True))(jnp.array([1.0, 0.0])), [2, 0])


def test_norms_squared():
    x = [jnp.array([3.0, -4.0])]
    assert [tree.norm(x, order, squared=True) for order in (1, 2, "inf")] == [49, 25, 16]


def test_norm_of_another_order():
    with pytest.raises(ValueError, match=r"gdjax\.tree\.norm: ord must be None, 1, 2, inf, .* got 3"):
        tree.norm(jnp.ones(2), 3)


def test_vdot_of_what_does_not_fit():
    with pytest.raises(ValueError, match=r"gdjax\.tree\.vdot: tree_x\['a'\] has shape \(2,\), tree_y\['a'\] \(3,\)"):
        tree.vdot({"a": jnp.ones(2)}, {"a": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"gdjax\.tree\.vdot: tree_y\['a'\] is missing"):
        tree.vdot({"a": jnp.ones(2)}, {})


def test_allclose():
    a, b = {"x": jnp.array([1.0, 2.0])}, {"x": jnp.array([1.0, 2.0 + 1e-3])}
    assert not tree.allclose(a, b) and tree.allclose(a, b, rtol=1e-3) and tree.allclose(a, b, atol=1e-2)
    nan = [jnp.array(jnp.nan)]
    assert not tree.allclose(nan, nan) and tree.allclose(nan, nan, equal_nan=True)
    assert not jax.jit(tree.allclose)([*a.values(), jnp.ones(1)], [*a.values(), jnp.zeros(1)])


def test_the_norm_of_a_large_leaf_of_whole_numbers():
    assert gdjax.global_norm(jnp.full((100, 100), 3, jnp.int32)) == 300.0
