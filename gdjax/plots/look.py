"""How the plots look, and the one place where matplotlib is imported."""

from typing import Any

import numpy as np

# Okabe and Ito's colours, which the colour-blind tell apart, without their yellow, too pale for a line on white; black
# comes last.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
DASHES = ["-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5))]
LOOK = {
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "text.color": "#222222",
    "axes.labelcolor": "#222222", "axes.edgecolor": "#555555", "xtick.color": "#444444", "ytick.color": "#444444",
    "font.size": 12, "axes.titlesize": 13, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e6e6",
    "legend.frameon": False, "lines.linewidth": 1.9, "savefig.dpi": 150,
}  # fmt: skip


def pyplot(name: str) -> Any:
    """`matplotlib.pyplot`, or an error that says how to get it.

    Args:
      name: the function that draws, for the message.
    """
    try:
        import matplotlib.pyplot
    except ImportError as e:
        raise ImportError(f"gdjax.plots.{name} draws with matplotlib: pip install gdjax[plot]") from e
    return matplotlib.pyplot


def panels(
    name: str, ax: Any, rows: int = 1, size: tuple[float, float] = (7.0, 4.4), first: float = 3, columns: int = 1
) -> Any:
    """The axes to draw on, those given or new ones: one, or with several rows or columns an array of them.

    All share x, those of a row y. The first row is `first` times as high as any other.
    """
    plt = pyplot(name)
    if ax is not None:
        return ax
    with plt.rc_context(LOOK):
        ratios = {"height_ratios": [first, *[1] * (rows - 1)]}
        return plt.subplots(
            rows, columns, sharex=True, sharey="row", figsize=size, layout="constrained", gridspec_kw=ratios
        )[1]


def line_of(i: int) -> dict[str, Any]:
    """The colour and dash of the i-th line: every colour with one dash, then all again with the next."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}


def spread(values: np.ndarray) -> bool:
    """Whether numbers are to be shown on a logarithmic axis: all above 0, and not much alike."""
    return bool(values.size and values.min() > 0 and values.max() > 10 * values.min())


def legend(ax: Any, entries: int) -> None:
    """A legend inside the axes; beside them where it has many entries."""
    if entries > 8:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)
    elif entries > 1:
        ax.legend(frameon=False, fontsize=10)
