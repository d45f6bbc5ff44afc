"""Gauss-Newton steps for least squares, damped as Levenberg and Marquardt do."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks, meshes
from gdjax.core.arrays import add
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import BOUND, POSITIVE, SHARE
from gdjax.core.parts import holding
from gdjax.core.types import Count, DTypeLike, Natural, OptState, Params, PerLeaf, Scalar, ScalarOrSchedule, Updates
from gdjax.linalg import least_squares, vectors
from gdjax.linalg.least_squares import Linear, Residuals, Solve
from gdjax.linalg.matrices import highest
from gdjax.linesearch.line import bound, fit
from gdjax.numerics import Array
from gdjax.numerics.elementwise import sqrt

__all__ = ["GaussNewtonState", "gauss_newton"]

LABEL = "gdjax.gauss_newton"
SMALL = 4096  # the most rows of a matrix that "auto" decomposes
FITS = 2**26  # the most numbers of a Jacobian that "auto" keeps
BEND = 0.75  # the most of 2 |a| / |v|

Solver = Literal["auto", "parameters", "residuals", "cg"]


class GaussNewtonState(NamedTuple):
    """State of `gauss_newton`."""

    limit: Array  # () of the next step: R, or lambda of plain damping; 0 until there was a gradient to set it by
    scale: Params  # D, like the parameters, float32 at least; () with plain damping
    steady: Any = False  # () bool, whether the last step's decrease was within `decrease_tol`
    count: Any = ()  # () int32, updates made so far; () where tries are judged
    step: Params = ()  # the last s, like the parameters, float32 at least; () without momentum


@transform
def gauss_newton(
    damping: Annotated[ScalarOrSchedule, POSITIVE] | None = None,
    *, radius: Annotated[Scalar, POSITIVE] = 1.0, solver: Solver = "auto", max_tries: Natural = 8,
    cg_steps: Count = 100, cg_tol: Annotated[Scalar, BOUND] = 1e-5,
    decrease_tol: Annotated[Scalar, BOUND] | None = None, geodesic: bool = False,
    momentum: Annotated[ScalarOrSchedule, SHARE] | None = None,
    max_norm: Annotated[ScalarOrSchedule, POSITIVE] | None = None,
) -> GradientTransformation:  # fmt: skip
    """Gauss-Newton steps damped as Levenberg, Marquardt and More do, for least squares.

        f(x) = |r(x)|^2 / 2,    J = dr / dx,    D_j <- max(D_j, |J_j|)
        (J^T J + lambda D^2) s = -J^T r    with the least lambda for which |D s| <= R
        x <- x + s    if f(x + s) < f(x)

    r are the residuals, a function of the parameters that every call gets: `update(g, state, params, residual_fn=r)`.
    J_j are the columns of J, one for each number in the parameters: so in which units a parameter is counted changes
    nothing. The distance R follows the gain, the decrease of f as a share of what the linear model of r promised:

        gain = (f(x) - f(x + s)) / (|r|^2 / 2 - |r + J s|^2 / 2)
        R <- 2 |D s|                     if gain >= 3/4, or lambda is 0
        R <- |D s| clip(t, 1/10, 1/2)    if gain <= 1/4, with t s the lowest point of a parabola through both f

    A step that is refused is solved for anew from the same J.

    Where the residuals are those of a Gaussian likelihood, J^T J is its Fisher information, and s is a damped natural
    gradient. In physics-informed networks it is the energy natural gradient.

    The default is for curve fits, where the parameters may have any units, and for networks, on all points in each step
    or on points drawn anew. `damping=1e-3` is for networks alone: about as good there, better on few points drawn anew,
    and a step takes one decomposition, where the search for lambda takes two to ten.

    With max_tries=0 a step is one solve, always taken. The residuals are asked for at x alone, so that each step may
    have a batch of its own; a rate below 1 behind it keeps one from being fitted at once. With mu = `momentum` and
    phi_0 = 0 this is SPRING, and without momentum minSR:

        phi_t = argmin_phi |r + J phi|^2 + lambda |phi - mu phi_{t-1}|^2
        x <- x + phi_t min(1, max_norm / |phi_t|)

    A geodesic step bends along the curve of least residuals, with r_vv the second derivative of r along v:

        v = s as above,    a = -(J^T J + lambda D^2)^-1 J^T r_vv / 2
        x <- x + v + a    if 2 |D a| <= 3/4 |D v|

    Args:
      damping: None is the method above. A number is plain damping by Nielsen's rule, lambda I for lambda D^2, which
        depends on units. It is the first lambda, as a share of |J g|^2 / |g|^2 with g = J^T r, the curvature along the
        gradient; above 0. With gain > 0 lambda is multiplied by max(1/3, 1 - (2 gain - 1)^3), else by 2, 4, 8, ...
        With max_tries=0 it is lambda itself, for residuals over sqrt(m), or a schedule of it; the paper has 1e-3.
      radius: the first R, as a share of |D x|; above 0. It is the Cauchy step's length where x is 0.
      solver: for n parameters and m residuals, "parameters" decomposes the matrix J^T J + lambda D^2, (n, n);
        "residuals" decomposes J D^-2 J^T + lambda I, (m, m), from which the same s comes; "cg" takes steps of conjugate
        gradients, which keep no J, as far as |D s| = R; "auto" the smaller matrix of the two, or "cg" where that has
        more than 4096 rows, or J more than 2^26 numbers.
      max_tries: how many steps are tried from one J. If none is taken the update is 0, and the next step goes on with
        the R reached. 0 takes one step without a trial.
      cg_steps: the most steps of conjugate gradients for one s, at least 1; each is a product with J and with J^T.
      cg_tol: they end where the error of the equations is this share of |g|; at least 0.
      decrease_tol: `minimize` stops where both the decrease of f and the one that the linear model promised are at most
        this share of f, and no longer step is due, as MINPACK by its ftol. At least 0; None is eps^(3/4), 1.8e-12 in
        float64 and 6.4e-6 in float32. With `data` or a `key` it does not stop; in a loop of yours read `state.steady`.
      geodesic: add a, for a pass in forward mode over a pass in forward mode and a solve with the same decomposition;
        the trust region's is made once more. Where a is too long a step is refused; with max_tries=0 a is left out.
      momentum: mu of SPRING, from 0 to 1, a number or a schedule; 0.99 in the paper. For max_tries=0, as is `max_norm`.
      max_norm: the most length of a step, above 0, a number or a schedule. The momentum is that of the whole phi_t.
        With a rate behind, as in `chain(gauss_newton(...), scale(eta))`, it is sqrt(C) / eta for the paper's C.

    Returns:
      A transform whose `update` needs the keyword argument `residual_fn`, a function of the parameters that returns
      real residuals, an array or a tree of arrays. It may have `jacobian_fn`, a function of the parameters that returns
      what `jax.jacrev(residual_fn)` does; without it J takes min(n, m) passes. Where each residual is a function of one
      example, give it: `jax.vmap(jax.grad(residual_of_one), (None, 0))(params, examples)` costs a few passes in all.
      Further arguments go to both where they name them. The gradient given to `update` tells only which parameters are
      trained; it need not be that of f, and may be of any multiple.

    Compile the step. s is as exact as the dtype allows: J^T J has the squares of the condition numbers of J, so float64
    reaches much smaller residuals. lambda is at least 1000 eps of the curvature (plain eps^2), R at least eps of the
    Cauchy step, with eps the precision of the dtype, so that J may have columns that are 0 or depend on each other, and
    fewer rows than columns. Where r or J is not finite, or J too large to be squared, the update is NaN and the state
    stays; a step to residuals that are not finite is refused. With "cg" and more than 16 residuals D is estimated by 16
    products with J^T, within some 20 %.

    Raises:
      ValueError, TypeError: `residual_fn` or the parameters are missing; the residuals are no real floating numbers, or
        are one scalar, as a loss is; a Jacobian does not fit; a number is outside its domain; max_tries=0 without
        `damping`; `momentum`, `max_norm` or a schedule where steps are tried.

    Departs from MINPACK, whose first R is 100 |D x|, which begins with D_j = 1 for a column of zeros, and which takes
    steps of gain 1e-4 and more; from Nielsen, whose first lambda is a share of the largest element of the diagonal of
    J^T J.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> t = jnp.arange(6.0)
      >>> residuals = lambda p: p[0] * jnp.exp(-p[1] * t) - 3 * jnp.exp(-0.5 * t)
      >>> loss, given = lambda p: jnp.sum(residuals(p) ** 2), {"residual_fn": residuals}
      >>> tx = gdjax.gauss_newton()
      >>> run = gdjax.minimize(loss, jnp.ones(2), tx, steps=8, extra_fns=given)
      >>> print(run.params.round(2))
      [3.  0.5]

    Reference:
      Moré 1978, The Levenberg-Marquardt algorithm: implementation and theory, https://doi.org/10.1007/BFb0067700;
      Steihaug 1983, https://doi.org/10.1137/0720042, for conjugate gradients; Madsen, Nielsen & Tingleff 2004, Methods
      for non-linear least squares problems, Algorithm 3.16, for plain damping; for networks Müller & Zeinhofer 2023,
      Achieving high accuracy with PINNs via energy natural gradients, https://arxiv.org/abs/2302.13163; for the smaller
      matrix Guzmán-Cordero et al. 2025, https://arxiv.org/abs/2505.12149; Goldshlager, Abrahamsen & Lin 2024, A
      Kaczmarz-inspired approach to accelerate the optimization of neural network wavefunctions, Algorithm 1,
      https://arxiv.org/abs/2401.10190, for SPRING; Chen & Heyl 2024, https://doi.org/10.1038/s41567-024-02566-1, for
      minSR; Transtrum & Sethna 2012, Improvements to the Levenberg-Marquardt algorithm for nonlinear least-squares
      minimization, section 3, https://arxiv.org/abs/1201.5885, for geodesic steps
    """
    max_tries = checks.structural(LABEL, "max_tries", max_tries, 0)
    at_count = {"damping": damping, "momentum": momentum, "max_norm": max_norm}
    _check_settings(max_tries == 0, at_count, {"radius": radius, "cg_tol": cg_tol, "decrease_tol": decrease_tol})
    cg_steps = checks.structural(LABEL, "cg_steps", cg_steps, 1)
    step = _Once(**at_count) if max_tries == 0 else _Tried(damping, radius, max_tries, decrease_tol)

    def init(params: Params) -> GaussNewtonState:
        checks.leaves(LABEL, "params", params)
        real = numerics.widest_real(params)
        zeros = lambda: jax.tree.map(lambda p: _zeros(p, real), params)
        count = jnp.zeros((), jnp.int32) if max_tries == 0 else ()
        return GaussNewtonState(
            jnp.zeros((), real), zeros() if damping is None else (), jnp.zeros((), bool), count,
            () if momentum is None else zeros(),
        )  # fmt: skip

    def update(
        updates: Updates, state: OptState, params: Params = None, *,
        residual_fn: Callable[..., Any] | None = None, jacobian_fn: Callable[..., Any] | None = None,
        **extra_args: Any,
    ) -> tuple[Any, GaussNewtonState]:  # fmt: skip
        checks.state(LABEL, state, GaussNewtonState)
        checks.params(LABEL, params)
        fit(LABEL, "updates", updates, params)
        residuals = _residuals(updates, params, residual_fn, jacobian_fn, extra_args)
        gs, ps = residuals.trained(updates), residuals.like
        if not any(g.size for g in gs):
            return updates, state
        x = residuals.vector(ps)
        r, unit = _in_unit(residuals(x))
        before = None
        if damping is None:
            checks.slots(LABEL, updates, scale=state.scale)
            before = residuals.vector(residuals.trained(state.scale))
        linear, D = _linear(residuals, x, r, before, solver, cg_steps, jnp.asarray(cg_tol).astype(x.dtype))
        point = Point(residuals, x, ps, gs, unit, D, before, geodesic)
        us, state = step(point, linear, r, state, updates)
        return vectors.replaced(LABEL, updates, updates, us), state

    return holding(init, update, like="" if momentum is None else "step")


def _check_settings(always: bool, at_count: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Raises for settings that do not go together."""
    checks.unscheduled(LABEL, fixed if always else {**fixed, **at_count}, "a number: there is no count for a schedule")
    for name, x in at_count.items():
        if isinstance(x, PerLeaf):
            raise TypeError(f"{LABEL}: {name} must be one number for the whole tree, got {x!r}")
        if not always and name != "damping" and x is not None:
            raise ValueError(f"{LABEL}: {name} is for steps that are always taken: set max_tries=0 too")
    if always and at_count["damping"] is None:
        raise ValueError(f"{LABEL}: max_tries=0 needs damping=..., which then is lambda itself")


