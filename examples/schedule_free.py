"""Schedule-free AdamW against cosine schedules: one run that may stop at any time.

    python examples/schedule_free.py

A cosine needs to know the last step: a run of each length starts anew. `gdjax.schedule_free_adamw` averages instead;
one run passes all those lengths, and is evaluated at its average. Multinomial regression on scikit-learn's digits, in
small batches and with one label in five random, so that there is noise to average out. Prints training loss and test
accuracy at each length, beside those of a constant rate, and draws them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _data import Split, digits, mislabelled, orders
from _network import accuracy, cross_entropy, network, train
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure

import gdjax

SIZES = (64, 10)
BATCH, WARM_UP, RATE = 16, 20, 0.03


def losses(tx: Any, epochs: int, split: Split, test: Split, name: str) -> np.ndarray:
    """(epochs, 2) training loss and test accuracy after each epoch, at the parameters one would keep."""

    def measure(params: Any, state: Any) -> jax.Array:
        kept = gdjax.schedule_free_eval_params(state, params) if name == "schedule-free" else params
        return jnp.stack([cross_entropy(kept, split), accuracy(kept, test)])

    return train(network(SIZES), tx, split, orders(len(split.y), BATCH, epochs), measure, name)[1]


def draw(free: np.ndarray, cosines: dict[int, np.ndarray], constant: np.ndarray) -> Figure:
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    for k, ax in enumerate(figure.subplots(1, 2)):
        scale = (1, 100)[k]
        epoch = 1 + np.arange(len(free))
        ax.plot(epoch, scale * constant[:, k], color="0.75", lw=1, label="AdamW, constant rate")
        for n, rows in cosines.items():
            ax.plot(epoch[:n], scale * rows[:, k], color=COLOURS[0], lw=1, alpha=0.7)
            ax.plot(n, scale * rows[-1, k], "o", color=COLOURS[0], label="AdamW, cosine" if n == len(free) else None)
        ax.plot(epoch, scale * free[:, k], color=COLOURS[1], label="schedule-free AdamW")
        ax.set(xlabel="epoch")
        plain(ax, ("training loss", "test accuracy, %")[k])
        if k == 0:
            ax.legend(frameon=False)
        else:
            ax.set_ylim(bottom=max(0, 100 * constant[:, 1].max() - 8))
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("schedule_free", "Schedule-free AdamW against cosine schedules.", argv)
    lengths = (1, 2) if args.tiny else (3, 6, 12, 24, 48)
    clean, test = digits()
    split = mislabelled(clean, 0.2)
    steps = len(split.y) // BATCH
    free = losses(gdjax.schedule_free_adamw(RATE, WARM_UP), lengths[-1], split, test, "schedule-free")
    constant = losses(gdjax.adamw(RATE, weight_decay=0.0), lengths[-1], split, test, "constant")
    cosines = {}
    for n in lengths:
        rate = gdjax.warmup_cosine_decay_schedule(0.0, RATE, WARM_UP, n * steps)
        cosines[n] = losses(gdjax.adamw(rate, weight_decay=0.0), n, split, test, f"cosine, {n} epochs")
    print(f"{'epochs':>6}{'cosine':>18}{'schedule-free':>18}{'constant':>18}    training loss, test accuracy")
    for n in lengths:
        rows = cosines[n][-1], free[n - 1], constant[n - 1]
        print(f"{n:6}" + "".join(f"{loss:10.4f} {right:7.1%}" for loss, right in rows))
    save(draw(free, cosines, constant), args.out / "schedule_free.png")


if __name__ == "__main__":
    main()
