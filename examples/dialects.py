"""How far apart the dialects of a method end: `like="torch"` and `like="paper"` beside Optax's form.

    python examples/dialects.py

A linear regression of 4 outputs on 8 inputs whose sizes go from 1 to 1e-4, in batches of 32, with a rate that falls as
a cosine. Each dialect gets the rate and its own defaults, and the same batches. The distance between the points of two
runs, in percent of the longest way from the start that Optax's run gets to, is printed at its largest, and drawn.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure

import gdjax

INPUTS, OUTPUTS, BATCH, RATE = 8, 4, 32, 0.05
SIZES = np.geomspace(1, 1e-4, INPUTS).astype(np.float32)
METHODS = {
    "nadam": gdjax.nadam,
    "radam": gdjax.radam,
    "amsgrad": gdjax.amsgrad,
    "adagrad": gdjax.adagrad,
    "rmsprop": gdjax.rmsprop,
    "rmsprop, momentum 0.9": lambda rate, like: gdjax.rmsprop(rate, momentum=0.9, like=like),
    "adafactor": lambda rate, like: gdjax.adafactor(rate, like=like),
    "muon": gdjax.muon,
}
DIALECTS = ("torch", "paper")


def points(tx: Any, steps: int) -> np.ndarray:
    """(steps + 1, inputs, outputs), the weights before and after each update."""
    target, start, data = jax.random.split(jax.random.key(0), 3)
    wanted = jax.random.normal(target, (INPUTS, OUTPUTS))
    w = jax.random.normal(start, (INPUTS, OUTPUTS))

    def loss(w: Any, key: Any) -> Any:
        one, other = jax.random.split(key)
        x, noise = SIZES * jax.random.normal(one, (BATCH, INPUTS)), jax.random.normal(other, (BATCH, OUTPUTS))
        return jnp.mean((x @ w - x @ wanted - 0.1 * noise) ** 2)

    def step(carry: Any, key: Any) -> Any:
        w, state = carry
        updates, state = tx.update(jax.grad(loss)(w, key), state, w)
        w = gdjax.apply_updates(w, updates)
        return (w, state), w

    keys = jax.random.split(data, steps)
    return np.concatenate([w[None], jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), keys)[1])(w)])


def apart(method: str, like: str, steps: int) -> np.ndarray:
    """(steps + 1,), the distance between the points of a dialect and of Optax's, in percent."""
    rate = gdjax.cosine_decay_schedule(RATE, steps)
    got, base = (points(METHODS[method](rate, like=x), steps) for x in (like, "optax"))
    size = lambda x: np.linalg.norm(x, axis=(-2, -1))
    return 100 * size(got - base) / size(base - base[0]).max()


def draw(found: dict[str, dict[str, np.ndarray]]) -> Figure:
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True, sharey=True)
    for ax, (method, curves) in zip(axes.flat, found.items(), strict=True):
        for like, colour, dash in zip(DIALECTS, COLOURS, ("-", (0, (4, 2))), strict=False):
            ax.plot(curves[like], color=colour, linestyle=dash, lw=1.4, label=f'like="{like}"')
        plain(ax, method)
        ax.set(yscale="log", ylim=(1e-5, 1000))
    axes[0, 0].legend(frameon=False, fontsize=9)
    figure.supxlabel("step", fontsize=10)
    figure.supylabel("distance from Optax's points, percent", fontsize=10)
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("dialects", "How far apart the dialects of a method end.", argv)
    steps = 20 if args.tiny else 200
    found = {method: {like: apart(method, like, steps) for like in DIALECTS} for method in METHODS}
    print(f"{'percent':24}" + "".join(f"{like:>10}" for like in DIALECTS))
    for method, curves in found.items():
        print(f"{method:24}" + "".join(f"{curves[like].max():10.2g}" for like in DIALECTS))
    save(draw(found), args.out / "dialects.png")


if __name__ == "__main__":
    main()
