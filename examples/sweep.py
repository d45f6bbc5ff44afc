"""A sweep over learning rates: all rates and seeds of an optimizer trained at once, by `vmap`.

    python examples/sweep.py

A learning rate may be a traced scalar, so that `jax.vmap` over a function that builds its optimizer and trains is the
whole sweep: one compilation an optimizer. The network learns scikit-learn's digits for a few epochs. Prints the best
rate of each optimizer with its test accuracy, and draws the training loss over the rate.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _data import Split, digits, orders
from _network import accuracy, cross_entropy, network
from _style import look, options, plain, save
from matplotlib.figure import Figure

import gdjax

BATCH = 64
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": gdjax.sgd,
    "momentum": lambda rate: gdjax.sgd(rate, momentum=0.9),
    "adagrad": gdjax.adagrad,
    "rmsprop": gdjax.rmsprop,
    "adam": gdjax.adam,
    "lion": gdjax.lion,
}


def trained(make: Callable[[Any], Any], order: np.ndarray, split: Split, test: Split) -> Callable[..., Any]:
    """A function from a rate and a key to the last training loss and test accuracy."""
    x, y = jnp.asarray(split.x), jnp.asarray(split.y)

    def run(rate: Any, key: Any) -> tuple[jax.Array, jax.Array]:
        tx = make(rate)

        def step(carry: Any, chosen: Any) -> tuple[Any, None]:
            params, state = carry
            grads = jax.grad(cross_entropy)(params, Split(x[chosen], y[chosen]))
            updates, state = tx.update(grads, state, params)
            return (gdjax.apply_updates(params, updates), state), None

        params = network((64, 32, 10), key)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), order)
        return cross_entropy(params, split), accuracy(params, test)

    return run


def draw(losses: dict[str, np.ndarray], rates: np.ndarray) -> Figure:
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    ax = figure.subplots()
    for name, runs in losses.items():
        ax.plot(rates, np.median(runs, axis=1), lw=1.8, **look(name))
        ax.fill_between(rates, runs.min(axis=1), runs.max(axis=1), color=look(name)["color"], alpha=0.15, lw=0)
    ax.axhline(np.log(10), color="0.7", lw=0.8, ls=":")
    lowest = min(runs.min() for runs in losses.values())
    ax.set(
        xscale="log", yscale="log", xlabel="learning rate", ylabel="training loss at the end", ylim=(lowest / 1.5, 5)
    )
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    plain(ax, "Digits: median over seeds, and their range")
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("sweep", "A sweep over learning rates by vmap.", argv)
    epochs, count, seeds = (1, 4, 2) if args.tiny else (8, 25, 3)
    split, test = digits()
    order = orders(len(split.y), BATCH, epochs).reshape(-1, BATCH)
    rates = np.logspace(-5, 1, count).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), seeds)
    losses = {}
    print(f"{count} rates x {seeds} seeds, {len(order)} steps")
    print(f"{'optimizer':12}{'best rate':>10}{'training loss':>15}{'test accuracy':>15}")
    with gdjax.Progress(len(OPTIMIZERS)) as progress:
        for i, (name, make) in enumerate(OPTIMIZERS.items()):
            run = trained(make, order, split, test)
            over_both = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
            loss, right = map(np.asarray, over_both(rates, keys))
            losses[name] = np.nan_to_num(loss, nan=1e6, posinf=1e6)  # what has diverged is off the picture
            best = np.median(losses[name], axis=1).argmin()
            progress.update(i + 1, optimizer=name)
            print(f"{name:12}{rates[best]:10.2g}{np.median(losses[name][best]):15.4f}{right[best].mean():15.1%}")
    save(draw(losses, rates), args.out / "sweep.png")


if __name__ == "__main__":
    main()
