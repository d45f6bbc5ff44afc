"""The zoom line search: a step that lowers the objective enough and leaves little slope."""

from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics, tree
from gdjax.core import checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.field_docs import with_field_docs
from gdjax.core.number_domains import ABOVE_0, BOUND, AtLeast
from gdjax.core.parts import holding
from gdjax.core.types import ArrayLike, OptState, Params, Scalar, Updates
from gdjax.linesearch.line import NUMBERS, Array, Line, ValueFn, like, no_gradient
from gdjax.linesearch.wolfe import Wolfe, search

__all__ = ["ScaleByZoomLinesearchState", "ZoomLinesearchInfo", "scale_by_zoom_linesearch"]

LABEL = "gdjax.scale_by_zoom_linesearch"
ROUNDING = 64  # times the precision of the dtype: what `approx_dec_rtol` may be at most


@with_field_docs
class ZoomLinesearchInfo(NamedTuple):
    """How a zoom search went.

    Attributes:
      num_linesearch_steps: () int32, evaluations of the objective and its gradient.
      decrease_error: () by how much the step misses the condition of decrease: 0 if it is met, inf if there is no step.
      curvature_error: () by how much the step misses that of curvature: 0 if it is met, inf if there is no step.
    """

    num_linesearch_steps: Array
    decrease_error: Array
    curvature_error: Array


class ScaleByZoomLinesearchState(NamedTuple):
    """State of `scale_by_zoom_linesearch`."""

    learning_rate: Array  # () the step size chosen; where there was none the last one tried, 0 to begin anew
    value: Array  # () the objective after the step
    grad: Params  # its gradient there, like the parameters
    info: ZoomLinesearchInfo


