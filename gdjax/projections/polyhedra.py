"""Projections onto affine sets, polyhedra and sections of boxes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import base, meshes
from gdjax.core.types import ArrayLike, ArrayTree
from gdjax.projections.boxes import box, of_shapes
from gdjax.projections.common import Array, floating_dtype, of_vector

__all__ = ["projection_affine_set", "projection_box_section", "projection_polyhedron"]


def projection_affine_set(x: ArrayTree, A: ArrayLike, b: ArrayLike) -> Any:
    """The nearest tree y with A y = b.

        y = x - pinv(A) (A x - b)

    Args:
      x: any pytree of arrays, n numbers in the order of `jax.tree.leaves`.
      A: (m, n), of any rank.
      b: (m,).

    Raises:
      ValueError: the shapes of A, b and x do not fit; no y fulfils all equations, to half the digits. Under `jit` the
        result is NaN then.

    In JAXopt, whose method for A of full rank is an iteration, A and b are one argument, a pair.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> A, b = jnp.array([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]]), jnp.array([3.0, 1.0])
      >>> y = gdjax.projections.projection_affine_set(jnp.zeros(3), A, b)
      >>> [round(float(z), 3) for z in y]
      [1.5, 0.5, 1.0]

    Reference:
      Parikh & Boyd 2014, Proximal algorithms, section 6.2.1, https://doi.org/10.1561/2400000003
    """
    label = "gdjax.projection_affine_set"

    def projected(v: Array) -> Array:
        system = _system(label, v, A, b, "A", "b")
        y = _onto(v, system)
        return _exists(label, v, _fulfilled(jnp.abs(_excess(y, system)), y, system), y)

    return of_vector(projected, x)


class System(NamedTuple):
    """Equations, or inequalities, over their norms."""

    M: Array  # (m, n)
    c: Array  # (m,)


def _system(label: str, v: Array, M: ArrayLike, c: ArrayLike, *names: str) -> System:
    M, c = jnp.asarray(M), jnp.asarray(c)
    if M.ndim != 2 or M.shape[1] != v.size:
        raise ValueError(f"{label}: {names[0]} shape {M.shape} does not match the {v.size} numbers of x")
    if c.shape != M.shape[:1]:
        raise ValueError(f"{label}: {names[1]} shape {c.shape} does not match {names[0]} shape {M.shape}")
    M, c = M.astype(v.dtype), c.astype(v.dtype)
    norm = jax.lax.stop_gradient(jnp.linalg.norm(M, axis=1))
    norm = jnp.where(norm == 0, 1, norm)
    return System(M / norm[:, None], c / norm)


def _dot(M: Array, v: Array) -> Array:
    return jnp.matmul(M, v, precision="highest")


def _excess(v: Array, s: System) -> Array:
    return _dot(s.M, v) - s.c


def _onto(v: Array, s: System) -> Array:
    """The projection where all rows are equations, by two steps: the second takes what rounding left of the first."""
    inverse = jnp.linalg.pinv(s.M)
    y = v - _dot(inverse, _excess(v, s))
    return y - _dot(inverse, _excess(y, s))


def _exists(label: str, v: Array, inside: Array, y: Array) -> Array:
    """y, the projection of v, where it is inside the set. Elsewhere that is empty: NaN, or an error outside of jit."""
    if base.is_concrete((v, inside)) and not inside and jnp.all(jnp.isfinite(v)):
        raise ValueError(f"{label}: the set is empty: nothing fulfils the conditions")
    return jnp.where(inside, y, jnp.nan)


def _fulfilled(excess: Array, y: Array, s: System) -> Array:
    """Whether no row is missed by more than half the digits."""
    size = jnp.max(jnp.abs(s.c), initial=0) + jnp.linalg.norm(y)
    return jnp.all(excess <= float(jnp.finfo(excess.dtype).eps) ** 0.5 * size)


def projection_polyhedron(
    x: ArrayTree, A: ArrayLike | None, b: ArrayLike | None, G: ArrayLike | None, h: ArrayLike | None
) -> Any:
    """The nearest tree y with A y = b and G y <= h.

    The inequalities that hold with equality at y come from the dual, a least squares problem with multipliers at least
    0, by the active set method of Lawson & Hanson. y is then a projection onto an affine set, and has the derivatives
    of that: right where each such inequality has a multiplier above 0.

    Args:
      x: any pytree of real arrays, n numbers in the order of `jax.tree.leaves`.
      A, b: (m, n) and (m,), the equations, of any rank; None for none.
      G, h: (p, n) and (p,), the inequalities, redundant ones too; None for none. A step of the method decomposes a
        matrix of p columns, and there are about as many as inequalities hold with equality: for up to some hundreds.

    Raises:
      ValueError: shapes that do not fit, or one of a pair is missing; the set is empty, to half the digits. Under `jit`
        the result is NaN then.
      TypeError: a complex leaf.

    In JAXopt, whose method is an iteration to a tolerance (OSQP), the four are one argument, a tuple.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> A, b = jnp.array([[1.0, 1.0]]), jnp.array([1.0])
      >>> G, h = jnp.array([[-1.0, 0.0]]), jnp.array([-0.75])  # y_0 >= 3 / 4
      >>> y = gdjax.projections.projection_polyhedron(jnp.zeros(2), A, b, G, h)
      >>> [round(float(z), 3) for z in y]
      [0.75, 0.25]

    Reference:
      Lawson & Hanson 1974, Solving least squares problems, chapter 23: algorithms NNLS and LDP,
      https://doi.org/10.1137/1.9781611971217
    """
    label = "gdjax.projection_polyhedron"
    for names, (M, c) in {("A", "b"): (A, b), ("G", "h"): (G, h)}.items():
        if (M is None) != (c is None):
            raise ValueError(f"{label}: {' and '.join(names)} belong together, but {names[c is None]} is None")

    def projected(v: Array) -> Array:
        if jnp.iscomplexobj(v):
            raise TypeError(f"{label}: a leaf is complex ({v.dtype}), and has no order")
        empty = jnp.zeros((0, v.size)), jnp.zeros(0)
        equal = _system(label, v, *(empty if A is None or b is None else (A, b)), "A", "b")
        below = _system(label, v, *(empty if G is None or h is None else (G, h)), "G", "h")
        active = _active(*jax.lax.stop_gradient((v, equal, below))).astype(v.dtype)
        rows = System(
            jnp.concatenate([equal.M, active[:, None] * below.M]), jnp.concatenate([equal.c, active * below.c])
        )
        y = _onto(v, rows)
        inside = _fulfilled(jnp.abs(_excess(y, rows)), y, rows) & _fulfilled(_excess(y, below), y, below)
        return _exists(label, v, inside, y)

    return of_vector(projected, x)


class Multipliers(NamedTuple):
    """A step of the active set method."""

    count: Array  # () int32
    values: Array  # (p,) at least 0
    passive: Array  # (p,) bool, which may be above 0
    done: Array  # () bool


def _active(v: Array, equal: System, below: System) -> Array:
    """Which inequalities have a multiplier above 0 at the projection.

    In the affine set of the equations, with z = y - P(x) and r the slack at P(x), the least z with M z <= r is that of
    min |M^T u|^2 + (r u + 1)^2 with u >= 0.
    """
    p, eps = below.c.size, float(jnp.finfo(v.dtype).eps)
    if not p:
        return jnp.zeros(0, bool)
    inverse = jnp.linalg.pinv(equal.M)
    M = below.M - jnp.matmul(jnp.matmul(below.M, inverse, precision="highest"), equal.M, precision="highest")
    r = -_excess(_onto(v, equal), below)
    r = r / jnp.maximum(jnp.max(jnp.abs(r)), jnp.finfo(v.dtype).tiny)
    E = jnp.concatenate([M.T, r[None]])
    f = jnp.zeros(v.size + 1, v.dtype).at[-1].set(-1)
    tol = 10 * eps * max(E.shape)

    def least_squares(passive: Array) -> Array:
        """Of the passive columns; the others' rows of the identity make the matrix one of full rank."""
        kept = passive.astype(v.dtype)
        q, upper = jnp.linalg.qr(jnp.concatenate([E * kept[None], jnp.diag(1 - kept)]))
        return kept * jax.scipy.linalg.solve_triangular(upper, _dot(q[: f.size].T, f))

    def step(s: Multipliers) -> Multipliers:
        new = least_squares(s.passive)
        short = s.passive & (new <= 0)
        share = jnp.where(short, s.values / jnp.where(short, s.values - new, 1), jnp.inf)
        share = jnp.where(jnp.isnan(share), 0, share)
        first = short & (share <= jnp.min(share))
        values = jnp.where(jnp.any(short), s.values + jnp.min(share, initial=1) * (new - s.values), new)
        values = jnp.where(s.passive & ~first, values, 0)
        pull = jnp.where(s.passive, -jnp.inf, _dot(E.T, f - _dot(E, new)))
        best, back = jnp.argmax(pull), jnp.any(short)
        more = pull[best] > tol
        passive = jnp.where(back, s.passive & ~first, s.passive.at[best].set(s.passive[best] | more))
        return Multipliers(s.count + 1, values, passive, ~back & ~more)

    start = Multipliers(jnp.zeros((), jnp.int32), jnp.zeros(p, v.dtype), jnp.zeros(p, bool), jnp.zeros((), bool))
    unfinished = lambda s: ~s.done & (s.count < 3 * p + 10)
    return meshes.while_loop(unfinished, step, start).values > 0


