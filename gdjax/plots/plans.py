"""Bars of plans: what a step takes on a device, part by part, as the devices become more."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gdjax.plots import look
from gdjax.plots.bars import UNITS

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
