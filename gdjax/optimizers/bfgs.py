"""BFGS and the self-scaled Broyden method: the gradient times an inverse Hessian that is a matrix."""

import functools
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks, meshes
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import Check
from gdjax.core.parts import holding
from gdjax.core.types import OptState, Params, Rate, Transform, Updates
from gdjax.linalg import quasi_newton, vectors
from gdjax.linalg.matrices import highest
from gdjax.linalg.quasi_newton import Rule, StepPair
from gdjax.linesearch.line import fit
from gdjax.numerics import Array
from gdjax.optimizers.lbfgs import NEWTON_SEARCH, searched
from gdjax.projections.boxes import Bounds, ends_of

__all__ = ["ScaleByBFGSState", "bfgs", "scale_by_bfgs", "scale_by_ssbroyden", "ssbroyden"]


class ScaleByBFGSState(NamedTuple):
    """State of `scale_by_bfgs` and `scale_by_ssbroyden`; n is the number of real numbers in the parameters."""

    count: Array  # () int32, updates made so far
    pairs: Array  # () int32, how many steps H is made from; 0 where it is the identity
    params: Params  # at the last update
    updates: Updates  # gradients at the last update, like the parameters
    slope: Array  # () <g, H g> at the last update
    inverse_hessian: Array  # (n, n) H, symmetric, in the widest dtype of the parameters, float32 at least


@transform
def scale_by_bfgs(
    scale_init_precond: bool = False, *, self_scaling: bool = False, bounds: Annotated[Bounds, Check("bounds")] = None
) -> GradientTransformation:
    """Multiplies the gradient by the BFGS approximation of the inverse Hessian: u = H g.

        s_k = p_{k+1} - p_k,    y_k = g_{k+1} - g_k,    rho_k = 1 / <s_k, y_k>,    V_k = I - rho_k y_k s_k^T
        H_{k+1} = V_k^T H_k V_k / tau_k + rho_k s_k s_k^T

    H is a matrix over all parameters: n^2 numbers for n parameters, the leaves in a row. A step is one product of H and
    two vectors, and one pass that writes H. `update` needs the parameters. For more than some thousands of them take
    `scale_by_lbfgs`.

    Args:
      scale_init_precond: True for H_0 = <s, y> / <y, y> I, of the first pair; by default max(|s|, 1) / |g| I, of
        the first step and the gradient before it. Until there is a pair u = g / |g|, a step of length 1. So a loss
        times a power of two makes the same steps, in float32 from 2^-100 to 2^100.
      self_scaling: tau_k = min(1, <s_k, y_k> / <s_k, H_k^-1 s_k>), but at least 0.2, which is SSBFGS; otherwise
        tau_k = 1.
      bounds: lower and upper bounds of the parameters, a pair. Each is a number, None for no bound, or a tree like the
        parameters of numbers, arrays and None. Then u is such that p - eta u is within the bounds for every eta from 0
        to 1 if p is. A number at a bound, with the gradient pressing against it, is held: H takes no part of it. The
        others go to the projection of p - a H g, a = 1 or a smaller power of 1/2 where clipping spoils the descent.

    A pair that no convex function makes, <s, y> <= eps |s| |y| with eps the precision of the dtype, leaves H as it is,
    as in `scale_by_lbfgs`. So do a NaN and an infinity: they show in u, and are forgotten after the next step. H begins
    anew from I where rounding has made <g, H g> negative, and after a step of 0 to the same gradient: a line search
    found no lower point, and the next u is along g. The inner product in tau is taken from <s, g> and <g, H g>: it is
    exact where s is along H g, as a learning rate and a line search leave it, and a lower bound elsewhere.

    Departs from Al-Baali, whose tau has no least value: after a step of 1e6 H g it makes all of H 1e6 times larger, for
    what one direction told, and the next step along another goes as much too far.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: x[0] ** 2 + 50 * x[1] ** 2
      >>> search = gdjax.scale_by_zoom_linesearch(max_linesearch_steps=20)
      >>> tx = gdjax.chain(gdjax.scale_by_bfgs(), gdjax.scale(-1.0), search)
      >>> result = gdjax.minimize(loss, jnp.ones(2), tx, steps=20)
      >>> bool(jnp.abs(result.params).max() < 1e-3)
      True

    Reference:
      Nocedal & Wright 2006, Numerical optimization, equations 6.17 and 6.20; Al-Baali 1998, Numerical experience with a
      class of self-scaling quasi-Newton algorithms, https://doi.org/10.1023/A:1022608410710; for the bounds Bertsekas
      1982, Projected Newton methods for optimization problems with simple constraints, https://doi.org/10.1137/0320018
    """
    rule = quasi_newton.ssbfgs if self_scaling else quasi_newton.bfgs
    return _by_matrix("gdjax.scale_by_bfgs", rule, scale_init_precond, bounds)


