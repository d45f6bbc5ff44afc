"""Minima under constraints: `solve` within the loop of an augmented Lagrangian."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.core import meshes
from gdjax.core.field_docs import with_field_docs
from gdjax.core.types import Array, ArrayTree, Params, Scalar, Transform
from gdjax.optimizers.bfgs import bfgs
from gdjax.optimizers.lbfgs import lbfgs
from gdjax.projections.boxes import Bounds, ends_of
from gdjax.solving import implicit
from gdjax.solving import solve as solving
from gdjax.solving.implicit import Implicit, Reals
from gdjax.solving.lagrangian import (
    AugmentedLagrangian,
    AugmentedLagrangianState,
    Constrained,
    augmented_lagrangian,
    each,
    largest,
    largest_penalty,
    problem_of,
)

__all__ = ["ConstrainedSolution", "solve_constrained"]

LABEL = "gdjax.solve_constrained"
INFEASIBLE = 5
ROUND = 200  # the most updates before the multipliers change
WORDS = (*solving.WORDS, "the constraints seem to have no solution")


@with_field_docs
class ConstrainedSolution(NamedTuple):
    """What `solve_constrained` returns: arrays all.

    Attributes:
      params: the parameters at the end.
      multipliers: {"equality": tree, "inequality": tree}, like what the constraints return; None for none.
      value: () the loss there.
      infeasibility: () the largest |h(x)| and -g(x).
      error: () the norm of the gradient of the Lagrangian, with bounds that of p - prox(p - gradient).
      steps: () int32, updates made.
      status: () int32, as in `Solution`; 5 is an infeasible end: the penalty is at its largest, and the constraints are
        not met.
    """

    params: Params
    multipliers: ArrayTree
    value: Array
    infeasibility: Array
    error: Array
    steps: Array
    status: Array

    @property
    def converged(self) -> Array:
        """() bool, whether the status is 0."""
        return self.status == solving.CONVERGED

    @property
    def message(self) -> Any:
        """The status in words; an array of words for a batch of solutions. Not under a transformation."""
        words = np.asarray(WORDS)[np.asarray(self.status)]
        return str(words) if words.ndim == 0 else words


class Round(NamedTuple):
    """What one minimization over the parameters leaves to the next."""

    params: Params
    state: AugmentedLagrangianState
    tol: Array  # () of the next minimization
    error: Array  # ()
    count: Array  # () int32, updates so far
    status: Array  # () int32


def solve_constrained(
    loss_fn: Callable[..., Any], params: Params, *args: Any,
    equality: Callable[..., Any] | None = None, inequality: Callable[..., Any] | None = None, bounds: Bounds = None,
    tx: Transform | Callable[..., Transform] | None = None, steps: int | Array = 10000,
    tol: float | Array | None = None, penalty: Scalar = 1.0,
    derivative: Literal["implicit"] | Implicit | None = "implicit",
) -> ConstrainedSolution:  # fmt: skip
    """The minimum of a loss under constraints, as a function that jit, vmap and derivatives go through.

        min f(p, *args)    with h(p, *args) = 0,    g(p, *args) >= 0,    lower <= p <= upper

    `solve` minimizes the augmented Lagrangian over the parameters, `augmented_lagrangian` updates the multipliers,
    until gradient and constraints are within the tolerance. Compile it, with `jax.jit`; a thousand problems are
    `jax.vmap` of one.

    The derivative of parameters and multipliers by `args`, and by whatever else the functions are made from, comes from
    the conditions of Karush, Kuhn and Tucker, forward and backward. It is right where these determine the solution: the
    gradients of the constraints that hold with equality are independent, and their multipliers are not 0.

    Args:
      loss_fn: f, returns a real scalar.
      params: where to start, feasible or not: a tree of arrays; integer leaves stay as they are. f is finite there;
        where a step ends at a NaN or an infinity, the line search takes a shorter one.
      *args: further arguments of the loss and of both constraints.
      equality: h, returns a real array or a tree of them, to be 0.
      inequality: g, likewise, to be at least 0.
      bounds: lower and upper bounds of the parameters, as in `bfgs`. They hold at every step; the start is moved to
        them.
      tx: an optimizer with a line search, as the penalty grows, with bounds of its own; or a function of `*args` that
        makes it. None is `bfgs` for up to 256 numbers, else `lbfgs`. It starts anew after at most 200 updates, when the
        multipliers change.
      steps: the most updates of the parameters; it may be traced.
      tol: the error to stop at, of the gradient of the Lagrangian as in `solve`, of h, and of min(g, mu / rho). None is
        the square root of the precision: 3.5e-4 in float32, 1.5e-8 in float64.
      penalty: the first penalty. A larger one stays nearer to the feasible set; one too small lets a loss that is not
        bounded there run away, and such a round is done again with ten times as much.
      derivative: "implicit" or `Implicit(...)`; None counts the solution as a constant.

    Returns:
      A `ConstrainedSolution`.

    Raises:
      TypeError, ValueError: as `solve` and `augmented_lagrangian`; bounds are given beside an optimizer, which has its
        own; `derivative` is unrolled.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def nearest(budget):  # the point of the simplex of size `budget` that is nearest to a
      ...     a = jnp.array([0.5, 1.5])
      ...     return gdjax.solve_constrained(
      ...         lambda x: jnp.sum((x - a) ** 2) / 2, jnp.zeros(2), equality=lambda x: x.sum() - budget,
      ...         inequality=lambda x: x,
      ...     )
      >>> solution = jax.jit(nearest)(2.0)
      >>> print(solution.params.round(2), solution.message)
      [0.5 1.5] converged
      >>> print(jax.jacrev(lambda b: nearest(b).params)(2.0).round(2))
      [0.5 0.5]

    Reference:
      Birgin & Martínez 2014, Practical augmented Lagrangian methods for constrained optimization, Algorithm 4.1,
      https://doi.org/10.1137/1.9781611973365; Blondel et al. 2022, Efficient and modular implicit differentiation,
      https://arxiv.org/abs/2105.15183
    """
    how = implicit.checked(LABEL, derivative)
    if isinstance(how, implicit.Unrolled):
        raise ValueError(f"{LABEL}: derivative must be 'implicit', Implicit(...) or None, got {how!r}")
    problem = problem_of(LABEL, loss_fn, equality, inequality)
    if tx is None:
        tx = (bfgs if tree.size(params) <= implicit.SMALL else lbfgs)(bounds=bounds)
    elif bounds is not None:
        raise ValueError(f"{LABEL}: bounds are those of the default optimizer; give tx its own, as lbfgs(bounds=...)")
    params, make, tol = solving.checked(LABEL, loss_fn, params, tx, args, steps, tol, None)
    if ends := ends_of(LABEL, params, bounds):
        params = jax.tree.map(lambda p, *ends: jnp.clip(p, *(end.astype(p.dtype) for end in ends)), params, *ends)
    al = augmented_lagrangian(loss_fn, equality, inequality, penalty=penalty)

    def run(start: Any, args: Any) -> tuple[Any, ...]:
        """The end of the loop; the count and the status as floating numbers."""
        end = _rounds(al, make(args), start["params"], args, steps, tol)
        numbers = end.error, end.count.astype(tol.dtype), end.status.astype(tol.dtype)
        return {"params": end.params, "multipliers": end.state.multipliers}, *numbers

    def condition(x: Reals, args: Any) -> Reals:
        return _condition(problem, make(args), implicit.with_real_leaves(start, x), args)

    start = {"params": params, "multipliers": jax.tree.map(jnp.zeros_like, problem.at(params, args)[1])}
    if how is None:
        x, *numbers = implicit.constant(run(start, args))
    else:
        solving.check_fixed_point(LABEL, make(args), params)
        x, *numbers = implicit.implicit(run, condition, start, args, how, False, lambda numbers: True)
    error, count, status = numbers[0], *(x.astype(jnp.int32) for x in numbers[1:])
    value, c = problem.at(x["params"], args)
    broken = largest(each(jnp.abs, lambda c: jnp.maximum(-c, 0), c), tol.dtype)
    return ConstrainedSolution(x["params"], x["multipliers"], value, broken, error, count, status)


def _condition(problem: Constrained, tx: Transform, x: dict[str, Any], args: Any) -> Reals:
    """What is 0 at a solution: the gradient of the Lagrangian, h, and of each g and mu the smaller."""
    multipliers, params = x["multipliers"], x["params"]
    loss = jax.tree_util.Partial(lambda a, m, p: problem.lagrangian(p, m, a), args, multipliers)
    of_params = solving.gradient_condition(solving.Problem(loss, tx, {}), params, implicit.real_leaves(params))
    smaller = lambda c, m: jnp.where(m > c, c, m)  # with one derivative where they are equal
    of_constraints = each(lambda c, m: c, smaller, problem.constraints_at(params, args), multipliers)
    return [*jax.tree.leaves(of_constraints), *of_params]  # in the order of the keys of x


def _rounds(al: AugmentedLagrangian, tx: Transform, params: Params, args: Any, steps: int | Array, tol: Array) -> Round:
    def round(t: Round) -> Round:
        rho = t.state.penalty
        loss = jax.tree_util.Partial(lambda state, args, p: al.loss(p, state, *args), t.state, args)
        most = jnp.minimum(steps - t.count, ROUND)
        end = solving.loop(solving.Problem(loss, tx, {}), t.params, most, t.tol)
        state, before = al.update(end.params, t.state, *args), al.update(t.params, t.state, *args)
        # A loss may fall without end where the penalty is too small.
        lost = (end.status == solving.NOT_FINITE) | ~(state.violation <= 100 * jnp.maximum(before.violation, 1))
        met = state.violation <= tol
        top = jnp.asarray(largest_penalty(rho.dtype)).astype(rho.dtype)
        last = rho >= top
        still = (end.status == solving.NO_LOWER_POINT) & (end.count <= 3)
        status = jnp.select(
            [lost & last, lost, met & (end.error <= tol), met & still, ~met & last],
            [solving.NOT_FINITE, solving.RUNNING, solving.CONVERGED, solving.NO_LOWER_POINT, INFEASIBLE],
            solving.RUNNING,
        ).astype(jnp.int32)
        harder = t.state._replace(penalty=jnp.minimum(10 * rho, top))
        p, state = tree.where(lost, (t.params, harder), (end.params, state))
        next_tol = jnp.where(end.error <= t.tol, jnp.maximum(t.tol / 10, tol), t.tol)
        return Round(p, state, next_tol, end.error, t.count + end.count, status)

    number = lambda x: jnp.asarray(x).astype(tol.dtype)
    zero, running = jnp.zeros((), jnp.int32), jnp.int32(solving.RUNNING)
    start = Round(params, al.init(params, *args), jnp.maximum(tol, number(0.1)), number(jnp.inf), zero, running)
    return meshes.while_loop(lambda t: (t.status == solving.RUNNING) & (t.count < steps), round, start)
