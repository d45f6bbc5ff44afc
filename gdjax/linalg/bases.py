"""Orthonormal bases of symmetric matrices, and functions of their eigenvalues.

A matrix of lower rank has no one basis of its null space: what LAPACK returns there comes from rounding, and differs
from one device to eight. So where a matrix says nothing of a direction, the old basis says it.

Each is divided by its largest element, so that nothing over- or underflows, and computed in float32 at least. A matrix
that is not finite does not spoil its neighbours.
"""

import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.types import Scalar
from gdjax.linalg import decompositions
from gdjax.linalg.matrices import highest
from gdjax.linalg.roots import matrix_inverse_pth_root
from gdjax.numerics import Array

__all__ = ["inverse_root", "refreshed_basis", "turned_basis"]

SHARE = 0.4  # of an old vector eps^SHARE is added at most, where a matrix says nothing of it
KNOWN = 0.45  # eigenvalues below eps^KNOWN of the largest have eigenvectors that rounding moves by more than eps^0.55
SPREAD = 0.01  # of fixed numbers in each vector that fills a null space


def refreshed_basis(matrices: Array, basis: Array, in_order: bool = False) -> Array:
    """One power step of a basis towards the eigenvectors of A: `turned_basis` with `exact=False`, without W.

        A Q + s C Q = Q' R,     the diagonal of R is positive

    So Q' is near Q, and numbers in the coordinates of Q mean about the same in those of Q'. s C, see there, adds about
    nothing where A determines the basis. Where A is zero or has NaN, Q' is Q.

    Args:
      matrices: A, (..., n, n), positive semidefinite, real symmetric or complex Hermitian.
      basis: Q, (..., n, k), orthonormal columns.
      in_order: whether the columns of Q are first sorted by q^H A q, the largest first.

    Returns:
      Q', (..., n, k), in the dtype of `basis`.

    Raises:
      ValueError: the shapes do not fit each other.
      TypeError: one is complex and the other real.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> A, Q = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.eye(2)
      >>> for _ in range(20):
      ...     Q = gdjax.refreshed_basis(A, Q)
      >>> [round(float(x), 2) for x in jnp.diag(Q.T @ A @ Q)]  # the eigenvalues
      [3.0, 1.0]

    Reference:
      Vyas et al. 2024, SOAP, Algorithm 4, https://arxiv.org/abs/2409.11321
    """
    _check("refreshed_basis", matrices, basis, square=False)
    return turned_basis(matrices, basis, in_order=in_order)[0]


def turned_basis(
    matrices: Array, basis: Array, exact: Array | bool = False, in_order: bool = False
) -> tuple[Array, Array]:
    """The eigenvectors of A, or one power step of a basis towards them, either continuous in A: how SOAP turns bases.

        exact:       A = Q' diag(w) Q'^H,    w_1 >= w_2 >= ...
        power step:  A Q + s C Q = Q' R,     the diagonal of R is positive

    Where A says nothing of a direction, the old basis says it, and not rounding. In the power step C = sin^6(q, A q)
    for each column q, and s = eps^(2/5) max(q^H A q): nothing is added to an eigenvector. In place of an eigenvector
    whose eigenvalue is below eps^0.45 w_1, an old column is made orthogonal to the others, with a hundredth of fixed
    numbers, so that columns are never dependent. Where A is zero or has NaN, Q' is Q and W is I.

    Averages m in the coordinates of Q are Q'^H Q m in those of Q'; averages v of squares are W v.

    Derivatives by A and Q are exact where the eigenvalues in use differ. Eigenvectors of equal ones have none: in place
    of infinity they count as not turning among each other.

    Args:
      matrices: A, (..., n, n), positive semidefinite, real symmetric or complex Hermitian.
      basis: Q, (..., n, n), orthonormal columns; (..., n, k) where `exact` is False.
      exact: whether Q' are the eigenvectors. A bool, or a traced scalar.
      in_order: whether the columns of Q are sorted by q^H A q before a power step, the largest first: it then does not
        mix vectors whose eigenvalues have overtaken others. Values below s stay in their order.

    Returns:
      Q', in the shape and dtype of `basis`, and W, (..., k, k): row i is |Q^H q'_i|^2 for an eigenvector q'_i, else 1
      at the column of Q that q'_i follows, and 0 elsewhere.

    Departures: the reference has no C and no old columns. Its basis of a null space is rounding.

    Raises:
      ValueError: the shapes do not fit each other.
      TypeError: one is complex and the other real.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> A, Q = jnp.diag(jnp.array([1.0, 3.0])), jnp.eye(2)
      >>> new, W = gdjax.turned_basis(A, Q, exact=True)
      >>> print(W @ jnp.array([10.0, 30.0]))  # variances along the new columns
      [30. 10.]

    Reference:
      Vyas et al. 2024, SOAP, Algorithms 3 and 4, https://arxiv.org/abs/2409.11321
    """
    _check("turned_basis", matrices, basis, square=exact is not False)
    a = matrices.astype(numerics.at_least_float32(matrices.dtype))
    q = basis.astype(a.dtype)
    product = highest(a, q)
    values = jnp.real(jnp.sum(q.conj() * product, -2, keepdims=True))
    top = numerics.peak(values, -1)  # with NaN in A all values are NaN
    over = 1 / top
    useful = jnp.isfinite(over) & (over > 0)  # not of 0, infinity, NaN, or so small a size that it is infinite
    over = 1 / jnp.where(useful, top, 1)
    values, product = values * over, product * over.astype(a.dtype)
    s = jnp.finfo(a.dtype).eps ** SHARE
    cosines = values / (numerics.sqrt(jnp.sum(numerics.abs_sq(product), -2, keepdims=True)) + s)
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
    found = functools.partial(_eigenvectors, a, over, useful, q)
    if isinstance(exact, bool):
        rows, follows = found(rows, follows) if exact else (rows, follows)
    else:
        rows, follows = meshes.cond(exact, found, lambda *xs: xs, rows, follows)
    columns = jnp.where(useful, rows.mT, q)  # what is not used has derivatives too
    return jnp.where(useful, _orthonormal(columns).astype(basis.dtype), basis), follows