def projection_box_section(x: ArrayTree, alpha: ArrayTree, beta: ArrayTree, w: ArrayTree, c: ArrayLike) -> Any:
    """The nearest tree y with alpha <= y <= beta and <w, y> = c.

        y = min(max(x + tau w, alpha), beta),  with tau such that <w, y> = c

    tau is exact: <w, y> is linear in tau between the 2 n numbers at which a bound is met, which are sorted.

    Args:
      x: any pytree of real arrays.
      alpha, beta: the bounds: a number for all leaves, None for no bound, or a tree like `x` of numbers and of arrays
        that broadcast to the leaves.
      w: a tree of the same structure and shapes as `x`, of any sign.
      c: a scalar.

    Raises:
      ValueError: structures or shapes that do not fit; alpha > beta somewhere, or no y within the bounds has the sum c.
        Under `jit` the result is NaN then.
      TypeError: a complex leaf.

    In JAXopt, which bisects and wants w above 0, the four are one argument, a tuple.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x, w = jnp.array([0.9, 0.2, 0.1]), jnp.ones(3)
      >>> print(gdjax.projections.projection_box_section(x, 0.0, 0.5, w, 1.0).round(3))
      [0.5 0.3 0.2]

    Reference:
      Dai & Fletcher 2006, New algorithms for singly linearly constrained quadratic programs subject to lower and upper
      bounds, section 2, https://doi.org/10.1007/s10107-005-0595-2
    """
    label = "gdjax.projection_box_section"
    full = lambda end: jax.tree.map(lambda z: jnp.full(jnp.shape(z), end, floating_dtype(z)), x)
    ends = [box(label, full(end), alpha, beta, ("alpha", "beta"), "x") for end in (-jnp.inf, jnp.inf)]
    of_shapes(label, x, w, "w")
    if jnp.shape(c) != ():
        raise ValueError(f"{label}: c must be a scalar, got shape {jnp.shape(c)}")

    def projected(v: Array) -> Array:
        low, high, weights = (
            jnp.concatenate([jnp.ravel(z).astype(v.dtype) for z in map(jnp.asarray, jax.tree.leaves(tree))])
            for tree in (*ends, w)
        )
        y, inside = _section(v, low, high, weights, jnp.asarray(c).astype(v.dtype))
        return _exists(label, v, inside, y)

    return of_vector(projected, x)


