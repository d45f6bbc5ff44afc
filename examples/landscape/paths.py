"""Where each optimizer goes: whole runs inside `lax.scan`, on all landscapes and at many rates at once by `vmap`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from landscape.functions import LANDSCAPES

Array = jax.Array
RATES = [m * 10.0**e for e in range(-5, 0) for m in (1, 2, 5)]
DECAY = 0.1  # the rate at the end of a run, as a part of that at its start

# The optimizers as functions of the rate, a schedule, and of the variance of the noise.
METHODS: Mapping[str, Callable[[Any, Any], Any]] = {
    "sgd": lambda rate, noise: gdjax.sgd(rate),
    "noisy_sgd": lambda rate, noise: gdjax.noisy_sgd(rate, eta=noise, key=5),
    "perturbed_gradient_descent": lambda rate, noise: gdjax.perturbed_gradient_descent(rate, 0.05, 0.01, key=0),
    "momentum": lambda rate, noise: gdjax.sgd(rate, momentum=0.9),
    "nesterov": lambda rate, noise: gdjax.sgd(rate, momentum=0.9, nesterov=True),
    "adagrad": lambda rate, noise: gdjax.adagrad(rate),
    "rmsprop": lambda rate, noise: gdjax.rmsprop(rate),
    "adam": lambda rate, noise: gdjax.adam(rate),
    "adamw": lambda rate, noise: gdjax.adamw(rate, weight_decay=1e-3),
    "lion": lambda rate, noise: gdjax.lion(rate, weight_decay=1e-3),
}


def trajectory(f: Callable[[Array, Array], Array], tx: Any, start: Array, steps: int) -> Array:
    """The points that `tx` visits: (steps + 1, 2), the start first."""

    def step(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], Array]:
        x, state = carry
        updates, state = tx.update(jax.grad(lambda x: f(x[0], x[1]))(x), state, x)
        x = gdjax.apply_updates(x, updates)
        return (x, state), x

    _, points = jax.lax.scan(step, (start, tx.init(start)), length=steps)
    return jnp.concatenate([start[None], points])


def best_runs(method: Callable[[Any, Any], Any], steps: int) -> dict[str, tuple[float, np.ndarray]]:
    """Landscape -> the rate, at first, of the run that goes lowest soonest, and its points, (steps + 1, 2).

    The measure is the mean over the run of the logarithm of the height above the minima, so that an early descent
    counts, and so does a close approach; a run that leaves the window has failed.
    """
    places = LANDSCAPES.values()
    start, lowest, window, noise = (
        jnp.array([getattr(place, name) for place in places], jnp.float32)
        for name in ("start", "lowest", "window", "noise")
    )

    def run(i: Array, rate: Array) -> tuple[Array, Array]:
        # The rate and the noise are traced: any hyperparameter may be, so one compilation serves all runs of a method.
        def f(x: Array, y: Array) -> Array:
            return jax.lax.switch(i, [place.f for place in places], x, y)

        decaying = gdjax.exponential_decay(rate, steps, DECAY)
        points = trajectory(f, method(decaying, noise[i]), start[i], steps)
        x, y = points.T
        height = jax.vmap(f)(x, y) - lowest[i]
        left, right, bottom, top = window[i]
        inside = jnp.all((x > left) & (x < right) & (y > bottom) & (y < top))  # False where a number is not finite
        return points, jnp.where(inside, jnp.mean(jnp.log(jnp.maximum(height, 1e-8))), jnp.inf)

    over_rates = jax.vmap(run, in_axes=(None, 0))
    over_all = jax.jit(jax.vmap(over_rates, in_axes=(0, None)))
    points, score = map(np.asarray, over_all(np.arange(len(places)), np.array(RATES, np.float32)))
    best = np.argmin(score, axis=1)
    return {name: (RATES[k], points[i, k]) for i, (name, k) in enumerate(zip(LANDSCAPES, best, strict=True))}
