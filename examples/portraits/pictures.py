"""The pictures of the gallery, small files all, and the page that shows them."""

import inspect
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from plot_schedules import STYLES

import gdjax
from gdjax.plots.landscape import draw_map, draw_path
from gdjax.plots.look import COLOURS, LOOK
from portraits.methods import PLACES

COLOURS_OF_A_FILE = 48
SMALL, LARGE = 13, 14  # of the texts: a phone shows a picture at two thirds of its size
LINES = ["black", COLOURS[1], *(str(style["color"]) for style in STYLES)]
HEAD = """# Gallery

Every optimizer on two landscapes, Rosenbrock's curved valley and Beale's flat one: {steps} steps from the square. The
star is the minimum. The rate is constant, the one of {rates} that gets low soonest and stays there.
Two numbers without noise show how a method moves, and little of how it trains a network. Below are the
[schedules](#schedules), and [solutions](#solve).

`python examples/gallery.py` draws the pictures and writes this page. `gdjax.plots` draws your own
([train_and_sweep.md](train_and_sweep.md)).
"""


def save(figure: Any, file: Path) -> None:
    """Saves in few colours: a fifth of the bytes, and the same bytes every time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    image = Image.open(buffer).convert("RGB")
    # A thin line has too few pixels for a colour of its own: the colours are chosen with a block of each line's added.
    sample = image.copy()
    for i, colour in enumerate(LINES):
        sample.paste(colour, (60 * i, 0, 60 * i + 50, 50))
    palette = sample.quantize(COLOURS_OF_A_FILE, dither=Image.Dither.NONE)
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(file, optimize=True)


def portrait(file: Path, name: str, runs: Mapping[str, tuple[float | None, np.ndarray]]) -> None:
    """The trajectory of an optimizer on each landscape, side by side."""
    with plt.rc_context(LOOK):
        figure, panels = plt.subplots(1, len(runs), figsize=(5.0, 2.9), layout="constrained")
    for ax, (where, (rate, points)) in zip(panels, runs.items(), strict=True):
        place = PLACES[where]

        def f(p: Any, place: Any = place) -> Any:
            return place.f(*p)

        draw_map(ax, f, (2,), place.window, np.array(place.minima))
        draw_path(ax, points, name, {"color": COLOURS[1], "linestyle": "-", "linewidth": 1.6})
        ax.plot(*points[0], "s", color="white", markeredgecolor="black", markersize=7, zorder=6)
        ax.set(xticks=[], yticks=[])
        ax.set_title(where if rate is None else f"{where}, rate {rate:g}", fontsize=SMALL)
    figure.suptitle(name, x=0.02, ha="left", fontsize=LARGE, fontweight="bold", family="monospace")
    save(figure, file)


def curve(file: Path, name: str, schedules: Mapping[str, Any], steps: int) -> None:
    """A schedule with its arguments: one line for each variant."""
    with plt.rc_context({**LOOK, "font.size": SMALL}):
        figure, ax = plt.subplots(figsize=(5.0, 2.9), layout="constrained")
    for (label, schedule), style in zip(schedules.items(), STYLES, strict=False):
        gdjax.plot_schedule(schedule, steps + 1, ax=ax)
        ax.get_lines()[-1].set(label=label, **style)
    ax.set(xlim=(0, steps), ylim=(-0.03, 1.5), xlabel="", ylabel="")
    ax.legend(fontsize=SMALL, frameon=False, loc="upper right", borderaxespad=0)
    figure.suptitle(name, x=0.02, ha="left", fontsize=LARGE, fontweight="bold", family="monospace")
    save(figure, file)


SOLVE = """## Solve

The path of the lasso, and a ridge and a support vector machine tuned by the derivative of a validation loss through
[`solve`](solve.md). `python examples/solve.py` draws them.

![The path of the lasso, and two machines tuned by gradients](images/examples/solve.png)
"""


def page(optimizers: list[str], schedules: list[str], steps: int, rates: str) -> str:
    """The text of `gallery.md`."""
    parts = [HEAD.format(steps=steps, rates=rates), "## Optimizers\n", _table(optimizers, 2)]
    return "\n".join([*parts, "\n## Schedules\n", _table(schedules, 2), "\n" + SOLVE])


def _table(names: list[str], columns: int) -> str:
    rows = [names[i : i + columns] for i in range(0, len(names), columns)]
    lines = ["|" + " |" * columns, "|" + " --- |" * columns]
    for row in rows:
        cells = [f"![{name}](gallery/{name}.png)<br>{_summary(name)}" for name in row]
        lines.append("| " + " | ".join(cells + [""] * (columns - len(row))) + " |")
    return "\n".join(lines)


def _summary(name: str) -> str:
    """The first sentence of the docstring."""
    doc = inspect.getdoc(getattr(gdjax, name)) or ""
    return " ".join(doc.partition("\n\n")[0].split()).partition(". ")[0].removesuffix(".").replace("|", "\\|") + "."
