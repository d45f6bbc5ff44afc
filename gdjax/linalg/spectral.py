"""Eigenvectors and roots of stacks of symmetric matrices, (..., n, n), each treated by itself.

Each is divided by its largest element, so that nothing over- or underflows, and computed in float32 at least. A matrix
that is not finite does not spoil its neighbours.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.linalg.roots import inverse_root_by_newton
from gdjax.numerics import Array

METHODS = "eigh", "newton"
_highest = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def eigh(matrices: Array) -> tuple[Array, Array]:
    """Eigenvalues, the largest first, and eigenvectors as columns in that order; all NaN for a matrix with NaN.

    Args:
      matrices: (..., n, n), real symmetric or complex Hermitian; of any other the symmetric part counts.
    """
    a, size, finite = _scaled("eigh", matrices)
    values, vectors = jnp.linalg.eigh(a)
    values = jnp.where(finite[..., 0], values * size[..., 0], jnp.nan)
    return values[..., ::-1], jnp.where(finite, vectors, jnp.nan)[..., ::-1]


def inverse_root(matrices: Array, p: Any, ridge: Any = 1e-6, method: str = "eigh") -> Array:
    """(A + r I)^(-1/p) of each positive semidefinite A, with r = ridge times the largest eigenvalue of A.

    With the ridge the root of an A of lower rank is finite: r^(-1/p) where A is zero. An A that is all zeros says
    nothing yet and has the root I, which changes nothing. An A with NaN has a root of NaN.

    Args:
      matrices: (..., n, n), real symmetric or complex Hermitian.
      p: 2 for one-sided Shampoo, 4 for Shampoo; for "newton" an integer.
      ridge: the least part of the largest eigenvalue that counts, at least 0. In float32 1e-6 is about the least that
        means something.
      method: "eigh", or "newton", the coupled Newton iteration of `matrix_inverse_pth_root`: products alone, which suit
        a TPU, and many matrices at once, better.

    Returns:
      The roots, in the dtype of `matrices`.

    Raises:
      ValueError: the last two axes differ; an unknown method.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> root = gdjax.inverse_root(jnp.diag(jnp.array([4.0, 0.25])), 2)
      >>> [[round(float(x), 2) for x in row] for row in root]
      [[0.5, 0.0], [0.0, 2.0]]
    """
    if method not in METHODS:
        raise ValueError(f"gdjax.inverse_root: method must be one of {', '.join(METHODS)}, got {method!r}")
    a, size, finite = _scaled("inverse_root", matrices)
    one = jnp.eye(a.shape[-1], dtype=a.dtype)
    if method == "eigh":
        values, vectors = jnp.linalg.eigh(a)
        root = _highest(vectors * _inverse_roots(values, p, ridge).astype(a.dtype)[..., None, :], vectors.mT.conj())
    else:
        flat = jnp.where(size == 0, one, a).reshape(-1, *a.shape[-2:])
        root = jax.vmap(lambda x: inverse_root_by_newton(x, p, ridge_epsilon=ridge)[0])(flat).reshape(a.shape)
    return _rescaled(root, size, finite, p).astype(matrices.dtype)


def _inverse_roots(values: Array, p: Any, ridge: Any) -> Array:
    """(v + r)^(-1/p) of eigenvalues, with r = ridge times the largest; 0 where that is 0."""
    values = jnp.maximum(values, 0)
    values = values + numerics.scalar(ridge, values.dtype) * jnp.max(values, -1, keepdims=True, initial=0)
    roots = jnp.where(values > 0, values, 1) ** (-1 / numerics.scalar(p, values.dtype))
    return jnp.where(values > 0, roots, 0)


def _rescaled(root: Array, size: Array, finite: Array, p: Any) -> Array:
    """The root of size A, from that of A; I where the size is 0, NaN where A is not finite."""
    root = root * (jnp.where(size == 0, 1, size) ** (-1 / numerics.scalar(p, size.dtype))).astype(root.dtype)
    return jnp.where(finite, jnp.where(size == 0, jnp.eye(root.shape[-1], dtype=root.dtype), root), jnp.nan)


def refreshed_basis(matrices: Array, basis: Array) -> Array:
    """One power step towards the eigenvectors of each A: Q' of A Q = Q' R, where the diagonal of R is positive.

    These signs keep Q' near Q: numbers kept in the coordinates of Q mean about the same in those of Q'. Where A is zero
    or has NaN the basis stays as it was. Where A is of lower rank than Q, the rest of Q' is some orthonormal basis.

    Args:
      matrices: (..., n, n), positive semidefinite.
      basis: Q, (..., n, k), orthonormal columns.
    """
    return stepped(matrices, basis)[0]


def eigenvectors(matrices: Array, basis: Array) -> Array:
    """The eigenvectors of each positive semidefinite A, the largest eigenvalue first; where A has none, the basis."""
    a = matrices.astype(numerics.at_least_float32(matrices.dtype))
    over, useful = _reciprocal(jnp.max(jnp.abs(a), (-2, -1), keepdims=True, initial=0))
    # LAPACK reads columns: of A^H, which is A, it needs no transposition.
    a = jnp.where(useful, (a * over.astype(a.dtype)).mT.conj(), 0)
    vectors, values = jax.lax.linalg.eigh(a, symmetrize_input=False)
    found = useful & jnp.isfinite(values[..., :1, None])
    return jnp.where(found, vectors[..., ::-1].astype(basis.dtype), basis)


def stepped(matrices: Array, basis: Array, in_order: bool = False) -> tuple[Array, Array]:
    """`refreshed_basis`.

    Args:
      in_order: whether the columns of Q are first put in the order of their eigenvalues q^H A q, the largest first: so
        power steps do not mix vectors whose eigenvalues have overtaken others.

    Returns:
      Q', and the order, (..., k): Q' follows Q[:, order].
    """
    a = matrices.astype(numerics.at_least_float32(matrices.dtype))
    q = basis.astype(a.dtype)
    product = _highest(a, q)
    values = jnp.real(jnp.sum(q.conj() * product, -2))
    if in_order:
        order = jnp.argsort(values, -1)[..., ::-1].astype(jnp.int32)
        product = jnp.take_along_axis(product, order[..., None, :], -1, mode="promise_in_bounds")
    else:
        order = jnp.broadcast_to(jnp.arange(q.shape[-1], dtype=jnp.int32), values.shape)
    over, useful = _reciprocal(jnp.max(values, -1, initial=0)[..., None, None])  # with NaN in A all values are NaN
    q = _orthonormal(product * over.astype(a.dtype))
    return jnp.where(useful, q.astype(basis.dtype), basis), order


def _reciprocal(size: Array) -> tuple[Array, Array]:
    """1 / size, and whether it is of any use: not of 0, of so small a size that it is infinite, of infinity or NaN."""
    over = 1 / size
    return over, jnp.isfinite(over) & (over > 0)


def root_in_basis(matrices: Array, basis: Array, p: Any, ridge: Any = 1e-6) -> tuple[Array, Array]:
    """`inverse_root` in a basis that is one power step nearer to the eigenvectors, and that basis; exact in the end.

    What stands beside the diagonal of Q^H A Q counts as zero.
    """
    basis = refreshed_basis(matrices, basis)
    a, size, finite = _scaled("root_in_basis", matrices)
    q = basis.astype(a.dtype)
    values = jnp.real(jnp.sum(q.conj() * _highest(a, q), -2))
    root = _highest(q * _inverse_roots(values, p, ridge).astype(a.dtype)[..., None, :], q.mT.conj())
    return _rescaled(root, size, finite, p).astype(matrices.dtype), basis


def _orthonormal(x: Array) -> Array:
    """Q of x = Q R, where the diagonal of R is positive."""
    q, r = jnp.linalg.qr(x)
    # The diagonal: `jnp.diagonal` takes longer to trace than all else here. LAPACK writes columns, r.mT is no copy.
    diagonal = r.mT.reshape(*r.shape[:-2], 1, r.shape[-1] ** 2)[..., :: r.shape[-1] + 1]
    length = jnp.abs(diagonal)
    return q * jnp.where(length > 0, diagonal / length.astype(x.dtype), 1)


def _scaled(name: str, matrices: Array) -> tuple[Array, Array, Array]:
    """Each matrix over its largest element, that element, and whether the matrix is finite; zero where it is not."""
    if matrices.ndim < 2 or matrices.shape[-1] != matrices.shape[-2]:
        raise ValueError(f"gdjax.{name}: matrices have shape {matrices.shape}, expected (..., n, n)")
    a = matrices.astype(numerics.at_least_float32(matrices.dtype))
    finite = jnp.all(jnp.isfinite(a), (-2, -1), keepdims=True)
    a = jnp.where(finite, a, 0)
    size = jnp.max(jnp.abs(a), (-2, -1), keepdims=True, initial=0)
    return a / jnp.where(size == 0, 1, size).astype(a.dtype), size, finite
