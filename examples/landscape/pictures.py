"""The map of each landscape, with the paths on it: still and moving."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _style import LOOKS, look
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from landscape.functions import LANDSCAPES, Landscape

Paths = Mapping[str, Mapping[str, np.ndarray]]  # landscape -> optimizer -> (steps + 1, 2)
GROUND = LinearSegmentedColormap.from_list("ground", ["#a9c5dc", "#dfe9f1", "#fdfdfb"])
SHADES = 14  # between the lowest and the highest point of a map
START = {"marker": "s", "color": "white", "markeredgecolor": "black", "markersize": 7, "linestyle": "none"}
MINIMUM = START | {"marker": "*", "markersize": 13}
FRAME_MS, LAST_FRAME_MS = 60, 2500


def draw_map(ax: Any, name: str, place: Landscape) -> None:
    """Contours at equal distances in the logarithm of the height, the start and the minima."""
    left, right, bottom, top = place.window
    x, y = np.meshgrid(np.linspace(left, right, 300), np.linspace(bottom, top, 300))
    height = np.log10(np.asarray(place.f(x, y)) - place.lowest + 1e-3)  # type: ignore[arg-type]
    levels = np.linspace(height.min(), height.max(), SHADES)
    ax.contourf(x, y, height, levels, cmap=GROUND)
    ax.contour(x, y, height, levels, colors="#8fa9bf", linewidths=0.5, linestyles="solid")
    ax.plot(*np.transpose(place.minima), **MINIMUM, zorder=3)
    ax.plot(*place.start, **START, zorder=6)
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    ax.set_title(name, loc="left", fontsize=13, fontweight="bold")
    ax.set_title(place.about, loc="right", fontsize=10, color="0.35")


def draw_maps(paths: Paths) -> tuple[Figure, dict[tuple[str, str], tuple[Line2D, Line2D]]]:
    """The four maps, and for each path its line and the dot at its end."""
    figure = Figure(figsize=(10, 10.4))
    panels = figure.subplots(2, 2)
    figure.subplots_adjust(left=0.015, right=0.985, bottom=0.075, top=0.93, wspace=0.04, hspace=0.1)
    lines = {}
    for ax, (name, place) in zip(panels.flat, LANDSCAPES.items(), strict=True):
        draw_map(ax, name, place)
        for method, points in paths[name].items():
            (line,) = ax.plot(*points.T, **look(method), linewidth=1.7, zorder=4)
            (dot,) = ax.plot(*points[-1], "o", color=LOOKS[method][0], markeredgecolor="white", markersize=7, zorder=5)
            lines[name, method] = line, dot
    # Two rows, filled column by column, so that methods that nearly coincide stand under each other.
    keys = [Line2D([], [], **look(method), linewidth=2.2) for method in ("sgd", "noisy_sgd", *list(LOOKS)[2:])]
    keys += [Line2D([], [], **START, label="start"), Line2D([], [], **MINIMUM, label="minimum")]
    figure.legend(handles=keys, loc="lower center", ncols=6, frameon=False, fontsize=11, handlelength=2.6)
    return figure, lines


def steps_of(paths: Paths) -> int:
    return min(len(points) for by_method in paths.values() for points in by_method.values()) - 1


def still(out: Path, paths: Paths) -> None:
    figure, _ = draw_maps(paths)
    figure.suptitle(f"{steps_of(paths)} steps, each optimizer at its best learning rate", fontsize=14)
    figure.savefig(out, dpi=110)


def moving(out: Path, paths: Paths, frames: int, dpi: int = 80) -> None:
    """The same as an animation: slow at first, when most of the way is made.

    The ground is drawn once and the frames share one palette, so that they differ only where something moves; that
    makes the file a third of what matplotlib's own writer makes, in a tenth of the time.
    """
    figure, lines = draw_maps(paths)
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    title = figure.suptitle("", fontsize=14)
    moved = [artist for pair in lines.values() for artist in pair]
    for artist in moved:
        artist.set_visible(False)
    canvas.draw()
    ground = canvas.copy_from_bbox(figure.bbox)
    for artist in moved:
        artist.set_visible(True)

    def frame(step: int) -> Image.Image:
        canvas.restore_region(ground)  # type: ignore[attr-defined]
        for (name, method), (line, dot) in lines.items():
            points = paths[name][method]
            line.set_data(*points[: step + 1].T)
            dot.set_data(*points[step : step + 1].T)
        title.set_text(f"step {step}")
        for artist in (*moved, title):
            figure.draw_artist(artist)
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    steps = steps_of(paths)
    shown = np.unique(np.geomspace(1, steps + 1, frames).astype(int)) - 1
    last = frame(steps).quantize(256, Image.Quantize.MAXCOVERAGE)
    images = [frame(step).quantize(palette=last, dither=Image.Dither.NONE) for step in shown]
    durations = [FRAME_MS] * (len(images) - 1) + [LAST_FRAME_MS]
    images[0].save(out, save_all=True, append_images=images[1:], duration=durations, loop=0)