def _check(name: str, matrices: Array, basis: Array, square: bool) -> None:
    a, q = matrices.shape, basis.shape
    if a[-1:] != a[-2:-1] or q[:-1] != a[:-1] or q[-1] > a[-1] or (square and q != a):
        expected = f"(..., n, n) and (..., n, {'n' if square else 'k'})"
        raise ValueError(f"gdjax.{name}: matrices have shape {a} and basis {q}, expected {expected}")
    if jnp.iscomplexobj(matrices) != jnp.iscomplexobj(basis):
        kinds = f"matrices are {matrices.dtype} and basis is {basis.dtype}"
        raise TypeError(f"gdjax.{name}: {kinds}, expected both real or both complex")


def _eigenvectors(a: Array, over: Array, useful: Array, q: Array, rest: Array, follows: Array) -> tuple[Array, Array]:
    """The eigenvectors that are known, and for the others rows of `rest`, not yet orthogonal, as rows; and W."""
    # LAPACK reads columns: of A^H, which is A, it needs no transposition.
    a = jnp.where(useful, (a * over.astype(a.dtype)).mT.conj(), 0)
    vectors, values = decompositions.eigh(a, False)
    vectors, values = vectors[..., ::-1], values[..., None, ::-1]
    known = values > jnp.finfo(a.dtype).eps ** KNOWN * values[..., :1]
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
    q, r = decompositions.qr(x)
    # The diagonal: `jnp.diagonal` takes longer to trace than all else here. LAPACK writes columns, r.mT is no copy.
    diagonal = r.mT.reshape(*r.shape[:-2], 1, r.shape[-1] ** 2)[..., :: r.shape[-1] + 1]
    return q * jnp.where(diagonal == 0, 1, jnp.sign(diagonal))


Method = Literal["eigh", "newton"]
METHODS = get_args(Method)


def eigh(matrices: Array) -> tuple[Array, Array]:
    """Eigenvalues, the largest first, and eigenvectors as columns in that order; all NaN for a matrix with NaN.

    Args:
      matrices: (..., n, n), real symmetric or complex Hermitian; of any other the symmetric part counts.
    """
    a, size, finite = _scaled("eigh", matrices)
    vectors, values = decompositions.eigh(a)
    values = jnp.where(finite[..., 0], values * size[..., 0], jnp.nan)
    return values[..., ::-1], jnp.where(finite, vectors, jnp.nan)[..., ::-1]


def inverse_root(matrices: Array, p: int, ridge: float | Array = 1e-6, method: Method = "eigh") -> Array:
    """(A + r I)^(-1/p) of each positive semidefinite A, with r = ridge times the largest eigenvalue of A.

    With the ridge the root of an A of lower rank is finite: r^(-1/p) where A is zero. An A that is all zeros says
    nothing yet and has the root I, which changes nothing. An A with NaN has a root of NaN. With "eigh" derivatives are
    exact, whatever eigenvalues are equal.

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
    if method == "eigh" or not a.size:
        numbers = (jnp.asarray(x, size.dtype) for x in (p, ridge))
        root = decompositions.of_eigenvalues(_inverse_roots, _slopes, a, *numbers)
    else:
        flat = jnp.where(size == 0, one, a).reshape(math.prod(a.shape[:-2]), *a.shape[-2:])
        root = jax.vmap(lambda x: matrix_inverse_pth_root(x, p, ridge_epsilon=ridge)[0])(flat).reshape(a.shape)
    return _rescaled(root, size, finite, p).astype(matrices.dtype)


def _inverse_roots(values: Array, p: int, ridge: Scalar) -> Array:
    """(v + r)^(-1/p) of eigenvalues, with r = ridge times the largest; 0 where that is 0."""
    values = jnp.maximum(values, 0)
    values = values + numerics.scalar(ridge, values.dtype) * numerics.peak(values, -1)
    roots = jnp.where(values > 0, values, 1) ** (-1 / numerics.scalar(p, values.dtype))
    return jnp.where(values > 0, roots, 0)


def _slopes(values: Array, p: Array, ridge: Array, roots: Array) -> Array:
    """The derivatives of `_inverse_roots` by each value."""
    values = jnp.maximum(values, 0)
    values = values + ridge * numerics.peak(values, -1)
    return -roots / (p * jnp.where(values > 0, values, 1))


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
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(a), (-2, -1), keepdims=True, initial=0))  # no result depends on it
    return a / jnp.where(size == 0, 1, size).astype(a.dtype), size, finite