def _placed(residuals: Residuals, v: Array, gs: list[Array]) -> list[Array]:
    return [meshes.placed(x, g) for x, g in zip(residuals.leaves(v), gs, strict=True)]


def _zeros(p: Any, real: DTypeLike) -> Array:
    """The first D of a parameter."""
    kind = jnp.result_type(p)
    if jnp.issubdtype(kind, jnp.inexact):
        kind = numerics.complex_dtype(real) if jnp.iscomplexobj(p) else real
    return meshes.zeros_along(p, range(jnp.ndim(p)), kind)


def _residuals(updates: Updates, params: Params, residual_fn: Any, jacobian_fn: Any, extra_args: Any) -> Residuals:
    """The residuals as a vector, of the parameters that have a gradient."""
    trained = lambda tree: vectors.trained(LABEL, tree, updates)
    params_with = lambda leaves: vectors.replaced(LABEL, params, updates, leaves)
    r_of = _bound("residual_fn", residual_fn, extra_args)
    J_of = _bound("jacobian_fn", jacobian_fn, extra_args)
    return Residuals(LABEL, r_of, J_of, trained, params_with, trained(params))


def _in_unit(r: Array) -> tuple[Array, Array]:
    """The residuals as multiples of the largest, so that their squares and those of s are finite; and that one."""
    largest = jnp.max(abs(r))
    unit = jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1)
    return r / unit, unit


