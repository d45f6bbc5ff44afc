"""How numbers are read: 16 bits where they lie, numbers of 4 bits, products of 32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
