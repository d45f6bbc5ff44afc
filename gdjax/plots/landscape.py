"""Trajectories on a function of two numbers."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import checks
from gdjax.core.types import Array, ArrayLike, OptState, Params, Transform
from gdjax.plots import look
from gdjax.training.step import Inputs, gradient, updated

__all__ = ["plot_trajectory"]

Function = Callable[[Any], Any]  # from an array of two numbers to a real scalar
Window = tuple[float, float, float, float]  # left, right, bottom, top
SHADES = ["#b4cfe3", "#e2ecf4", "#fcfdfe"]  # of low to high ground
LEVELS = 13


def trajectory(tx: Transform, function: Function, start: ArrayLike, steps: int) -> jax.Array:
    """The points that `tx` visits, (steps + 1, 2), the start first; the arguments are `plot_trajectory`'s."""

    def step(carry: tuple[Params, OptState], i: Array) -> Any:
        p, state = carry
        p, state = updated(tx, gradient(lambda p: (function(p), None), p, Inputs((), i, None)), p, state)
        return (p, state), p

    start = jnp.asarray(start, dtype=jnp.result_type(float))
    _, points = jax.lax.scan(step, (start, tx.init(start)), jnp.arange(steps))
    return jnp.concatenate([start[None], points]).reshape(-1, 2)


def plot_trajectory(
    tx: Transform, function: Function, start: ArrayLike, *, steps: int = 200, window: Window | None = None,
    minima: Iterable[tuple[float, float]] = (), ax: Any = None,
) -> Any:  # fmt: skip
    """Where optimizers go on a function of two numbers, over its contours.

    Args:
      tx: an optimizer, or a dict of optimizers by name.
      function: from an array like `start` to a real scalar.
      start: an array of two numbers, in whatever shape, such as (2, 1) for the methods of matrices.
      steps: updates to make.
      window: left, right, bottom and top of the map; None is around the trajectories.
      minima: points to mark with a star.
      ax: matplotlib axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ImportError: there is no matplotlib.
      ValueError: `start` has not two numbers.
    """
    label = "gdjax.plots.plot_trajectory"
    checks.structural(label, "steps", steps, 1)
    start = np.asarray(start, float)
    if start.size != 2:
        raise ValueError(f"{label}: start must have two numbers, got shape {start.shape}")
    named = tx if isinstance(tx, Mapping) else {"": tx}
    ax = look.panels("plot_trajectory", ax, size=(6.4, 5.4))
    runs = {
        n: np.asarray(jax.jit(lambda s, one=one: trajectory(one, function, s, steps))(start))
        for n, one in named.items()
    }
    minima = np.asarray(list(minima), float).reshape(-1, 2)
    draw_map(ax, function, start.shape, window or _around([*runs.values(), minima]), minima)
    for i, (name, points) in enumerate(runs.items()):
        draw_path(ax, points, name, look.line_of(i))
    ax.plot(*runs[next(iter(runs))][0], "s", color="white", markeredgecolor="black", markersize=7, zorder=6)
    look.legend(ax, len(runs))
    return ax


def draw_map(
    ax: Any, function: Callable[[Any], Any], shape: tuple[int, ...], window: Window, minima: np.ndarray
) -> None:
    """Contours at equal distances in the logarithm of the height above the lowest point, and the minima."""
    left, right, bottom, top = window
    x, y = np.meshgrid(np.linspace(left, right, 160), np.linspace(bottom, top, 160))
    points = jnp.asarray(np.stack([x, y], -1).reshape(-1, *shape), dtype=jnp.result_type(float))
    z = np.asarray(jax.jit(jax.vmap(function))(points), float).reshape(x.shape)
    z = np.where(np.isfinite(z), z, np.nanmax(z, where=np.isfinite(z), initial=-1e30))
    lowest = z.min()
    height = np.log10(z - lowest + 1e-4 * max(np.quantile(z, 0.9) - lowest, 1e-30))
    levels = np.linspace(height.min(), height.max(), LEVELS)
    if levels[-1] > levels[0]:  # a plane has no contours
        colours = look.pyplot("plot_trajectory").matplotlib.colors.LinearSegmentedColormap.from_list("ground", SHADES)
        ax.contourf(x, y, height, levels, cmap=colours)
        ax.contour(x, y, height, levels, colors="#9db4c7", linewidths=0.5, linestyles="solid")
    ax.plot(*minima.T, "*", color="white", markeredgecolor="black", markersize=13, zorder=4)
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.grid(visible=False)


def draw_path(ax: Any, points: np.ndarray, name: str, style: dict[str, Any]) -> None:
    """A trajectory with a dot at its end."""
    ax.plot(*points.T, **style, label=name, zorder=5)
    ax.plot(*points[-1], "o", color=style["color"], markeredgecolor="white", markersize=7, zorder=5)


def _around(points: list[np.ndarray]) -> Window:
    """The window with all points that are finite, and a margin."""
    every = np.concatenate(points)
    every = every[np.isfinite(every).all(axis=1)]
    low, high = every.min(axis=0), every.max(axis=0)
    margin = 0.15 * np.maximum(high - low, 0.3 * max(float((high - low).max()), 1e-3))
    (left, bottom), (right, top) = low - margin, high + margin
    return float(left), float(right), float(bottom), float(top)
