"""Linear least squares, damped or within a distance: the s of least |r + J s|^2 + lambda |s|^2, or with |s| <= R.

The normal equations are as large as s or as r, whichever is chosen:

    s = -(J^T J + lambda I)^-1 J^T r = -J^T (J J^T + lambda I)^-1 r
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.core.types import DTypeLike
from gdjax.numerics import Array

Side = Literal["parameters", "residuals"]
Product = Callable[[Array], Array]  # with J or J^T

AT_ONCE = 128  # rows or columns of a Jacobian computed side by side
PROBES = 16  # products with J^T from which the norms of columns are estimated
LENGTH = 0.1  # relative error of |s| = R, as in MINPACK
SEARCHES = 6  # the most values of lambda tried for one R; two are the rule
ROUNDING = 1000  # of eps times the curvature: a lambda below that is not far from the rounding of J^T J


class Linear(NamedTuple):
    """The problem at one r and J, to be solved several times."""

    g: Array  # (n,) J^T r
    curvature: Array  # () |J g|^2 / |g|^2, of the size of the largest eigenvalue of J^T J; 0 where g is 0
    push: Product  # with J
    damped: Callable[[Array], Array]  # from lambda to s, NaN where rounding has spoiled the decomposition
    within: Callable[[Array], tuple[Array, Array]]  # from R to s, and whether R kept it from the minimum


class _Root(NamedTuple):
    """A search for the lambda with |s| = R."""

    damping: Array  # () that of s
    following: Array  # () the next to try
    s: Array
    length: Array  # () of s
    count: Array  # () int32


def dense(J: Array, r: Array, side: Side) -> Linear:
    """By Cholesky's decomposition of a matrix of n parameters or of m residuals."""
    product = _exact(J.T, J) if side == "parameters" else _exact(J, J.T)
    g = _exact(J.T, r)
    curvature = _along(g, _exact(J, g))
    low = _least(curvature)

    def inverse(damping: Array) -> Product:
        damped = product + damping * jnp.eye(len(product), dtype=J.dtype)
        lower = jax.lax.linalg.cholesky(damped, symmetrize_input=False)
        return lambda v: jax.scipy.linalg.cho_solve((lower, True), v)

    def solve(damping: Array) -> tuple[Array, Array]:
        """s, and its derivative by lambda."""
        solved = inverse(damping)
        x = solved(g if side == "parameters" else r)
        dx = -solved(x)
        return (-x, -dx) if side == "parameters" else (-_exact(J.T, x), -_exact(J.T, dx))

    def within(radius: Array) -> tuple[Array, Array]:
        """By Newton's steps for 1 / |s| = 1 / R, in which lambda is almost linear."""
        high = jnp.maximum(jnp.sqrt(g @ g) / radius, low)  # there |s| <= R

        def fits(t: _Root) -> Array:
            near = (t.length >= (1 - LENGTH) * radius) | (t.damping <= low)
            return near & (t.length <= (1 + LENGTH) * radius)

        def search(t: _Root) -> _Root:
            s, ds = solve(t.following)
            length = jnp.sqrt(s @ s)
            newton = t.following - (length / radius - 1) * (s @ s) / (s @ ds)
            following = jnp.where(jnp.isfinite(newton), newton, 10 * t.following)
            following = jnp.where(t.count + 2 == SEARCHES, high, following)  # rounding may have spoiled them
            return _Root(t.following, jnp.clip(following, low, high), s, length, t.count + 1)

        start = _Root(low, low, jnp.full_like(g, jnp.nan), jnp.full_like(low, jnp.nan), jnp.zeros((), jnp.int32))
        end = meshes.while_loop(lambda t: ~fits(t) & (t.count < SEARCHES), search, start)
        return end.s, end.damping > low

    return Linear(g, curvature, lambda v: _exact(J, v), lambda damping: solve(damping)[0], within)


def by_products(push: Product, pull: Product, r: Array, steps: int, tol: Any) -> Linear:
    """By at most so many steps of conjugate gradients, from products with J and J^T alone; it begins at 0.

    It ends where the residual of the normal equations is `tol` of |g|, or where s would leave |s| <= R.
    """
    g = pull(r)
    curvature = _along(g, push(g))

    def damped(damping: Array) -> Array:
        return _conjugate(lambda v: pull(push(v)) + damping * v, g, steps, tol, jnp.full_like(damping, jnp.inf))[0]

    def within(radius: Array) -> tuple[Array, Array]:
        return _conjugate(lambda v: pull(push(v)) + _least(curvature) * v, g, steps, tol, radius)

    return Linear(g, curvature, push, damped, within)


def _least(curvature: Array) -> Array:
    """The least lambda within a distance."""
    return ROUNDING * jnp.finfo(curvature.dtype).eps * curvature


class _Conjugate(NamedTuple):
    s: Array
    left: Array  # -g - A s
    direction: Array
    ends: Array  # () bool, whether s is at |s| = R
    count: Array  # () int32


def _conjugate(A: Product, g: Array, steps: int, tol: Any, radius: Array) -> tuple[Array, Array]:
    """The s at which <g, s> + <s, A s> / 2 is least, or where the way there leaves |s| <= R (Steihaug 1983)."""

    def unfinished(c: _Conjugate) -> Array:
        return ~c.ends & (c.count < steps) & (c.left @ c.left > tol**2 * (g @ g))

    def step(c: _Conjugate) -> _Conjugate:
        d, size = c.direction, c.left @ c.left
        Ad = A(d)
        s = c.s + size / (d @ Ad) * d
        ends = ~(s @ s < radius**2)
        dd, sd, room = d @ d, c.s @ d, radius**2 - c.s @ c.s
        at_end = c.s + room / (sd + jnp.sqrt(sd**2 + dd * room)) * d
        left = c.left - size / (d @ Ad) * Ad
        direction = left + (left @ left) / size * d
        return _Conjugate(jnp.where(ends, at_end, s), left, direction, ends, c.count + 1)

    start = _Conjugate(jnp.zeros_like(g), -g, -g, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    end = meshes.while_loop(unfinished, step, start)
    return end.s, end.ends


def columns(J: Array) -> Array:
    """(n,) the norms of the columns."""
    largest = jnp.max(abs(J))
    unit = jnp.where(largest > 0, largest, 1)
    return unit * jnp.sqrt(jnp.sum((J / unit) ** 2, 0))


def columns_by_products(pull: Product, r: Array) -> Array:
    """The norms of the columns from products with J^T: exact for up to 16 residuals, else within some 20 %.

    Of a vector v of random signs the mean of (J^T v)^2 is the square of the norms.
    """
    if r.size > PROBES:
        vs = jax.random.rademacher(jax.random.key(0), (PROBES, r.size), r.dtype) / PROBES**0.5
    else:
        vs = jnp.eye(r.size, dtype=r.dtype)
    return columns(jax.lax.map(pull, vs, batch_size=len(vs)))


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
