"""The proximal map of total variation along a line."""

from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.core.types import Array, ArrayTree
from gdjax.core.values import value
from gdjax.prox.common import Prox, Shape, map_of

__all__ = ["total_variation"]


@value
def total_variation(weight: ArrayTree = 1.0) -> Prox:
    """Total variation, h(x) = weight sum_k |x_{k+1} - x_k| along the last axis, which makes x constant in pieces.

    Args:
      weight: a number of at least 0, an array that broadcasts to the rows (shaped like the leaf, the last axis of
        length 1), or a tree like the parameters or a prefix of it.

    It is exact. The line begins as one piece. A round finds, by two parallel scans of n numbers, which y_k are above
    the mean of their piece, and divides the pieces there; it ends where none divides. That takes some log2(n) rounds,
    and at most n.

    A step is one number for each row. The derivative by x is the mean over each piece.

    Raises:
      ValueError: a weight below 0; (in the map) a leaf is a scalar, weights or steps do not fit the rows.
      TypeError: (in the map) a complex leaf.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = jnp.array([1.0, 3.0, 2.0, 8.0, 9.0])
      >>> print(gdjax.prox.total_variation(1.0)(x, 1.0))
      [2.  2.5 2.5 8.  8. ]

    Reference:
      Hochbaum 2001, An efficient algorithm for image segmentation, Markov random fields and related problems; for the
      scans Johnson 2013, A dynamic programming algorithm for the fused lasso and L0-segmentation, section 2,
      https://doi.org/10.1080/10618600.2012.681238
    """
    return map_of("total_variation", lambda x, s, w: _rows(x, s * w), _groups, ordered=True, weight=weight)


def _groups(shape: Shape) -> Shape:
    if not shape:
        raise ValueError("a scalar has no differences")
    return (*shape[:-1], 1)


def _rows(x: Array, less: Array) -> Array:
    if x.shape[-1] < 2:
        return x
    rows = jax.vmap(_row)(x.reshape(-1, x.shape[-1]), less.reshape(-1))
    return rows.reshape(x.shape)


def _row(x: Array, less: Array) -> Array:
    """Begins with one piece, and divides pieces at their means as long as one divides."""
    known = jax.lax.stop_gradient((x, less))

    def divided(pieces: Any) -> Any:
        rises, _ = pieces
        new = _divided(*known, rises)
        return new, jnp.any(new != rises)

    start = jnp.zeros_like(x), jnp.bool_(True)
    return _means(x, less, meshes.while_loop(lambda pieces: pieces[1], divided, start)[0])[1]


def _means(x: Array, less: Array, rises: Array) -> tuple[Array, Array]:
    """x, moved at the ends of its pieces towards the pieces beside them, and the mean of that over each piece.

    `rises` is 1 or -1 where a piece begins, by the side of the piece before that it lies on, and 0 elsewhere.
    """
    pull = jnp.append(rises[1:], 0) - rises
    x = x + jnp.where(pull == 0, 0, less * pull)
    piece = jnp.cumsum(rises != 0)
    sums = lambda z: jax.ops.segment_sum(z, piece, x.size)[piece]
    return x, sums(x) / sums(jnp.ones_like(x))


def _divided(x: Array, less: Array, rises: Array) -> Array:
    """`rises` after each piece is divided into what is above and below its mean in the solution.

    For a threshold c the slopes s_k = c - x_k + clip(s_{k-1}, -less, less) say where: the last y_k is above where s_k <
    0, any other where s_k < -less, or where s_k < less and the next one is above. Both are scans.
    """
    x, mean = _means(x, less, rises)
    change, first = mean - x, (rises != 0).at[0].set(True)
    last = jnp.append(first[1:], True)
    alone = jnp.clip(change, -less, less)
    clips = change, jnp.where(first, alone, -less), jnp.where(first, alone, less)
    clipped = jax.lax.associative_scan(_clips, clips)[1]
    slope = change + jnp.where(first, 0, jnp.roll(clipped, 1))
    always, as_next = jnp.where(last, slope < 0, slope < -less), ~last & (slope < less)
    above, _ = jax.lax.associative_scan(_follows, (always, as_next), reverse=True)
    side = jnp.where(above, 1, -1).astype(x.dtype)
    return jnp.where(first, rises, jnp.where(side == jnp.roll(side, 1), 0, side))


def _clips(f: Any, g: Any) -> Any:
    """g after f, each the function clip(s + change, low, high)."""
    (change, *ends), (more, low, high) = f, g
    return change + more, *(jnp.clip(end + more, low, high) for end in ends)


def _follows(f: Any, g: Any) -> Any:
    """g after f, each the function always | as_next & above."""
    return g[0] | (g[1] & f[0]), g[1] & f[1]
