"""Damped linear least squares: the s for which |r + J s|^2 + lambda |s|^2 is least.

The normal equations are as large as s or as r, whichever is chosen:

    s = -(J^T J + lambda I)^-1 J^T r = -J^T (J J^T + lambda I)^-1 r
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core.types import DTypeLike
from gdjax.numerics import Array

Side = Literal["parameters", "residuals"]
Product = Callable[[Array], Array]  # with J or J^T

AT_ONCE = 128  # rows or columns of a Jacobian computed side by side


class Damped(NamedTuple):
    """The problem at one r and J, to be solved with one lambda or several."""

    g: Array  # (n,) J^T r
    curvature: Array  # () |J g|^2 / |g|^2, of the size of the largest eigenvalue of J^T J; 0 where g is 0
    solve: Callable[[Array], Array]  # from lambda to s, NaN where rounding has spoiled the decomposition


def dense(J: Array, r: Array, side: Side) -> Damped:
    """By Cholesky's decomposition of the matrix of n parameters or of m residuals, which is made once."""
    product = _exact(J.T, J) if side == "parameters" else _exact(J, J.T)
    g = _exact(J.T, r)

    def solve(damping: Array) -> Array:
        damped = product + damping * jnp.eye(len(product), dtype=J.dtype)
        lower = jax.lax.linalg.cholesky(damped, symmetrize_input=False)
        x = jax.scipy.linalg.cho_solve((lower, True), g if side == "parameters" else r)
        return -x if side == "parameters" else -_exact(J.T, x)

    return Damped(g, _along(g, _exact(J, g)), solve)


def by_products(push: Product, pull: Product, r: Array, steps: int, tol: Any) -> Damped:
    """By at most so many steps of conjugate gradients, from products with J and J^T alone; it begins at 0.

    It ends where the residual of the normal equations is `tol` of |g|.
    """
    g = pull(r)

    def solve(damping: Array) -> Array:
        return -jax.scipy.sparse.linalg.cg(lambda v: pull(push(v)) + damping * v, g, tol=tol, maxiter=steps)[0]

    return Damped(g, _along(g, push(g)), solve)


def jacobian(f: Callable[[Array], Array], x: Array, m: int) -> Array:
    """The derivative of the m numbers f(x), (m, n), by n passes forwards or m passes backwards, the fewer."""
    if x.size <= m:
        return _products(jax.linearize(f, x)[1], x.size, x.dtype).T
    pull = jax.vjp(f, x)[1]
    return _products(lambda v: pull(v)[0], m, x.dtype)


def _products(f: Callable[[Array], Array], size: int, dtype: DTypeLike) -> Array:
    """f of every unit vector."""
    return jax.lax.map(f, jnp.eye(size, dtype=dtype), batch_size=min(size, AT_ONCE))


def _along(g: Array, Jg: Array) -> Array:
    square = g @ g
    return jnp.where(square > 0, Jg @ Jg / jnp.where(square > 0, square, 1), square)


def _exact(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