def _linear(
    residuals: Residuals, x: Array, r: Array, before: Array | None, solver: Solver, cg_steps: int, cg_tol: Array
) -> tuple[Linear, Array | None]:
    """The linear problem at x in the variables D x, and D, of which `before` is the last; None stands for I."""
    if solver == "auto":
        fits = min(x.size, r.size) <= SMALL and x.size * r.size <= FITS
        solver = "cg" if not fits else "parameters" if x.size <= r.size else "residuals"
    if solver != "cg":
        J = residuals.jacobian(x, r.size)
        if before is None:
            return least_squares.dense(J, r, solver), None
        D = jnp.maximum(before, least_squares.columns(J))
        return least_squares.dense(J / _divisors(D)[None], r, solver), D
    push, back = jax.linearize(residuals, x)[1], jax.vjp(residuals, x)[1]
    pull = lambda v: back(v)[0]
    if before is None:
        return least_squares.by_products(push, pull, r, cg_steps, cg_tol), None
    D = jnp.maximum(before, least_squares.columns_by_products(pull, r))
    d = _divisors(D)
    return least_squares.by_products(lambda v: push(v / d), lambda v: pull(v) / d, r, cg_steps, cg_tol), D


def _divisors(D: Array) -> Array:
    return jnp.where(D > 0, D, 1)  # a column that has always been 0 has no part in s


