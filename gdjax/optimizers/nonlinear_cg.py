"""Nonlinear conjugate gradients: the gradient plus a multiple of the last direction, with a line search."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Params, Rate, Transform, Updates
from gdjax.lift.leafwise import leafwise
from gdjax.lift.meetings import total, total_norm
from gdjax.lift.slots import Moment, Shared
from gdjax.linalg.vectors import inner
from gdjax.linesearch.zoom import scale_by_zoom_linesearch
from gdjax.numerics import Array, bounded, divide
from gdjax.optimizers.lbfgs import searched

__all__ = ["ScaleByNonlinearCGState", "nonlinear_cg", "scale_by_nonlinear_cg"]

Method = Literal["polak-ribiere", "hestenes-stiefel", "fletcher-reeves", "dai-yuan"]
# An almost exact search: with the 0.9 of quasi-Newton methods the directions are soon no conjugate ones.
CG_SEARCH = scale_by_zoom_linesearch(max_linesearch_steps=20, curv_rtol=0.1)
NEARLY_ORTHOGONAL = 0.2  # of two gradients in a row, as a share of the second's square
MOST_GROWTH = 1000.0  # of |g| in a step: what is longer is another function's, or the last one's was rounding


class ScaleByNonlinearCGState(NamedTuple):
    """State of `scale_by_nonlinear_cg`."""

    updates: Updates  # gradients at the last update, like params
    direction: Params  # like params, u of the last update
    norm: Array  # () |g| there
    slope: Array  # () <g, u> / |g|^2 there


@leafwise(
    ScaleByNonlinearCGState, updates=Moment(kind="exact"), direction=Moment(kind="exact"),
    norm=Shared(), slope=Shared(), growth="same",
)  # fmt: skip
def scale_by_nonlinear_cg(
    g: Array, s: ScaleByNonlinearCGState, p: Array, t: Array, method: Method = "polak-ribiere"
) -> tuple[Array, ScaleByNonlinearCGState]:
    """Adds a multiple of its last result to the gradient: u_t = g_t + beta_t u_{t-1}.

        polak-ribiere       beta = max(<g_t, y>, 0) / |g_{t-1}|^2          y = g_t - g_{t-1}
        hestenes-stiefel    beta = max(<g_t, y>, 0) / <d, y>               d = -u_{t-1}, the last step over its rate
        fletcher-reeves     beta = |g_t|^2 / |g_{t-1}|^2
        dai-yuan            beta = |g_t|^2 / <d, y>

    beta = 0, which begins anew along g, where the denominator is not above 0, where -u_t would point uphill, and where
    |g_t| >= 1000 |g_{t-1}|: a tiny gradient before would make a step of any length. For the last two so it is where
    |<g_t, g_{t-1}>| >= 0.2 |g_t|^2 too (Powell's restart): once their steps are short they stay so. The first two
    begin anew by themselves, since y is short there. All products are over the norms of gradients, and so neither over-
    nor underflow. A step of 0 or a NaN is forgotten at the next update.

    Args:
      method: which beta.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_nonlinear_cg("fletcher-reeves")
      >>> state = tx.init(jnp.zeros(2))
      >>> for g in ([2.0, 0.0], [0.0, 1.0]):
      ...     direction, state = tx.update(jnp.array(g), state)
      >>> print(direction)  # g + 1 / 4 of the one before
      [0.5 1. ]

    Reference:
      Hager & Zhang 2006, A survey of nonlinear conjugate gradient methods, table 1, sections 2 and 3,
      https://people.clas.ufl.edu/hager/files/cg_survey.pdf; Powell 1977, Restart procedures for the conjugate gradient
      method, equation 2.9, https://doi.org/10.1007/BF01593790
    """
    g = bounded(g, "summed")
    norm = total_norm(g)
    unit = divide(g, norm)
    r = divide(norm, s.norm)
    gain = total(inner(unit, divide(g - s.updates, s.norm)))  # <g, y> / (|g_t| |g_{t-1}|)
    along = total(inner(unit, divide(s.direction, s.norm)))
    by_change = method in ("polak-ribiere", "hestenes-stiefel")
    above = r * (gain if by_change else r)
    below = jnp.ones_like(r) if method in ("polak-ribiere", "fletcher-reeves") else s.slope - r * along
    usable = (above > 0) & (below > 0) & (s.norm > 0) & (r < MOST_GROWTH)
    usable &= by_change | (jnp.abs(r - gain) < NEARLY_ORTHOGONAL * r)
    beta = jnp.where(usable, above / jnp.where(usable, below, 1), 0)
    slope = 1 + divide(beta * along, r)
    usable &= (slope > 0) & (slope < jnp.inf)
    u = g + jnp.where(usable, beta * s.direction, 0)
    return u, ScaleByNonlinearCGState(g, u, norm, jnp.where(usable, slope, 1))


@transform
def nonlinear_cg(
    learning_rate: Rate | None = None, method: Method = "polak-ribiere", linesearch: Transform | None = CG_SEARCH
) -> GradientTransformation:
    """Nonlinear conjugate gradients, for smooth functions without noise, with a line search.

        x_{t+1} = x_t - eta_t u_t,    u_t = g_t + beta_t u_{t-1},    u_0 = g_0

    with beta_t of `scale_by_nonlinear_cg`, by default that of Polak and Ribière but never below 0, and eta_t of the
    line search, which asks for the function and its value: `update(g, state, params, value=f(x), grad=g, value_fn=f)`.
    `minimize` and `solve` pass them. The state holds two copies of the parameters beside that of the search, where
    `lbfgs` holds 22; `lbfgs` mostly needs fewer evaluations.

    Args:
      learning_rate: a scalar or a schedule; None is 1.
      method: which beta: "polak-ribiere", "hestenes-stiefel", "fletcher-reeves" or "dai-yuan".
      linesearch: a transform that scales the updates; None takes them as they are. The last two methods need one that
        meets the strong Wolfe conditions, with a `curv_rtol` below 1/2.

    Departs from JAXopt's `NonlinearCG`, whose denominators are at least 1e-6, so that it becomes gradient descent
    where |g| is far below 1e-3; which begins anew by beta alone; and whose search leaves more of the slope.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2  # Rosenbrock's
      >>> tx = gdjax.nonlinear_cg()
      >>> result = gdjax.minimize(loss, jnp.array([-1.0, 1.0]), tx, steps=60)
      >>> print(result.params.round(2))
      [1. 1.]

    Reference:
      Nocedal & Wright 2006, Numerical optimization, Algorithm 5.4, equations 5.44 and 5.45; Polak & Ribière 1969; Dai
      & Yuan 1999, A nonlinear conjugate gradient method with a strong global convergence property,
      https://doi.org/10.1137/S1052623497318992
    """
    return searched("gdjax.nonlinear_cg", scale_by_nonlinear_cg(method), learning_rate, linesearch, None)
