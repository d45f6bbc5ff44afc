"""L-BFGS: the gradient times an inverse Hessian that the last few steps describe."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.combine.chain import chain
from gdjax.core import base, checks, meshes
from gdjax.core.base import GradientTransformation, identity, transform
from gdjax.core.parts import holding
from gdjax.core.types import OptState, Params, ScalarOrSchedule, Transform, Updates
from gdjax.linalg import limited_memory
from gdjax.linalg.limited_memory import Memory, Vector
from gdjax.linalg.vectors import replaced, trained
from gdjax.linesearch.line import fit
from gdjax.linesearch.zoom import scale_by_zoom_linesearch
from gdjax.numerics import Array
from gdjax.transforms.scaling import scale, scale_by_learning_rate

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
    memory_size: int = 10, scale_init_precond: bool = True, *, curvature: Curvature = "skip"
) -> GradientTransformation:
    """Multiplies the gradient by the L-BFGS approximation of the inverse Hessian: u = H g.

        s_k = p_{k+1} - p_k,    y_k = g_{k+1} - g_k,    rho_k = 1 / <s_k, y_k>,    V_k = I - rho_k y_k s_k^T
        H <- V_k^T H V_k + rho_k s_k s_k^T     for the last m pairs, the oldest first, from H = gamma I

        gamma = <s, y> / <y, y> of the newest pair; min(1, 1 / |g|) where there is none

    The product takes 4 m passes over the gradient and never forms H. `update` needs the parameters. A step of 0 to the
    same gradient empties the memory: a line search found no lower point, and the next u is along g.

    Args:
      memory_size: m, at least 1. The state holds 2 m + 2 copies of the parameters.
      scale_init_precond: False is gamma = 1 always.
      curvature: what becomes of a pair that no convex function makes, <s, y> <= eps |s| |y| with eps the precision of
        the dtype: it would make H indefinite, and u point anywhere. "skip" leaves its slot empty. "damp" (Powell's
        damping) takes for the y of every pair with <s, y> < 0.2 <s, B s>, B being the inverse of H before it, the mean
        of y and B s that has <s, y> = 0.2 <s, B s>; B s takes about m / 2 times the work of u.

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
      https://doi.org/10.1007/BF01589116
    """
    label = "gdjax.scale_by_lbfgs"
    memory_size = checks.structural(label, "memory_size", memory_size, 1)

    def init(params: Params) -> ScaleByLBFGSState:
        checks.leaves(label, "params", params)

        def zeros(*slots: int) -> Any:
            along = lambda p: meshes.zeros_along(p, range(jnp.ndim(p)), jnp.result_type(p), slots)  # noqa: E731
            return jax.tree.map(along, params)

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
        S, Y = (trained(label, x, updates) for x in (state.diff_params_memory, state.diff_updates_memory))
        rho = state.weights_memory.astype(dtype)
        rho = jnp.where((rho > 0) & jnp.isfinite(rho), rho, 0)  # a state of Optax's may have others

        def gamma(memory: Memory, g: Updates) -> Any:
            return limited_memory.scaling(memory, g) if scale_init_precond else jnp.ones((), dtype)

        def step(
            memory: Memory, count: Array, old_p: Vector, old_g: Vector, p: Vector, g: Vector
        ) -> tuple[Vector, Memory]:
            s, y = memory.rounded(tree.sub(p, old_p), tree.sub(g, old_g))
            memory = memory.forgotten(limited_memory.stuck(s, y))
            if curvature == "damp":
                s, y = memory.rounded(s, limited_memory.damped(memory, s, y, gamma(memory, old_g)))
            memory = memory.pushed(s, y, jnp.where(count > 0, limited_memory.weight(s, y), 0))
            return limited_memory.inverse_product(memory, g, gamma(memory, g)), memory

        memory = Memory(S, Y, rho, (state.count - 2) % memory_size)
        u, memory = meshes.partitioned(step, (g, memory), memory, state.count, old_p, old_g, p, g)
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


@transform
def lbfgs(
    learning_rate: ScalarOrSchedule | None = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: Transform | None = NEWTON_SEARCH,
    *,
    curvature: Curvature = "skip",
) -> GradientTransformation:
    """L-BFGS, a quasi-Newton method for smooth functions without noise, with a line search.

        x_{t+1} = x_t - eta_t H_t g_t

    with H_t of `scale_by_lbfgs` and eta_t of the line search, which asks for the function and its value:

        value, grad = value_and_grad_from_state(f)(params, state=state)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=f)
        params = apply_updates(params, updates)

    `minimize` does so itself. Compile the step, with `jax.jit`: outside, every call compiles the search anew.

    Args:
      learning_rate: a scalar or a schedule; None is 1.
      memory_size: how many steps H_t is made from.
      scale_init_precond: whether H_t starts from a multiple of the identity, as it should, or the identity.
      linesearch: a transform that scales the updates; None takes them as they are, and `update` then needs neither
        `value` nor `value_fn`.
      curvature: what becomes of steps along which the function curves down: "skip" leaves them out of H_t, "damp" takes
        a mean of their y and B s, with B the inverse of H_t (Powell's damping).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2  # Rosenbrock's
      >>> result = gdjax.minimize(loss, jnp.array([-1.0, 1.0]), gdjax.lbfgs(), steps=60)
      >>> print(result.params.round(2))
      [1. 1.]

    Reference:
      Nocedal & Wright 2006, Numerical optimization, Algorithms 7.4 and 7.5; Liu & Nocedal 1989.
    """
    direction = scale_by_lbfgs(memory_size, scale_init_precond, curvature=curvature)
    return searched("gdjax.lbfgs", direction, learning_rate, linesearch)


def searched(
    label: str, direction: Transform, learning_rate: ScalarOrSchedule | None, linesearch: Transform | None
) -> GradientTransformation:
    """A direction, the step against it, and the search along that."""
    return chain(
        direction,
        scale(-1.0) if learning_rate is None else scale_by_learning_rate(learning_rate),
        identity() if linesearch is None else base.check_transform(label, "linesearch", linesearch),
    )
