"""Pictures of what carries over to other sizes: best rates, and how far leaves move."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gdjax.plots import look

__all__ = ["plot_factors", "plot_movements", "plot_transfer"]


def plot_movements(check: Any, *, ax: Any = None) -> Any:
    """How far each leaf moved, over that at the smallest width, against the width: level where it transfers.

    The names of the lines have the exponents.

    Args:
      check: what `gdjax.check_transfer` returned; the movement is that after the most steps.
      ax: matplotlib axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ImportError: there is no matplotlib.
    """
    ax = look.panels("plot_movements", ax)
    drawn = 0
    for row in check.table:
        each = np.asarray(check.movements[row["leaf"]])[-1]
        if (each > 0).all():
            y = np.exp(np.log(each / each[0]).mean(axis=1))
            label = f"{row['leaf']}  {row[f'after {check.steps[-1]}']:+.2f}"
            fails = not row["verdict"].startswith("holds")
            ax.plot(check.widths, y, **look.line_of(drawn), marker="o", markersize=7 if fails else 4, label=label)
            drawn += 1
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(check.widths, [f"{n:,}" for n in check.widths])
    ax.set(xlabel="width", ylabel=f"movement after {check.steps[-1]} steps, over that at {check.widths[0]}")
    look.legend(ax, drawn)
    return ax


def plot_transfer(results: Any, *, ax: Any = None) -> Any:
    """The score of each rate, a line for each size: where the rate carries over, the minima stand above each other.

    A dot marks the best rate of a size, a dashed line that of the smallest. What diverged is left out.

    Args:
      results: what `gdjax.sweep` returned for several `sizes`, or a dict of such by name, a panel each.
      ax: matplotlib axes, for several results an array of them; None makes a figure.

    Returns:
      The axes as they were given; of a new figure those of one result, or an array of them.

    Raises:
      ImportError: there is no matplotlib.
      ValueError: there is no result, or there are more axes or fewer than results.
    """
    named = results if isinstance(results, Mapping) else {"": results}
    if not named:
        raise ValueError("gdjax.plots.plot_transfer: results has no result")
    axes = look.panels("plot_transfer", ax, size=(2.0 + 4.2 * len(named), 4.4), columns=len(named))
    each = np.ravel(np.asarray(axes, object))
    if len(each) != len(named):
        raise ValueError(f"gdjax.plots.plot_transfer: {len(each)} axes for {len(named)} results")
    for panel, (name, result) in zip(each, named.items(), strict=True):
        for i, (size, best) in enumerate(result.best.items()):
            style, scores = look.line_of(i), result.scores[size]
            shown = np.isfinite(scores)
            panel.plot(result.rates[shown], scores[shown], **style, marker="o", markersize=3, label=f"{size:,}")
            panel.plot(best.rate, best.score, "o", color=style["color"], markersize=9, zorder=5)
        base = next(iter(result.best.values())).rate
        panel.axvline(base, color="#222222", linestyle="--", linewidth=1.2, zorder=1)
        panel.set_xscale("log", base=2)
        drift = f"{result.drift:+.2f} octaves a doubling"
        panel.set(xlabel=result.name, title=f"{name}\n{drift}" if name else drift)
    each[0].set_ylabel("evaluation" if next(iter(named.values())).evaluated else "loss, mean of the last tenth")
    lowest = [best.score for result in named.values() for best in result.best.values()]
    scores = np.concatenate([x for result in named.values() for x in result.scores.values()])
    if look.spread(scores[np.isfinite(scores)]):
        each[0].set_yscale("log")
    else:  # the rates at which all sizes are bad would press the minima flat
        height = 2 * (max(lowest) - min(lowest)) + 0.1 * abs(max(lowest))
        each[0].set_ylim(min(lowest) - height / 8, min(max(scores[np.isfinite(scores)]), max(lowest) + height))
    look.legend(each[-1], len(next(iter(named.values())).best))
    return axes


def plot_factors(table: Any, *, ax: Any = None) -> Any:
    """The factors that the numbers of each leaf get when a model grows, each a dot in its line.

    Args:
      table: what `gdjax.transfer_table` returned.
      ax: matplotlib axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ImportError: there is no matplotlib.
    """
    rows = list(table)
    ax = look.panels("plot_factors", ax, size=(7.0, 1.4 + 0.28 * len(rows)))
    kinds = {"rate": "o", "decay": "s", "eps": "^", "start": "D"}
    for i, (kind, marker) in enumerate(kinds.items()):
        shift = 0.15 * (i - 1.5)  # so that equal factors can be told apart
        places = [k + shift for k in range(len(rows))]
        values = [getattr(row, kind) for row in rows]
        ax.plot(values, places, marker, color=look.line_of(i)["color"], markersize=5, label=kind)
    ax.axvline(1.0, color="#222222", linestyle="--", linewidth=1.2, zorder=1)
    ax.set_yticks(range(len(rows)), [row.path for row in rows])
    ax.set_xscale("log", base=2)
    ax.set(xlabel="factor, now over the base", ylim=(len(rows) - 0.5, -0.5))
    ax.legend(frameon=False, ncols=len(kinds), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax
