"""Ways to combine the results of the parts of a batch."""

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.types import Array, ArrayTree, DTypeLike


class AccumulationType(enum.Enum):
    """How the results of the parts are combined."""

    MEAN = enum.auto()  # their mean
    SUM = enum.auto()  # their sum
    RUNNING_MEAN = enum.auto()  # the mean of those evaluated, where `num_real_microbatches` leaves some out
    CONCAT = enum.auto()  # along axis 0, in the order of the batch


@dataclass(frozen=True)
class Accumulator:
    """A way to combine results x_0, x_1, ..., or that part of them which it stands for in a tree of accumulators."""

    init: Callable[[Any], Any]  # from the `jax.ShapeDtypeStruct`s of a result to the start
    update: Callable[[Any, Any, Any], Any]  # (carry, x_i, i) -> carry
    finalize: Callable[[Any], Any]  # from the carry to the combined result
    aggregate: Callable[[Any], Any]  # from results stacked along axis 0 to one, for `micro_vmap`


Accumulators = Any  # an `AccumulationType` or `Accumulator`, or a tree of them that is a prefix of what is combined


def combined(accumulators: Accumulators, count: int, like: ArrayTree) -> Accumulator:
    """One accumulator for `count` results like `like` from a tree of them that is a prefix of it."""

    def each_leaf(kind: AccumulationType, part: ArrayTree) -> Any:
        return kind if isinstance(kind, Accumulator) else jax.tree.map(lambda x: _of_array(kind, count, x.dtype), part)

    each = jax.tree.map(each_leaf, accumulators, like)
    return Accumulator(
        lambda xs: jax.tree.map(lambda a, x: a.init(x), each, xs),
        lambda carry, xs, i: jax.tree.map(lambda a, c, x: a.update(c, x, i), each, carry, xs),
        lambda carry: jax.tree.map(lambda a, c: a.finalize(c), each, carry),
        lambda xs: jax.tree.map(lambda a, x: a.aggregate(x), each, xs),
    )


def _of_array(kind: AccumulationType, n: int, dtype: DTypeLike) -> Accumulator:
    """The accumulator of a kind for n arrays of a dtype, which the combined array has too."""
    if kind is AccumulationType.CONCAT:
        return Accumulator(
            lambda x: jnp.broadcast_to(jnp.zeros_like(x), (n, *x.shape)),
            lambda c, x, i: jax.lax.dynamic_update_index_in_dim(c, x, i, 0),
            lambda c: jax.lax.collapse(c.swapaxes(0, 1), 0, 2) if c.ndim > 1 else c,
            lambda x: x,
        )
    if not isinstance(kind, AccumulationType):
        raise ValueError(f"gdjax.microbatch: {kind!r} is no AccumulationType and no Accumulator")
    exact = not jnp.issubdtype(dtype, jnp.inexact)
    if exact and kind is not AccumulationType.SUM:
        raise ValueError(f"gdjax.microbatch: a {kind.name} needs floating numbers, got {dtype}")
    wide = dtype if exact else numerics.at_least_float32(dtype)
    over = n if kind is AccumulationType.MEAN else 1

    def update(c: Array, x: Array, i: Array | int) -> Array:
        x = x.astype(wide)
        return c + ((x - c) / jnp.asarray(i + 1).astype(wide) if kind is AccumulationType.RUNNING_MEAN else x)

    return Accumulator(
        lambda x: jnp.zeros_like(x, wide),
        update,
        lambda c: (c / over if over != 1 else c).astype(dtype),
        functools.partial(jnp.sum if kind is AccumulationType.SUM else jnp.mean, axis=0),
    )