class Point(NamedTuple):
    """The parameters from which steps are tried."""

    residuals: Residuals
    x: Array  # (n,)
    params: list[Array]
    gradients: list[Array]
    unit: Array  # () of r and s
    D: Array | None  # (n,), None for I
    before: Array | None  # (n,) the last D
    geodesic: bool

    @property
    def divisors(self) -> Array | int:
        return 1 if self.D is None else _divisors(self.D)

    def updates(self, s: Array) -> list[Array]:
        us = self.residuals.leaves(self.unit * (s / self.divisors))
        return [meshes.placed(u.astype(g.dtype), g) for u, g in zip(us, self.gradients, strict=True)]

    def residuals_after(self, us: list[Array]) -> Array:
        return self.residuals.at([add(p, u) for p, u in zip(self.params, us, strict=True)]) / self.unit

    def bent(self, v: Array, linear: Linear, solve: Solve) -> tuple[Array, Array | bool]:
        """v + a, the second order of the geodesic, and whether a is short beside v."""
        if not self.geodesic:
            return v, True
        way = self.unit * (v / self.divisors)
        slope = lambda x: jax.jvp(self.residuals, (x,), (way,))[1]
        half = jax.jvp(slope, (self.x,), (way,))[1] / self.unit / 2
        a = solve(half, linear.pull(half))
        return v + a, 2 * jnp.sqrt(highest(a, a)) <= BEND * jnp.sqrt(highest(v, v))


