"""At a saddle point: which optimizers leave it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from landscape.functions import saddle
from landscape.paths import METHODS, trajectory

Runs = Mapping[str, np.ndarray]  # optimizer -> (steps + 1,) distances |y| from the stable manifold y = 0
RATE, NOISE, X, BESIDE = 0.05, 1e-3, -1.5, 1e-6
FAR = 0.5  # the distance at which the saddle point counts as left: half of the way to a minimum


def distances(steps: int, methods: Mapping[str, Callable[[Any, Any], Any]] = METHODS) -> tuple[Runs, Runs]:
    """How far each optimizer is from the stable manifold at each step, started on it and `BESIDE` it."""
    starts = jnp.array([[X, 0.0], [X, BESIDE]])

    def run(make: Callable[[Any, Any], Any]) -> np.ndarray:
        tx = make(RATE, NOISE)
        points = jax.jit(jax.vmap(lambda start: trajectory(saddle, tx, start, steps)))(starts)
        return np.abs(np.asarray(points[..., 1]))

    runs = {name: run(make) for name, make in methods.items()}
    return {name: both[0] for name, both in runs.items()}, {name: both[1] for name, both in runs.items()}


def leaves(distance: np.ndarray) -> str:
    """When a run leaves the saddle point, in words."""
    if not distance.any():
        return "never"
    return f"step {np.argmax(distance > FAR)}" if (distance > FAR).any() else f"not in {len(distance) - 1}"
