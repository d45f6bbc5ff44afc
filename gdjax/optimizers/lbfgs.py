"""L-BFGS: the gradient times an inverse Hessian that the last few steps describe."""

import functools
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.combine.chain import chain
from gdjax.core import base, checks, meshes
from gdjax.core.base import GradientTransformation, identity, transform
from gdjax.core.closures import value_of
from gdjax.core.number_domains import Check
from gdjax.core.parts import holding
from gdjax.core.types import OptState, Params, Rate, ScalarOrSchedule, Transform, Updates
from gdjax.linalg import quasi_newton, vectors
from gdjax.linalg.quasi_newton import Memory, Vector
from gdjax.linalg.vectors import Gaps, as_leaves, as_vector, replaced, trained
from gdjax.linesearch.line import fit
from gdjax.linesearch.zoom import scale_by_zoom_linesearch
from gdjax.numerics import Array
from gdjax.projections.boxes import Bounds, ends_of
from gdjax.transforms.scaling import scale, scale_by_learning_rate

__all__ = ["ScaleByLBFGSState", "lbfgs", "scale_by_lbfgs"]

SEARCH_WITHIN = scale_by_zoom_linesearch(20, max_learning_rate=1.0, initial_guess_strategy="one")
NEWTON_SEARCH = scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")
Curvature = Literal["skip", "damp"]


class ScaleByLBFGSState(NamedTuple):
    """State of `scale_by_lbfgs`; pair j is in slot j modulo the size of the memory."""

    count: Array  # () int32, updates made so far
    params: Params  # at the last update
    updates: Updates  # gradients at the last update, like the parameters
    diff_params_memory: Params  # s, like the parameters with a leading axis of slots
    diff_updates_memory: Params  # y, likewise
    weights_memory: Array  # (slots,) rho = 1 / <s, y>; 0 for a slot that holds no pair


