"""Curves of the norms that `with_metrics` keeps."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gdjax.plots import look

__all__ = ["plot_metrics"]

LABEL = "gdjax.plots.plot_metrics"
KINDS = {"grad_norm": "gradients", "update_norm": "updates", "param_norm": "parameters"}
# The marks of single steps, and where between the bottom and the top of the picture they stand.
MARKS = {"clip_fraction": ("clipped", "|", 0.04), "skipped": ("skipped", "x", 0.96)}


def plot_metrics(history: Any, *, ax: Any = None) -> Any:
    """The norms of gradients, updates and parameters at each step, those of groups too, as `with_metrics` keeps them.

    Bars at the bottom mark the steps in which the clip acted, crosses at the top those that were skipped. A norm that
    is not finite is a gap, and so is that of a skipped update.

    Args:
      history: the metrics of all steps: a dict from name to an array (steps,), as `jax.lax.scan` stacks what
        `metrics(state)` returns; a list of such dicts of numbers, one for each step; or what `minimize` returned.
      ax: matplotlib axes for all norms, or an array of axes, one for each kind; None makes a figure with these.

    Returns:
      The axes as they were given; of a new figure an array of them, in the order gradients, updates, parameters.

    Raises:
      ImportError: there is no matplotlib.
      ValueError: there is no norm, or there are more axes or fewer than kinds of norms.
    """
    columns = _columns(getattr(history, "history", history))
    names = sorted(columns, key=lambda name: "/" in name)  # that of all leaves first, as JAX sorts the keys of a dict
    found = {kind: {k: columns[k] for k in names if k.rpartition("/")[2] == kind} for kind in KINDS}
    found = {kind: named for kind, named in found.items() if named}
    if not found:
        raise ValueError(f"{LABEL}: no norm among {sorted(columns)}; make the optimizer with gdjax.with_metrics(tx)")
    axes = look.panels("plot_metrics", ax, rows=len(found), size=(7.0, 1.2 + 1.8 * len(found)), first=1)
    each = np.ravel(np.asarray(axes, object))
    if len(each) not in (1, len(found)):
        raise ValueError(f"{LABEL}: {len(each)} axes for the norms of {len(found)} kinds: {', '.join(found)}")
    together = len(each) < len(found)
    for i, (kind, named) in enumerate(found.items()):
        panel = each[0 if together else i]
        for name, values in named.items():
            group, style = name.rpartition("/")[0], look.line_of(len(panel.get_lines()))
            label = f"{group} {KINDS[kind]}".lstrip() if together else group or "all"
            gap = ~np.isfinite(values) | (kind == "update_norm") & (columns.get("skipped", np.zeros(1)) > 0)
            panel.plot(np.where(gap, np.nan, values), **style, label=label)
        panel.set_ylabel("norm" if together else f"norm of {KINDS[kind]}")
    for panel in each:
        values = np.concatenate([line.get_ydata() for line in panel.get_lines()])
        if look.spread(values[np.isfinite(values)]):
            panel.set_yscale("log")
    _mark(each[0], columns)
    each[-1].set_xlabel("step")
    for i, panel in enumerate(each):
        handles, labels = panel.get_legend_handles_labels()
        if len(labels) > 1 and (i == 0 or not set(labels) <= set(each[0].get_legend_handles_labels()[1])):
            above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 4, "borderaxespad": 0}
            panel.legend(handles, labels, frameon=False, fontsize=10, **above)
    return axes if ax is not None else each


def _columns(history: Any) -> dict[str, np.ndarray]:
    """From name to the values at the steps."""
    if not isinstance(history, Mapping):
        names = dict.fromkeys(name for row in history for name in row)
        history = {name: [row.get(name, np.nan) for row in history] for name in names}
    return {name: np.asarray(x, float).ravel() for name, x in history.items()}


def _mark(panel: Any, columns: dict[str, np.ndarray]) -> None:
    for name, (label, marker, height) in MARKS.items():
        steps = np.flatnonzero(columns.get(name, np.zeros(0)) > 0)
        if steps.size:
            style = {"color": look.COLOURS[-1], "linestyle": "", "marker": marker, "markersize": 6, "label": label}
            panel.plot(steps, np.full(steps.size, height), transform=panel.get_xaxis_transform(), **style)
