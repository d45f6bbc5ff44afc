"""Cuts large axes into blocks: pure functions of shapes, and the reshapes that follow."""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from gdjax.numerics import Array


def cuts(length: int, most: int) -> tuple[int, int]:
    """The number of equal blocks that an axis is cut into, each at most `most` long, and their length."""
    number = max(1, -(-length // most))
    return number, -(-length // number)


def block(x: Array, most: int) -> Array:
    """x as a stack of equal blocks, (number, ...): no axis of a block is longer than `most`.

    The axis is cut evenly: a `most` of 512 cuts 768 into 2 x 384. Where the number of blocks does not divide the axis,
    the last block ends in zeros, fewer than there are blocks. So all blocks are one stack, and the zeros in G mix with
    nothing in G G^T or its roots.
    """
    plan = [cuts(n, most) for n in x.shape]
    whole = jnp.pad(x, [(0, number * size - n) for (number, size), n in zip(plan, x.shape, strict=True)])
    parts = whole.reshape([n for pair in plan for n in pair])
    order = [*range(0, 2 * x.ndim, 2), *range(1, 2 * x.ndim, 2)]
    return parts.transpose(order).reshape(math.prod(number for number, _ in plan), *(size for _, size in plan))


def unblock(blocks: Array, shape: Sequence[int], most: int) -> Array:
    """The array of that shape whose `block(x, most)` these are."""
    plan = [cuts(n, most) for n in shape]
    parts = blocks.reshape([*(number for number, _ in plan), *(size for _, size in plan)])
    order = [i for pair in zip(range(len(plan)), range(len(plan), 2 * len(plan)), strict=True) for i in pair]
    whole = parts.transpose(order).reshape([number * size for number, size in plan])
    return whole[tuple(slice(n) for n in shape)]
