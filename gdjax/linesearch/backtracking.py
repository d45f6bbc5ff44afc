"""The backtracking line search: shorter and shorter steps, until one lowers the objective enough."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics, tree
from gdjax.core import checks, meshes
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.field_docs import with_field_docs
from gdjax.core.number_domains import ABOVE_0, BOUND, FRACTION, AtLeast
from gdjax.core.parts import holding
from gdjax.core.types import ArrayLike, OptState, Params, Scalar, Updates
from gdjax.linesearch.line import NUMBERS, Array, Line, ValueFn, like, no_gradient

__all__ = ["BacktrackingLinesearchInfo", "ScaleByBacktrackingLinesearchState", "scale_by_backtracking_linesearch"]

LABEL = "gdjax.scale_by_backtracking_linesearch"


@with_field_docs
class BacktrackingLinesearchInfo(NamedTuple):
    """How a backtracking search went.

    Attributes:
      num_linesearch_steps: () int32, step sizes tried.
      decrease_error: () by how much the step misses the condition of decrease: 0 if it is met. Without a step that of
        the last one tried, inf where the objective was not finite.
    """

    num_linesearch_steps: Array
    decrease_error: Array


class ScaleByBacktrackingLinesearchState(NamedTuple):
    """State of `scale_by_backtracking_linesearch`."""

    learning_rate: Array  # () the step size chosen; where there was none the last one tried, 0 to begin anew
    value: Array  # () the objective after the step
    grad: Params  # its gradient there, like the parameters; None without store_grad
    info: BacktrackingLinesearchInfo


class _Choice(NamedTuple):
    """The step to take if the search ended now: one with enough decrease, or the lowest below the start, or none."""

    eta: Array  # ()
    value: Array  # ()
    error: Array  # () by how much it misses the condition


class _Search(NamedTuple):
    count: Array  # () int32, step sizes tried
    last: _Choice  # the last of them
    choice: _Choice
    grad: Params  # at the choice, like the parameters; None without store_grad


@transform
def scale_by_backtracking_linesearch(
    max_backtracking_steps: Annotated[int | Array, AtLeast(1)], slope_rtol: Annotated[Scalar, BOUND] = 1e-4,
    decrease_factor: Annotated[Scalar, FRACTION] = 0.8, increase_factor: Annotated[Scalar, ABOVE_0] = 1.5,
    max_learning_rate: Annotated[Scalar, ABOVE_0] = 1.0, atol: Annotated[Scalar, BOUND] = 0.0,
    rtol: Annotated[Scalar, BOUND] = 0.0, store_grad: bool = False, verbose: bool = False,
) -> GradientTransformation:  # fmt: skip
    """Scales the updates by a step size that lowers the objective enough (Armijo's condition).

    With the updates u, the first of eta_0, d eta_0, d^2 eta_0, ... for which

        f(p + eta u) <= f(p) + slope_rtol eta <grad f(p), u> + rtol |f(p)| + atol

        eta_0 = min(increase_factor (eta of the step before), max_learning_rate),    d = decrease_factor

    Put it after what makes a direction of descent, as in `chain(sgd(1.0), scale_by_backtracking_linesearch(15))`.

    Args:
      max_backtracking_steps: how often the step size is decreased; at least 1.
      slope_rtol: how much of the decrease that the slope promises is enough, at least 0.
      decrease_factor: d, between 0 and 1.
      increase_factor: above 0. With 1 the search starts at the last step size, with infinity at `max_learning_rate`.
      max_learning_rate: the largest step size, above 0.
      atol: absolute tolerance.
      rtol: tolerance relative to |f(p)|.
      store_grad: keep the gradient after the step in the state, for `value_and_grad_from_state`.
      verbose: print what went wrong when a search fails.

    Returns:
      A transform whose `update` needs the keyword arguments `value` and `grad`, f and its gradient at the parameters,
      and `value_fn`, f itself. Further ones go to `value_fn` where it names them. `grad` points along steepest ascent:
      for complex parameters it is the conjugate of what `jax.grad` returns. The stored one is as `jax.grad` returns it.

    Failure: where no step size meets the condition it takes the one with the lowest value below f(p); where there is
    none it takes none: the updates are 0, value and gradient those before. The next search goes on from the last step
    size, also where the value there was not finite, and starts anew at `max_learning_rate` where no shorter step would
    help.

    Raises:
      ValueError, TypeError: `value`, `grad`, `value_fn` or the parameters are missing or do not fit; a number is
        outside its domain.

    Departs from Optax: rtol is relative to |f(p)|, not f(p), which where f is negative asks for more, not less; a
    search that fails takes no step uphill, where Optax takes the last one tried; after one without a finite value the
    next starts anew, where Optax stays at 0 for ever; a value of -inf is no step; extra arguments that `value_fn`
    does not take are left alone, not an error.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.sgd(1.0), gdjax.scale_by_backtracking_linesearch(15))
      >>> def f(x):
      ...     return 2.0 * jnp.sum(x**2)  # its gradient is 4 x, of which 1 is too long a step
      >>> x = jnp.array([1.0, -1.0])
      >>> u, state = tx.update(4 * x, tx.init(x), x, value=f(x), grad=4 * x, value_fn=f)
      >>> round(float(gdjax.tree.get(state, "learning_rate")), 3), bool(f(x + u) < f(x))
      (0.41, True)

    Reference:
      Nocedal & Wright 2006, Numerical optimization, Algorithm 3.1; Armijo 1966.
    """
    checks.unscheduled(LABEL, locals(), NUMBERS)

    def init(params: Params) -> ScaleByBacktrackingLinesearchState:
        dtype = numerics.widest_real(params)
        inf = lambda: jnp.full((), jnp.inf, dtype)
        info = BacktrackingLinesearchInfo(jnp.zeros((), jnp.int32), inf())
        grad = no_gradient(params) if store_grad else None
        return ScaleByBacktrackingLinesearchState(jnp.ones((), dtype), inf(), grad, info)

    def update(
        updates: Updates, state: OptState, params: Params = None, *,
        value: ArrayLike | None = None, grad: Params = None, value_fn: ValueFn | None = None, **extra_args: Any,
    ) -> tuple[Any, ScaleByBacktrackingLinesearchState]:  # fmt: skip
        checks.state(LABEL, state, ScaleByBacktrackingLinesearchState)
        line = Line(LABEL, updates, params, value, grad, value_fn, extra_args)
        # Uphill the condition would let a rise through.
        allowed, slope = line.value + line.number(rtol) * jnp.abs(line.value), jnp.minimum(line.slope, 0)
        c1, shorter, tol = line.number(slope_rtol), line.number(decrease_factor), line.number(atol)

        def body(s: _Search) -> _Search:
            eta = jnp.where(s.count > 0, shorter * s.last.eta, s.last.eta)
            value, pull = line.value_and_pull(eta)
            error = jnp.maximum(value - allowed - c1 * eta * slope, 0)
            error = jnp.where(jnp.isfinite(value) & jnp.isfinite(error), error, jnp.inf)
            new = _Choice(eta, value, error)
            better = jnp.isfinite(error) & ((error <= tol) | (value < s.choice.value))
            grad = meshes.cond(better, pull, lambda: s.grad) if store_grad else None
            return _Search(s.count + 1, new, tree.where(better, new, s.choice), grad)

        top, last = line.number(max_learning_rate), line.number(state.learning_rate)
        first = jnp.where(last > 0, jnp.minimum(line.number(increase_factor) * last, top), top)
        none = _Choice(jnp.zeros_like(top), line.value, jnp.full_like(top, jnp.inf))
        start = _Search(jnp.zeros((), jnp.int32), none._replace(eta=first), none, line.grad if store_grad else None)
        found = meshes.while_loop(lambda s: ~(s.last.error <= tol) & (s.count <= max_backtracking_steps), body, start)
        eta, new_value, error = found.choice
        error = jnp.where(eta == 0, found.last.error, error)
        if verbose:
            jax.debug.callback(_report, eta, error, line.value, line.slope, tol)
        kept = jnp.where(eta == 0, line.to_go_on_from(found.last.eta, found.last.value), eta)
        info = BacktrackingLinesearchInfo(found.count, error)
        new_state = ScaleByBacktrackingLinesearchState(kept, new_value, found.grad, info)
        return line.step(eta), like(new_state, state)

    return holding(init, update, like="grad")


def _report(eta: np.ndarray, error: np.ndarray, value: np.ndarray, slope: np.ndarray, atol: float) -> None:
    if error <= atol:
        return
    taken = "the lowest point is taken" if eta > 0 else "no step is made: no point is below the start"
    hint = "" if slope < 0 else "; the updates are no direction of descent"
    print(
        f"{LABEL}: no step size lowers the objective enough{hint}; {taken} (step size {eta}, decrease error {error}, "
        f"value {value} and slope {slope} at the start)"
    )
