"""Least squares: the residuals of a model, and steps of Gauss and Newton.

The normal equations are as large as s or as r, whichever is chosen:

    s = -(J^T J + lambda I)^-1 J^T r = -J^T (J J^T + lambda I)^-1 r
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks, meshes
from gdjax.core.types import ArrayTree, DTypeLike
from gdjax.linalg import vectors
from gdjax.linalg.matrices import highest
from gdjax.numerics import Array

Side = Literal["parameters", "residuals"]
Product = Callable[[Array], Array]  # with J or J^T

AT_ONCE = 128  # rows or columns of a Jacobian computed side by side
PROBES = 16  # products with J^T from which the norms of columns are estimated
LENGTH = 0.1  # relative error of |s| = R, as in MINPACK
SEARCHES = 20  # the most values of lambda tried for one R; two are the rule, ten for an ill-conditioned J
ROUNDING = 1000  # of eps times the curvature: a lambda below that is not far from the rounding of J^T J


class Linear(NamedTuple):
    """The problem at one r and J, to be solved several times."""

    g: Array  # (n,) J^T r
    curvature: Array  # () |J g|^2 / |g|^2, of the size of the largest eigenvalue of J^T J; 0 where g is 0
    push: Product  # with J
    pull: Product  # with J^T
    solver: Callable[[Array], "Solve"]  # from lambda
    within: Callable[[Array], tuple[Array, Array, Array]]  # from R to s, whether R kept it from the minimum, and lambda


# From q and J^T q to -(J^T J + lambda I)^-1 J^T q, NaN where rounding has spoiled the decomposition, which calls share.
Solve = Callable[[Array, Array], Array]


class _Root(NamedTuple):
    """A search for the lambda with |s| = R."""

    damping: Array  # () that of s
    following: Array  # () the next to try
    s: Array
    length: Array  # () of s
    count: Array  # () int32


def dense(J: Array, r: Array, side: Side) -> Linear:
    """By Cholesky's decomposition of a matrix of n parameters or of m residuals."""
    product = highest(J.T, J) if side == "parameters" else highest(J, J.T)
    g = highest(J.T, r)
    curvature = _along(g, highest(J, g))
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
        return (-x, -dx) if side == "parameters" else (-highest(J.T, x), -highest(J.T, dx))

    def solver(damping: Array) -> Solve:
        solved = inverse(damping)
        return lambda q, pulled: -solved(pulled) if side == "parameters" else -highest(J.T, solved(q))

    def within(radius: Array) -> tuple[Array, Array, Array]:
        """By Newton's steps for 1 / |s| = 1 / R, in which lambda is almost linear."""
        high = jnp.maximum(jnp.sqrt(highest(g, g)) / radius, low)  # there |s| <= R

        def fits(t: _Root) -> Array:
            near = (t.length >= (1 - LENGTH) * radius) | (t.damping <= low)
            return near & (t.length <= (1 + LENGTH) * radius)

        def search(t: _Root) -> _Root:
            s, ds = solve(t.following)
            length = jnp.sqrt(highest(s, s))
            newton = t.following - (length / radius - 1) * highest(s, s) / highest(s, ds)
            following = jnp.where(jnp.isfinite(newton), newton, 10 * t.following)
            following = jnp.where(t.count + 2 == SEARCHES, high, following)  # rounding may have spoiled them
            return _Root(t.following, jnp.clip(following, low, high), s, length, t.count + 1)

        start = _Root(low, low, jnp.full_like(g, jnp.nan), jnp.full_like(low, jnp.nan), jnp.zeros((), jnp.int32))
        end = meshes.while_loop(lambda t: ~fits(t) & (t.count < SEARCHES), search, start)
        return end.s, end.damping > low, end.damping

    return Linear(g, curvature, lambda v: highest(J, v), lambda v: highest(J.T, v), solver, within)


def by_products(push: Product, pull: Product, r: Array, steps: int, tol: Any) -> Linear:
    """By at most so many steps of conjugate gradients, from products with J and J^T alone; it begins at 0.

    It ends where the residual of the normal equations is `tol` of |g|, or where s would leave |s| <= R.
    """
    g = pull(r)
    curvature = _along(g, push(g))

    def solver(damping: Array) -> Solve:
        product, free = lambda v: pull(push(v)) + damping * v, jnp.full_like(damping, jnp.inf)
        return lambda q, pulled: _conjugate(product, pulled, steps, tol, free)[0]

    def within(radius: Array) -> tuple[Array, Array, Array]:
        low = _least(curvature)
        s, ends = _conjugate(lambda v: pull(push(v)) + low * v, g, steps, tol, radius)
        Js = push(s)
        damping = -(highest(g, s) + highest(Js, Js)) / highest(s, s)  # the lambda of which s is the solution, about
        return s, ends, jnp.where(damping > low, damping, low)

    return Linear(g, curvature, push, pull, solver, within)


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
        return ~c.ends & (c.count < steps) & (highest(c.left, c.left) > tol**2 * highest(g, g))

    def step(c: _Conjugate) -> _Conjugate:
        d, size = c.direction, highest(c.left, c.left)
        Ad = A(d)
        s = c.s + size / highest(d, Ad) * d
        ends = ~(highest(s, s) < radius**2)
        dd, sd, room = highest(d, d), highest(c.s, d), radius**2 - highest(c.s, c.s)
        at_end = c.s + room / (sd + jnp.sqrt(sd**2 + dd * room)) * d
        left = c.left - size / highest(d, Ad) * Ad
        direction = left + highest(left, left) / size * d
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
    square = highest(g, g)
    return jnp.where(square > 0, highest(Jg, Jg) / jnp.where(square > 0, square, 1), square)


