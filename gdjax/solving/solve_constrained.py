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
from gdjax.solving.lagrangian import AugmentedLagrangianState, augmented_lagrangian, each, largest, problem_of

__all__ = ["ConstrainedSolution", "solve_constrained"]

LABEL = "gdjax.solve_constrained"
INFEASIBLE = 5
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
    tx: Transform | Callable[..., Transform] | None = None, steps: int | Array = 3000,
    tol: float | Array | None = None, penalty: Scalar | None = None,
    derivative: Literal["implicit"] | Implicit | None = "implicit",
) -> ConstrainedSolution:  # fmt: skip
    how = implicit.checked(LABEL, derivative)
    problem = problem_of(LABEL, loss_fn, equality, inequality)
    tx = _optimizer(params, tx, bounds)
    params, make, tol = solving.checked(loss_fn, params, tx, args, steps, tol, None)
    al = augmented_lagrangian(loss_fn, equality, inequality, penalty=penalty)
    if ends := ends_of(LABEL, params, bounds):
        params = jax.tree.map(lambda p, low, high: jnp.clip(p, low.astype(p.dtype), high.astype(p.dtype)), params, *ends)

    def run(start: Any, args: Any) -> tuple[Any, Array, Array, Array]:
        end = _rounds(al, make(args), start["params"], args, steps, tol)
        numbers = end.error, end.count.astype(tol.dtype), end.status.astype(tol.dtype)
        return {"params": end.params, "multipliers": end.state.multipliers}, *numbers

    start = {"params": params, "multipliers": al.init(params, *args).multipliers}
    x, *numbers = run(start, args)
    error, count, status = numbers[0], *(x.astype(jnp.int32) for x in numbers[1:])
    value, c = problem.at(x["params"], args)
    broken = largest(each(lambda c: c, lambda c: jnp.minimum(c, 0), c), tol.dtype)
    return ConstrainedSolution(x["params"], x["multipliers"], value, broken, error, count, status)


def _rounds(al, tx, params, args, steps, tol):
    def round(t: Round) -> Round:
        loss = jax.tree_util.Partial(lambda state, args, p: al.loss(p, state, *args), t.state, args)
        end = solving.loop(solving.Problem(loss, tx, {}), t.params, steps - t.count, t.tol)
        state = al.update(end.params, t.state, *args)
        jax.debug.print("rho {} viol {} err {} inner {} {} w {} value {}", t.state.penalty, state.violation, end.error, end.count, end.status, t.tol, end.value)
        count = t.count + end.count
        finite = jnp.isfinite(state.violation) & (end.status != solving.NOT_FINITE)
        worse = ~finite | (state.violation > 100 * jnp.maximum(t.state.violation, 1))
        grown = al.update(t.params, t.state, *args)  
        met = state.violation <= tol
        stuck = end.status == solving.NO_LOWER_POINT
        status = jnp.where(met & (end.error <= tol), solving.CONVERGED, solving.RUNNING)
        status = jnp.where(~met & (state.penalty >= 1e13), INFEASIBLE, status)
        status = jnp.where(met & stuck & (end.count <= 3), solving.NO_LOWER_POINT, status)
        p = tree.where(worse, t.params, end.params)
        state = tree.where(worse, t.state._replace(penalty=t.state.penalty*10), state)
        return Round(p, state, jnp.maximum(t.tol / 10, tol), end.error, count, status.astype(jnp.int32))

    zero = jnp.zeros((), jnp.int32)
    start = Round(params, al.init(params, *args), jnp.maximum(tol, 0.1), tol, zero, jnp.int32(solving.RUNNING))
    return meshes.while_loop(lambda t: (t.status == solving.RUNNING) & (t.count < steps), round, start)


def _optimizer(params, tx, bounds):
    if tx is None:
        small = tree.size(params) <= implicit.SMALL
        return (bfgs if small else lbfgs)(bounds=bounds)
    return tx
