"""Tune small, train big: the learning rate of a large model, found on a small one.

    python examples/transfer.py

A sweep finds the best rate of AdamW for a language model of width 64, in one compiled step over all rates. A model of
width 256 then trains twice: at that rate as it is, and with `gdjax.transfer`, which scales it leaf by leaf. Prints the
table of factors and the losses, and draws the sweep and both runs.
"""

from typing import Any

import jax
import numpy as np
from _style import COLOURS, options, plain, save
from lm import model, text
from matplotlib.figure import Figure

import gdjax

LAYERS, HEAD = 2, 32  # the size of a head stays as it is: there are more heads in a wide model
SMALL, LARGE = 64, 256
AS_IT_IS, TRANSFERRED = "the same rate", "transferred"


def params(width: int) -> Any:
    return model.init(jax.random.key(0), width, LAYERS, width // HEAD)


def tune(rates: list[float], batches: list[np.ndarray]) -> Any:
    """The runs of the small model, one for each rate."""
    grid = {"learning_rate": rates}
    return gdjax.sweep(model.loss, params(SMALL), optimizer, grid, steps=len(batches), data=batches, progress=True)


def optimizer(learning_rate: Any) -> Any:
    return gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(learning_rate, b2=0.95))


def train(tx: Any, start: Any, batches: list[np.ndarray]) -> np.ndarray:
    """The loss of each step."""
    result = gdjax.minimize(model.loss, start, tx, steps=len(batches), data=batches, progress=True)
    return result.history["loss"]


def draw(tuned: Any, runs: dict[str, np.ndarray]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    rates = [point["learning_rate"] for point in tuned.points]
    left.plot(rates, tuned.scores, marker="o", color=COLOURS[0])
    left.plot(tuned.best.point["learning_rate"], tuned.best.score, "o", color=COLOURS[0], markersize=10)
    left.set_xscale("log", base=2)
    left.set(xlabel="learning rate", ylabel="loss at the end, nats a byte")
    plain(left, f"Tuned at width {SMALL}")
    for i, (name, losses) in enumerate(runs.items(), 1):
        smooth = np.convolve(losses, np.ones(5) / 5, "valid")
        right.plot(np.arange(len(smooth)) + 5, smooth, color=COLOURS[i], label=name)
    right.legend(frameon=False)
    right.set(xlabel="step", ylim=(None, 3.6))
    plain(right, f"Run at width {LARGE}")
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("transfer", "Tunes a rate on a small model, and trains a large one with it.", argv)
    steps, count = (3, 3) if args.tiny else (100, 7)
    corpus = text.read()
    batches = [text.batch(corpus.train, 16, 64, seed=0, step=i) for i in range(steps)]
    tuned = tune([2.0**-k for k in range(4, 4 + count)], batches)
    best = optimizer(tuned.best.point["learning_rate"])
    print(tuned)

    base, large = params(SMALL), params(LARGE)
    print(gdjax.transfer_table(best, large, base))
    runs = {
        AS_IT_IS: train(best, large, batches),
        TRANSFERRED: train(gdjax.transfer(best, base), gdjax.transfer_init(large, base), batches),
    }
    for name, losses in runs.items():
        print(f"width {LARGE}, {name:15}: {losses[-10:].mean():.3f} nats a byte")
    save(draw(tuned, runs), args.out / "transfer.png")


if __name__ == "__main__":
    main()
