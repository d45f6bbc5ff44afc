"""Eigenvalues, roots of matrices, and least squares with x >= 0."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics, tree
from gdjax.core import meshes
from gdjax.core.types import Array, ArrayLike, ArrayTree

__all__ = ["matrix_inverse_pth_root", "nnls", "power_iteration"]


def power_iteration(
    matrix: Array | np.ndarray | Callable[[Any], Any], *, v0: ArrayTree | None = None, num_iters: int = 100,
    error_tolerance: float | Array = 1e-6, precision: Any = jax.lax.Precision.HIGHEST, key: Array | None = None,
) -> tuple[Array, Any]:  # fmt: skip
    """The eigenvalue of largest absolute value and its eigenvector, by repeated products:

        v <- M v / |M v|,  lambda = v* M v,  until |M v - lambda v| <= error_tolerance |lambda|

    Args:
      matrix: M, (n, n), or a function v -> M v of trees.
      v0: where to start, (n,) or a tree that the function takes; required with a function. By default uniform in
        [-1, 1]. A start without any component along the eigenvector finds the next one.
      num_iters: products at most.
      error_tolerance: see above.
      precision: of the products with an array.
      key: for the default `v0`; `jax.random.PRNGKey(0)` if not given.

    Returns:
      The eigenvalue and the eigenvector, of norm 1. Where M v vanishes (M = 0), 0 and v; Optax returns NaN.

    Raises:
      ValueError: a function without `v0`; a matrix that is not square.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> value, vector = gdjax.power_iteration(jnp.array([[2.0, 1.0], [1.0, 2.0]]))
      >>> round(float(value), 3), [round(abs(float(x)), 2) for x in vector]
      (3.0, [0.71, 0.71])

    Reference:
      Golub & Van Loan 2013, Matrix computations, section 7.3.1
    """
    label = "gdjax.power_iteration"
    if callable(matrix):
        product = matrix
        if v0 is None:
            raise ValueError(f"{label}: with a function for a matrix, pass v0")
    else:
        m = _matrix(label, matrix)
        product = functools.partial(jnp.matmul, m, precision=precision)
        start = jax.random.PRNGKey(0) if key is None else key
        real = numerics.real_dtype(m.dtype)
        v0 = jax.random.uniform(start, m.shape[-1:], real, -1, 1) if v0 is None else jnp.asarray(v0)
        v0 = v0.astype(m.dtype)

    def unfinished(carry: tuple[Array, ...]) -> Array:
        v, mv, value, i = carry
        residual = tree.norm(tree.sub(mv, tree.scale(value, v)))
        return ~(residual <= error_tolerance * jnp.abs(value)) & (i < num_iters)  # NaN goes on, to come out

    def step(carry: tuple[Array, ...]) -> Any:
        _, mv, _, i = carry
        v = tree.cast_like(_normalized(mv), v0)
        mv = product(v)
        return v, mv, tree.vdot(v, mv), i + 1

    v = tree.cast_like(_normalized(v0), v0)
    mv = product(v)
    value = jnp.zeros_like(tree.vdot(v, mv))
    v, mv, value, _ = meshes.while_loop(unfinished, step, (v, mv, value, jnp.asarray(0)))
    return value, tree.where(tree.norm(mv) > 0, tree.cast_like(_normalized(mv), v0), v)


def _normalized(x: ArrayTree) -> Any:
    size = tree.norm(x)
    return tree.div(x, jax.tree.map(lambda _: jnp.where(size > 0, size, 1), x))


def _matrix(label: str, matrix: ArrayLike) -> Array:
    """`matrix` in float32 or wider."""
    m = jnp.asarray(matrix)
    if m.ndim != 2 or m.shape[0] != m.shape[1]:
        raise ValueError(f"{label}: matrix has shape {m.shape}, expected a square")
    with jax.numpy_dtype_promotion("standard"):
        return m.astype(jnp.promote_types(m.dtype, jnp.float32))


def matrix_inverse_pth_root(
    matrix: Array | np.ndarray, p: int, num_iters: int = 100, ridge_epsilon: float | Array = 1e-6,
    error_tolerance: float | Array = 1e-6, precision: Any = jax.lax.Precision.HIGHEST,
) -> tuple[Array, Array]:  # fmt: skip
    """(A + r I)^(-1/p) of a symmetric positive semidefinite matrix, by coupled Newton iteration:

        z = (1 + p) / (2 |B|),  M = z B,  H = z^(1/p) I     with B = A + r I, |.| the Frobenius norm
        T = ((p + 1) I - M) / p,  M <- T^p M,  H <- H T     until max |M - I| <= error_tolerance

    Args:
      matrix: A, (n, n).
      p: a positive integer.
      num_iters: steps at most.
      ridge_epsilon: r over the largest eigenvalue of A.
      error_tolerance: see above.
      precision: of the products.

    Returns:
      The root H in the dtype of `matrix`, and max |M - I|. It stops before a step that makes M worse by a fifth.

    Raises:
      ValueError: the matrix is not square.

    Departures: Optax takes p for the nearest power of two, computes float64 matrices in float32, and gives NaN for a
    zero matrix.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> root, error = gdjax.matrix_inverse_pth_root(jnp.diag(jnp.array([16.0, 1.0])), 4)
      >>> [[round(float(x), 3) for x in row] for row in root]
      [[0.5, 0.0], [0.0, 1.0]]

    Reference:
      Higham 2008, Functions of matrices, equation 7.18, https://doi.org/10.1137/1.9780898717778
    """
    a = _matrix("gdjax.matrix_inverse_pth_root", matrix)
    identity, q = jnp.eye(len(a), dtype=a.dtype), jnp.asarray(p).astype(a.dtype)
    largest, _ = power_iteration(a, precision=precision)
    b = a + jnp.asarray(ridge_epsilon).astype(a.dtype) * jnp.maximum(largest, 1e-16) * identity

    def off(m: Array) -> Array:
        return numerics.largest(jnp.abs(m - identity))

    def unfinished(carry: tuple[Array, ...]) -> Array:
        i, m, _, _, better = carry
        return (i < num_iters) & (off(m) > error_tolerance) & better

    def step(carry: tuple[Array, ...]) -> Any:
        i, m, h, _, _ = carry
        t = identity + (identity - m) / q
        new = jax.lax.fori_loop(0, p, lambda _, x: jnp.matmul(t, x, precision=precision), m)
        return i + 1, new, jnp.matmul(h, t, precision=precision), h, off(new) < 1.2 * off(m)

    z = (1 + q) / (2 * tree.norm(b))
    start = jnp.asarray(0), z * b, z ** (1 / q) * identity, identity, jnp.asarray(True)
    _, m, h, before, better = meshes.while_loop(unfinished, step, start)
    return jnp.where(better, h, before).astype(jnp.asarray(matrix).dtype), off(m)


def nnls(
    A: Array | np.ndarray, b: Array | np.ndarray, iters: int, unroll: int | bool = 1, L: float | Array | None = None
) -> Array:
    """Non-negative least squares: x >= 0 that minimizes |A x - b|, by accelerated projected gradients.

        x' = max(y - (Q y - q) / L, 0),  y' = x' + (c - 1)/c' (x' - x),  c' = (1 + sqrt(1 + 4 c^2)) / 2

    with Q = A^T A, q = A^T b, c_1 = 1. Where a step goes against the gradient, (y - x') . (x' - x) > 0, c starts anew.

    Args:
      A: (m, n).
      b: (m,), or (m, k) for k problems.
      iters: how many steps.
      unroll: of `jax.lax.scan`.
      L: at least the largest eigenvalue of A^T A; by default a bound from its norms.

    Returns:
      x, (n,) or (n, k).

    Raises:
      ValueError: shapes that do not fit.

    Departures: Optax begins with c = 0, a lost step, and never restarts, which on ill-conditioned problems leaves it
    several digits behind after the same steps.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = gdjax.nnls(jnp.eye(2), jnp.array([2.0, -1.0]), iters=20)
      >>> print(x)
      [2. 0.]

    References:
      Beck & Teboulle 2009, A fast iterative shrinkage-thresholding algorithm, section 4,
      https://doi.org/10.1137/080716542
      O'Donoghue & Candes 2015, Adaptive restart for accelerated gradient schemes, section 3.2,
      https://arxiv.org/abs/1204.3982
    """
    a, target = jnp.asarray(A), jnp.asarray(b)
    if a.ndim != 2 or target.ndim not in (1, 2) or target.shape[0] != a.shape[0]:
        raise ValueError(f"gdjax.nnls: A has shape {a.shape}, b {target.shape}; expected (m, n) and (m,) or (m, k)")
    highest = jax.lax.Precision.HIGHEST
    gram, q = jnp.matmul(a.T, a, precision=highest), jnp.matmul(a.T, target, precision=highest)
    bound = jnp.minimum(jnp.linalg.norm(gram), jnp.max(jnp.sum(jnp.abs(gram), 0), initial=0)) if L is None else L
    bound = jnp.asarray(bound).astype(gram.dtype)
    bound = jnp.where(bound == 0, 1, bound)

    def step(carry: tuple[Array, ...], _: None) -> Any:
        x, y, c = carry
        new = jnp.maximum(y - (jnp.matmul(gram, y, precision=highest) - q) / bound, 0)
        c = jnp.where(jnp.sum((y - new) * (new - x), 0, keepdims=True) > 0, 1, c)
        longer = (1 + jnp.sqrt(1 + 4 * c**2)) / 2
        return (new, new + (c - 1) / longer * (new - x), longer), None

    x = jnp.zeros(q.shape, q.dtype)
    (x, _, _), _ = jax.lax.scan(step, (x, x, jnp.ones((1, *q.shape[1:]), q.dtype)), length=iters, unroll=unroll)
    return x
