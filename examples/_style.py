"""How the examples begin and draw: every optimizer has its own colour and dash, the same in all pictures."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Methods that nearly coincide have near colours and different dashes: where one lies on the other, both can be seen.
DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.2))
LOOKS: Mapping[str, tuple[str, Any]] = {
    "sgd": ("#1a1a1a", "-"),
    "noisy_sgd": ("#a6761d", DOTTED),
    "perturbed_gradient_descent": ("#7a3fa8", DASHED),
    "momentum": ("#1f6fb4", "-"),
    "nesterov": ("#39b0d6", DASHED),
    "adagrad": ("#1b9e5a", "-"),
    "rmsprop": ("#93b80f", "-"),
    "adam": ("#d7191c", "-"),
    "adamw": ("#f26fb1", DASHED),
    "lion": ("#ff7f0e", "-"),
}
SHORT = {"perturbed_gradient_descent": "perturbed"}  # what fits beside a curve


COLOURS = ("#1f6fb4", "#d7191c", "#1b9e5a", "#ff7f0e", "#7a3fa8", "#1a1a1a")  # of whatever else is compared


def options(name: str, what: str, argv: list[str] | None) -> argparse.Namespace:
    """The options that every example has: `tiny` and `out`."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--tiny", action="store_true", help="a run of a few seconds, too short to judge by")
    parser.add_argument("--out", type=Path, default=Path("out") / name, help="folder for the picture")
    return parser.parse_args(argv)


def save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)
    with Image.open(file) as image:  # 100 colours suffice, in a third of the bytes
        small = image.convert("RGB").quantize(100, dither=Image.Dither.NONE)
    small.save(file, optimize=True)
    print(f"wrote {file}")


def look(name: str) -> dict[str, Any]:
    """Arguments of `plot` for the curve of an optimizer."""
    colour, dash = LOOKS[name]
    return {"color": colour, "linestyle": dash, "label": SHORT.get(name, name)}


def plain(ax: Any, title: str = "") -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_title(title, loc="left", fontsize=11)


def label_ends(ax: Any, ends: Mapping[str, tuple[float, str]], gap: float = 0.055) -> None:
    """Writes each curve's name to the right of the axes, at the height where it ends, moved apart where they collide.

    Args:
      ax: the axes, with their final limits and scale.
      ends: optimizer -> the last y, in data units, and the text.
      gap: the least distance between two texts, as a part of the height.
    """
    to_axes = ax.transData + ax.transAxes.inverted()
    names = sorted(ends, key=lambda name: ends[name][0])
    wanted = np.array([to_axes.transform((ax.get_xlim()[1], ends[name][0]))[1] for name in names])
    heights = wanted.copy()
    for _ in range(200):  # neighbours that are too close push each other apart until none is
        for i in range(len(heights) - 1):
            overlap = gap - (heights[i + 1] - heights[i])
            if overlap > 0:
                heights[i], heights[i + 1] = heights[i] - overlap / 2, heights[i + 1] + overlap / 2
    for name, y, height in zip(names, wanted, heights, strict=True):
        colour = LOOKS[name][0]
        ax.plot([1.005, 1.03], [y, height], color=colour, linewidth=0.8, transform=ax.transAxes, clip_on=False)
        ax.text(1.04, height, ends[name][1], color=colour, fontsize=9, va="center", transform=ax.transAxes)