def _section(v: Array, low: Array, high: Array, w: Array, c: Array) -> tuple[Array, Array]:
    """The projection, and whether there is one."""
    moves, up = w != 0, w > 0
    ends = [jnp.where(moves, (end - v) / jnp.where(moves, w, 1), 0) for end in (low, high)]
    first, last = jax.lax.stop_gradient((jnp.minimum(*ends), jnp.maximum(*ends)))  # a number moves between these taus
    at_first, at_last = jnp.where(up, low, high), jnp.where(up, high, low)
    start, end = _segment(first, last, *jax.lax.stop_gradient((v, low, high, w, c)))
    free = jnp.where(moves, (first <= start) & (last >= end), (low <= v) & (v <= high))
    bound = jnp.where(moves, jnp.where(last <= start, at_last, at_first), jnp.clip(v, low, high))
    bound = jnp.where(free, 0, bound)  # one that is infinite has no derivative
    square = jnp.sum(jnp.where(free, w * w, 0))
    rest = c - jnp.sum(w * bound) - jnp.sum(jnp.where(free, w * v, 0))
    y = jnp.where(free, v + rest / jnp.where(square > 0, square, 1) * w, bound)
    y = y + jax.lax.stop_gradient(jnp.clip(y, low, high) - y)  # rounding
    least, most = (jnp.sum(jnp.where(moves, w * end, 0)) for end in (at_first, at_last))
    slack = 4 * v.size * float(jnp.finfo(v.dtype).eps) * (jnp.abs(c) + jnp.sum(jnp.abs(w * y)))
    return y, (least <= c + slack) & (most >= c - slack) & jnp.all(low <= high)


def _segment(first: Array, last: Array, v: Array, low: Array, high: Array, w: Array, c: Array) -> tuple[Array, Array]:
    """Two neighbours of the taus, sorted, between which <w, y> reaches c, by bisection; infinite beyond the ends."""
    points = jnp.sort(jnp.concatenate([first, last]))

    def narrowed(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        start, end = ends
        middle = (start + end) // 2
        y = jnp.clip(v + points[middle] * w, low, high)
        less, inside = jnp.sum(jnp.where(w == 0, 0, w * y)) < c, end - start > 1
        return jnp.where(inside & less, middle, start), jnp.where(inside & ~less, middle, end)

    n = points.size
    start, end = meshes.fori_loop(n.bit_length(), narrowed, (jnp.int32(-1), jnp.int32(n)))
    return jnp.where(start < 0, -jnp.inf, points[start]), jnp.where(end == n, jnp.inf, points[jnp.minimum(end, n - 1)])
