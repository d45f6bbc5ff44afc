"""Cutting of axes."""

import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.linalg.blocks import block, cuts, unblock


@pytest.mark.parametrize("length, most, wanted", [
    (768, 512, (2, 384)), (5, 2, (3, 2)), (4, 4, (1, 4)), (7, 3, (3, 3)), (1, 9, (1, 1)), (0, 3, (1, 0)),
])  # fmt: skip
def test_cuts(length, most, wanted):
    assert cuts(length, most) == wanted


@pytest.mark.parametrize("shape, most", [((5, 4), 2), ((7, 3), 3), ((2, 3), 9), ((6,), 4), ((3, 5, 2), 2), ((0, 3), 2)])
def test_blocks_hold_the_array_and_zeros(shape, most):
    x = jnp.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape)
    blocks = block(x, most)
    assert all(n <= most for n in blocks.shape[1:]) and len(blocks.shape) == 1 + len(shape)
    np.testing.assert_array_equal(unblock(blocks, shape, most), x)
    assert sorted(np.ravel(blocks[blocks != 0])) == list(np.ravel(x))


def test_a_block_is_a_part():
    x = jnp.arange(20).reshape(5, 4)
    np.testing.assert_array_equal(block(x, 2)[3], x[2:4, 2:4])
    np.testing.assert_array_equal(block(x, 2)[5], [[18, 19], [0, 0]])
