"""Sums and maxima as compilers take them well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.xla import sums
from gdjax.xla.sums import largest_size


def test_the_largest_size_is_not_finite_where_a_number_is_not():
    x = jnp.array([[1.0, jnp.nan, 2.0, jnp.inf], [-3.0, 4.0, -jnp.inf, jnp.nan]]).T
    for f in (largest_size, jax.jit(largest_size, static_argnums=1)):
        np.testing.assert_array_equal(np.isfinite(f(x, 0)), [False, False])
        np.testing.assert_array_equal(np.isfinite(f(x, 1)), [True, False, False, False])
        assert f(x, 1)[0] == 3


@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this JAX lowers what is for other platforms too")
def test_on_a_gpu_nothing_is_chosen_before_the_maximum():
    text = {
        platform: jax.jit(largest_size, static_argnums=1)
        .trace(jnp.ones((8, 4)), 0)
        .lower(lowering_platforms=(platform,))
        .as_text()
        for platform in ("cpu", "cuda")
    }
    assert "select" in text["cpu"] and "select" not in text["cuda"]


def test_flags():
    bad = [sums.not_finite(jnp.array(x)) for x in ([1.0, jnp.nan], [jnp.inf], [-jnp.inf, jnp.inf])]
    good = [sums.not_finite(x) for x in (jnp.ones(3), jnp.zeros(0), jnp.full(4, 3e38), jnp.ones(2, jnp.bfloat16))]
    assert [bool(x[0]) for x in [*bad, *good]] == [True] * 3 + [False] * 4
    assert bool(sums.not_finite(jnp.array([1 + 1j * jnp.nan]))[0])
    assert sums.none_set([]) and sums.none_set(good) and not sums.none_set([*good, bad[0]])


def test_means():
    x = jnp.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
    assert sums.means(x, (1,)).tolist() == [[2], [6]] and sums.means(x, (0, 1)).tolist() == [[4]]


def test_means_of_squares_along_two_axes():
    x = jnp.array([[1.0, 2.0, 2.0], [0.0, 4.0, 4.0]])
    columns, rows = sums.means_of_squares(x, 0, 1)  # of the squares 1 4 4 and 0 16 16
    np.testing.assert_allclose(columns, [0.5, 10, 10], rtol=1e-6)
    np.testing.assert_allclose(rows, [3, 32 / 3], rtol=1e-6)
    columns, rows = sums.means_of_squares(x[None, :, None], 1, 3)  # axes of length 1 stay
    assert (columns.shape, rows.shape) == ((1, 1, 3), (1, 2, 1))


def test_the_share_of_nonzeros():
    assert float(sums.share_of_nonzeros(jnp.array([0.0, -3.0, 1e-30, 0.0]))) == 0.5
    assert float(sums.share_of_nonzeros(jnp.array([0j, 1j, -2]))) == pytest.approx(2 / 3)
    assert float(sums.share_of_nonzeros(jnp.zeros(0))) == 0


def test_factors_with_a_limit_on_the_root_mean_square():
    x = jnp.array([3.0, -4.0])  # with a root mean square of sqrt(12.5)
    factors = jnp.array([[2.0]]), jnp.array([[1.0]])
    first, second = sums.limited(x[None], factors, 1.0)
    assert float(first[0, 0]) == 2
    np.testing.assert_allclose(second, 1 / (2 * 12.5**0.5), rtol=1e-6)
    unlimited = sums.limited(x[None], factors, 100.0)
    assert float(unlimited[1][0, 0]) == 1


def test_a_summand_is_bounded():
    x = jnp.array([1.0, -2.0, jnp.inf, -jnp.inf, jnp.nan])
    found = sums.summand(x)
    assert found[:2].tolist() == [1, -2] and np.isfinite(found[2:4]).all() and np.isnan(found[4])
    assert found[2] == -found[3] == 2.0**45
    assert sums.summand(jnp.array([1 - 2j])).tolist() == [1 - 2j]
