"""The result of a run, and what ends one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.field_docs import with_field_docs
from gdjax.core.types import OptState, Params
from gdjax.numerics import widest_real
from gdjax.training import objective
from gdjax.training.step import (
    NO_LOWER_POINT,
    NON_FINITE,
    RUNNING,
    SMALL_GRADIENT,
    STEADY_LOSS,
    STEADY_RESIDUALS,
    norm_of,
)

__all__ = ["MinimizeResult", "NonFiniteError"]

LABEL = "gdjax.minimize"


LAST_GOOD = (
    "; .params of this error are the last good ones. In a loop of your own gdjax.apply_if_finite skips such a step"
)

History = dict[str, np.ndarray]


@with_field_docs
class MinimizeResult(NamedTuple):
    """What `minimize` returns.

    Attributes:
      params: the trained parameters, not their average: `eval_params(tx, state, params)` are those to evaluate.
      state: the optimizer's state; `minimize(..., state=state, first_step=next_step)` goes on from it.
      history: a dict from name to NumPy array with an entry for each step, (rows,). `loss` is that before the update,
        `grad_norm` and `update_norm` are global norms, `learning_rate` is there if the transform tells it. The scalars
        of a dict that the loss returns beside its value (`has_aux`) are there by their names, and so is
        `projected_grad_norm` with `grad_tol` and bounds. Where a tolerance or a line search stopped the run, the last
        row is of a step without an update: there are `steps` + 1 rows.
      steps: the updates made in this run.
      converged: True if `grad_tol`, `loss_tol` or the `decrease_tol` of `gauss_newton` was met, which ended the run;
        else False.
      message: why the run ended, one sentence.
      evaluations: a dict from name to NumPy array, (n,) for n calls of `evaluate`; empty without `evaluate`. `step` is
        the number of updates before each call, `first_step` included. The numbers of a dict that `evaluate` returns are
        there by its keys, a single number as `evaluation`.
      next_step: `first_step` + `steps`, the `first_step` of a run that goes on.
    """

    params: Params
    state: OptState
    history: History
    steps: int
    converged: bool
    message: str
    evaluations: History = {}
    next_step: int = 0


def _unbounded(history: History) -> str:
    """What to say of a loss that went to minus infinity."""
    low = -float(np.sqrt(np.finfo(history["loss"].dtype).max)) if len(history["loss"]) else 0.0
    return "; the loss goes to minus infinity: is it unbounded below?" if (history["loss"] < low).any() else ""


def _underflows(history: History, params: Params) -> str:
    """What to say of a loss so small that the differences along a line are no normal numbers of its dtype."""
    limits, largest = jnp.finfo(widest_real(params)), np.max(np.abs(history["loss"]), initial=0)
    if not 0 < largest < float(limits.tiny) / float(limits.eps):
        return ""
    return f"; the loss's differences underflow in {limits.dtype}: multiply the loss by a large number"


class NonFiniteError(FloatingPointError):
    """The loss or its gradient turned infinite or NaN.

    Attributes:
      step: the step where that happened, counted from `first_step`.
      params: the last parameters whose loss and gradient were finite, or the initial ones.
      state: the optimizer's state after the update that those parameters gave.
      history: as in `MinimizeResult`, the step included.
      evaluations: as in `MinimizeResult`.
    """

    def __init__(
        self, message: str, step: int, params: Params, state: OptState, history: History,
        evaluations: History | None = None,
    ):  # fmt: skip
        super().__init__(message, step, params, state, history, evaluations)  # all, so that it pickles
        self.step, self.params, self.state, self.history = step, params, state, history
        self.evaluations = evaluations or {}

    def __str__(self) -> str:
        return self.args[0]


class Evaluations:
    """What `evaluate` returned so far, in columns."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, label: str, step: int, result: Any) -> None:
        """Notes the result after `step` updates, a number or a dict of numbers."""
        named = result if isinstance(result, dict) else {"evaluation": result}
        for name, x in named.items():
            if not isinstance(name, str) or np.shape(x) != () or isinstance(x, str) or x is None:
                raise TypeError(f"{label}: evaluate must return a number or a dict of numbers, got {result!r}")
        if self.rows and set(self.rows[0]) != {"step", *named}:
            raise ValueError(f"{label}: evaluate returned {sorted(named)}, and {sorted(self.rows[0])[:-1]} before")
        self.rows.append({"step": step, **jax.device_get(named)})

    @property
    def latest(self) -> dict[str, Any]:
        return {k: x for k, x in self.rows[-1].items() if k != "step"} if self.rows else {}

    def columns(self) -> History:
        return {name: np.array([row[name] for row in self.rows]) for name in (self.rows[0] if self.rows else ())}


def result_of(
    label: str, status: int, rows: list[dict[str, Any]], first_step: int, params: Params, last_good: Params,
    state: OptState, message: str, evaluations: History,
) -> MinimizeResult:  # fmt: skip
    """The result of a run that ended with `status`, or the error."""
    names = rows[0] if rows else ("loss", "grad_norm", "update_norm")
    history = {name: np.array([row[name] for row in rows]) for name in names}
    last = first_step + len(rows) - 1
    objective.warn_of_negative_rates(label, history, first_step)
    details = last, last_good, state, history, evaluations
    if status == NON_FINITE:
        numbers = f"loss {history['loss'][-1]}, gradient norm {history['grad_norm'][-1]}{_unbounded(history)}"
        raise NonFiniteError(f"{label}: not finite at step {last}: {numbers}{LAST_GOOD}", *details)
    # The loss at the very last parameters has not been evaluated.
    if status == RUNNING and not jnp.isfinite(norm_of(params)) and jnp.isfinite(norm_of(last_good)):
        raise NonFiniteError(f"{label}: step {last} made numbers not finite{_unbounded(history)}{LAST_GOOD}", *details)
    stopped = status != RUNNING
    if stopped:
        norm = "projected gradient norm" if "projected_grad_norm" in names else "gradient norm"
        what = {
            SMALL_GRADIENT: f"{norm} within grad_tol",
            STEADY_LOSS: "change of the loss within loss_tol",
            NO_LOWER_POINT: "the line search found no lower point",
            STEADY_RESIDUALS: "decrease of the residuals within decrease_tol of gauss_newton",
        }
        message = f"{what[status]} at step {last}"
    steps, converged = len(rows) - stopped, status in (SMALL_GRADIENT, STEADY_LOSS, STEADY_RESIDUALS)
    if not converged:
        message += _unbounded(history) or _underflows(history, params)
    return MinimizeResult(params, state, history, steps, converged, message, evaluations, first_step + steps)
