"""Bars and grids: plans, runs beside each other."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gdjax.core.types import ArrayTree, Params
from gdjax.plots import look

__all__ = ["plot_plan", "plot_state_bytes", "plot_sweep"]


def plot_sweep(result: Any, *, ax: Any = None) -> Any:
    """The score of each point of a sweep against the hyperparameter with the most values.

    The combinations of the others have a line each. A ring marks the best point, a cross at the top one that diverged:
    its score is not finite, or its loss ended above ten times the first.

    Args:
      result: what `gdjax.sweep` returned.
      ax: matplotlib axes to draw on; None makes a figure.

    Returns:
      The axes.
    """
    ax = look.panels("plot_sweep", ax)
    points, scores = result.points, np.asarray(result.scores, float)
    values = {name: np.array([float(p[name]) for p in points]) for name in points[0]}
    across = max(values, key=lambda name: len(np.unique(values[name])))
    others = [name for name in values if name != across and len(np.unique(values[name])) > 1]
    first = np.asarray(result.history["loss"][:, 0], float)
    finite = np.isfinite(scores) & (result.evaluated | ~(scores > 10 * np.abs(first)))
    lines = sorted({tuple(values[name][k] for name in others) for k in range(len(points))})
    for i, line in enumerate(lines):
        chosen = [k for k in range(len(points)) if tuple(values[name][k] for name in others) == line]
        chosen = np.array(sorted(chosen, key=lambda k: values[across][k]))
        x, y, kept = values[across][chosen], scores[chosen], finite[chosen]
        label = ", ".join(f"{name}={v:.4g}" for name, v in zip(others, line, strict=True))
        style = look.line_of(i)
        ax.plot(x, np.where(kept, y, np.nan), **style, marker="o", markersize=5, label=label)
        ax.plot(x[~kept], np.full((~kept).sum(), 0.96), "x", color=style["color"], transform=ax.get_xaxis_transform())
    if finite.any():
        k = result.best.index  # the lowest score is among those drawn
        ax.plot(values[across][k], scores[k], "o", markersize=13, fillstyle="none", color="#222222", zorder=5)
    if look.spread(values[across]):
        ax.set_xscale("log")
    if look.spread(scores[finite]):
        ax.set_yscale("log")
    ax.set(xlabel=across, ylabel="evaluation" if result.evaluated else "loss, mean of the last tenth")
    look.legend(ax, len(lines))
    return ax


UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "bytes": 1}


def plot_state_bytes(txs: Mapping[str, Any], params: Params, *, ax: Any = None) -> Any:
    """The memory of the state of each optimizer for these parameters, as bars. Nothing is allocated.

    Args:
      txs: optimizers by name.
      params: a pytree of arrays, or of `jax.ShapeDtypeStruct`.
      ax: matplotlib axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ImportError: there is no matplotlib.
    """
    ax = look.panels("plot_state_bytes", ax, size=(7.0, 1.4 + 0.42 * len(txs)))
    sizes = {name: _bytes(jax.eval_shape(tx.init, params)) for name, tx in txs.items()}
    of_params = _bytes(params)
    most = max(of_params, *sizes.values())
    unit = next(unit for unit, n in UNITS.items() if most >= n or n == 1)
    bars = ax.barh(list(sizes), [n / UNITS[unit] for n in sizes.values()], color=look.COLOURS[0], height=0.65)
    ax.bar_label(bars, [f"{n / max(of_params, 1):.2g} x" for n in sizes.values()], padding=4, fontsize=10)
    ax.axvline(of_params / UNITS[unit], color="#222222", linestyle="--", linewidth=1.2, label="the parameters")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    what = f"state, {unit}; beside the bars as a multiple of the parameters"
    ax.set(xlabel=what, xlim=(0, 1.12 * most / UNITS[unit]))
    ax.legend(frameon=False, fontsize=10, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return ax


def _bytes(tree: ArrayTree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


PARTS = "parameters", "gradients", "state", "temporaries", "activations"
NARROW = 0.8  # of the distance between two places: the width of the bars of one


def plot_plan(plans: Mapping[str, Any], *, ax: Any = None) -> Any:
    """The memory that a step takes on a device, a stacked bar for each plan, and a line where the memory ends.

        plans = {name: [gdjax.plan(tx, params, {"data": n}, memory=16e9) for n in (8, 64)] for name, tx in txs.items()}
        gdjax.plots.plot_plan(plans)

    Args:
      plans: by name what `gdjax.plan` returned, or a list of such plans, of one number of devices after the other: they
        stand together, by the numbers of devices.
      ax: matplotlib axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ImportError: there is no matplotlib.
      ValueError: there is no plan.
    """
    # A plan is a tuple, too.
    listed = {name: [x] if hasattr(x, "bytes_per_device") else list(x) for name, x in plans.items()}
    if not any(listed.values()):
        raise ValueError("gdjax.plots.plot_plan: plans has no plan")
    ax = look.panels("plot_plan", ax, size=(max(7.0, 0.5 * sum(map(len, listed.values())) + 2), 4.4))
    places = sorted({plan.devices for row in listed.values() for plan in row})
    most = max(plan.bytes_per_device for row in listed.values() for plan in row)
    unit = next(unit for unit, n in UNITS.items() if most >= n or n == 1)
    width = NARROW / len(listed)
    for i, (name, row) in enumerate(listed.items()):
        x = np.array([places.index(plan.devices) for plan in row]) + (i - (len(listed) - 1) / 2) * width
        bottom = np.zeros(len(row))
        for colour, part in zip(look.COLOURS, PARTS, strict=False):
            heights = np.array([plan.part(part) for plan in row]) / UNITS[unit]
            if heights.any():
                label = part if part not in ax.get_legend_handles_labels()[1] else None
                ax.bar(x, heights, 0.9 * width, bottom=bottom, color=colour, label=label)
                bottom += heights
        for at, top in zip(x, bottom, strict=True):
            behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # the line of the memory
            ax.text(at, top, f" {name}", rotation=90, ha="center", va="bottom", fontsize=8, bbox=behind)
    capacities = {plan.capacity for row in listed.values() for plan in row} - {None}
    for k, capacity in enumerate(sorted(capacities)):
        label = "memory of a device" if k == 0 else None
        ax.axhline(capacity / UNITS[unit], color="#222222", linestyle="--", linewidth=1.2, label=label)
    ax.set_xticks(range(len(places)), [f"{n:,}" for n in places])
    ax.set(xlabel="devices", ylabel=f"on each device, {unit}", ylim=(0, 1.3 * most / UNITS[unit]))
    ax.grid(axis="x", visible=False)
    look.legend(ax, len(PARTS))
    return ax
