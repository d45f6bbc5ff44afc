"""Hyperparameters as functions: the path of the lasso, and a ridge and an SVM tuned by the derivative of `solve`.

    python examples/solve.py

The data are made. The path is one `vmap` over sixty weights. A point on the curves is a step of gradient descent on a
hyperparameter: the derivative of the validation loss goes through the solution, by its optimality condition.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure

import gdjax

FEATURES = 12
TRUE = jnp.array([3.0, -2.0, 1.0, 0.5] + [0.0] * (FEATURES - 4))
Array = jax.Array


def regression(seed: int, n: int = 18) -> tuple[Array, Array]:
    """Features, and a target that depends on four of them, with noise."""
    x, noise = (jax.random.normal(key, s) for key, s in zip(keys(seed), ((n, FEATURES), (n,)), strict=True))
    return x, x @ TRUE + 2 * noise


def moons(seed: int, n: int = 60) -> tuple[Array, Array]:
    """Points on two half circles, with noise, and their sides, -1 or 1."""
    first, second = keys(seed)
    angle, side = jnp.pi * jax.random.uniform(first, (n,)), jnp.where(jnp.arange(n) < n // 2, 1.0, -1.0)
    points = jnp.stack([jnp.cos(angle) * side + (1 - side) / 2, jnp.sin(angle) * side - (1 - side) / 4], 1)
    return points + 0.3 * jax.random.normal(second, (n, 2)), side


def keys(seed: int) -> Array:
    return jax.random.split(jax.random.key(seed))


def squares(w: Array, x: Array, y: Array) -> Array:
    return jnp.mean((x @ w - y) ** 2) / 2


def lasso(weight: Array, data: tuple[Array, Array]) -> Array:
    tx = gdjax.proximal_gradient(prox=gdjax.prox.l1(weight))
    return gdjax.solve(squares, jnp.zeros(FEATURES), tx, *data).params


def ridge(log_weight: Array) -> Array:
    """The validation loss of a ridge regression."""
    x, y = regression(0)
    loss = lambda w: squares(w, x, y) + jnp.exp(log_weight) * jnp.sum(w**2) / 2
    return squares(gdjax.solve(loss, jnp.zeros(FEATURES), gdjax.bfgs()).params, *regression(1))


def machine(log_width: Array) -> Array:
    """The validation loss of a support vector machine with a Gaussian kernel, by its dual: 0 <= alpha <= 10."""
    (a, s), (b, t) = moons(0), moons(1)
    kernel = lambda x, y: jnp.exp(-jnp.exp(-2 * log_width) * jnp.sum((x[:, None] - y[None]) ** 2, -1))
    K = s[:, None] * kernel(a, a) * s[None] + 1e-3 * jnp.eye(len(s))
    dual = lambda alpha: alpha @ K @ alpha / 2 - alpha.sum()
    tx = gdjax.bfgs(bounds=(0.0, 10.0))
    alpha = gdjax.solve(dual, jnp.zeros(len(s)), tx, steps=300).params
    return jnp.mean(jax.nn.softplus(-t * (kernel(b, a) @ (s * alpha))))


def descent(loss: Callable[[Array], Array], start: float, rate: float, steps: int) -> np.ndarray:
    """(steps + 1, 2) the hyperparameter and the loss after each step."""
    way = []
    note = lambda step, h, state, metrics: way.append((float(h), float(metrics["loss"])))
    gdjax.minimize(
        loss, jnp.array(start), gdjax.adam(gdjax.cosine_decay_schedule(rate, steps)), steps=steps, callback=note
    )
    at = np.array([start, *(h for h, _ in way)])
    return np.stack([at, jax.jit(jax.vmap(loss))(jnp.asarray(at))], 1)


def draw(tiny: bool = False) -> tuple[Figure, dict[str, Any]]:
    """The figure, and what it shows."""
    points, steps = (8, 3) if tiny else (60, 25)
    weights = jnp.geomspace(4.0, 0.02, points)
    path = jax.jit(jax.vmap(lasso, (0, None)))(weights, regression(0))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, *others = figure.subplots(1, 3)
    for i, w in enumerate(path.T):
        left.plot(weights, w, color=COLOURS[i] if TRUE[i] else "0.75", lw=1.6 if TRUE[i] else 0.9, zorder=2 - i / 99)
    left.set(xscale="log", xlabel="weight of the penalty", ylabel="coefficients")
    left.invert_xaxis()
    plain(left, "The path of the lasso")
    found: dict[str, Any] = {"path": path}
    tasks = {
        "ridge": (ridge, -6.0, 1.5, "log of the penalty"),
        "SVM": (machine, -2.0, 1.0, "log of the width of the kernel"),
    }
    for ax, (name, (loss, start, width, label)) in zip(others, tasks.items(), strict=True):
        way = descent(loss, start, 0.5, steps)
        grid = jnp.linspace(way[:, 0].min() - width, way[:, 0].max() + width, points)
        ax.plot(grid, jax.jit(jax.vmap(loss))(grid), color="0.6", lw=1.2)
        ax.plot(*way.T, "o-", color=COLOURS[0], ms=3.5, lw=0.8)
        ax.plot(*way[0], "o", color=COLOURS[1], ms=6)
        ax.set(xlabel=label, ylabel="validation loss")
        plain(ax, f"{name}: {steps} steps down")
        found[name] = way
    return figure, found


def main(argv: list[str] | None = None) -> None:
    args = options("solve", "The path of the lasso, and two machines tuned by derivatives of solutions.", argv)
    figure, found = draw(args.tiny)
    used = np.count_nonzero(found["path"], axis=1)
    print(f"lasso: {used[0]} to {used[-1]} coefficients")
    for name in ("ridge", "SVM"):
        (_, first), (at, last) = found[name][[0, -1]]
        print(f"{name}: validation loss {first:.3f}, tuned {last:.3f} at {at:.2f}")
    save(figure, args.out / "solve.png")


if __name__ == "__main__":
    main()
