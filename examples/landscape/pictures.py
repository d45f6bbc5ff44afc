"""The pictures: the map of each landscape with the paths on it, still and moving; and the way out of a saddle."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _style import LOOKS, SHORT, look, plain
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from landscape.escape import BESIDE, Runs
from landscape.functions import LANDSCAPES, Landscape

Paths = Mapping[str, Mapping[str, np.ndarray]]  # landscape -> optimizer -> (steps + 1, 2)
GROUND = LinearSegmentedColormap.from_list("ground", ["#a9c5dc", "#dfe9f1", "#fcfdfe"])
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
    keys = [Line2D([], [], **look(method), linewidth=2.2) for method in LOOKS]
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

    The ground is drawn once and the frames share one palette, so that they differ only where something moves: half a
    megabyte in two seconds, where matplotlib's own writer makes four in half a minute.
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
    last = frame(steps).quantize(255)  # one of 256 is left for "as in the frame before"
    images = [frame(step).quantize(palette=last, dither=Image.Dither.NONE) for step in shown]
    durations = [FRAME_MS] * (len(images) - 1) + [LAST_FRAME_MS]
    images[0].save(out, save_all=True, append_images=images[1:], duration=durations, loop=0)


def leaving(out: Path, on_it: Runs, beside_it: Runs) -> None:
    """The distances from the stable manifold of a saddle in two panels, started on it and beside it."""
    steps, floor = len(on_it["sgd"]) - 1, 1e-8  # where a distance of exactly 0 is drawn
    figure = Figure(figsize=(11, 4.8))
    panels = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.07, right=0.86, bottom=0.11, top=0.86, wspace=0.08)
    titles = "Started on the stable manifold", f"Started {BESIDE:.6f} beside it"
    for ax, title, runs in zip(panels, titles, (on_it, beside_it), strict=True):
        plain(ax, title)
        for name, distance in runs.items():
            ax.plot(np.maximum(distance, floor), **look(name), linewidth=1.9)
        ax.set(yscale="log", xlim=(0, steps), ylim=(floor / 3, 4), xlabel="step")
        ax.set_yticks([floor, 1e-6, 1e-4, 1e-2, 1], ["0", "$10^{-6}$", "$10^{-4}$", "$10^{-2}$", "1"])
        ax.minorticks_off()
    stay = ", ".join(SHORT.get(name, name) for name, distance in on_it.items() if not distance.any())
    text = textwrap.fill(f"{stay}: exactly 0, for ever", 34)
    panels[0].text(0.98 * steps, 1.6 * floor, text, fontsize=9, ha="right", color="0.25", linespacing=1.3)
    panels[0].set_ylabel("distance from the stable manifold")
    panels[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.suptitle("At a saddle point, only noise leaves the stable manifold", x=0.07, ha="left", fontsize=13)
    figure.savefig(out, dpi=120)
