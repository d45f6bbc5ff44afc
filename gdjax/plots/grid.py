"""A picture of a sweep."""

from typing import Any

import numpy as np

from gdjax.plots import look


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