@transform
def scale_by_ssbroyden(
    scale_init_precond: bool = False, *, bounds: Annotated[Bounds, Check("bounds")] = None
) -> GradientTransformation:
    """Multiplies the gradient by the self-scaled Broyden approximation of the inverse Hessian: u = H g.

        H_{k+1} = (H_k - w_k w_k^T / <y_k, w_k> + phi_k <y_k, w_k> v_k v_k^T) / tau_k + s_k s_k^T / <s_k, y_k>
        w_k = H_k y_k,    v_k = s_k / <s_k, y_k> - w_k / <y_k, w_k>

    with s and y of `scale_by_bfgs`, and with tau and phi that change from step to step:

        b = <s, H^-1 s> / <s, y>,    h = <y, H y> / <s, y>,    a = b h - 1,    c = sqrt(a / (a + 1))
        rho_minus = min(1, h (1 - c)),    rho_plus = min(1, 1 / b)
        theta = max((rho_minus - 1) / a, min(1 / rho_minus, (1 - b) / b)),    sigma = 1 + a theta
        phi = (1 - theta) / sigma
        tau = rho_plus min(sigma^(1 / (1 - n)), 1 / theta)       if theta > 0
        tau = min(rho_plus sigma^(1 / (1 - n)), sigma)           otherwise

    Arguments are those of `gdjax.scale_by_bfgs`.

    Departs from Urbán: tau is at least 0.2, so that a pair makes H at most five times larger. His tau is as small as
    the step along H g was long, and H then grows by many orders in directions of which the step told nothing. On a
    network for Burgers' equation, where steps of 1 are long enough, the two are the same. His code begins with H_0 = I,
    or scales it by a formula of its own.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: x[0] ** 2 + 50 * x[1] ** 2
      >>> search = gdjax.scale_by_zoom_linesearch(max_linesearch_steps=20)
      >>> tx = gdjax.chain(gdjax.scale_by_ssbroyden(), gdjax.scale(-1.0), search)
      >>> result = gdjax.minimize(loss, jnp.ones(2), tx, steps=60)
      >>> bool(jnp.abs(result.params).max() < 1e-3)
      True

    Reference:
      Urbán, Stefanou & Pons 2025, Unveiling the optimization process of physics informed neural networks: How accurate
      and competitive can PINNs be?, https://arxiv.org/abs/2405.04230; Al-Baali & Khalfan 2005, Wide interval for
      efficient self-scaling quasi-Newton algorithms, https://doi.org/10.1080/10556780410001709448
    """
    return _by_matrix("gdjax.scale_by_ssbroyden", quasi_newton.ssbroyden, scale_init_precond, bounds)


@transform
def bfgs(
    learning_rate: Rate | None = None, scale_init_precond: bool = False, linesearch: Transform | None = NEWTON_SEARCH,
    *, self_scaling: bool = False, bounds: Annotated[Bounds, Check("bounds")] = None,
) -> GradientTransformation:  # fmt: skip
    """BFGS, a quasi-Newton method for up to some thousands of parameters, with a line search.

        x_{t+1} = x_t - eta_t H_t g_t

    with H_t of `scale_by_bfgs` and eta_t of the line search, which asks for the function and its value:
    `update(g, state, params, value=f(x), grad=g, value_fn=f)`. It needs fewer steps than L-BFGS, and its steps cost
    n^2.

    Args:
      learning_rate: a scalar or a schedule; None is 1. With bounds it is at most 1.
      scale_init_precond: whether H_t starts from <s, y> / <y, y> I of the first pair, or from |s| / |g| I of its step.
      linesearch: a transform that scales the updates; None takes them as they are, and `update` then needs neither
        `value` nor `value_fn`. With bounds its `max_learning_rate` is at most 1, as the default one then has it.
      self_scaling: SSBFGS: H_t is divided by min(1, <s, y> / <s, H^-1 s>), which pays where curvatures are very
        different.
      bounds: lower and upper bounds of the parameters, a pair. Each is a number, None for no bound, or a tree like the
        parameters of numbers, arrays and None. Then no step leaves them.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2  # Rosenbrock's
      >>> tx = gdjax.bfgs(bounds=(-2.0, 0.5))
      >>> result = gdjax.minimize(loss, jnp.array([-1.0, 0.5]), tx, steps=100)
      >>> print((100 * result.params).round())  # at the bound of the first number
      [50. 25.]

    Reference:
      Nocedal & Wright 2006, Numerical optimization, Algorithm 6.1; Al-Baali 1998.
    """
    direction = scale_by_bfgs(scale_init_precond, self_scaling=self_scaling, bounds=bounds)
    return searched("gdjax.bfgs", direction, learning_rate, linesearch, bounds)


@transform
def ssbroyden(
    learning_rate: Rate | None = None, scale_init_precond: bool = False, linesearch: Transform | None = NEWTON_SEARCH,
    *, bounds: Annotated[Bounds, Check("bounds")] = None,
) -> GradientTransformation:  # fmt: skip
    """The self-scaled Broyden method, for physics-informed networks and other problems of very different curvatures.

        x_{t+1} = x_t - eta_t H_t g_t

    with H_t of `scale_by_ssbroyden` and eta_t of the line search, which asks for the function and its value:
    `update(g, state, params, value=f(x), grad=g, value_fn=f)`. Give it all data in every step, and float64:
    `jax.config.update("jax_enable_x64", True)`.

    Arguments are those of `gdjax.bfgs`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2  # Rosenbrock's
      >>> result = gdjax.minimize(loss, jnp.array([-1.0, 1.0]), gdjax.ssbroyden(), steps=60)
      >>> print(result.params.round(2))
      [1. 1.]

    Reference:
      Urbán, Stefanou & Pons 2025, https://arxiv.org/abs/2405.04230; Kiyani et al. 2025, Optimizing the optimizer for
      physics-informed neural networks and Kolmogorov-Arnold networks, https://arxiv.org/abs/2501.16371
    """
    direction = scale_by_ssbroyden(scale_init_precond, bounds=bounds)
    return searched("gdjax.ssbroyden", direction, learning_rate, linesearch, bounds)


def _by_matrix(label: str, rule: Rule, scaled: bool, bounds: Bounds) -> GradientTransformation:
    def init(params: Params) -> ScaleByBFGSState:
        checks.leaves(label, "params", params)

        ends_of(label, params, bounds)
        dtype = numerics.widest_real(params)
        count, pairs, slope = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jnp.zeros((), dtype)
        old_p, old_g = jax.tree.map(vectors.zeros_of, params), jax.tree.map(vectors.zeros_of, params)
        return ScaleByBFGSState(count, pairs, old_p, old_g, slope, jnp.eye(vectors.reals(params), dtype=dtype))

    def update(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Any
    ) -> tuple[Any, ScaleByBFGSState]:
        checks.state(label, state, ScaleByBFGSState)
        checks.params(label, params)
        fit(label, "updates", updates, params)
        checks.slots(label, updates, params=state.params, updates=state.updates)
        where, H = vectors.gaps(updates, state.params), state.inverse_hessian
        checks.slot(label, "params", "inverse_hessian", H, (vectors.reals(state.params),) * 2, "their numbers squared")
        trees = (state.params, state.updates, params, updates, *ends_of(label, state.params, bounds))
        lists = [vectors.trained(label, x, updates) for x in trees]
        step = functools.partial(_step, rule, scaled, where)
        now = H, state.count, state.pairs, state.slope
        u, H, pairs, slope = meshes.partitioned(step, (lists[3], H, None, None), *now, *lists)
        new_state = ScaleByBFGSState(
            numerics.safe_increment(state.count),
            pairs.astype(state.pairs.dtype),
            vectors.replaced(label, state.params, updates, lists[2]),
            vectors.replaced(label, state.updates, updates, lists[3]),
            slope,
            H,
        )
        return vectors.replaced(label, updates, updates, u), new_state

    return holding(init, update, like="params updates")


def _step(
    rule: Rule, scaled: bool, where: vectors.Gaps,
    H: Array, count: Array, pairs: Array, slope: Array, *lists: vectors.Vector,
) -> tuple[vectors.Vector, Array, Array, Array]:  # fmt: skip
    """The direction, H with the pair that led there, how many pairs it has, and the slope along the direction.

    Args:
      where: the places without a gradient, as of `vectors.gaps`.
      lists: parameters and gradients of the last update, those of this one, and bounds, the lower first, if any.
    """
    old_p, old_g, p, g, *ends = (vectors.as_vector(xs, where, H.dtype) for xs in lists)
    s, y, fixed = jnp.where(count > 0, p - old_p, 0), g - old_g, jnp.zeros(g.shape, bool)
    if ends:
        fixed = vectors.pressed_to_bounds(p, g, _first_size(pairs, g) * jnp.diagonal(H), *ends)
        # Of what was held: its gradient changed by the work of the others.
        y = jnp.where((s == 0) & s.any(), 0, y)
    x, n = jnp.where(fixed, 0, g), g.size - sum(filter(None, where))
    H, pairs, d = quasi_newton.renewed(rule, H, pairs, StepPair(s, y, old_g, slope), x, n, scaled)
    slope = jnp.clip(highest(x, d), 0, jnp.finfo(H.dtype).max)  # of huge gradients it is infinite
    d = _first_size(pairs, x) * d
    us = vectors.as_leaves(vectors.within_bounds(p, g, d, fixed, *ends) if ends else d, lists[3], where)
    us = [u.astype(g.dtype) for u, g in zip(us, lists[3], strict=True)]
    if ends:
        us = [vectors.rounded_within_bounds(*xs) for xs in zip(us, lists[2], *lists[4:], strict=True)]
    return us, H, pairs, slope


def _first_size(pairs: Array, g: Array) -> Array:
    """What the identity is multiplied by until there is a pair."""
    return jnp.where(pairs == 0, quasi_newton.first_size([g]), 1)
