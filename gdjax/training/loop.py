"""The plain loop: gradient descent on a function, with any transform."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.combine.hyperparams import learning_rates
from gdjax.core import base, checks
from gdjax.core.interop import state_from_optax
from gdjax.core.types import OptState, Params
from gdjax.core.updates import apply_updates
from gdjax.training import objective
from gdjax.training.progress import Progress, Recorder

Array = jax.Array
Report = Callable[..., Any]  # called with the number of steps done and, by name, the metrics of the last of them
LABEL = "gdjax.minimize"
KEPT = "; .params of this error are the last good ones. In a loop of your own gdjax.apply_if_finite skips such a step"

# What a step reports of the run. Any but RUNNING freezes it: steps that the host has already sent change nothing.
RUNNING, SMALL_GRADIENT, STEADY_LOSS, NON_FINITE = range(4)


class MinimizeResult(NamedTuple):
    """What `minimize` returns."""

    params: Params
    state: OptState  # `minimize(..., state=state)` goes on from here
    history: dict[str, np.ndarray]  # loss, grad_norm, learning_rate (if the transform tells), ...: (evaluations,) each
    steps: int  # updates made
    converged: bool  # whether a tolerance was met
    message: str  # why the run ended


class NonFiniteError(FloatingPointError):
    """The loss or its gradient turned infinite or NaN.

    Attributes:
      step: the step where that happened, counted from 0.
      params: the last parameters whose loss and gradient were finite, or the initial ones.
      state: the optimizer's state after the update that those parameters gave.
      history: as in `MinimizeResult`, the step included.
    """

    def __init__(self, message: str, step: int, params: Params, state: OptState, history: dict[str, np.ndarray]):
        super().__init__(message, step, params, state, history)  # all, so that it pickles
        self.step, self.params, self.state, self.history = step, params, state, history

    def __str__(self) -> str:
        return self.args[0]


def minimize(
    loss_fn: Callable[..., Any], params: Params, tx: Any, *, steps: int, data: Iterable[Any] | None = None,
    state: OptState | None = None, has_aux: bool = False, grad_tol: float | None = None, loss_tol: float | None = None,
    progress: bool | Report = False, callback: Callable[[int, Params, OptState, dict[str, Any]], Any] | None = None,
) -> MinimizeResult:  # fmt: skip
    """Descends the gradient of a loss: p <- p + update(grad loss(p)), `steps` times.

    Loss and gradient come from one evaluation. The step is compiled once (and once more for batches of a new shape)
    and works in place, on copies: one of the state and two of the parameters, so that the last good ones survive.
    The host does not wait for every step, but fetches metrics a chunk at a time. A step that meets a tolerance or a
    number that is not finite freezes the run on the device, so that the result is that of this very step.

    Args:
      loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` with `data`. It returns a real scalar; with `has_aux` a
        pair of that and anything else.
      params: any pytree of arrays; integer leaves stay as they are.
      tx: anything with `init` and `update`, Optax's transforms included. An `update` that takes extra arguments gets
        `value`, `grad` and `value_fn`, the loss as a function of the parameters on the same batch.
      steps: the most updates to make.
      data: batches. A list, or whatever else can be iterated again, starts over when it ends; the end of an iterator
        ends the run. Up to 100 batches may be drawn after the step at which a tolerance stops the run.
      state: the optimizer's state to go on from, also one that Optax made; None is `tx.init(params)`.
      has_aux: whether `loss_fn` returns a pair. If its second part is a dict of scalars, they join the metrics.
      grad_tol: stop where the global norm of the gradient is at most this.
      loss_tol: stop where |loss - previous loss| <= loss_tol * max(|loss|, |previous loss|). Both tolerances judge
        single batches, and the parameters they stop at are returned without a further update.
      progress: True shows a line on stderr; a function is called as `progress(steps_done, loss=..., grad_norm=...)`
        for every step, once its metrics are fetched.
      callback: `callback(step, params, state, metrics)` after every update, which the host then waits for; a true
        result stops the run. Steps count from 0; `metrics` has the second part of the loss (or None) under "aux". Later
        steps overwrite the arrays: copy what you keep.

    Returns:
      A `MinimizeResult`; in its history `loss[k]` is the loss before update k.

    Raises:
      NonFiniteError: the loss or its gradient is not finite; the error has the last good parameters.
      TypeError, ValueError: an argument is of the wrong kind or out of range, the loss is no real scalar, or `data` has
        no batch.

    Warns where the updates go up the gradient: `tx` has no learning rate or two, or a scheduled rate was below 0.
    """
    checks.structural(LABEL, "steps", steps, 0)
    base.check_transform(LABEL, "tx", tx)
    for name, tol in {"grad_tol": grad_tol, "loss_tol": loss_tol}.items():
        if tol is not None and not tol >= 0:
            raise ValueError(f"{LABEL}: {name} must be at least 0, got {tol}")
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
        checks.leaf(LABEL, f"params{jax.tree_util.keystr(path)}", x)
    objective.warn_of_ascent(LABEL, tx)
    params, last_good = _own(params), _own(params)
    state = _own(tx.init(params) if state is None else _in_classes_of(tx, params, state))
    # The status and the loss of the step before.
    last = jnp.full((), RUNNING, jnp.int32), jnp.full((), jnp.inf, jax.dtypes.canonicalize_dtype(float))
    loss = objective.checked(LABEL, loss_fn, has_aux, data)
    step = jax.jit(_step(loss, tx, grad_tol, loss_tol), donate_argnums=(0, 1))
    batches, recorder, rows = objective.batches(LABEL, data), Recorder(wait=callback is not None), []
    status, sent, message = RUNNING, 0, f"all {steps} steps done"
    with _shown(progress, steps) as report:
        for i in range(steps):
            batch = next(batches, None)
            if batch is None:
                message = f"data ended after {i} steps"
                break
            new, state, last, metrics, aux = step(last_good, state, params, last, *batch)
            last_good, params, sent = params, new, i + 1
            status = _note(recorder.add((last[0], metrics)), rows, report)
            if status != RUNNING:
                break
            if callback is not None and callback(i, params, state, {**rows[-1], "aux": aux}):
                message = f"stopped by the callback at step {i}"
                break
        status = status or _note(recorder.fetch(), rows, report)
    if steps and not rows:
        raise ValueError(f"{LABEL}: data has no batch")
    # A frozen step returns what it was to overwrite: with each such step the two have changed places.
    if (sent - len(rows) + (status != RUNNING)) % 2:
        last_good, params = params, last_good
    return _result(status, rows, params, last_good, state, message)


def _in_classes_of(tx: Any, params: Params, state: OptState) -> OptState:
    """The state, in the classes of `tx.init` where it has Optax's: a branch must return the classes it was given."""
    ours = state_from_optax(state)
    if jax.tree.structure(ours) == jax.tree.structure(state):
        return state
    made = jax.eval_shape(tx.init, params)
    if jax.tree.structure(state_from_optax(made)) == jax.tree.structure(ours):
        return jax.tree.structure(made).unflatten(jax.tree.leaves(state))
    return ours  # Optax injects a few more numbers


def _step(f: Callable[..., Any], tx: Any, grad_tol: float | None, loss_tol: float | None) -> Callable[..., Any]:
    """The function to compile: it takes `params`, and writes the new parameters over `last_good`."""
    value_and_grad = jax.value_and_grad(f, has_aux=True, allow_int=True)

    def step(last_good: Params, state: OptState, params: Params, last: tuple[Array, Array], *batch: Any) -> Any:
        (loss, aux), grads = value_and_grad(params, *batch)
        # In a complex parameter, the direction of steepest ascent is the conjugate of what jax.grad returns.
        grads = jax.tree.map(lambda g: jnp.conj(g) if jnp.iscomplexobj(g) else g, grads)
        last_status, last_loss = last
        norm, kept_loss = _norm(grads), loss.astype(last_loss.dtype)
        found = _status(kept_loss, last_loss, norm, grad_tol, loss_tol)
        status = jnp.where(last_status == RUNNING, found, last_status)

        def go() -> tuple[Params, OptState]:
            # A `Partial` is a pytree: wrappers may take it into the branches of a cond.
            extra = {"value": loss, "grad": grads, "value_fn": jax.tree_util.Partial(lambda b, p: f(p, *b)[0], batch)}
            updates, new_state = base.call_update(tx, grads, state, params, extra)
            # A transform of others may change dtypes; the step would be compiled again.
            pinned = jax.tree.map(lambda y, x: jax.lax.convert_element_type(y, x.dtype), new_state, state)
            return apply_updates(params, updates), pinned

        # A branch, because a select would hold old and new arrays at once. The other branch must return arrays that lie
        # where the first one writes, or parameters and state are copied in every step.
        new, new_state = jax.lax.cond(status == RUNNING, go, lambda: (last_good, state))
        metrics = {**_scalars(aux), "loss": kept_loss, "grad_norm": norm, **_rates(tx, state)}
        return new, new_state, (status, kept_loss), metrics, aux

    return step


def _status(loss: Array, previous: Array, norm: Array, grad_tol: float | None, loss_tol: float | None) -> Array:
    status = jnp.full((), RUNNING, jnp.int32)
    if loss_tol is not None:
        change, size = jnp.abs(loss - previous), jnp.maximum(jnp.abs(loss), jnp.abs(previous))
        status = jnp.where(jnp.isfinite(previous) & (change <= loss_tol * size), STEADY_LOSS, status)
    if grad_tol is not None:
        status = jnp.where(norm <= grad_tol, SMALL_GRADIENT, status)
    return jnp.where(jnp.isfinite(loss) & jnp.isfinite(norm), status, NON_FINITE)


def _norm(updates: Any) -> Array:
    """The global norm of the floating leaves; without the gradients of integers."""
    return tree.global_norm([x for x in jax.tree.leaves(updates) if jnp.issubdtype(x.dtype, jnp.inexact)])


def _rates(tx: Any, state: OptState) -> dict[str, Any]:
    """The learning rates of the next update; none where the transform does not tell."""
    return {name: jnp.asarray(x) for name, x in learning_rates(tx, state).items()}


def _scalars(aux: Any) -> dict[str, Any]:
    named = isinstance(aux, dict) and jax.tree_util.all_leaves(aux.values()) and all(isinstance(k, str) for k in aux)
    return aux if named and all(jnp.ndim(x) == 0 for x in aux.values()) else {}


def _own(x: Any) -> Any:
    """A copy that may be overwritten, strongly typed as the results of a step are, so that there is no second trace."""

    def copy(x: Any) -> Array:
        x = x.copy() if isinstance(x, jax.Array) else jnp.array(x)
        return jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(copy, x)


def _shown(progress: bool | Report, steps: int) -> contextlib.AbstractContextManager[Any]:
    """A context that gives the function to report to, or None."""
    if progress is True:
        return Progress(steps)
    if progress is False or callable(progress):
        return contextlib.nullcontext(progress or None)
    raise TypeError(f"{LABEL}: progress must be True, False or a function, got {progress!r}")


def _note(fetched: list[Any], rows: list[dict[str, Any]], report: Report | None) -> int:
    """Adds to `rows` the steps up to the one that ended the run, and returns its status."""
    for status, metrics in fetched:
        rows.append({"loss": metrics.pop("loss"), **metrics})
        if report is not None:
            report(len(rows), **rows[-1])
        if status != RUNNING:
            return int(status)
    return RUNNING


def _result(
    status: int, rows: list[dict[str, Any]], params: Params, last_good: Params, state: OptState, message: str
) -> MinimizeResult:
    names = rows[0] if rows else ("loss", "grad_norm")
    history = {name: np.array([row[name] for row in rows]) for name in names}
    last = len(rows) - 1
    objective.warn_of_negative_rates(LABEL, history)
    if status == NON_FINITE:
        numbers = f"loss {history['loss'][-1]}, gradient norm {history['grad_norm'][-1]}"
        raise NonFiniteError(f"{LABEL}: not finite at step {last}: {numbers}{KEPT}", last, last_good, state, history)
    # The loss at the very last parameters has not been evaluated.
    if status == RUNNING and not jnp.isfinite(_norm(params)) and jnp.isfinite(_norm(last_good)):
        raise NonFiniteError(f"{LABEL}: step {last} made numbers not finite{KEPT}", last, last_good, state, history)
    if status != RUNNING:
        what = "gradient norm within grad_tol" if status == SMALL_GRADIENT else "change of the loss within loss_tol"
        message = f"{what} at step {last}"
    return MinimizeResult(params, state, history, len(rows) - (status != RUNNING), status != RUNNING, message)
