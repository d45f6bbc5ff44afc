"""Rounding to 16 bits, by integers on the bits: to the nearest as a cast does, at random without bias, and in parts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.codes.rounding import joined, nearest, places, random_bits, salt, split, stochastically

RNG = np.random.default_rng(0)
BITS = RNG.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)  # of every size, NaN and infinities among them
LARGE, SMALL = [65504, 65519, 65520, -7e4, 3.3e38, -3.4e38, np.inf, np.nan], [0, -0.0, 6e-8, 2e-8, 3e-8, 6.1e-5, 1, -1]
EDGES = np.array([*LARGE, *SMALL], np.float32)
X = jnp.asarray(
    np.concatenate([EDGES, BITS, RNG.standard_normal(20_000).astype("f"), RNG.uniform(-7e4, 7e4, 20_000).astype("f")])
)
NORMAL = jnp.abs(X) >= jnp.finfo(jnp.float32).smallest_normal  # a CPU takes the others for 0


def cast(x: Any, dtype: str) -> np.ndarray:
    """x as NumPy casts it, which warns of what becomes infinite."""
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(dtype)


def same(got: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))  # NaN is NaN, and -0 is 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_nearest_is_that_of_a_cast(dtype: str):
    x = X[NORMAL | (X == 0)]
    same(jax.jit(nearest, static_argnums=1)(x, jnp.dtype(dtype)), cast(x, dtype).astype("f"))


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_has_the_derivative_of_what_it_rounds(dtype: str):
    """Not 0, as the bits have, or the gradient of a rate through 16-bit steps would be 0 without a word."""
    x, bits = jnp.asarray([0.3, -2.7, 1e-5]), jnp.asarray([7, 70_000, 9], jnp.uint32)
    for rounded in (
        lambda x: nearest(x, jnp.dtype(dtype)), lambda x: stochastically(x, jnp.dtype(dtype), bits),
        lambda x: joined(*split(x, jnp.int16)), lambda x: joined(*split(x, jnp.int8, bits)),
    ):  # fmt: skip
        for of in (rounded, jax.jit(rounded)):
            same(jax.grad(lambda x, of=of: jnp.sum(3 * of(x)))(x), [3, 3, 3])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_at_random_one_of_the_two_neighbours(dtype: str):
    x = X[NORMAL | (X == 0)]
    got = np.asarray(stochastically(x, jnp.dtype(dtype), random_bits(salt(0, 0, 0), x)))
    same(cast(got, dtype).astype("f"), got)  # a number of the dtype
    x = np.asarray(x)
    is_number = cast(x, dtype).astype("f") == x
    same(got[is_number], x[is_number])
    finite = np.isfinite(x)
    same(got[~finite], x[~finite])
    near = cast(x, dtype)
    with np.errstate(all="ignore"):
        up, down = (np.nextafter(near, np.asarray(s * np.inf, dtype)).astype("f") for s in (1, -1))
    near = near.astype("f")
    low, high = np.where(near <= x, near, down), np.where(near >= x, near, up)
    assert np.all(((got == low) | (got == high))[finite])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("size", [1.0, -3e-3, 3e-6, 2e4])
def test_the_mean_is_the_number(dtype: str, size: float):
    """Within 4 standard deviations, of 40,000 numbers at each of 8 places between two neighbours."""
    low = np.asarray(size, dtype)
    gap = abs(float(np.spacing(low.astype("f")))) * 2.0 ** (16 if dtype == "bfloat16" else 13)
    if dtype == "float16":
        gap = max(gap, 2.0**-24)
    share, n = np.arange(1, 9) / 9, 40_000
    x = np.asarray(float(low) + np.sign(size) * gap * share, np.float32)
    x = jnp.asarray(np.repeat(x[:, None], n, 1))
    got = np.asarray(stochastically(x, jnp.dtype(dtype), random_bits(salt(3, 1, 4), x)), np.float64)
    away = np.abs(got.mean(1) - np.asarray(x[:, 0], np.float64)) / gap
    assert np.all(away < 4 * np.sqrt(share * (1 - share) / n) + 2.0**-12)  # float16 has 13 bits to choose with


def test_two_halves_are_the_number():
    x = X[NORMAL | (X == 0)]
    near, rest = jax.jit(split, static_argnums=1)(x, jnp.int16)
    assert rest.dtype == jnp.int16
    wanted = cast(x, "bfloat16").astype("f")
    tie = np.asarray(rest) == -(2**15)  # away from 0
    same(near[~tie], wanted[~tie])
    assert np.mean(tie) < 1e-3
    kept = np.abs(np.asarray(near)) > 0
    same(joined(near, rest)[kept], x[kept])


def test_with_a_byte_it_has_16_bits_of_precision():
    x = X[(jnp.abs(X) > 1e-30) & (jnp.abs(X) < 1e38)]
    near, rest = split(x, jnp.int8)
    assert rest.dtype == jnp.int8
    same(near.astype(jnp.bfloat16).astype(jnp.float32), near)
    assert np.max(np.abs(np.asarray(joined(near, rest)) / np.asarray(x) - 1)) <= 2.0**-16
    again = split(joined(near, rest), jnp.int8)
    same(again[0], near)
    same(again[1], rest)


@pytest.mark.parametrize("kind", ["int16", "int8"])
def test_a_remainder_of_another_number_stays_within_half_a_place(kind: str):
    rest = jnp.asarray(RNG.integers(jnp.iinfo(kind).min, jnp.iinfo(kind).max + 1, X.size), kind)
    near = jnp.asarray(cast(X, "bfloat16").astype("f"))
    got = np.asarray(joined(near, rest))
    near = np.asarray(near)
    stays = (near == 0) | ~np.isfinite(near) & ~((np.abs(near) == np.inf) & (np.asarray(rest) < 0))
    same(got[stays & (near != 0)], near[stays & (near != 0)])
    assert np.all(np.abs(got[near == 0]) < 1e-40)  # what a 0 with a remainder stands for
    large = np.isfinite(near) & (np.abs(near) > 1e-30)
    assert np.all(np.abs(got[large] - near[large]) <= 2.0**-8 * np.abs(near[large]))


FACTOR = 0x9E3779B1


@pytest.mark.parametrize("shape", [(), (5,), (1, 6), (6, 1), (4, 6), (3, 1, 4, 5), (2, 3, 4, 5), (70000, 3)])
def test_places_are_those_of_the_flattened_array_times_the_factor(shape: tuple[int, ...]):
    flat = np.arange(int(np.prod(shape)), dtype=np.uint64) * FACTOR % 2**32
    np.testing.assert_array_equal(places(jnp.zeros(shape), FACTOR), flat.astype(np.uint32).reshape(shape))


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 5)])
def test_no_product_of_the_index_along_one_axis(shape: tuple[int, ...]):
    equations = jax.make_jaxpr(lambda x: places(x, FACTOR))(jnp.zeros(shape)).eqns
    made_by = {out: e.primitive.name for e in equations for out in e.outvars}
    products = [e for e in equations if e.primitive.name == "mul"]
    assert products and all(made_by.get(e.invars[0]) == "add" for e in products)
