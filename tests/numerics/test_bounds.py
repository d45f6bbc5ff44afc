"""The bounds themselves, digit by digit: a factor off is a bound that no test of an optimizer meets."""

import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.numerics import bounds

BOUNDS = {("float32", "each"): 61, ("float32", "summed"): 45, ("bfloat16", "each"): 61, ("float16", "summed"): 45}


@pytest.mark.parametrize("dtype, squares", BOUNDS)
def test_the_largest_number(dtype, squares):
    assert bounds.largest_of(dtype, squares) == 2.0 ** BOUNDS[dtype, squares]


def test_what_is_left_below_the_largest_number():
    """Four such averages add up to a number."""
    top = np.finfo(np.float32).max
    np.testing.assert_array_equal(bounds.below_overflow(jnp.float32([1, top])), [1, top / 4])


@pytest.mark.parametrize("squares, exponent", [("each", 61), ("summed", 45)])
def test_squarable_clips_infinities_too(squares, exponent):
    x = jnp.float32([np.inf, -np.inf, 3e38, 5.0])
    bound = 2.0**exponent
    np.testing.assert_array_equal(bounds.squarable(x, squares), [bound, -bound, bound, 5])
    half = jnp.float16([np.inf, 60000, 1])  # whose finite numbers all have squares in float32
    np.testing.assert_array_equal(bounds.squarable(half, squares), half)


def test_a_sum_of_squares_is_at_most_that_of_the_bounds():
    largest = 2.0**90
    np.testing.assert_array_equal(bounds.bounded_sq(jnp.float32([np.inf, 2.0])), [largest, 2])
    assert bounds.bounded_sq(jnp.float32(np.inf), terms=8) == 8 * largest
    assert bounds.bounded_sq(jnp.float32(np.inf), "each") == 2.0**122
    assert bounds.sum_sq(jnp.float32([np.inf, np.inf])) == 2 * largest
    np.testing.assert_array_equal(bounds.sum_sq(jnp.float32([[3, 4], [np.inf, 1]]), [1]), [[25], [2 * largest]])


def test_what_is_made_of_a_bounded_number_shows_where_it_was_none():
    g = jnp.float32([np.inf, -np.inf, np.nan, 3.0])
    np.testing.assert_array_equal(bounds.spoiled(jnp.float32([1, 2, 3, 4]), g), [np.nan, np.nan, np.nan, 4])
    np.testing.assert_array_equal(bounds.scaled(g, jnp.float32(2)), [np.nan, np.nan, np.nan, 6])


def test_shrinking():
    got = bounds.shrinking(jnp.float32([0.5, 2, 4, 8, np.nan]), 2.0)
    np.testing.assert_array_equal(got, [1, 1, 0.5, 0.25, np.nan])