@transform
def scale_by_lbfgs(
    memory_size: int = 10, scale_init_precond: bool = True,
    *, curvature: Curvature = "skip", bounds: Annotated[Bounds, Check("bounds")] = None,
) -> GradientTransformation:  # fmt: skip
    """Multiplies the gradient by the L-BFGS approximation of the inverse Hessian: u = H g.

        s_k = p_{k+1} - p_k,    y_k = g_{k+1} - g_k,    rho_k = 1 / <s_k, y_k>,    V_k = I - rho_k y_k s_k^T
        H <- V_k^T H V_k + rho_k s_k s_k^T     for the last m pairs, the oldest first, from H = gamma I

        gamma = <s, y> / <y, y> of the newest pair; min(1, 1 / |g|) where there is none, and 1 / |g| for |g| < 2^-20

    The product takes 4 m passes over the gradient and never forms H. `update` needs the parameters. A step of 0 to the
    same gradient empties the memory: a line search found no lower point, and the next u is along g.

    Args:
      memory_size: m, at least 1. The state holds 2 m + 2 copies of the parameters.
      scale_init_precond: False is gamma = 1 always.
      curvature: what becomes of a pair that no convex function makes, <s, y> <= eps |s| |y| with eps the precision of
        the dtype: it would make H indefinite, and u point anywhere. "skip" leaves its slot empty. "damp" (Powell's
        damping) takes for the y of every pair with <s, y> < 0.2 <s, B s>, B being the inverse of H before it, the mean
        of y and B s that has <s, y> = 0.2 <s, B s>; B s takes about m / 2 times the work of u.
      bounds: lower and upper bounds of the parameters, a pair. Each is a number, None for no bound, or a tree like the
        parameters of numbers, arrays and None. Then u is such that p - eta u is within the bounds for every eta from 0
        to 1 if p is. A number at a bound, with the gradient pressing against it, is held: H takes no part of it. The
        others go to the projection of p - a H g, a = 1 or a smaller power of 1/2 where clipping spoils the descent.

    With bounds this is the two-metric projection of Bertsekas, not the L-BFGS-B of Byrd et al., which minimizes a model
    with bounds along a path. Bertsekas proves convergence for a search along the projected arc; here it is along the
    straight line to the projected point.

    Departs from Optax, which keeps pairs of negative curvature, takes gamma from the newest pair whatever it is (so
    that a step of 0 makes all updates 0 for ever after), and stores rho of the differences before they are rounded to
    16 bits. On good pairs the two agree.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: x[0] ** 2 + 50 * x[1] ** 2
      >>> search = gdjax.scale_by_backtracking_linesearch(max_backtracking_steps=15)
      >>> tx = gdjax.chain(gdjax.scale_by_lbfgs(memory_size=5), gdjax.scale(-1.0), search)
      >>> result = gdjax.minimize(loss, jnp.ones(2), tx, steps=30)
      >>> bool(jnp.abs(result.params).max() < 1e-2)
      True

    Reference:
      Nocedal & Wright 2006, Numerical optimization, Algorithm 7.4 and equation 7.20, Procedure 18.2 for the damping;
      Liu & Nocedal 1989, On the limited memory BFGS method for large scale optimization,
      https://doi.org/10.1007/BF01589116; for the bounds Bertsekas 1982, Projected Newton methods for optimization
      problems with simple constraints, https://doi.org/10.1137/0320018
    """
    label = "gdjax.scale_by_lbfgs"
    memory_size = checks.structural(label, "memory_size", memory_size, 1)

    def init(params: Params) -> ScaleByLBFGSState:
        checks.leaves(label, "params", params)
        ends_of(label, params, bounds)

        def zeros(*slots: int) -> Any:
            return jax.tree.map(lambda p: vectors.zeros_of(p, *slots), params)

        count, weights = jnp.zeros((), jnp.int32), jnp.zeros(memory_size)
        return ScaleByLBFGSState(count, zeros(), zeros(), zeros(memory_size), zeros(memory_size), weights)

    def update(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Any
    ) -> tuple[Any, ScaleByLBFGSState]:
        checks.state(label, state, ScaleByLBFGSState)
        checks.params(label, params)
        fit(label, "updates", updates, params)
        checks.slots(label, updates, params=state.params, updates=state.updates)
        dtype = numerics.widest_real(params)
        old_p, old_g, p, g = (
            numerics.widen(trained(label, x, updates), dtype) for x in (state.params, state.updates, params, updates)
        )
        ends = [trained(label, x, updates) for x in ends_of(label, state.params, bounds)]
        S, Y = (trained(label, x, updates) for x in (state.diff_params_memory, state.diff_updates_memory))
        rho = state.weights_memory.astype(dtype)
        rho = jnp.where((rho > 0) & jnp.isfinite(rho), rho, 0)  # a state of Optax's may have others
        memory = Memory(S, Y, rho, (state.count - 2) % memory_size)

        step = functools.partial(_step, scaled=scale_init_precond, curvature=curvature)
        operands = memory, state.count, old_p, old_g, p, g, *numerics.widen(ends, dtype)
        u, memory = meshes.partitioned(step, (g, memory), *operands)
        if ends:
            ps = trained(label, params, updates)
            us = [x.astype(q.dtype) for x, q in zip(u, trained(label, updates, updates), strict=True)]
            u = [vectors.rounded_within_bounds(*xs) for xs in zip(us, ps, *ends, strict=True)]
        new_state = ScaleByLBFGSState(
            numerics.safe_increment(state.count),
            replaced(label, state.params, updates, p),
            replaced(label, state.updates, updates, g),
            replaced(label, state.diff_params_memory, updates, memory.S),
            replaced(label, state.diff_updates_memory, updates, memory.Y),
            memory.rho.astype(state.weights_memory.dtype),
        )
        return replaced(label, updates, updates, u), new_state

    return holding(init, update, like="params updates diff_params_memory diff_updates_memory")


def _step(
    memory: Memory, count: Array, old_p: Vector, old_g: Vector, p: Vector, g: Vector, *ends: Vector,
    scaled: bool, curvature: Curvature,
) -> tuple[Vector, Memory]:  # fmt: skip
    """The direction at p, and the memory with the pair that led there."""
    s, y = memory.rounded(tree.sub(p, old_p), tree.sub(g, old_g))
    if ends:  # of what was held: its gradient changed by the work of the others
        moved = ~quasi_newton.is_zero(s)
        y = [jnp.where((x == 0) & moved, 0, z) for x, z in zip(s, y, strict=True)]
    memory = memory.forgotten(quasi_newton.is_stuck(s, y))
    if curvature == "damp":
        s, y = memory.rounded(s, quasi_newton.damped(memory, s, y, _size(memory, old_g, scaled)))
    memory = memory.pushed(s, y, jnp.where(count > 0, quasi_newton.weight(s, y), 0))
    return _direction(memory, p, g, _size(memory, g, scaled), ends), memory