class _Once(NamedTuple):
    """A step by one solve, always taken."""

    damping: Any
    momentum: Any
    max_norm: Any

    def __call__(
        self, point: Point, linear: Linear, r: Array, state: GaussNewtonState, updates: Updates
    ) -> tuple[list[Array], GaussNewtonState]:
        """The updates of the leaves, NaN where s is, and the new state, which goes on from the old s there."""
        known = _known(linear, r)

        def at_count(name: str) -> Array:
            x = getattr(self, name)
            return checks.scalar(LABEL, name, x(state.count) if callable(x) else x).astype(r.dtype)

        damping = jnp.maximum(at_count("damping"), jnp.finfo(r.dtype).eps * linear.curvature)
        solve, last = linear.solver(damping), None
        if self.momentum is None:
            s = solve(r, linear.g)
        else:
            checks.slots(LABEL, updates, step=state.step)
            last = point.residuals.vector(point.residuals.trained(state.step))
            unit = jnp.maximum(point.unit, jnp.max(abs(last)))
            r, point = r * (point.unit / unit), point._replace(unit=unit)
            near = at_count("momentum") * (last / unit)
            left = r + linear.push(near)
            s = near + solve(left, linear.pull(left))
        bent, short = point.bent(s, linear, solve)
        s = jnp.where(short, bent, s)
        known &= jnp.isfinite(point.unit * s).all()
        step = state.step
        if last is not None:
            kept = _placed(point.residuals, jnp.where(known, point.unit * s, last), point.gradients)
            step = vectors.replaced(LABEL, state.step, updates, kept)
        if self.max_norm is not None:
            most = at_count("max_norm") / point.unit
            s = s * (most / jnp.maximum(sqrt(highest(s, s)), most))
        limit = jnp.where(known, damping, state.limit.astype(r.dtype)).astype(state.limit.dtype)
        us = [jnp.where(known, u, jnp.nan).astype(u.dtype) for u in point.updates(s)]
        steady, count = jnp.zeros((), bool), numerics.safe_increment(state.count)
        return us, GaussNewtonState(limit, state.scale, steady, count, step)


class _Tried(NamedTuple):
    """A step of which the gain is judged."""

    damping: Any
    radius: Any
    max_tries: int
    decrease_tol: Any

    def __call__(
        self, point: Point, linear: Linear, r: Array, state: GaussNewtonState, updates: Updates
    ) -> tuple[list[Array], GaussNewtonState]:
        """The updates of the leaves, and the new state."""
        x, D, known = point.x, point.D, _known(linear, r)
        share = jnp.asarray(self.radius if self.damping is None else self.damping).astype(x.dtype)
        if D is None or point.before is None:
            of_limit, scale, rule = 1, state.scale, _nielsen(linear, r, share)
        else:
            rule = _trust_region(linear, D * x / point.unit, share)
            of_limit, D = point.unit, jnp.where(known, D, point.before)
            scale = vectors.replaced(LABEL, state.scale, updates, _placed(point.residuals, D, point.gradients))
        old = state.limit.astype(x.dtype)
        tol = jnp.finfo(x.dtype).eps ** 0.75 if self.decrease_tol is None else self.decrease_tol
        limit, us, steady = _tried(point, linear, rule, known, old / of_limit, r, self.max_tries, tol)
        limit = jnp.where(known & (linear.curvature > 0), limit * of_limit, old).astype(state.limit.dtype)
        return us, GaussNewtonState(limit, scale, steady)


def _known(linear: Linear, r: Array) -> Array:
    """Whether r and J are finite, and their squares."""
    return jnp.isfinite(jnp.stack([highest(r, r), highest(linear.g, linear.g), linear.curvature])).all()


class Try(NamedTuple):
    v: Array  # (n,) s, without its second order
    ends: Array | bool  # whether the limit kept s from the minimum of the linear model
    decrease: Array  # () of f
    gain: Array  # ()
    taken: Array  # () bool
    refused: Array  # () int32, tries before this


class Rule(NamedTuple):
    """How a limit makes a step, and how it follows the gain."""

    first: Array  # () limit
    low: Array  # ()
    high: Array | float  # ()
    step: Callable[[Array], tuple[Array, Array | bool, Solve]]  # from a limit to v, `ends`, and how it was solved for
    following: Callable[[Array, Try], Array]  # from a limit to the next


def _nielsen(linear: Linear, r: Array, share: Array) -> Rule:
    """The limit is lambda."""
    eps, size = jnp.finfo(share.dtype).eps, linear.curvature

    def following(damping: Array, t: Try) -> Array:
        factor = jnp.maximum(1 / 3, 1 - (2 * t.gain - 1) ** 3)
        return damping * jnp.where(t.taken, factor, 2 ** (t.refused + 1).astype(factor.dtype))

    def step(damping: Array) -> tuple[Array, Array, Solve]:
        solve = linear.solver(damping)
        return solve(r, linear.g), damping > eps * size, solve

    low = jnp.maximum(eps**2 * size, jnp.finfo(share.dtype).tiny)
    high = jnp.minimum(size / eps, jnp.finfo(share.dtype).max)
    return Rule(share * size, low, high, step, following)


