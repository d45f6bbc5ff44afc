"""At a saddle point: which optimizers leave it."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _style import SHORT, look, plain
from matplotlib.figure import Figure

from landscape.functions import saddle
from landscape.paths import METHODS, trajectory

Runs = Mapping[str, np.ndarray]  # optimizer -> (steps + 1,) distances |y| from the stable manifold y = 0
RATE, NOISE, X, BESIDE = 0.05, 1e-3, -1.5, 1e-6
FAR = 0.5  # the distance at which the saddle point counts as left: half of the way to a minimum
FLOOR = 1e-8  # where the picture draws a distance of exactly 0


def distances(steps: int) -> tuple[Runs, Runs]:
    """How far each optimizer is from the stable manifold at each step, started on it and `BESIDE` it."""

    def run(name: str) -> np.ndarray:
        tx = METHODS[name](RATE, NOISE)
        points = jax.jit(jax.vmap(lambda start: trajectory(saddle, tx, start, steps)))
        return np.abs(np.asarray(points(jnp.array([[X, 0.0], [X, BESIDE]]))[..., 1]))

    runs = {name: run(name) for name in METHODS}
    return {name: both[0] for name, both in runs.items()}, {name: both[1] for name, both in runs.items()}


def leaves(distance: np.ndarray) -> str:
    """When a run leaves the saddle point, in words."""
    if not distance.any():
        return "never"
    return f"step {np.argmax(distance > FAR)}" if (distance > FAR).any() else f"not in {len(distance) - 1}"


def draw(out: Path, on_it: Runs, beside_it: Runs) -> None:
    """The distances in two panels, started on the stable manifold and beside it."""
    steps = len(on_it["sgd"]) - 1
    figure = Figure(figsize=(11, 4.8))
    panels = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.07, right=0.86, bottom=0.11, top=0.86, wspace=0.08)
    titles = "Started on the stable manifold", f"Started {BESIDE:.6f} beside it"
    for ax, title, runs in zip(panels, titles, (on_it, beside_it), strict=True):
        plain(ax, title)
        for name, distance in runs.items():
            ax.plot(np.maximum(distance, FLOOR), **look(name), linewidth=1.9)
        ax.set(yscale="log", xlim=(0, steps), ylim=(FLOOR / 3, 4), xlabel="step")
        ax.set_yticks(
            [FLOOR, *(10.0**e for e in range(-6, 1, 2))], ["0", *(f"$10^{{{e}}}$" for e in range(-6, 0, 2)), "1"]
        )
        ax.minorticks_off()
    stay = [SHORT.get(name, name) for name, distance in on_it.items() if not distance.any()]
    text = textwrap.fill(", ".join(stay) + ": exactly 0, for ever", 34)
    panels[0].text(0.98 * steps, 1.6 * FLOOR, text, fontsize=9, ha="right", color="0.25", linespacing=1.3)
    panels[0].set_ylabel("distance from the stable manifold")
    panels[1].legend(
        *panels[1].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False
    )
    figure.suptitle("At a saddle point, only noise leaves the stable manifold", x=0.07, ha="left", fontsize=13)
    figure.savefig(out, dpi=120)