def _size(memory: Memory, g: Vector, scaled: bool) -> Array:
    """What the identity is multiplied by before the pairs."""
    return quasi_newton.scaling(memory, g) if scaled else jnp.ones((), memory.rho.dtype)


def _direction(memory: Memory, p: Vector, g: Vector, size: Array, ends: Sequence[Vector]) -> Vector:
    """H g; with bounds the step from p by it that stays within them."""
    if not ends:
        return quasi_newton.inverse_product(memory, g, size)
    no_gaps: Gaps = [None] * len(g)
    P, G, lower, upper = (as_vector(xs, no_gaps, size.dtype) for xs in (p, g, *ends))
    fixed = vectors.pressed_to_bounds(P, G, size, lower, upper)
    d = quasi_newton.inverse_product(memory, as_leaves(jnp.where(fixed, 0, G), g, no_gaps), size)
    d = as_vector(d, no_gaps, size.dtype)
    return as_leaves(vectors.within_bounds(P, G, d, fixed, lower, upper), g, no_gaps)


@transform
def lbfgs(
    learning_rate: Rate | None = None, memory_size: int = 10, scale_init_precond: bool = True,
    linesearch: Transform | None = NEWTON_SEARCH,
    *, curvature: Curvature = "skip", bounds: Annotated[Bounds, Check("bounds")] = None,
) -> GradientTransformation:  # fmt: skip
    """L-BFGS, a quasi-Newton method for smooth functions without noise, with a line search.

        x_{t+1} = x_t - eta_t H_t g_t

    with H_t of `scale_by_lbfgs` and eta_t of the line search, which asks for the function and its value:

        value, grad = value_and_grad_from_state(f)(params, state=state)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=f)
        params = apply_updates(params, updates)

    `minimize` does so itself. Compile the step, with `jax.jit`: outside, every call compiles the search anew.

    Args:
      learning_rate: a scalar or a schedule; None is 1. With bounds it is at most 1.
      memory_size: how many steps H_t is made from.
      scale_init_precond: whether H_t starts from a multiple of the identity, as it should, or the identity.
      linesearch: a transform that scales the updates; None takes them as they are, and `update` then needs neither
        `value` nor `value_fn`. With bounds its `max_learning_rate` is at most 1, as the default one then has it.
      curvature: what becomes of steps along which the function curves down: "skip" leaves them out of H_t, "damp" takes
        a mean of their y and B s, with B the inverse of H_t (Powell's damping).
      bounds: lower and upper bounds of the parameters, a pair. Each is a number, None for no bound, or a tree like the
        parameters of numbers, arrays and None. Then no step leaves them.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2  # Rosenbrock's
      >>> result = gdjax.minimize(loss, jnp.array([-1.0, 1.0]), gdjax.lbfgs(), steps=60)
      >>> print(result.params.round(2))
      [1. 1.]

    Reference:
      Nocedal & Wright 2006, Numerical optimization, Algorithms 7.4 and 7.5; Liu & Nocedal 1989; for the bounds
      Bertsekas 1982.
    """
    direction = scale_by_lbfgs(memory_size, scale_init_precond, curvature=curvature, bounds=bounds)
    return searched("gdjax.lbfgs", direction, learning_rate, linesearch, bounds)


def searched(
    label: str, direction: Transform, learning_rate: ScalarOrSchedule | None, linesearch: Transform | None,
    bounds: Bounds,
) -> GradientTransformation:  # fmt: skip
    """A direction, the step against it, and the search along that, with bounds no farther than the step itself."""
    if bounds is not None:
        linesearch = SEARCH_WITHIN if linesearch == NEWTON_SEARCH else linesearch
        farthest = {"learning_rate": learning_rate, "max_learning_rate of linesearch": _farthest(linesearch)}
        for name, x in farthest.items():
            if isinstance(x, checks.NUMBER) and x > 1:
                raise ValueError(f"{label}: with bounds the {name} must be at most 1, got {x}")
    return chain(
        direction,
        scale(-1.0) if learning_rate is None else scale_by_learning_rate(learning_rate),
        identity() if linesearch is None else base.check_transform(label, "linesearch", linesearch),
    )


def _farthest(linesearch: Transform | None) -> Any:
    """The `max_learning_rate` of a line search; 1 of anything else."""
    call = getattr(value_of(getattr(linesearch, "update", None)), "call", None)
    most = call.arguments.get("max_learning_rate", 1) if call else 1
    return jnp.inf if most is None else most
