"""Four functions of two variables that are known for being hard to descend."""

from collections.abc import Callable
from typing import NamedTuple

import jax

Array = jax.Array


class Landscape(NamedTuple):
    """A function and how it is shown."""

    f: Callable[[Array, Array], Array]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    lowest: float  # f at the minima
    window: tuple[float, float, float, float]  # left, right, bottom, top
    noise: float  # variance of noisy_sgd's first noise: enough to be seen beside the gradients here
    about: str


def rosenbrock(x: Array, y: Array) -> Array:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def beale(x: Array, y: Array) -> Array:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def himmelblau(x: Array, y: Array) -> Array:
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def saddle(x: Array, y: Array) -> Array:
    """A saddle point at (0, 0) between two minima. From y = 0, its stable manifold, descent leads to the saddle."""
    return x**2 / 2 - y**2 / 2 + y**4 / 4


LANDSCAPES = {
    "Rosenbrock": Landscape(
        rosenbrock, (-1.2, 1.6), ((1.0, 1.0),), 0.0, (-1.9, 1.9, -0.7, 2.3), 1e3, "a curved valley with steep walls"
    ),
    "Beale": Landscape(
        beale, (-1.5, 2.2), ((3.0, 0.5),), 0.0, (-3.2, 4.2, -2.4, 3.0), 1e2, "steep corners and a flat valley"
    ),
    "Himmelblau": Landscape(
        himmelblau,
        (-0.25, -1.0),
        ((3.0, 2.0), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127)),
        0.0,
        (-5.2, 5.2, -5.0, 5.0),
        1e3,
        "four equal minima around a hill",
    ),
    "Saddle": Landscape(
        saddle,
        (-1.6, 0.001),
        ((0.0, 1.0), (0.0, -1.0)),
        -0.25,
        (-1.9, 1.1, -1.45, 1.45),
        0.1,
        "a start 0.001 above the ridge",
    ),
}