NAMES = "the result of residual_fn", "the result of jacobian_fn"


class Residuals:
    """The residuals as a vector, a function of the vector of the parameters that are trained.

    Args:
      f: from the parameters to the residuals, a tree.
      jacobian_fn: from the parameters to what `jax.jacrev(f)` returns, or None.
      trained, whole: from a tree like the parameters to its leaves that are trained, and back.
      leaves: those of the parameters that are trained; the vector has the widest of their dtypes, float32 at least.
    """

    def __init__(
        self, label: str, f: Any, jacobian_fn: Any, trained: Callable[[ArrayTree], list[Array]],
        whole: Callable[[list[Array]], Any], leaves: list[Array],
    ):  # fmt: skip
        self.label, self.f, self.jacobian_fn, self.like = label, f, jacobian_fn, leaves
        self.trained, self.whole = trained, whole
        self.dtype = numerics.widest_real(leaves)
        self.where: vectors.Gaps = [None] * len(leaves)

    def vector(self, leaves: list[Array]) -> Array:
        return vectors.as_vector([meshes.replicated(x) for x in leaves], self.where, self.dtype)

    def leaves(self, v: Array) -> list[Array]:
        """In the dtype of the vector."""
        return vectors.as_leaves(v, self.like, self.where)

    def __call__(self, v: Array) -> Array:
        return self.at(self.stored(v))

    def stored(self, v: Array) -> list[Array]:
        """In the dtypes of the parameters, and divided as they are."""
        return [meshes.placed(x.astype(p.dtype), p) for x, p in zip(self.leaves(v), self.like, strict=True)]

    def at(self, leaves: list[Array]) -> Array:
        found = self.f(self.whole(leaves))
        rs = jax.tree_util.tree_flatten_with_path(found)[0]
        for path, r in rs:
            where = f"the result of residual_fn{jax.tree_util.keystr(path)}"
            checks.leaf(self.label, where, r)
            if not jnp.issubdtype(jnp.result_type(r), jnp.floating):
                hint = "; return the real and the imaginary part, two arrays" if jnp.iscomplexobj(r) else ""
                raise TypeError(f"{self.label}: {where} has dtype {jnp.result_type(r)}, not a real floating one{hint}")
        if len(rs) == 1 and jnp.shape(rs[0][1]) == ():
            raise ValueError(
                f"{self.label}: residual_fn returned one scalar; return the residuals, of which the loss is the sum of "
                "squares, and a single one with shape (1,)"
            )
        if sum(jnp.size(r) for _, r in rs) == 0:
            raise ValueError(f"{self.label}: residual_fn returned no residuals")
        return jnp.concatenate([jnp.ravel(meshes.replicated(jnp.asarray(r))).astype(self.dtype) for _, r in rs])

    def jacobian(self, v: Array, m: int) -> Array:
        """(m, n), by `jacobian_fn` if there is one."""
        if self.jacobian_fn is None:
            return jacobian(self, v, m)
        if any(map(jnp.iscomplexobj, self.like)):
            raise TypeError(f"{self.label}: jacobian_fn is for real parameters; without it they may be complex")
        params = self.whole(self.stored(v))
        rs, structure = jax.tree.flatten(jax.eval_shape(self.f, params))
        rows = checks.flatten_like(self.label, NAMES, structure, structure.unflatten(rs), self.jacobian_fn(params))
        blocks = [self.row(r, row) for r, row in zip(rs, rows, strict=True)]
        return jnp.concatenate([jnp.concatenate(block, 1) for block in blocks])

    def row(self, r: Any, derivatives: ArrayTree) -> list[Array]:
        """The derivatives of one array of residuals by each leaf, as matrices."""
        found = []
        for d, p in zip(self.trained(derivatives), self.like, strict=True):
            if d.shape != r.shape + p.shape:
                raise ValueError(
                    f"{self.label}: jacobian_fn returned a derivative of shape {d.shape} for residuals of shape "
                    f"{r.shape} and a parameter of shape {p.shape}; expected {r.shape + p.shape}, as of "
                    "jax.jacrev(residual_fn)"
                )
            found.append(meshes.replicated(d).reshape(r.size, p.size).astype(self.dtype))
        return found
