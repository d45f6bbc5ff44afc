"""Each format of `quantize_state`: what it keeps of an array, and what becomes of an average that is kept so."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.codes.blocks import ROW, Blocks, BlocksOfSquares, FourBits
from gdjax.codes.formats import LogCodes, LogCodesOfSquares, Logs, NarrowFloats
from gdjax.codes.rounding import salt

SIGNED = (
    Logs(True),
    Blocks(),
    Blocks(32, "bfloat16"),
    Blocks(64, "float32", "float8_e4m3fn"),
    FourBits(),
    NarrowFloats(),
    Blocks(ROW),
    FourBits(ROW),
)
SQUARES = Logs(False), BlocksOfSquares(), BlocksOfSquares(32, "bfloat16"), NarrowFloats(), BlocksOfSquares(ROW)
RNG = np.random.default_rng(0)
named = functools.partial(pytest.mark.parametrize, ids=repr)
of_signed, of_squares = named("format", SIGNED), named("format", SQUARES)
of_each = pytest.mark.parametrize(
    ("format", "signed"),
    [(f, True) for f in SIGNED] + [(f, False) for f in SQUARES],
    ids=[f"{f!r} signed" for f in SIGNED] + [f"{f!r} squares" for f in SQUARES],
)


def numbers(signed: bool, shape: tuple[int, ...] = (128, 8)) -> Any:
    """Random numbers; squares of some that are not near 0, so that none is below the first code."""
    x = RNG.normal(size=shape)
    return jnp.asarray(x if signed else (0.05 + np.abs(x)) ** 2, jnp.float32)


def kept(format: Any, x: Any, step: int = 0) -> Any:
    return format.decode(format.encode(x, salt(1, step, 2)))


@pytest.mark.full
@of_each
def test_the_mean_is_right(format: Any, signed: bool):
    by_row = getattr(format, "block", None) == ROW  # of few numbers too many would be the largest, which is exact
    x, n = numbers(signed, (16, 64) if by_row else (128, 8)), 500
    found = np.asarray(jax.vmap(lambda step: kept(format, x, step))(jnp.arange(n)), np.float64)
    away, deviation = found.mean(0) - np.asarray(x, np.float64), found.std(0)
    often = deviation > 0.2 * np.ptp(found, axis=0)  # between two codes that each came up more than 20 times
    assert np.mean(often) > 0.8
    assert np.all(np.abs(away)[often] < 5 * deviation[often] / np.sqrt(n))  # of 1,024
    weight = 1 / np.abs(x)
    assert abs((weight * away).sum()) < 4 * np.sqrt(((weight * deviation) ** 2).sum() / n)  # of all together


@pytest.mark.full
@of_each
def test_without_random_bits_the_nearer_code(format: Any, signed: bool):
    x = numbers(signed)
    near = np.abs(np.asarray(format.decode(format.encode(x)) - x))
    for step in range(3):
        assert np.all(near <= np.abs(np.asarray(kept(format, x, step) - x)) * (1 + 1e-5) + 1e-7)


@pytest.mark.full
@of_squares
def test_a_square_above_0_is_never_0(format: Any):
    x = jnp.concatenate([jnp.asarray(10.0 ** RNG.uniform(-37, 8, size=(62, 64)), jnp.float32), jnp.zeros((2, 64))])
    for step in range(3):
        found = kept(format, x, step)
        np.testing.assert_array_equal(found > 0, x > 0)


@pytest.mark.full
@of_each
def test_zeros_stay_zeros(format: Any, signed: bool):
    assert not jnp.any(kept(format, jnp.zeros((128, 4))))
    assert not jnp.any(format.decode(format.encode(jnp.zeros((128, 4)))))


@of_each
def test_what_is_not_finite_becomes_nan_with_its_block_and_nothing_else(format: Any, signed: bool):
    bad = jnp.zeros((128, 4)).at[5, 0].set(jnp.nan).at[70, 1].set(jnp.inf).at[71, 1].set(1.0)
    bad = bad.at[9, 2].set(-jnp.inf)
    found = np.isnan(np.asarray(kept(format, bad + 1)))
    block = getattr(format, "block", 1)
    wanted = np.zeros((128, 4), bool)
    for row, column in ((5, 0), (70, 1), (9, 2)):
        if block == ROW:
            wanted[row] = True
        else:
            wanted[row // block * block : (row // block + 1) * block, column] = True
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.isnan(np.asarray(format.decode(format.encode(bad + 1)))), wanted)


@pytest.mark.full
@named("format", [f for f in SQUARES if not isinstance(f, NarrowFloats)])
def test_a_square_below_0_is_no_square(format: Any):
    assert jnp.isnan(kept(format, jnp.ones((64, 4)).at[3, 1].set(-1.0))[3, 1])


@pytest.mark.full
@of_each
def test_the_largest_and_the_least_floats_stay_finite(format: Any, signed: bool):
    least, largest = jnp.finfo(jnp.float32).tiny, jnp.finfo(jnp.float32).max
    for x in (least, largest, -least, -largest)[: 4 if signed else 2]:
        assert jnp.all(jnp.isfinite(kept(format, jnp.full((64, 2), x))))


@pytest.mark.full
@of_each
def test_what_was_decoded_gets_its_codes_again(format: Any, signed: bool):
    """Where a step changes nothing, codes stay. A scale in bfloat16 is rounded up each time, and so is no such case."""
    if getattr(format, "scale_dtype", "") == "bfloat16":
        format = type(format)(format.block)
    x = numbers(signed, (1024, 64)) * jnp.asarray(10.0 ** RNG.uniform(-3, 0, size=(1024, 64)), jnp.float32)
    codes = format.encode(x, salt(0, 0, 0))

    @jax.jit
    def again(codes: Any, step: Any) -> Any:
        return format.encode(format.decode(codes), salt(0, step, 0))

    for step in range(3):
        for old, new in zip(codes, again(codes, step), strict=True):
            np.testing.assert_array_equal(np.asarray(new, np.float32), np.asarray(old, np.float32))


@of_each
def test_the_same_relative_error_for_all_sizes_of_gradients(format: Any, signed: bool):
    x = numbers(signed)
    power = 1 if signed else 2
    errors = []
    for rms in 10.0 ** np.arange(-10, 3, 3):
        size = jnp.float32(rms**power)
        errors.append(float(jnp.sqrt(jnp.mean((kept(format, x * size) / size - x) ** 2))))
    assert max(errors) < 1.25 * min(errors) and max(errors) < 0.35 * np.sqrt(np.mean(np.asarray(x) ** 2))


@pytest.mark.full
@pytest.mark.parametrize("decades", [1, 3, 12])
@named("format", SQUARES)
def test_the_largest_update_over_the_exact_one(format: Any, decades: int):
    """Of g / sqrt(g^2), where the sizes of the gradients of a block are spread."""
    g = (RNG.normal(size=(128, 64)) * 10 ** (-decades * RNG.random((128, 64)))).astype(np.float32)
    updates = [np.abs(g) / np.sqrt(np.asarray(kept(format, jnp.asarray(g * g), step))) for step in range(10)]
    assert np.max(updates) <= 4


@pytest.mark.full
@pytest.mark.optimized  # 4,000 steps take longer than compiling them
@named("format", [Logs(False), BlocksOfSquares(), BlocksOfSquares(32, "bfloat16"), BlocksOfSquares(ROW)])
def test_second_moments_fade_and_grow_as_they_should(format: Any):
    """What is kept over what is exact: b2 = 0.999, 1,000 ordinary steps and 3,000 of a case, in some columns each.

    A: gradients of 0; B: of 0 in every other row of a block; C: as before; D: a tenth of them.
    """
    columns = 32 if isinstance(format, Logs) else 8  # coarser codes, so a mean over more
    even = np.arange(64)[:, None] % 2 == 0
    on = jnp.concatenate([x * np.ones((64, columns), np.float32) for x in (0.0, even, 1.0, 0.1)], axis=1)

    @jax.jit
    def run() -> Any:
        def step(codes: Any, t: Any) -> Any:
            old, v = codes
            g = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), on.shape)
            g = jnp.where(t <= 1000, g, g * on)
            v, new = (0.999 * x + 0.001 * g * g for x in (v, format.decode(old)))
            return (format.encode(new, salt(7, t, 0)), v), None

        zeros = jnp.zeros(on.shape)
        (codes, v), _ = jax.lax.scan(step, (format.encode(zeros), zeros), jnp.arange(1, 4001))
        return format.decode(codes) / v

    a, b, c, d = np.split(np.asarray(run()), 4, axis=1)
    for ratios in (a, b[1::2], c, d):
        assert 0.9 <= ratios.mean() <= 1.1


@of_signed
def test_a_moment_without_gradients_fades(format: Any):
    """Beside others that stay: rounding to the nearest would leave it where one step is less than half a code."""
    x = numbers(True, (64, 32)).at[0].set(4.0)
    fading = jnp.arange(64)[:, None] > 1

    @jax.jit
    def run() -> Any:
        def step(codes: Any, t: Any) -> Any:
            m = format.decode(codes)
            return format.encode(jnp.where(fading, 0.99 * m, m), salt(7, t, 0)), None

        return format.decode(jax.lax.scan(step, format.encode(x), jnp.arange(1000))[0])

    after = np.asarray(run())
    assert np.sqrt(np.mean(after[2:] ** 2)) < 0.02 and np.all(np.abs(after[0] / 4 - 1) < 0.05)


@pytest.mark.full
@named("format", [Logs(True), Blocks(), BlocksOfSquares(), FourBits()])
def test_shapes(format: Any):
    for shape in ((2, 3, 64, 5), (3, 0, 2), (), (63, 5), (2, 63, 64), (1, 70)):
        if format.fits(shape):
            x = numbers(False, shape)
            codes = format.encode(x)
            assert codes.format == format.for_shape(shape)
            assert kept(codes.format, x).shape == x.shape and kept(codes.format, x).dtype == jnp.float32
            assert jax.tree.map(jnp.shape, codes) == jax.tree.map(lambda c: c.shape, jax.eval_shape(format.encode, x))
        else:
            assert getattr(format, "block", 0) and (len(shape) < 2 or shape[-2] % format.block or 0 in shape)
            assert len(shape) < 2 or shape[-1] < format.block


@pytest.mark.full
@named("format", [Blocks(), BlocksOfSquares(), FourBits()])
def test_a_row_is_a_block_where_blocks_do_not_divide(format: Any):
    """A row of small numbers below one of large ones: kept as well as alone, though the rows are odd in number."""
    x = numbers(False, (65, 64)).at[40].multiply(1e-6)
    codes = format.encode(x, salt(0, 0, 0))
    assert codes.scales.shape == (65, 1) and codes.format == format.for_shape(x.shape) == type(format)(ROW)
    assert codes[0].shape == ((33, 64) if isinstance(format, FourBits) else x.shape)
    error = np.asarray(jnp.abs(codes.format.decode(codes) - x) / jnp.max(x, 1, keepdims=True))
    assert error.max() < (0.3 if isinstance(format, FourBits) else 0.02)


def test_an_odd_block_has_no_halves_for_4_bits():
    assert not FourBits(3).fits((6, 4)) and FourBits(6).fits((6, 4))


@pytest.mark.full
def test_four_bits_are_two_numbers_a_byte():
    x = jnp.zeros((8, 1)).at[:, 0].set(jnp.asarray([7.0, -7, 0, 1, 7, -3, 4, 5]))
    codes = FourBits(4).encode(x / (14 - jnp.abs(x)))  # of k / (14 - |k|) the code k
    np.testing.assert_array_equal(codes.pairs[:, 0], [15 + 16 * 8, 1 + 16 * 9, 15 + 16 * 12, 5 + 16 * 13])


def test_bytes():
    x = jnp.zeros((128, 64))
    size = lambda f: sum(c.nbytes for c in f.encode(x)) / x.size
    assert [size(f) for f in (*SIGNED, *SQUARES)] == [
        1, 1.0625, 1.0625, 1.0625, 0.5625, 2, 1.0625, 0.5625, 1, 1.0625, 1.0625, 2, 1.0625,
    ]  # fmt: skip


def test_logs_end_together():
    """Where a moment and its square are above their last codes, their ratio is about 1: no update is long."""
    for size in (1e4, 1e6, 1e15):
        m, v = (kept(f, jnp.full((64, 2), x, jnp.float32)) for f, x in ((Logs(True), size), (Logs(False), size**2)))
        assert jnp.all(jnp.abs(m / jnp.sqrt(v) - 1) < 0.1)


def test_codes_of_before_load():
    """In 0.2 code k stood for 2^(low + 7/16 (k - 1)), and squares had 254: less than a fifth of a step from now."""
    k = np.arange(1, 128)
    for format, low, codes in ((Logs(True), -44, np.r_[k, -k]), (Logs(False), -80, np.r_[k, k[:126] + 127, 254])):
        as_codes = LogCodes if format.signed else LogCodesOfSquares
        found = format.decode(as_codes(jnp.asarray(codes, jnp.int8 if format.signed else jnp.uint8)))
        before = np.sign(codes) * 2.0 ** (low + 7 / 16 * (np.abs(codes) - 1))
        np.testing.assert_allclose(found, before, rtol=0.07)
