"""Proximal maps of norms: of the leaves, of rows and columns, of the singular values of matrices."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.types import Array, ArrayTree
from gdjax.core.values import value
from gdjax.linalg.matrices import highest
from gdjax.numerics.norms import unit_and_norm
from gdjax.prox.common import Prox, Shape, map_of, remaining

__all__ = ["group_lasso", "nuclear"]


@value
def group_lasso(weight: ArrayTree = 1.0, axis: int | Sequence[int] | None = None) -> Prox:
    """The group lasso, h(x) = sum over groups of weight |x_group|, which makes whole groups 0.

        y_group = x_group max(1 - step weight / |x_group|, 0)

    Args:
      weight: a number of at least 0, an array that broadcasts to the groups (shaped like the leaf, with the axes of
        the norm of length 1), or a tree like the parameters or a prefix of it.
      axis: the axis or axes of a leaf along which the norm is taken. -1 makes each row of a matrix a group; None makes
        the whole leaf one, as each array of the tree.

    A step is one number for each group, so `proximal` takes this map around SGD, not around Adam. At x = 0 the
    derivative is 0. JAXopt's `prox_group_lasso` takes the whole tree as one group, and is NaN at 0.

    Raises:
      ValueError: a weight below 0; (in the map) a leaf lacks the axis, weights or steps do not fit the groups.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> rows = jnp.array([[3.0, 4.0], [0.6, 0.8]])
      >>> print(gdjax.prox.group_lasso(2.5, axis=-1)(rows, 1.0))
      [[1.5 2. ]
       [0.  0. ]]

    Reference:
      Yuan & Lin 2006, Model selection and estimation in regression with grouped variables.
    """

    def groups(shape: Shape) -> Shape:
        axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
        if any(not -len(shape) <= a < len(shape) for a in axes):
            raise ValueError(f"shape {shape} has no axis {axis}")
        summed = {a % len(shape) for a in axes}
        return tuple(1 if i in summed else n for i, n in enumerate(shape))

    def shrunk(x: Array, s: Array, w: Array) -> Array:
        unit, norm = unit_and_norm(x, axis if axis is None or isinstance(axis, int) else tuple(axis))
        return x * remaining(unit * norm, s * w)

    return map_of("group_lasso", shrunk, groups, weight=weight)


@value
def nuclear(weight: ArrayTree = 1.0) -> Prox:
    """The nuclear norm, h(X) = weight times the sum of singular values, which makes matrices of low rank.

        Y = U diag(max(s - step weight, 0)) V^H,    X = U diag(s) V^H

    Args:
      weight: a number of at least 0, an array that broadcasts to the matrices (shaped like the leaf, the last two axes
        of length 1), or a tree like the parameters or a prefix of it. `{"kernel": 0.1, "bias": 0.0}` leaves the bias.

    The last two axes of a leaf are those of a matrix, the others count matrices. It costs their singular value
    decompositions. A step is one number for each matrix. The derivative is that of the matrix function, also where
    singular values are equal or 0.

    Raises:
      ValueError: a weight below 0; (in the map) a leaf is no matrix, weights or steps do not fit the matrices.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.prox.nuclear(1.0)(jnp.diag(jnp.array([3.0, 0.5])), 1.0).round(3))
      [[2. 0.]
       [0. 0.]]

    Reference:
      Cai, Candès & Shen 2010, A singular value thresholding algorithm for matrix completion, Theorem 2.1,
      https://arxiv.org/abs/0810.3286
    """

    def groups(shape: Shape) -> Shape:
        if len(shape) < 2:
            raise ValueError(f"shape {shape} is no matrix; a weight of 0 leaves it as it is")
        return (*shape[:-2], 1, 1)

    return map_of("nuclear", lambda x, s, w: _thresholded(x, (s * w)[..., 0]), groups, weight=weight)


@jax.custom_jvp
def _thresholded(x: Array, less: Array) -> Array:
    """U diag(max(s - less, 0)) V^H, less shaped (..., 1)."""
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    return highest(u * jax.nn.relu(s - less)[..., None, :], vh)


@_thresholded.defjvp
def _thresholded_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> Any:
    """U (D * E+ + S * E- - 1[s > less] dless) V^H and what leaves the spaces of U and V, for dX = U (E+ + E-) V^H.

    D and S are the divided differences of the threshold for two singular values, of equal and of opposite signs.
    """
    (x, less), (dx, dless) = primals, tangents
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    r, uh, v = jax.nn.relu(s - less), u.mT.conj(), vh.mT.conj()
    on = ((s > less) | (less == 0)).astype(s.dtype)
    (si, ri, oni), (sj, rj, onj) = ([z[..., :, None] for z in (s, r, on)], [z[..., None, :] for z in (s, r, on)])
    apart, some = oni != onj, si + sj > 0  # where apart, one of both thresholds to 0
    D = jnp.where(apart, (ri + rj) / jnp.where(apart, jnp.abs(si - sj), 1), oni)
    S = jnp.where(some, (ri + rj) / jnp.where(some, si + sj, 1), oni * onj)
    keep = jnp.where(s > 0, r / jnp.where(s > 0, s, 1), on)
    right, left = highest(dx, v), highest(uh, dx)
    e = highest(uh, right)
    plus, minus = (e + e.mT.conj()) / 2, (e - e.mT.conj()) / 2
    inside = D * plus + S * minus - jnp.where(_diagonal(e), oni * dless[..., None], 0)
    rows, columns = keep[..., None, :] * (right - highest(u, e)), keep[..., :, None] * (left - highest(e, vh))
    return highest(u * r[..., None, :], vh), highest(u, highest(inside, vh) + columns) + highest(rows, vh)


def _diagonal(x: Array) -> Array:
    """Where the diagonal of a stack of square matrices is."""
    return jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=bool), x.shape)