def _trust_region(linear: Linear, x: Array, share: Array) -> Rule:
    """The limit is R, the most length of s."""
    cauchy, size = jnp.sqrt(highest(linear.g, linear.g)) / linear.curvature, jnp.sqrt(highest(x, x))

    def following(radius: Array, t: Try) -> Array:
        length = jnp.sqrt(highest(t.v, t.v))
        slope = highest(linear.g, t.v)
        lowest = slope / (slope + t.decrease) / 2
        cut = jnp.where(jnp.isfinite(lowest), jnp.clip(lowest, 0.1, 0.5), 0.1)
        shorter = cut * jnp.where(jnp.isfinite(length), jnp.minimum(length, radius), radius)
        longer = jnp.where((t.gain >= 0.75) | ~t.ends, 2 * length, radius)
        return jnp.where(t.gain > 0.25, longer, shorter)

    def step(radius: Array) -> tuple[Array, Array, Solve]:
        v, ends, damping = linear.within(radius)
        return v, ends, lambda q, pulled: linear.solver(damping)(q, pulled)

    first = share * jnp.where((size > 0) & jnp.isfinite(size), size, cauchy)
    return Rule(first, jnp.finfo(x.dtype).eps * cauchy, jnp.inf, step, following)


class Tries(NamedTuple):
    limit: Array  # () of the next try
    count: Array  # () int32, tries made
    taken: Array  # () bool
    updates: list[Array]  # those of the last try
    steady: Array  # () bool, whether what it lowered f by, and promised, is within the tolerance


def _tried(
    point: Point, linear: Linear, rule: Rule, known: Array, old: Array, r: Array, most: int, tol: Any
) -> tuple[Array, list[Array], Array]:
    """The limit of the next step, the updates of this one (zeros where no try is taken, else NaN if need be), and
    whether they hardly lower f.
    """
    g, f = linear.g, highest(r, r) / 2
    moves = known & (linear.curvature > 0)

    def attempt(t: Tries) -> Tries:
        v, ends, solve = rule.step(t.limit)
        s, short = point.bent(v, linear, solve)
        us = point.updates(s)
        new = point.residuals_after(us)
        # Of numbers nearly alike the difference of the sums would be rounding.
        decrease = highest(r - new, r + new) / 2
        Jv = linear.push(v)
        promised = -highest(g, v) - highest(Jv, Jv) / 2
        gain = jnp.where(short, decrease / promised, 0)
        taken = (decrease > 0) & (gain > 0)
        limit = rule.following(t.limit, Try(v, ends, decrease, gain, taken, t.count))
        limit = jnp.clip(limit, rule.low, rule.high)
        # A short step within a limit is no minimum if the next one may be longer.
        small = (jnp.maximum(abs(decrease), promised) <= tol * f) & ~(ends & (gain >= 0.75))
        return Tries(limit, t.count + 1, taken, us, small)

    def unfinished(t: Tries) -> Array:
        return moves & ~t.taken & (t.count < most)

    limit = jnp.clip(jnp.where(old > 0, old, rule.first), rule.low, rule.high)
    zeros = [jnp.zeros_like(u) for u in point.updates(g)]
    start = Tries(limit, jnp.zeros((), jnp.int32), jnp.zeros((), bool), zeros, known & ~moves)
    end = meshes.while_loop(unfinished, attempt, start)
    fill = jnp.where(known, 0, jnp.nan)
    return end.limit, [jnp.where(end.taken, u, fill.astype(u.dtype)) for u in end.updates], end.steady


def _bound(name: str, f: Callable[..., Any] | None, extra_args: dict[str, Any]) -> Callable[[Any], Any] | None:
    """A function that `update` was given, as one of the parameters alone."""
    if f is None and name == "residual_fn":
        raise ValueError(
            f"{LABEL}: update needs residual_fn=..., the residuals as a function of the parameters: call "
            "update(updates, state, params, residual_fn=...)"
        )
    if f is not None and not callable(f):
        raise TypeError(f"{LABEL}: {name} must be a function of the parameters, got {f!r}")
    return None if f is None else bound(f, extra_args)
