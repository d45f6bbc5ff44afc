"""Bases of eigenvectors of stacks of positive semidefinite matrices, (..., n, n), that are continuous in the matrices.

A matrix of lower rank has no one basis of its null space: what LAPACK returns there comes from rounding, and differs
from one device to eight. So where a matrix says nothing of a direction, the old basis says it.
"""

import functools

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.linalg.matrices import highest
from gdjax.numerics import Array

SHARE = 0.4  # of an old vector eps^SHARE is added at most, where a matrix says nothing of it
SPREAD = 0.01  # of fixed numbers in each vector that fills a null space


def refreshed_basis(matrices: Array, basis: Array, in_order: bool = False) -> Array:
    """One power step towards the eigenvectors of each A: Q' of A Q + s C Q = Q' R, where the diagonal of R is positive.

    These signs keep Q' near Q: numbers kept in the coordinates of Q mean about the same in those of Q'. Where A is zero
    or has NaN the basis stays as it was. See `turned_basis`.

    Args:
      matrices: (..., n, n).
      basis: Q, (..., n, k), orthonormal columns.
      in_order: as in `turned_basis`.
    """
    return turned_basis(matrices, basis, exact=False, in_order=in_order)[0]


def turned_basis(matrices: Array, basis: Array, exact: Array | bool, in_order: bool) -> tuple[Array, Array]:
    """The eigenvectors of each A, or one power step towards them, `refreshed_basis`. Both are continuous in A.

    In the power step s sin^6(q, A q) q is added to A q, with s = eps^(2/5) times the largest q^H A q: nothing to an
    eigenvector, and so much where A says nothing of q that q, and not the rounding of A q, says what is new in Q'.
    An eigenvector whose eigenvalue is below eps^(2/3) of the largest may be rounding. In its place is an old vector
    made orthogonal to the others, with a hundredth of fixed numbers, so that these are never dependent.

    Args:
      matrices: (..., n, n).
      basis: Q, (..., n, n), orthonormal columns.
      exact: whether eigenvectors are wanted, the largest eigenvalue first. A bool, or a traced scalar.
      in_order: whether the columns of Q are first put in the order of q^H A q, the largest first: so power steps do not
        mix vectors whose eigenvalues have overtaken others. Those below s stay in their order.

    Returns:
      Q', and W, (..., n, n): what is measured along the columns of Q is W times that along those of Q'. A row of W is
      |Q^H q'|^2 for an eigenvector q', else it is 1 for the column that q' follows.
    """
    a = matrices.astype(numerics.at_least_float32(matrices.dtype))
    q = basis.astype(a.dtype)
    product = highest(a, q)
    values = jnp.real(jnp.sum(q.conj() * product, -2, keepdims=True))
    top = jnp.max(values, -1, keepdims=True, initial=0)  # with NaN in A all values are NaN
    over = 1 / top
    useful = jnp.isfinite(over) & (over > 0)  # not of 0, infinity, NaN, or so small a size that it is infinite
    values, product = values * over, product * over.astype(a.dtype)
    s = jnp.finfo(a.dtype).eps ** SHARE
    cosines = values / (jnp.sqrt(jnp.sum(numerics.abs_sq(product), -2, keepdims=True)) + s)
    x = product + (s * (1 - jnp.minimum(cosines, 1) ** 2) ** 3).astype(a.dtype) * q
    x = x if exact is False else jnp.where(exact, q, x)
    rows = x.mT  # LAPACK reads and writes columns, and a condition arrays in rows: a transposition would be a copy
    follows = jnp.eye(q.shape[-1], dtype=values.dtype)
    if in_order:
        # Values that are equal up to a thousandth, and those that are NaN, stay in their order.
        order = jnp.argsort(jnp.where(values > s, -jax.lax.reduce_precision(values, 8, 10), 0), -1).astype(jnp.int32)
        rows = jnp.take_along_axis(rows, order.mT, -2, mode="promise_in_bounds")
        follows = jax.nn.one_hot(order[..., 0, :], order.shape[-1], dtype=values.dtype)
    follows = jnp.broadcast_to(follows, (*q.shape[:-2], *follows.shape[-2:]))
    of = functools.partial(_eigenvectors, a, over, useful, q)
    if isinstance(exact, bool):
        rows, follows = of(rows, follows) if exact else (rows, follows)
    else:
        rows, follows = meshes.cond(exact, of, lambda *xs: xs, rows, follows)
    return jnp.where(useful, _orthonormal(rows.mT).astype(basis.dtype), basis), follows


def _eigenvectors(a: Array, over: Array, useful: Array, q: Array, rest: Array, follows: Array) -> tuple[Array, Array]:
    """The eigenvectors that are known, and for the others rows of `rest`, not yet orthogonal, as rows; and W."""
    # LAPACK reads columns: of A^H, which is A, it needs no transposition.
    a = jnp.where(useful, (a * over.astype(a.dtype)).mT.conj(), 0)
    vectors, values = jax.lax.linalg.eigh(a, symmetrize_input=False)
    vectors, values = vectors[..., ::-1], values[..., None, ::-1]
    known = values > jnp.finfo(a.dtype).eps ** (2 / 3) * values[..., :1]
    x = jnp.where(known, vectors, rest.mT + SPREAD * _fixed(q))
    return x.mT, jnp.where(known.mT, numerics.abs_sq(highest(vectors.mT.conj(), q)), follows)


def _fixed(like: Array) -> Array:
    """A square of numbers between -1 and 1 that look random: a hash of their places."""
    i, j = (jax.lax.broadcasted_iota(jnp.uint32, like.shape, like.ndim - axis) for axis in (2, 1))
    k = (i * 40503 + j) * jnp.uint32(2654435769)
    k = (k ^ (k >> 15)) * jnp.uint32(2246822519)
    return (k >> 8).astype(like.dtype) / 2**23 - 1


def _orthonormal(x: Array) -> Array:
    """Q of x = Q R, where the diagonal of R is positive."""
    q, r = jnp.linalg.qr(x)
    # The diagonal: `jnp.diagonal` takes longer to trace than all else here. LAPACK writes columns, r.mT is no copy.
    diagonal = r.mT.reshape(*r.shape[:-2], 1, r.shape[-1] ** 2)[..., :: r.shape[-1] + 1]
    return q * jnp.where(diagonal == 0, 1, jnp.sign(diagonal))
