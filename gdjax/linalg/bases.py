"""Bases of eigenvectors of stacks of positive semidefinite matrices, (..., n, n), that are continuous in the matrices.

A matrix of lower rank has no one basis of its null space: what LAPACK returns there comes from rounding, and differs
from one device to eight. So where a matrix says nothing of a direction, the old basis says it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.numerics import Array

# How near 1 and 0 the parts of old vectors that count as equal may be apart: 1 / GRID. No simple fraction times GRID is
# near a half, where rounding would part equal numbers.
GRID = 987.65
SPREAD = 0.01  # the share of all old vectors in each that fills a null space
_highest = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


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


def turned_basis(matrices: Array, basis: Array, exact: Any, in_order: bool) -> tuple[Array, Array]:
    """The eigenvectors of each A, or one power step towards them, `refreshed_basis`. Both are continuous in A.

    In the power step s q sin^4(q, A q) is added to A q, with s = sqrt(eps) times the largest q^H A q: nothing to an
    eigenvector, and so much where A says nothing of q that q, and not the rounding of A q, says what is new in Q'.
    An eigenvector is replaced where its eigenvalue is below eps^(2/3) of the largest, and may be rounding: by an old
    vector, of those of which the other eigenvectors take the least, made orthogonal to them. A hundredth of a fixed
    mixture of all is added, so that these vectors are never dependent.

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
    product = _highest(a, q)
    values = jnp.real(jnp.sum(q.conj() * product, -2, keepdims=True))
    top = jnp.max(values, -1, keepdims=True, initial=0)  # with NaN in A all values are NaN
    over, useful = _reciprocal(top)
    values, product = values * over, product * over.astype(a.dtype)
    step = functools.partial(_power_step, product, values, q, in_order)
    vectors = functools.partial(_eigenvectors, a, over, useful, q)
    if isinstance(exact, bool):
        x, follows = vectors() if exact else step()
    else:
        x, follows = meshes.cond(exact, vectors, step)
    return jnp.where(useful, _orthonormal(x).astype(basis.dtype), basis), follows


def _power_step(product: Array, values: Array, q: Array, in_order: bool) -> tuple[Array, Array]:
    """A Q and a share of Q, its columns in order."""
    s = jnp.finfo(q.dtype).eps ** 0.5
    cosines = jnp.minimum(values / (jnp.sqrt(jnp.sum(numerics.abs_sq(product), -2, keepdims=True)) + s), 1)
    x = product + (s * (1 - cosines**2) ** 2).astype(q.dtype) * q
    if not in_order:
        return x, jnp.broadcast_to(jnp.eye(q.shape[-1], dtype=values.dtype), (*q.shape[:-2], q.shape[-1], q.shape[-1]))
    order = _order(jnp.where(values > s, -values, 0))  # what is NaN stays where it is
    return _columns(x, order), _rows_of_one(order, values.dtype)


def _eigenvectors(a: Array, over: Array, useful: Array, q: Array) -> tuple[Array, Array]:
    """The known eigenvectors, and for the others what the old vectors have besides."""
    # LAPACK reads columns: of A^H, which is A, it needs no transposition.
    vectors, values = jax.lax.linalg.eigh(
        jnp.where(useful, (a * over.astype(a.dtype)).mT.conj(), 0), symmetrize_input=False
    )
    vectors, values = vectors[..., ::-1], values[..., None, ::-1]
    known = values > jnp.finfo(a.dtype).eps ** (2 / 3) * values[..., :1]
    parts = jnp.where(known.mT, numerics.abs_sq(_highest(vectors.mT.conj(), q)), 0)
    order = _order(jnp.round(GRID * (1 - jnp.sum(parts, -2, keepdims=True))))
    rest = _columns(q, order) + SPREAD * _highest(q, _mixture(q.shape[-1], q.dtype))
    return jnp.where(known, vectors, rest), jnp.where(known.mT, parts, _rows_of_one(order, parts.dtype))


def _order(keys: Array) -> Array:
    """Where the numbers of (..., 1, k) are, the least first; equal ones stay in their order."""
    return jnp.argsort(keys, -1).astype(jnp.int32)


def _columns(x: Array, order: Array) -> Array:
    return jnp.take_along_axis(x, order, -1, mode="promise_in_bounds")


def _rows_of_one(order: Array, dtype: Any) -> Array:
    return jax.nn.one_hot(order[..., 0, :], order.shape[-1], dtype=dtype)


def _mixture(n: int, dtype: Any) -> Array:
    """An orthogonal matrix without zeros: the discrete cosine transform DCT-IV."""
    i = jnp.arange(n, dtype=jnp.finfo(dtype).dtype) + 0.5
    return ((2 / n) ** 0.5 * jnp.cos(jnp.pi / n * i[:, None] * i[None])).astype(dtype)


def _reciprocal(size: Array) -> tuple[Array, Array]:
    """1 / size, and whether it is of any use: not of 0, of so small a size that it is infinite, of infinity or NaN."""
    over = 1 / size
    return over, jnp.isfinite(over) & (over > 0)


def _orthonormal(x: Array) -> Array:
    """Q of x = Q R, where the diagonal of R is positive."""
    q, r = jnp.linalg.qr(x)
    # The diagonal: `jnp.diagonal` takes longer to trace than all else here. LAPACK writes columns, r.mT is no copy.
    diagonal = r.mT.reshape(*r.shape[:-2], 1, r.shape[-1] ** 2)[..., :: r.shape[-1] + 1]
    length = jnp.abs(diagonal)
    return q * jnp.where(length > 0, diagonal / length.astype(x.dtype), 1)
