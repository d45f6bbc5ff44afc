"""Fine-tuning with few examples: frozen layers, and lower rates for the lower ones.

    python examples/fine_tune.py

A network learns the digits 0 to 4. Then it gets a second last layer, for 5 to 9, and eight examples of each: with all
layers at one rate, with rates that rise from layer to layer, and with all but the last layer frozen. The groups are
path patterns (`gdjax.label_by_path`) given to `gdjax.partition`. What moves the lower layers learns the new digits
better and spoils the old ones: prints and draws both accuracies on digits not trained on, means over 20 draws of the
examples, which `vmap` trains all at once.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _data import Split, digits, orders
from _network import accuracy, cross_entropy, network, scores
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure

import gdjax

SIZES = (64, 64, 64, 5)
SHOTS, RATE = 8, 0.003
LAYERS = {f"layer{i}/": f"layer{i}" for i in range(3)}  # from pattern to label


def by_layer(*rates: float) -> Any:
    """Adam with a rate for each layer; one of rate 0 is frozen and keeps no state."""
    groups = {f"layer{i}": gdjax.adam(rate) if rate else gdjax.set_to_zero() for i, rate in enumerate(rates)}
    return gdjax.partition(groups, gdjax.label_by_path(LAYERS))


WAYS = {
    "from scratch": by_layer(RATE, RATE, RATE),
    "all layers alike": by_layer(RATE, RATE, RATE),
    "rates 1/4, 1/2, 1": by_layer(RATE / 4, RATE / 2, RATE),
    "rates 1/16, 1/4, 1": by_layer(RATE / 16, RATE / 4, RATE),
    "last layer only": by_layer(0, 0, RATE),
}


def pretrained(split: Split, epochs: int) -> Any:
    batches = (Split(split.x[i], split.y[i]) for epoch in orders(len(split.y), 32, epochs) for i in epoch)
    steps = epochs * (len(split.y) // 32)
    result = gdjax.minimize(cross_entropy, network(SIZES), gdjax.adam(RATE), steps=steps, data=batches, progress=True)
    return result.params


def draws(split: Split, n: int) -> tuple[Split, np.ndarray]:
    """n draws of `SHOTS` examples of each class, with a leading axis; and (n, examples) 0 for these, 1 for others."""
    rng, chosen = np.random.default_rng(0), []
    for _ in range(n):
        chosen.append(
            np.concatenate([rng.choice(np.flatnonzero(split.y == c), SHOTS, replace=False) for c in range(5)])
        )
    few, rest = np.stack(chosen), np.ones((n, len(split.y)), np.float32)
    np.put_along_axis(rest, few, 0, axis=1)
    return Split(split.x[few], split.y[few]), rest


def fine_tuned(start: Any, head: Any, tx: Any, few: Split, rest: Any, new: Split, old: Split, steps: int) -> Any:
    """(steps, 2) accuracies after every step, on new digits and, with the old last layer `head`, on old ones."""

    def step(carry: Any, _: Any) -> tuple[Any, jax.Array]:
        params, state = carry
        updates, state = tx.update(jax.grad(cross_entropy)(params, few), state, params)
        params = gdjax.apply_updates(params, updates)
        right = jnp.argmax(scores(params, new.x), axis=1) == new.y
        kept = accuracy({**params, "layer2": head}, old)
        return (params, state), jnp.stack([jnp.sum(rest * right) / jnp.sum(rest), kept])

    return jax.lax.scan(step, (start, tx.init(start)), None, steps)[1]


def draw(curves: dict[str, np.ndarray]) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    for (name, runs), colour in zip(curves.items(), COLOURS, strict=False):
        new, old = 100 * runs.mean(axis=0).T
        if name == "from scratch":
            ax.axhline(new[-1], color="0.6", lw=1, ls=":", label="from scratch, new digits only")
        else:
            ax.plot(old, new, color=colour, lw=1.2, label=name)
            ax.plot(old[-1], new[-1], "o", color=colour)
    ax.set(xlabel="accuracy on the old digits 0 to 4, %", ylabel="on the new digits 5 to 9, %")
    ax.set_ylim(bottom=40)
    ax.legend(frameon=False, loc="lower left")
    plain(ax, f"Fine-tuning on {SHOTS} examples a class: the way there, and the end")
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("fine_tune", "Fine-tuning with frozen layers and rates for each layer.", argv)
    epochs, n, steps = (3, 2, 20) if args.tiny else (10, 20, 150)
    train, test = digits()
    train_old, old = (Split(s.x[s.y < 5], s.y[s.y < 5]) for s in (train, test))
    base = pretrained(train_old, epochs)
    new = Split(train.x[train.y >= 5], train.y[train.y >= 5] - 5)
    few, rest = draws(new, n)
    fresh = network(SIZES, key=1)
    tuned = jax.jit(jax.vmap(fine_tuned, (None, None, None, 0, 0, None, None, None)), static_argnums=(2, 7))
    curves = {}
    with gdjax.Progress(len(WAYS)) as progress:
        for i, (name, tx) in enumerate(WAYS.items()):
            start = fresh if name == "from scratch" else {**base, "layer2": fresh["layer2"]}
            curves[name] = np.asarray(tuned(start, base["layer2"], tx, few, rest, new, old, steps))
            progress.update(i + 1, way=name, accuracy=curves[name][:, -1, 0].mean())
    print(f"{'':20}{'new digits':>16}{'old digits':>16}    before: old {float(accuracy(base, old)):.1%}")
    for name, runs in curves.items():
        mean, error = runs[:, -1].mean(axis=0), runs[:, -1].std(axis=0) / n**0.5
        print(f"{name:20}" + "".join(f"{m:8.1%} +- {e:4.1%}" for m, e in zip(mean, error, strict=True)))
    save(draw(curves), args.out / "fine_tune.png")


if __name__ == "__main__":
    main()