@transform
def scale_by_zoom_linesearch(
    max_linesearch_steps: Annotated[int | Array, AtLeast(1)],
    max_learning_rate: Annotated[Scalar, ABOVE_0] | None = None, tol: Annotated[Scalar, BOUND] = 0.0,
    increase_factor: Annotated[Scalar, ABOVE_0] = 2.0, slope_rtol: Annotated[Scalar, BOUND] = 1e-4,
    curv_rtol: Annotated[Scalar, BOUND] = 0.9, approx_dec_rtol: Annotated[Scalar, BOUND] | None = 1e-6,
    stepsize_precision: Annotated[Scalar, BOUND] = 1e-5, initial_guess_strategy: Literal["one", "keep"] = "keep",
    verbose: bool = False,
) -> GradientTransformation:  # fmt: skip
    """Scales the updates by a step size that meets the strong Wolfe conditions.

    With phi(eta) = f(p + eta u) for the updates u, a step size with

        decrease     phi(eta) <= phi(0) + slope_rtol eta phi'(0) + tol
        curvature    |phi'(eta)| <= curv_rtol |phi'(0)| + tol

    Near a minimum rounding hides the decrease; there the slope tells more, and the first condition may be replaced by

        decrease     phi'(eta) <= (2 slope_rtol - 1) phi'(0) + tol   and
                     phi(eta) <= phi(0) + approx_dec_rtol |phi(0)| + tol

    A rise of at most approx_dec_rtol |phi(0)| with the slope still downhill counts as rounding too: the search goes on
    beyond it, but does not take it as a step.

    The search goes from the first guess to larger steps until an interval must hold such a step, then narrows it by
    cubic and quadratic interpolation. After 10 trials in vain steps grow, or shrink, tenfold with each: 20 trials span
    13 orders. One evaluation of f and its gradient a trial.

    Args:
      max_linesearch_steps: the most evaluations, at least 1.
      max_learning_rate: the largest step size, above 0; None for no bound.
      tol: the tolerance of both conditions, at least 0.
      increase_factor: from one step size to the next while there is no interval, above 0. Of use above 1: a smaller one
        goes to shorter steps where longer ones are wanted.
      slope_rtol: c1, at least 0.
      curv_rtol: c2; infinity leaves the decrease alone.
      approx_dec_rtol: at least 0; None for the exact condition alone. Of a step taken at most 64 times the precision of
        the dtype counts, 7.6e-6 in float32 and 1.4e-14 in float64.
      stepsize_precision: an interval this short ends the search if a step with enough decrease has been found.
      initial_guess_strategy: "one" starts at 1, for (quasi-)Newton directions; "keep" at the step size before.
      verbose: print what went wrong when a search fails.

    Returns:
      A transform whose `update` needs the keyword arguments `value` and `grad`, f and its gradient at the parameters,
      and `value_fn`, f itself. Further ones go to `value_fn` where it names them. `grad` points along steepest ascent:
      for complex parameters it is the conjugate of what `jax.grad` returns. The stored one is as `jax.grad` returns it,
      see `value_and_grad_from_state`.

    Failure: the search ends without a step that meets both conditions. Of the points below f(p) it takes the lowest
    with enough decrease; without one the lowest; without that none: the updates are 0, value and gradient those before.
    With "keep" the next search goes on from the last step size tried, and starts anew at 1 if the value there was not
    finite, or no other.

    Raises:
      ValueError, TypeError: `value`, `grad`, `value_fn` or the parameters are missing or do not fit; a number is
        outside its domain.

    Departs from Optax: a search that fails takes no step uphill, where Optax takes the last one tried; in float64 what
    counts as rounding is 1.4e-14 of f, where Optax takes 1e-6; it passes over rises of 1e-6 where the slope is
    downhill; after 10 trials it hurries; the errors in `info` are those of the step taken, not of the last one tried; a
    step counts as safe by one rule in both phases; a step to -inf or to a gradient that is not finite is none; a search
    without a step does not keep 0 as the next guess; extra arguments that `value_fn` does not take are left alone, not
    an error.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.sgd(1.0), gdjax.scale_by_zoom_linesearch(15))
      >>> x = jnp.array([1.0, -1.0])
      >>> run = gdjax.minimize(lambda x: 2.0 * jnp.sum(x**2), x, tx, steps=5)
      >>> bool(run.history["loss"][-1] < 1e-3)  # where plain steps of 1 diverge
      True

    Reference:
      Nocedal & Wright 2006, Numerical optimization, Algorithms 3.5 and 3.6; Hager & Zhang 2006, Algorithm 851:
      CG_DESCENT, equations 23, 26 and 27, https://doi.org/10.1145/1132973.1132979
    """
    checks.unscheduled(LABEL, locals(), NUMBERS)

    def init(params: Params) -> ScaleByZoomLinesearchState:
        dtype = numerics.widest_real(params)
        inf = lambda: jnp.full((), jnp.inf, dtype)
        info = ZoomLinesearchInfo(jnp.zeros((), jnp.int32), inf(), inf())
        return ScaleByZoomLinesearchState(jnp.ones((), dtype), inf(), no_gradient(params), info)

    def update(
        updates: Updates, state: OptState, params: Params = None, *,
        value: ArrayLike | None = None, grad: Params = None, value_fn: ValueFn | None = None, **extra_args: Any,
    ) -> tuple[Any, ScaleByZoomLinesearchState]:  # fmt: skip
        checks.state(LABEL, state, ScaleByZoomLinesearchState)
        line = Line(LABEL, updates, params, value, grad, value_fn, extra_args)
        last, number = line.number(state.learning_rate), line.number
        keep, eps = initial_guess_strategy == "keep", jnp.finfo(line.dtype).eps
        wolfe = Wolfe(
            c1=number(slope_rtol),
            c2=number(curv_rtol),
            c3=None if approx_dec_rtol is None else jnp.minimum(number(approx_dec_rtol), ROUNDING * eps),
            hidden=None if approx_dec_rtol is None else number(approx_dec_rtol),
            tol=number(tol),
            guess=jnp.where(last > 0, last, 1) if keep else jnp.ones_like(last),
            factor=number(increase_factor),
            top=number(jnp.inf if max_learning_rate is None else max_learning_rate),
            precision=number(stepsize_precision),
            most=max_linesearch_steps,
        )
        found = search(line, wolfe)
        chosen = found.choice
        last = tree.where(found.low.eta == 0, found.high, found.low)  # shorter steps than a low one would not help
        kept = jnp.where(chosen.eta == 0, line.to_go_on_from(last.eta, last.value), chosen.eta)
        if verbose:
            jax.debug.callback(_report, *chosen[:2], *chosen[3:], line.value, line.slope, wolfe.tol)
        info = ZoomLinesearchInfo(found.count, chosen.decrease_error, chosen.curvature_error)
        new_state = ScaleByZoomLinesearchState(kept, chosen.value, chosen.grad, info)
        return line.step(chosen.eta), like(new_state, state)

    return holding(init, update, like="grad")


def _report(
    eta: np.ndarray, value: np.ndarray, decrease: np.ndarray, curvature: np.ndarray,
    start: np.ndarray, slope: np.ndarray, tol: float,
) -> None:  # fmt: skip
    if max(decrease, curvature) <= tol:
        return
    if decrease <= tol:
        what = "no step meets the curvature condition; the lowest with enough decrease is taken"
    elif decrease < float("inf"):
        what = "no step has enough decrease; the lowest point is taken"
    else:
        what = "no step is made: no point is below the start"
    hint = "" if slope < 0 else "; the updates are no direction of descent"
    print(
        f"{LABEL}: {what}{hint} (step size {eta}, value {value}, decrease error {decrease}, curvature error "
        f"{curvature}, value {start} and slope {slope} at the start)"
    )
