"""What codes are computed with: places of elements and largest sizes, in forms that compilers take well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.codes.rounding import places
from gdjax.xla.reads import in_pairs, out_of_pairs
from gdjax.xla.sums import largest_size

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


def test_the_largest_size_is_not_finite_where_a_number_is_not():
    x = jnp.array([[1.0, jnp.nan, 2.0, jnp.inf], [-3.0, 4.0, -jnp.inf, jnp.nan]]).T
    for f in (largest_size, jax.jit(largest_size, static_argnums=1)):
        np.testing.assert_array_equal(np.isfinite(f(x, 0)), [False, False])
        np.testing.assert_array_equal(np.isfinite(f(x, 1)), [True, False, False, False])
        assert f(x, 1)[0] == 3


def test_on_a_gpu_nothing_is_chosen_before_the_maximum():
    text = {
        platform: jax.jit(largest_size, static_argnums=1)
        .trace(jnp.ones((8, 4)), 0)
        .lower(lowering_platforms=(platform,))
        .as_text()
        for platform in ("cpu", "cuda")
    }
    assert "select" in text["cpu"] and "select" not in text["cuda"]


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
