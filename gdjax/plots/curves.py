"""Curves over the steps of a run: schedules, losses and rates."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.combine.hyperparams import get_hyperparams
from gdjax.core import checks, misuse
from gdjax.core.base import call_update
from gdjax.core.types import Array, Params, Transform
from gdjax.core.values import is_ours
from gdjax.plots import look

__all__ = ["plot_losses", "plot_schedule"]

LABEL = "gdjax.plots.plot_schedule"
MOST = 4000  # points of a curve


def plot_schedule(
    schedule: Any, steps: int, *, params: Params = None, names: Sequence[str] | None = None, ax: Any = None
) -> Any:
    """The values of a schedule, or of those inside an optimizer, at each of the first steps.

    Args:
      schedule: a schedule, an optimizer, or a dict of such by name, to compare.
      steps: how many steps, from 0.
      params: what an optimizer with groups or masks is for; None is one array.
      names: which hyperparameters of an optimizer, as `get_hyperparams` has them; None takes its learning rates, or
        where it tells none all that change.
      ax: matplotlib axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ImportError: there is no matplotlib.
      ValueError: an optimizer has nothing to show, or not what `names` asks for.
    """
    checks.structural(LABEL, "steps", steps, 1)
    ax = look.panels("plot_schedule", ax)
    counts = np.unique(np.linspace(0, steps - 1, MOST).astype(np.int32))
    curves = {}
    for label, one in (schedule if isinstance(schedule, Mapping) else {"": schedule}).items():
        found = _hyperparams(one, counts, params, names) if misuse.is_transform(one) else {"": _values(one, counts)}
        curves |= {" ".join(filter(None, [label, name])): values for name, values in found.items()}
    for i, (label, values) in enumerate(curves.items()):
        ax.plot(counts, values, **look.line_of(i), label=label)
    ax.set(xlabel="step", ylabel="value" if len(curves) > 1 else next(iter(curves)) or "value")
    look.legend(ax, len(curves))
    return ax


def _values(schedule: Any, counts: np.ndarray) -> np.ndarray:
    if not callable(schedule):
        raise TypeError(f"{LABEL}: {schedule!r} is neither a schedule nor an optimizer")
    return np.asarray(jax.jit(jax.vmap(lambda t: checks.scalar(LABEL, "the plot", schedule(t))))(jnp.asarray(counts)))


def _hyperparams(
    tx: Transform, counts: np.ndarray, params: Params, names: Sequence[str] | None
) -> dict[str, np.ndarray]:
    """From name to the values at the counts."""
    at = jnp.asarray(counts)
    with warnings.catch_warnings():
        if params is None:  # patterns and masks are for another tree than this one
            warnings.simplefilter("ignore")
            params = jnp.zeros(2)
        state = tx.init(params)

    def used(count: Array) -> dict[str, Any]:
        """In an update at that count: a schedule that Optax injects is known by its number in the state after it."""
        zeros = jax.tree.map(jnp.zeros_like, params)
        return get_hyperparams(tx, call_update(tx, zeros, tree.set(state, count=count), params, {})[1])

    in_the_state = not is_ours(tx) and tree.get_all_with_path(state, "hyperparams_states")
    curves = jax.jit(jax.vmap(used))(at) if in_the_state else get_hyperparams(tx, state, count=at)
    found = {k: np.asarray(x) for k, x in curves.items()}
    if names is None:
        rates = [k for k in found if k.rpartition("/")[2] == "learning_rate"]
        names = rates or [k for k, x in found.items() if (x != x[0]).any()]
    if missing := [k for k in names if k not in found]:
        raise ValueError(f"{LABEL}: no hyperparameter {missing} among {sorted(found)}")
    if not names:
        raise ValueError(f"{LABEL}: the optimizer has no learning rate, and no number of it changes")
    return {k: found[k] for k in names}


def plot_losses(runs: Any, *, window: int = 1, ax: Any = None) -> Any:
    """The losses of runs, and below them their learning rates.

    Args:
      runs: what `minimize` returned, its history, or a dict of these by name.
      window: steps to average the loss over, for runs on mini-batches.
      ax: matplotlib axes for the losses, or a pair of axes for losses and rates; None makes a figure with both.

    Returns:
      The axes as they were given; of a new figure both in an array.

    Raises:
      ImportError: there is no matplotlib.
    """
    checks.structural("gdjax.plots.plot_losses", "window", window, 1)
    named = runs if isinstance(runs, Mapping) and "loss" not in runs else {"": runs}
    histories = {name: getattr(run, "history", run) for name, run in named.items()}
    axes = look.panels("plot_losses", ax, rows=2, size=(7.0, 5.6))
    losses, rates = axes if np.ndim(axes) else (axes, None)  # type: ignore[misc]
    positive = True
    for i, (name, history) in enumerate(histories.items()):
        loss = _averaged(np.asarray(history["loss"], float), window)
        positive &= bool(np.all(loss[np.isfinite(loss)] > 0))
        losses.plot(np.arange(len(loss)) + window - 1, loss, **look.line_of(i), label=name)
        for k in [k for k in history if k.rpartition("/")[2] == "learning_rate"]:
            if rates is not None:
                rates.plot(history[k], **look.line_of(i), label=" ".join(filter(None, [name, k])))
    losses.set(ylabel="loss", yscale="log" if positive else "linear")
    look.legend(losses, len(histories))
    (losses if rates is None else rates).set_xlabel("step")
    if rates is not None:
        rates.set_ylabel("learning rate")
    return axes


def _averaged(x: np.ndarray, window: int) -> np.ndarray:
    return np.convolve(x, np.full(window, 1 / window), mode="valid") if window > 1 else x
