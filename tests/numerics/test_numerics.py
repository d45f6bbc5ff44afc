"""The functions of numbers that rules share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import numerics
from gdjax.numerics import norms as vector_norms
from gdjax.xla import write_order
from gdjax.xla.sums import summand
from tests.support import relaxed
from tests.trees import precision, random_tree


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("b", [0.0, 0.5, 0.9, 0.999, 1 - 2.0**-20])
def test_one_minus_pow(b, dtype):
    with precision(dtype):
        t = np.array([1, 2, 3, 10, 1000, 10**6])
        got = [numerics.one_minus_pow(b, jnp.asarray(x, dtype)) for x in t]
        traced = [jax.jit(numerics.one_minus_pow)(jnp.asarray(b, dtype), jnp.asarray(x, dtype)) for x in t]
        wanted = -np.expm1(t * np.log(b)) if b else np.ones(len(t))
        tolerance = 4 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(got, wanted, rtol=tolerance)
        # A traced b has been rounded to the dtype before: the difference to 1 keeps the digits that are left.
        rounded = np.asarray(b, dtype).astype(np.float64)
        wanted = -np.expm1(t * np.log(rounded)) if b else np.ones(len(t))
        np.testing.assert_allclose(traced, wanted, rtol=max(tolerance, 4 * float(jnp.finfo(dtype).eps)))


def test_sqrt():
    x = jnp.array([0.0, 1e-30, 0.25, 4.0])
    np.testing.assert_array_equal(numerics.sqrt(x), jnp.sqrt(x))
    slope = jax.vmap(jax.grad(numerics.sqrt))(x)
    np.testing.assert_allclose(slope, [0, 0.5e15, 1, 0.25], rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(numerics.sqrt)))(x[2:]), [-2, -1 / 32], rtol=1e-6)
    assert np.isfinite(jax.grad(jax.grad(numerics.sqrt))(0.0))


def test_derivatives_of_quotient_and_peak():
    """As those of x / y and of the maximum; finite where y^-2 is not, or the maximum is 0, or two are alike."""
    x, y, dx, dy = (jnp.float32(v) for v in (3.0, 2.0, 0.5, 0.25))
    expected = jax.jvp(lambda x, y: x / y, (x, y), (dx, dy))
    np.testing.assert_allclose(jax.jvp(numerics.quotient, (x, y), (dx, dy)), expected, rtol=1e-6)
    tiny = jnp.float32(1e-30)
    assert float(jax.grad(numerics.quotient)(tiny, tiny)) == pytest.approx(1e30, rel=1e-6)
    assert float(jax.grad(numerics.quotient, 1)(tiny, tiny)) == pytest.approx(-1e30, rel=1e-6)
    for values, slopes in (([1.0, 3.0, 2.0], [0, 1, 0]), ([3.0, 3.0, 1.0], [1, 0, 0]), ([0.0, 0.0, 0.0], [0, 0, 0])):
        np.testing.assert_array_equal(jax.grad(numerics.peak)(jnp.array(values)), np.float32(slopes))
    rows = jnp.array([[1.0, 4.0], [5.0, 2.0]])
    slopes = jax.grad(lambda a: jnp.sum(numerics.peak(a, -1) * jnp.array([[1.0], [2.0]])))(rows)
    np.testing.assert_array_equal(slopes, [[0, 1], [2, 0]])
    assert float(numerics.peak(jnp.zeros(0))) == 0.0


@pytest.mark.full
def test_divide():
    x, y = jnp.array([0.0, 1.0, -3.0]), jnp.array([0.0, 4.0, 2.0])
    np.testing.assert_array_equal(numerics.divide(x, y), [0, 0.25, -1.5])
    assert np.isfinite(jax.jacrev(numerics.divide, (0, 1))(x, y)).all()


def test_abs_sq():
    np.testing.assert_array_equal(numerics.abs_sq(jnp.array([3 + 4j, -2j])), [25, 4])
    assert numerics.abs_sq(jnp.ones((), jnp.complex64)).dtype == jnp.float32
    np.testing.assert_array_equal(numerics.abs_sq(jnp.array([-3.0])), [9])


def test_safe_increment():
    top = 2**31 - 1
    np.testing.assert_array_equal(numerics.safe_increment(jnp.array([0, top - 1, top], jnp.int32)), [1, top, top])
    assert numerics.safe_increment(jnp.zeros((), jnp.int32)).dtype == jnp.int32


def test_dtypes():
    assert numerics.at_least_float32("bfloat16") == jnp.float32 == numerics.at_least_float32("float32")
    assert numerics.at_least_float32("complex64") == jnp.complex64
    assert numerics.real_dtype(jnp.complex64) == jnp.float32
    with precision("float64"):
        assert numerics.at_least_float32("float64") == jnp.float64
        assert numerics.real_dtype(jnp.complex128) == jnp.float64


X = np.array([[3.0, -4.0, 0.5], [0.0, 2.0, -1.0]])


NORMS = [(None, None), (None, 1), (3, 1), (np.inf, 0), ("nuc", (0, 1))]
MORE_NORMS = [(None, 0), (2, 1), (1, 1), (0, 1), ("fro", None)]


@pytest.mark.full
@pytest.mark.parametrize(
    ("order", "axis", "dtype"),
    [
        *((*norm, "float32") for norm in NORMS + MORE_NORMS),
        *((*norm, "complex64") for norm in NORMS),
        (None, 1, "float64"),
    ],
)
def test_safe_norm(order, axis, dtype: str):
    with precision(dtype):
        x = jnp.asarray(X if dtype != "complex64" else X * (1 + 1j), dtype)
        for keepdims in (False, True):
            got = gdjax.safe_norm(x, 1e-3, order, axis, keepdims)
            with relaxed():
                theirs = optax.safe_norm(x, 1e-3, order, axis, keepdims)
            assert got.dtype == theirs.dtype and got.shape == theirs.shape
            wanted = np.maximum(np.linalg.norm(np.asarray(x), order, axis, keepdims), 1e-3)
            rtol = 1e-13 if dtype == "float64" else 2e-6
            np.testing.assert_allclose(got, wanted, rtol=rtol)
            np.testing.assert_allclose(got, theirs, rtol=rtol)


@pytest.mark.full
@pytest.mark.parametrize("size", [3e38, 1e38, 1e20, 1e-20, 1e-36])
def test_safe_norms_of_any_size(size: float):
    x = jnp.array([1.0, 0.5], "float32") * size
    np.testing.assert_allclose(gdjax.safe_norm(x, 0.0) / size, np.sqrt(1.25), rtol=1e-6)
    np.testing.assert_allclose(gdjax.safe_root_mean_squares(x, 0.0) / size, np.sqrt(0.625), rtol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("order", [None, 1, 2, 3, np.inf])
@pytest.mark.parametrize("least", [0.0, 1e-3, 100.0])
def test_derivative_of_safe_norm(order, least: float):
    slope = jax.grad(lambda x: gdjax.safe_norm(x, least, order))
    np.testing.assert_array_equal(slope(jnp.zeros(3)), [0, 0, 0])
    x = jnp.array([1.0, 2.0, -2.5])
    wanted = jax.grad(lambda x: jnp.linalg.norm(x, ord=order))(x) if least < 1 else jnp.zeros(3)
    np.testing.assert_allclose(slope(x), wanted, rtol=1e-6)
    rows = jax.grad(lambda x: jnp.sum(gdjax.safe_norm(x, least, order, axis=1)))(jnp.zeros((2, 3)).at[0].set(x))
    np.testing.assert_allclose(rows, np.stack([wanted, np.zeros(3)]), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1e25, 1e38])
def test_safe_norm_neither_overflows_nor_vanishes(scale: float):
    x = jnp.array([0.6, -0.8]) * jnp.float32(scale)
    np.testing.assert_allclose(gdjax.safe_norm(x, 0.0), scale, rtol=2e-6)
    np.testing.assert_allclose(gdjax.safe_root_mean_squares(x, 0.0), scale / np.sqrt(2), rtol=1e-4)
    np.testing.assert_allclose(jax.grad(gdjax.safe_norm)(x, 0.0), [0.6, -0.8], rtol=1e-4)


@pytest.mark.parametrize("f", [gdjax.safe_norm, gdjax.safe_root_mean_squares])
def test_safe_norms_of_what_is_not_finite(f):
    assert np.isnan(f(jnp.array([1.0, jnp.nan]), 0.1)) and np.isposinf(f(jnp.array([1.0, -jnp.inf]), 0.1))


def test_safe_norms_in_sixteen_bits():
    ones = jnp.ones(300 * 300, "bfloat16")
    assert gdjax.safe_norm(ones, 0.0) == 300 and gdjax.safe_norm(ones, 0.0).dtype == jnp.bfloat16
    assert gdjax.safe_root_mean_squares(ones, 0.0) == 1
    np.testing.assert_array_equal(gdjax.safe_norm(jnp.full(4, 30000, "float16"), 0.0), 60000)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("least", [0.0, 1e-3, 100.0])
def test_safe_root_mean_squares(least: float, dtype: str):
    with precision(dtype):
        x = jnp.asarray(X if dtype != "complex64" else X * (1 + 1j), dtype)
        got = gdjax.safe_root_mean_squares(x, least)
        np.testing.assert_allclose(got, max(np.sqrt(np.mean(np.abs(np.asarray(x)) ** 2)), least), rtol=1e-6)
        with relaxed():
            theirs = optax.safe_root_mean_squares(x, least)
        assert got.dtype == theirs.dtype
        np.testing.assert_allclose(got, theirs, rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(gdjax.safe_root_mean_squares)(jnp.zeros(3), least), [0, 0, 0])
    assert gdjax.safe_root_mean_squares(jnp.zeros(0), least) == least


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "uint32", "float32", "bfloat16"])
def test_safe_increment_of_every_dtype(dtype: str):
    top = jnp.asarray((jnp.iinfo if "int" in dtype else jnp.finfo)(dtype).max, dtype)
    for count in (jnp.asarray(3, dtype), top):
        got = numerics.safe_increment(count)
        with relaxed():
            assert got == optax.safe_increment(count) and got.dtype == dtype
    assert numerics.safe_int32_increment is numerics.safe_increment
    for wrong in (True, 1j):
        with pytest.raises(ValueError, match="gdjax.safe_increment: count has dtype"):
            numerics.safe_increment(wrong)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1.0, 1e20, 2e38])
def test_both_ways_to_take_norms_along_axes(scale: float, dtype: str):
    # One pass is for accelerators, the other for CPU.
    x = (random_tree(0, "float32", {"a": (3, 4, 5)})["a"].clip(-1, 1) * scale).astype(dtype)
    wanted = np.sqrt(np.sum(np.abs(np.asarray(x).astype("complex128")) ** 2, (0, 2)))
    for norms in (vector_norms._by_three_sums, vector_norms._by_the_largest):
        for got in (norms((0, 2), x), jax.jit(lambda norms=norms: norms((0, 2), x))()):
            unit, norm = (np.float64(y) for y in got)
            assert unit.shape == norm.shape == (1, 4, 1) and (np.float32(1) / np.float32(unit) > 0).all()
            np.testing.assert_allclose((unit * norm)[0, :, 0], wanted, rtol=1e-6)


def test_both_ways_to_take_three_sums():
    x = jnp.asarray(np.arange(60.0).reshape(3, 4, 5), "float32")
    for sums in (vector_norms._sums_apart, vector_norms._sums_in_one):
        for got, factor in zip(sums((0, 2), [x, 2 * x, 3 * x]), (1, 2, 3), strict=True):
            np.testing.assert_array_equal(got, factor * np.sum(x, (0, 2)))


@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this JAX lowers what is for other platforms too")
@pytest.mark.parametrize("platform, reductions", [("tpu", 3), ("cuda", 1)])
def test_three_sums_are_a_reduction_each_on_a_tpu(platform, reductions):
    sums = jax.jit(lambda x: vector_norms.three_sums(x, (0, 2)))
    lowered = sums.trace(jnp.zeros((3, 4, 5))).lower(lowering_platforms=(platform,))
    assert lowered.as_text().count("stablehlo.reduce(") == reductions


@pytest.mark.full
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_both_ways_to_take_norms_of_what_is_not_finite(bad: float):
    x = jnp.array([[1.0, 2.0], [3.0, bad]])
    for norms in (vector_norms._by_three_sums, vector_norms._by_the_largest):
        unit, norm = norms((1,), x)
        np.testing.assert_allclose((unit * norm)[:, 0], [np.sqrt(5), abs(bad)], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_a_summand_is_the_bounded_number(dtype):
    parts = np.array([0.0, -1.5, 3e38, -3e38, np.inf, -np.inf, np.nan, 1e-40, 2.0**45, -(2.0**46)], "float32")
    for x in (parts, parts[::-1], parts[:0]):  # the first one decides nothing
        x = jax.lax.complex(x, x[::-1]) if dtype == "complex64" else jnp.asarray(x)
        np.testing.assert_array_equal(summand(x), numerics.squarable(x, "summed"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_an_array_over_another_is_unchanged(dtype):
    new = jnp.asarray([0.0, -0.0, 1.5, np.inf, -np.inf, np.nan, 1e-40], dtype)
    for f in (write_order.over, write_order._or):  # of a CPU, and of a GPU
        for got in (f(jnp.full(7, 7, dtype), new), jax.jit(f)(jnp.full(7, 7, dtype), new)):
            assert got.dtype == dtype and np.asarray(got).tobytes() == np.asarray(new).tobytes()
    lowered = jax.jit(write_order.over).trace(new, new).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.select" in lowered


@pytest.mark.parametrize("squares, exponent", [("each", 61), ("summed", 45)])
def test_bounded_is_exact_at_its_bound_and_leaves_what_is_smaller(squares, exponent):
    most = np.float32(2.0**exponent)
    below, above = np.nextafter(most, np.float32(0)), np.nextafter(most, np.float32(np.inf))
    x = np.asarray([below, most, above, np.finfo("float32").max, 1.5, 2.0**-126, 0.0], "float32")
    wanted = np.minimum(x, most)
    for sign in (1, -1):
        got = np.asarray(gdjax.bounded(jnp.asarray(sign * x), squares))
        np.testing.assert_array_equal(got.view("int32"), (sign * wanted).view("int32"))
        assert np.isnan(gdjax.bounded(jnp.asarray([sign * np.inf, sign * np.nan], "float32"), squares)).all()
