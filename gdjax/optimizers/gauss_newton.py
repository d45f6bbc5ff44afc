"""Gauss-Newton steps for least squares, damped as Levenberg and Marquardt do."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks, meshes
from gdjax.core.arrays import add
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.parts import holding
from gdjax.core.types import OptState, Params, Scalar, Updates
from gdjax.linalg import least_squares, vectors
from gdjax.linalg.least_squares import Damped
from gdjax.linalg.residuals import Residuals
from gdjax.linesearch.line import bound, fit
from gdjax.numerics import Array

LABEL = "gdjax.gauss_newton"
SMALL = 4096  # the most rows of a matrix that "auto" decomposes
FITS = 2**26  # the most numbers of a Jacobian that "auto" keeps

Solver = Literal["auto", "parameters", "residuals", "cg"]


class GaussNewtonState(NamedTuple):
    """State of `gauss_newton`."""

    damping: Array  # () lambda of the next step; 0 until there was a gradient to set it by


@transform
def gauss_newton(
    damping: Scalar = 1e-3, *, solver: Solver = "auto", max_tries: int = 8, cg_steps: int = 100, cg_tol: Scalar = 1e-5
) -> GradientTransformation:
    """Gauss-Newton steps with the damping of Levenberg and Marquardt, for least squares over all data.

        f(x) = |r(x)|^2 / 2,    J = dr / dx
        (J^T J + lambda I) s = -J^T r,    x <- x + s    if f(x + s) < f(x)

    r are the residuals, a function of the parameters that every call gets: `update(g, state, params, residual_fn=r)`.
    The damping lambda follows the gain, the decrease of f as a share of what the linear model of r promised:

        gain = (f(x) - f(x + s)) / ((lambda |s|^2 - <s, J^T r>) / 2)
        lambda <- lambda max(1/3, 1 - (2 gain - 1)^3)    if gain > 0
        lambda <- 2 lambda, 4 lambda, 8 lambda, ...      else: s is refused, and solved for anew from the same J

    Where the residuals are those of a Gaussian likelihood, J^T J is its Fisher information, and s is a damped natural
    gradient. In physics-informed networks it is the energy natural gradient.

    Args:
      damping: the first lambda, as a share of |J g|^2 / |g|^2 with g = J^T r, the curvature along the gradient; above
        0. Smaller where the start is near the minimum.
      solver: for n parameters and m residuals, "parameters" decomposes the matrix J^T J + lambda I, (n, n);
        "residuals" decomposes J J^T + lambda I, (m, m), from which the same s comes as -J^T (J J^T + lambda I)^-1 r;
        "cg" takes steps of conjugate gradients, which keep no J; "auto" the smaller matrix of the two, or "cg" where
        that has more than 4096 rows, or J more than 2^26 numbers.
      max_tries: how many dampings a step tries before it gives up, at least 1. The update is then 0, and the next step
        goes on with the damping reached.
      cg_steps: the most steps of conjugate gradients for one s, at least 1; each is a product with J and with J^T.
      cg_tol: they end where the error of the equations is this share of |g|; at least 0.

    Returns:
      A transform whose `update` needs the keyword argument `residual_fn`, a function of the parameters that returns
      real residuals, an array or a tree of arrays. It may have `jacobian_fn`, a function of the parameters that returns
      what `jax.jacrev(residual_fn)` does; without it J takes min(n, m) passes. Where each residual is a function of one
      example, give it: `jax.vmap(jax.grad(residual_of_one), (None, 0))(params, examples)` costs a few passes in all.
      Further arguments go to both where they name them. The gradient given to `update` tells only which parameters are
      trained; it need not be that of f, and may be of any multiple.

    Compile the step. s is as exact as the dtype allows: J^T J has the squares of the condition numbers of J, so float64
    reaches much smaller residuals. lambda stays between eps and 1 / eps of the curvature above, with eps the precision
    of the dtype, so that J may have columns that are 0 or depend on each other, and fewer rows than columns. Where r or
    J is not finite, or J too large to be squared, the update is NaN and the state stays; a step to residuals that are
    not finite is refused.

    Raises:
      ValueError, TypeError: `residual_fn` or the parameters are missing; the residuals are no real floating numbers, or
        are one scalar, as a loss is; a Jacobian does not fit; a number is outside its domain.

    Departs from Nielsen, whose first lambda is a share of the largest element of the diagonal of J^T J.

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
      Madsen, Nielsen & Tingleff 2004, Methods for non-linear least squares problems, Algorithm 3.16; Nielsen 1999,
      Damping parameter in Marquardt's method; for networks Müller & Zeinhofer 2023, Achieving high accuracy with PINNs
      via energy natural gradients, https://arxiv.org/abs/2302.13163; for the smaller matrix Guzmán-Cordero et al. 2025,
      https://arxiv.org/abs/2505.12149
    """
    checks.unscheduled(LABEL, {"damping": damping, "cg_tol": cg_tol}, "a number: there is no count for a schedule")
    max_tries = checks.structural(LABEL, "max_tries", max_tries, 1)
    cg_steps = checks.structural(LABEL, "cg_steps", cg_steps, 1)

    def init(params: Params) -> GaussNewtonState:
        checks.leaves(LABEL, "params", params)
        return GaussNewtonState(jnp.zeros((), numerics.widest_real(params)))

    def update(
        updates: Updates, state: OptState, params: Params = None, *,
        residual_fn: Callable[..., Any] | None = None, jacobian_fn: Callable[..., Any] | None = None,
        **extra_args: Any,
    ) -> tuple[Any, GaussNewtonState]:  # fmt: skip
        checks.state(LABEL, state, GaussNewtonState)
        checks.params(LABEL, params)
        fit(LABEL, "updates", updates, params)
        functions = {"residual_fn": residual_fn, "jacobian_fn": jacobian_fn}
        r_of, J_of = (_bound(name, f, extra_args) for name, f in functions.items())
        gs = vectors.trained(LABEL, updates, updates)
        if not gs:
            return updates, state
        trained = lambda tree: vectors.trained(LABEL, tree, updates)  # noqa: E731
        ps = trained(params)
        residuals = Residuals(LABEL, r_of, J_of, trained, lambda xs: vectors.replaced(LABEL, params, updates, xs), ps)
        x = residuals.vector(ps)
        r = residuals(x)
        largest = jnp.max(abs(r))
        unit = jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1)  # of r and s: their squares are then finite

        def to_updates(s: Array) -> list[Array]:
            return [meshes.placed(u.astype(g.dtype), g) for u, g in zip(residuals.leaves(unit * s), gs, strict=True)]

        def after(us: list[Array]) -> Array:
            return residuals.at([add(p, u) for p, u in zip(ps, us, strict=True)]) / unit

        r, old, first = r / unit, state.damping.astype(x.dtype), jnp.asarray(damping).astype(x.dtype)
        damped = _linear(residuals, x, r, solver, cg_steps, cg_tol)
        lam, us = _tried(damped, old, first, r, to_updates, after, max_tries)
        return vectors.replaced(LABEL, updates, updates, us), GaussNewtonState(lam.astype(state.damping.dtype))

    return holding(init, update)


def _linear(residuals: Residuals, x: Array, r: Array, solver: Solver, cg_steps: int, cg_tol: Scalar) -> Damped:
    """The linear problem at x, ready to be solved."""
    if solver == "auto":
        fits = min(x.size, r.size) <= SMALL and x.size * r.size <= FITS
        solver = "cg" if not fits else "parameters" if x.size <= r.size else "residuals"
    if solver != "cg":
        return least_squares.dense(residuals.jacobian(x, r.size), r, solver)
    push, pull = jax.linearize(residuals, x)[1], jax.vjp(residuals, x)[1]
    tol = jnp.asarray(cg_tol).astype(x.dtype)
    return least_squares.by_products(push, lambda v: pull(v)[0], r, cg_steps, tol)


class Tries(NamedTuple):
    damping: Array  # () of the next try
    growth: Array  # () what it is multiplied by if that is refused
    count: Array  # () int32, tries made
    taken: Array  # () bool
    updates: list[Array]  # those of the last try


def _tried(
    damped: Damped, old: Array, first: Array, r: Array, to_updates: Callable[[Array], list[Array]],
    after: Callable[[list[Array]], Array], most: int,
) -> tuple[Array, list[Array]]:  # fmt: skip
    """The damping of the next step, and the updates of this one: zeros where no try is taken, else NaN if need be."""
    g, scale = damped.g, damped.curvature
    known = jnp.isfinite(r @ r) & jnp.isfinite(g @ g) & jnp.isfinite(scale)
    moves = known & (scale > 0)
    eps = jnp.finfo(r.dtype).eps
    low, high = eps * scale, jnp.minimum(scale / eps, jnp.finfo(r.dtype).max)

    def attempt(t: Tries) -> Tries:
        s = damped.solve(t.damping)
        us = to_updates(s)
        new = after(us)
        decrease = (r - new) @ (r + new) / 2  # of numbers nearly alike the difference of the sums would be rounding
        gain = decrease / ((t.damping * (s @ s) - g @ s) / 2)
        taken = (decrease > 0) & (gain > 0)
        factor = jnp.where(taken, jnp.maximum(1 / 3, 1 - (2 * gain - 1) ** 3), t.growth)
        return Tries(jnp.clip(t.damping * factor, low, high), 2 * t.growth, t.count + 1, taken, us)

    def unfinished(t: Tries) -> Array:
        return moves & ~t.taken & (t.count < most)

    lam = jnp.clip(jnp.where(old > 0, old, first * scale), low, high)
    zeros = [jnp.zeros_like(u) for u in to_updates(g)]
    start = Tries(lam, jnp.full_like(lam, 2), jnp.zeros((), jnp.int32), jnp.zeros((), bool), zeros)
    end = meshes.while_loop(unfinished, attempt, start)
    fill = jnp.where(known, 0, jnp.nan)
    us = [jnp.where(end.taken, u, fill.astype(u.dtype)) for u in end.updates]
    return jnp.where(moves, end.damping, old), us


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
