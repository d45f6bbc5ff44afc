"""The plain loop: gradient descent on a function, with any transform."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.combine.conditional import eval_params
from gdjax.core import base, checks
from gdjax.core.parts import state_from_optax
from gdjax.core.types import OptState, Params, Transform
from gdjax.training import objective
from gdjax.training.progress import Progress, Recorder
from gdjax.training.results import Evaluations, MinimizeResult, result_of
from gdjax.training.stationary import projected_norm
from gdjax.training.step import RUNNING, Inputs, Last, guarded_step, overwritable

__all__ = ["minimize"]

Report = Callable[..., Any]  # called with the number of steps done and, by name, the metrics of the last of them
LABEL = "gdjax.minimize"


def minimize(
    loss_fn: Callable[..., Any], params: Params, tx: Transform, *, steps: int, data: Iterable[Any] | None = None,
    state: OptState | None = None, has_aux: bool = False, grad_tol: float | None = None, loss_tol: float | None = None,
    progress: bool | Report = False, callback: Callable[[int, Params, OptState, dict[str, Any]], Any] | None = None,
    evaluate: Callable[[Params], Any] | None = None, evaluate_every: int | None = None, key: jax.Array | None = None,
    first_step: int = 0, extra_fns: Mapping[str, Callable[..., Any]] | None = None,
) -> MinimizeResult:  # fmt: skip
    """Descends the gradient of a loss: p <- p + update(grad loss(p)), `steps` times.

    Loss and gradient come from one evaluation. The step is compiled once (and once more for batches of a new shape)
    and works in place, on copies: one of the state and two of the parameters, so that the last good ones survive.
    The host does not wait for every step, but fetches metrics a chunk at a time. A step that meets a tolerance or a
    number that is not finite freezes the run on the device, so that the result is that of this very step. Without
    `data` and `key` so does a line search that found no lower point in two steps, the second along the gradient where
    the method is (L-)BFGS or SSBroyden: the parameters returned are the best. `gauss_newton` stops so by its
    `decrease_tol`.

    It is a loop in Python: under `jax.jit`, `jax.grad` and `jax.vmap` call `gdjax.solve` in its place.

    Args:
      loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` with `data`. It returns a real scalar; with `has_aux` a
        pair of that and anything else.
      params: any pytree of arrays; integer leaves stay as they are.
      tx: anything with `init` and `update`, Optax's transforms included. An `update` that takes extra arguments gets
        `value`, `grad` and `value_fn`, the loss as a function of the parameters on the same batch with the same key.
      steps: the most updates to make.
      data: batches. A list, or whatever else can be iterated again, starts over when it ends; the end of an iterator
        ends the run. One batch of two arrays is [(x, y)]. Up to 100 batches may be drawn after the step at which a
        tolerance stops the run.
      state: the optimizer's state to go on from, also one that Optax made; None is `tx.init(params)`.
      has_aux: whether `loss_fn` returns a pair. If its second part is a dict of scalars, they join the metrics.
      grad_tol: stop where the global norm of the gradient, sqrt(sum |g|^2) over all leaves, frozen ones too, is at most
        this. With bounds (`lbfgs(bounds=...)`, `bfgs`, `ssbroyden`, `keep_params_nonnegative`) it is that of the
        projected gradient p - P(p - g), which is 0 at a minimum on a bound, where g is not; the history then has it
        as `projected_grad_norm`. A projection in a function of yours is not known: stop by `loss_tol` there.
      loss_tol: stop where |loss - previous loss| <= loss_tol * max(|loss|, |previous loss|), unless a line search
        failed between them. Both tolerances judge single batches, and the parameters they stop at are returned without
        a further update.
      progress: True shows a line on stderr; a function is called as `progress(steps_done, loss=..., grad_norm=...)`
        for every step, once its metrics are fetched.
      callback: `callback(step, params, state, metrics)` after every update, which the host then waits for; a true
        result stops the run. `metrics` has the second part of the loss (or None) under "aux". Later steps overwrite the
        arrays: copy what you keep.
      evaluate: a function of the parameters that `eval_params` gives, the average where the optimizer keeps one; on
        held-out data for instance. It is called as it is: jit it if it is of JAX. It returns a number or a dict of
        numbers, which go to `evaluations`.
      evaluate_every: `evaluate` after every so many updates, counted from step 0, and at the end; None is at the end.
      key: a PRNG key; `loss_fn` then gets `key=jax.random.fold_in(key, step)`, a new one at every step.
      first_step: the number of the first step. A run that goes on passes the `next_step` of the result before, the
        number of updates of all runs so far, so that keys, evaluations and callbacks go on as well.
      extra_fns: further functions for the `update`, by the names under which it asks for them, such as
        `{"residual_fn": residuals}` for `gauss_newton`. They are called as `loss_fn` is, with the batch but without a
        key, and the `update` gets them as functions of the parameters.

    Returns:
      A `MinimizeResult`, with the trained parameters, not their average; in its history `loss[k]` is the loss before
      update k, and `update_norm[k]` the global norm of what that update changed: in bfloat16 less than the update, and
      0 where a tolerance stopped the run.

    Raises:
      NonFiniteError: the loss or its gradient is not finite; the error has the last good parameters.
      TypeError, ValueError: an argument is of the wrong kind or out of range, the loss is no real scalar, `data` has no
        batch, or the call is traced by `jax.jit`, `jax.grad` or `jax.vmap`.

    Warns where the updates go up the gradient: `tx` has no learning rate or two, or a scheduled rate was below 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss(w, batch):
      ...     return jnp.mean((w * batch["x"] - batch["y"]) ** 2)
      >>> data = [{"x": jnp.array([1.0, 2.0]), "y": jnp.array([3.0, 6.0])}]
      >>> run = gdjax.minimize(loss, jnp.array(0.0), gdjax.adam(0.5), steps=200, data=data)
      >>> round(float(run.params), 2), run.steps, len(run.history["loss"])
      (3.0, 200, 200)
    """
    _check(params, tx, steps, first_step, {"grad_tol": grad_tol, "loss_tol": loss_tol}, evaluate, evaluate_every)
    objective.check_arguments(LABEL, loss_fn, data, key)
    objective.warn_of_ascent(LABEL, tx)
    params, last_good = overwritable(params), overwritable(params)
    state = overwritable(tx.init(params) if state is None else _in_classes_of(tx, params, state))
    zero = jnp.zeros((), jnp.int32)
    no = jnp.zeros((), bool)
    last = Last(zero + RUNNING, jnp.full((), jnp.inf, jax.dtypes.canonicalize_dtype(float)), zero, no)
    _check_not_traced(params, state, key)
    loss = objective.checked(LABEL, loss_fn, has_aux, data)
    norm_to_stop = None if grad_tol is None else projected_norm(LABEL, tx, params)
    extra_fns = objective.checked_functions(LABEL, extra_fns)
    step = jax.jit(guarded_step(loss, tx, grad_tol, loss_tol, norm_to_stop, extra_fns), donate_argnums=(0, 1))
    batches, recorder, rows = objective.batches(LABEL, data), Recorder(wait=callback is not None), []
    status, sent, message, evaluations = RUNNING, 0, f"all {steps} steps done", Evaluations()
    with shown(LABEL, progress, steps) as report:
        for i in range(first_step, first_step + steps):
            batch = next(batches, None)
            if batch is None:
                message = f"data ended after {sent} steps"
                break
            inputs = Inputs(batch, np.int32(i), key)
            new, state, last, metrics, aux = step(last_good, state, params, last, inputs)
            _check_not_traced(last)  # the loss may be a function of what is traced
            last_good, params, sent = params, new, sent + 1
            fetched = recorder.add((last.status, metrics))
            due = evaluate is not None and evaluate_every is not None and (i + 1) % evaluate_every == 0
            if due:  # not before it is known that the run is not frozen
                fetched += recorder.fetch()
            status = _note(fetched, rows, report, evaluations.latest)
            if status != RUNNING:
                break
            if due:
                evaluations.add(LABEL, i + 1, evaluate(eval_params(tx, state, params)))  # type: ignore[misc]
            if callback is not None and callback(i, params, state, {**rows[-1], "aux": aux}):
                message = f"stopped by the callback at step {i}"
                break
        status = status or _note(recorder.fetch(), rows, report, evaluations.latest)
    if steps and not rows:
        raise ValueError(f"{LABEL}: data has no batch")
    # A frozen step returns what it was to overwrite: with each such step the two have changed places.
    if (sent - len(rows) + (status != RUNNING)) % 2:
        last_good, params = params, last_good
    result = result_of(LABEL, status, rows, first_step, params, last_good, state, message, evaluations.columns())
    made = result.next_step
    if evaluate is None or evaluations.rows and evaluations.rows[-1]["step"] == made:
        return result
    evaluations.add(LABEL, made, evaluate(eval_params(tx, state, params)))
    return result._replace(evaluations=evaluations.columns())


def _check_not_traced(*trees: Any) -> None:
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(trees)):
        raise TypeError(
            f"{LABEL} is a loop in Python, which jax.jit, jax.grad and jax.vmap cannot trace. They go through "
            "gdjax.solve(loss_fn, params, tx, *args); where each step has its own batch, scan over tx.update"
        )


def _check(
    params: Params, tx: Transform, steps: int, first_step: int, tolerances: dict[str, float | None],
    evaluate: Callable[[Params], Any] | None, every: int | None,
) -> None:  # fmt: skip
    """The arguments of `minimize` that are no functions of others."""
    checks.structural(LABEL, "steps", steps, 0)
    checks.structural(LABEL, "first_step", first_step, 0)
    base.check_transform(LABEL, "tx", tx)
    for name, tol in tolerances.items():
        if tol is not None and not tol >= 0:
            raise ValueError(f"{LABEL}: {name} must be at least 0, got {tol}")
    checks.leaves(LABEL, "params", params)
    if every is not None:
        checks.structural(LABEL, "evaluate_every", every, 1)
        if evaluate is None:
            raise ValueError(f"{LABEL}: evaluate_every={every} needs evaluate=, a function of the parameters")
    if evaluate is not None and not callable(evaluate):
        raise TypeError(f"{LABEL}: evaluate must be a function of the parameters, got {evaluate!r}")


def _in_classes_of(tx: Transform, params: Params, state: OptState) -> OptState:
    """The state, in the classes of `tx.init` where it has Optax's: a branch must return the classes it was given."""
    ours = state_from_optax(state)
    if jax.tree.structure(ours) == jax.tree.structure(state):
        return state
    made = jax.eval_shape(tx.init, params)
    if jax.tree.structure(state_from_optax(made)) == jax.tree.structure(ours):
        return jax.tree.structure(made).unflatten(jax.tree.leaves(state))
    return ours  # Optax injects a few more numbers


def shown(label: str, progress: bool | Report, steps: int) -> contextlib.AbstractContextManager[Any]:
    """A context that gives the function to report to, or None."""
    if progress is True:
        return Progress(steps)
    if progress is False or callable(progress):
        return contextlib.nullcontext(progress or None)
    raise TypeError(f"{label}: progress must be True, False or a function, got {progress!r}")


def _note(fetched: list[Any], rows: list[dict[str, Any]], report: Report | None, evaluated: dict[str, Any]) -> int:
    """Adds to `rows` the steps up to the one that ended the run, and returns its status."""
    for status, metrics in fetched:
        rows.append({name: metrics.pop(name) for name in ("loss", "grad_norm", "update_norm")} | metrics)
        if report is not None:
            report(len(rows), **{**evaluated, **rows[-1]})
        if status != RUNNING:
            return int(status)
    return RUNNING
