"""How numbers are read: 16 bits where they lie, numbers of 4 bits, products of 32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.core.contexts import PASS, within
from gdjax.xla import reads
from gdjax.xla.reads import in_pairs, out_of_pairs


def halves(x: jax.Array) -> jax.Array:
    return x.reshape(-1, 2, 4, x.shape[-1])


def together(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_pairs_of_numbers_of_4_bits(platform: str, monkeypatch: pytest.MonkeyPatch):
    """Both ways to compute them, here, and which one a device gets."""
    traced = jax.jit(in_pairs, static_argnums=1).trace(jnp.zeros((16, 3)), halves)
    assert ("optimization_barrier" in traced.lower(lowering_platforms=(platform,)).as_text()) == (platform != "cuda")
    choose = lambda x, default, **others: others.get(platform, default)(x)
    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    x = np.random.default_rng(0).integers(0, 16, (16, 3))
    pairs = in_pairs(jnp.asarray(x, jnp.float32), halves)
    both = x.reshape(2, 2, 4, 3)
    np.testing.assert_array_equal(pairs, both[:, 0] + 16 * both[:, 1])
    np.testing.assert_array_equal(out_of_pairs(pairs, together), x)


def test_clipped_or_nan():
    """By the bits: infinite numbers are NaN, finite ones at most 2."""
    for dtype in ("float32", "bfloat16", "float16"):
        x = jnp.array([0.0, -0.0, 1.5, -2.0, 3.0, -1e4, jnp.inf, -jnp.inf, jnp.nan], dtype)
        found = np.asarray(reads.finite_within(x, 2.0).astype("float32"))
        np.testing.assert_array_equal(found, [0, 0, 1.5, -2, 2, -2, np.nan, np.nan, np.nan])


def test_a_flipped_last_bit_and_its_derivative():
    x = jnp.array([1.0, 1.0, -1.0], jnp.bfloat16)
    found = reads.with_flipped(x, jnp.array([True, False, True]))
    assert found.tolist() == [1 + 1 / 128, 1, -1 - 1 / 128]
    _, tangent = jax.jvp(lambda x: reads.with_flipped(x, jnp.array([True, False, True])), (x,), (3 * x,))
    assert tangent.tolist() == [3, 3, -3]


def test_integers_by_way_of_floats():
    found = reads.as_integers(jnp.array([0, 7, 255]), jnp.uint8)
    assert found.dtype == jnp.uint8 and found.tolist() == [0, 7, 255]


def test_a_reciprocal_by_products():
    x = jnp.array([1e-30, 0.3, 1.0, 2.0, 7e20], jnp.float32)
    np.testing.assert_allclose(reads.reciprocal(x), 1 / x, rtol=1e-5)


def test_a_weighted_sum_modulo_2_to_the_32():
    x, y, z = (jnp.uint32(n) for n in (3, 5, 2**31))
    zeros = jnp.uint32(0)
    assert int(reads.weighted([], [], zeros)) == 0
    assert int(reads.weighted([x], [7], zeros)) == 21
    assert int(reads.weighted([x, y], [2**31, 7], zeros)) == (3 * 2**31 + 35) % 2**32
    assert int(reads.weighted([x, y, z], [2, 3, 5], zeros)) == (6 + 15 + 5 * 2**31) % 2**32


def test_what_an_array_of_a_rule_was_widened_from():
    narrow, other = jnp.ones(2, jnp.bfloat16), jnp.ones(2)
    wide = narrow.astype(jnp.float32)
    assert reads.original(wide) is wide
    with within(PASS, widened=((wide, narrow), (None, None))):
        assert reads.original(wide) is narrow and reads.original(narrow) is narrow
        assert reads.rounded(jnp.float32(1 + 1 / 512), wide) == 1  # to the 8 bits of the original
        assert reads.alone(wide).dtype == jnp.float32 and reads.alone(other) is other
    assert reads.rounded(jnp.float32(1 + 1 / 512), other) > 1
