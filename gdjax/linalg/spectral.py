"""Eigenvalues and roots of stacks of symmetric matrices, (..., n, n), each treated by itself.

Each is divided by its largest element, so that nothing over- or underflows, and computed in float32 at least. A matrix
that is not finite does not spoil its neighbours.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.types import Scalar
from gdjax.linalg.bases import refreshed_basis
from gdjax.linalg.matrices import highest
from gdjax.linalg.roots import matrix_inverse_pth_root
from gdjax.numerics import Array

Method = Literal["eigh", "newton"]
METHODS = get_args(Method)


def eigh(matrices: Array) -> tuple[Array, Array]:
    """Eigenvalues, the largest first, and eigenvectors as columns in that order; all NaN for a matrix with NaN.

    Args:
      matrices: (..., n, n), real symmetric or complex Hermitian; of any other the symmetric part counts.
    """
    a, size, finite = _scaled("eigh", matrices)
    values, vectors = jnp.linalg.eigh(a)
    values = jnp.where(finite[..., 0], values * size[..., 0], jnp.nan)
    return values[..., ::-1], jnp.where(finite, vectors, jnp.nan)[..., ::-1]


def inverse_root(matrices: Array, p: int, ridge: float | Array = 1e-6, method: Method = "eigh") -> Array:
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
        root = highest(vectors * _inverse_roots(values, p, ridge).astype(a.dtype)[..., None, :], vectors.mT.conj())
    else:
        flat = jnp.where(size == 0, one, a).reshape(-1, *a.shape[-2:])
        root = jax.vmap(lambda x: matrix_inverse_pth_root(x, p, ridge_epsilon=ridge)[0])(flat).reshape(a.shape)
    return _rescaled(root, size, finite, p).astype(matrices.dtype)


def _inverse_roots(values: Array, p: int, ridge: Scalar) -> Array:
    """(v + r)^(-1/p) of eigenvalues, with r = ridge times the largest; 0 where that is 0."""
    values = jnp.maximum(values, 0)
    values = values + numerics.scalar(ridge, values.dtype) * jnp.max(values, -1, keepdims=True, initial=0)
    roots = jnp.where(values > 0, values, 1) ** (-1 / numerics.scalar(p, values.dtype))
    return jnp.where(values > 0, roots, 0)


def _rescaled(root: Array, size: Array, finite: Array, p: int) -> Array:
    """The root of size A, from that of A; I where the size is 0, NaN where A is not finite."""
    root = root * (jnp.where(size == 0, 1, size) ** (-1 / numerics.scalar(p, size.dtype))).astype(root.dtype)
    return jnp.where(finite, jnp.where(size == 0, jnp.eye(root.shape[-1], dtype=root.dtype), root), jnp.nan)


def root_in_basis(matrices: Array, basis: Array, p: int, ridge: Scalar = 1e-6) -> tuple[Array, Array]:
    """`inverse_root` in a basis that is one power step nearer to the eigenvectors, and that basis; exact in the end.

    What stands beside the diagonal of Q^H A Q counts as zero.
    """
    basis = refreshed_basis(matrices, basis, in_order=True)  # nothing is kept in its coordinates
    a, size, finite = _scaled("root_in_basis", matrices)
    q = basis.astype(a.dtype)
    values = jnp.real(jnp.sum(q.conj() * highest(a, q), -2))
    root = highest(q * _inverse_roots(values, p, ridge).astype(a.dtype)[..., None, :], q.mT.conj())
    return _rescaled(root, size, finite, p).astype(matrices.dtype), basis


def _scaled(name: str, matrices: Array) -> tuple[Array, Array, Array]:
    """Each matrix over its largest element, that element, and whether the matrix is finite; zero where it is not."""
    if matrices.ndim < 2 or matrices.shape[-1] != matrices.shape[-2]:
        raise ValueError(f"gdjax.{name}: matrices have shape {matrices.shape}, expected (..., n, n)")
    a = matrices.astype(numerics.at_least_float32(matrices.dtype))
    finite = jnp.all(jnp.isfinite(a), (-2, -1), keepdims=True)
    a = jnp.where(finite, a, 0)
    size = jnp.max(jnp.abs(a), (-2, -1), keepdims=True, initial=0)
    return a / jnp.where(size == 0, 1, size).astype(a.dtype), size, finite
