"""Every optimizer on handwritten digits: one small network, the same start and the same mini-batches for all.

    python examples/digits.py

The data are scikit-learn's 1,797 digits of 8 x 8 pixels, which come with it. Prints a table of test accuracy and draws
the loss curves.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from _data import Split, digits
from _network import accuracy, cross_entropy, network
from _style import SHORT, label_ends, look, options, plain
from matplotlib.figure import Figure

import gdjax

BATCH, WIDTH, TEST = 64, 64, 450
EPOCH = (1797 - TEST) // BATCH  # steps per pass over the training digits
FAMILIES = {
    "Gradient descent": ("sgd", "noisy_sgd", "perturbed_gradient_descent", "momentum", "nesterov"),
    "A rate for each parameter": ("adagrad", "rmsprop", "adam", "adamw", "lion"),
}


def optimizers(steps: int) -> dict[str, Any]:
    """Name -> optimizer. The rates were chosen by hand; Lion's is the lowest, since every step is of that length."""

    def rate(peak: float) -> Any:
        """Warm-up over a twentieth of the run, then a cosine to 0."""
        return gdjax.warmup_cosine_decay_schedule(0.0, peak, steps // 20, steps)

    weights = gdjax.mask_by_path("/w$")  # what decays: the weights, not the biases
    return {
        "sgd": gdjax.sgd(rate(0.2)),
        "noisy_sgd": gdjax.noisy_sgd(rate(0.2), eta=0.01, key=0),
        "perturbed_gradient_descent": gdjax.perturbed_gradient_descent(rate(0.2), radius=0.1, threshold=0.2, wait=100),
        "momentum": gdjax.sgd(rate(0.1), momentum=0.9),
        "nesterov": gdjax.sgd(rate(0.1), momentum=0.9, nesterov=True),
        "adagrad": gdjax.adagrad(rate(0.1)),
        "rmsprop": gdjax.rmsprop(rate(0.005)),
        "adam": gdjax.adam(rate(0.005)),
        "adamw": gdjax.adamw(rate(0.005), weight_decay=0.1, mask=weights),
        "lion": gdjax.lion(rate(0.001), weight_decay=1.0, mask=weights),
    }


def batches(train: Split) -> Iterator[Split]:
    """Mini-batches without end, in a new order in every epoch, and the same ones for every optimizer."""
    rng = np.random.default_rng(1)
    while True:
        order = rng.permutation(len(train.y))[: EPOCH * BATCH]
        for chosen in order.reshape(EPOCH, BATCH):
            yield Split(train.x[chosen], train.y[chosen])


class Row(NamedTuple):
    curve: np.ndarray  # (epochs,) mean training loss
    accuracy: float  # on the test digits
    seconds: float


def train_all(epochs: int, train: Split, test: Split) -> dict[str, Row]:
    steps, rows, start = epochs * EPOCH, {}, network((64, WIDTH, WIDTH, 10))
    chosen = optimizers(steps)
    with gdjax.Progress(len(chosen) * steps) as progress:
        for i, (name, tx) in enumerate(chosen.items()):
            clock = time.perf_counter()
            report = reporter(progress, i * steps, name)
            result = gdjax.minimize(cross_entropy, start, tx, steps=steps, data=batches(train), progress=report)
            curve = result.history["loss"].reshape(epochs, EPOCH).mean(axis=1)
            rows[name] = Row(curve, float(accuracy(result.params, test)), time.perf_counter() - clock)
    return rows


def reporter(progress: gdjax.Progress, before: int, name: str) -> Callable[..., None]:
    """One progress line for the runs of all the optimizers."""
    return lambda done, **metrics: progress.update(before + done, optimizer=name, loss=metrics["loss"])


def draw(rows: dict[str, Row]) -> Figure:
    """The loss curves, a panel for each family; the other family's curves are there in grey, for comparison."""
    figure = Figure(figsize=(11, 4.6))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    figure.subplots_adjust(left=0.065, right=0.865, bottom=0.115, top=0.86, wspace=0.42)
    epoch = 1 + np.arange(len(rows["sgd"].curve))
    for ax, (title, names) in zip(panels, FAMILIES.items(), strict=True):
        plain(ax, title)
        for name, row in rows.items():
            if name in names:
                ax.plot(epoch, row.curve, **look(name), linewidth=1.8)
            else:
                ax.plot(epoch, row.curve, color="0.85", linewidth=1.0, zorder=1)
        ax.set(yscale="log", xlim=(1, len(epoch)), xlabel="epoch")
        ax.tick_params(labelleft=True)
    panels[0].set_ylabel("training loss (mean of the epoch)")
    for ax, names in zip(panels, FAMILIES.values(), strict=True):
        ends = {n: (rows[n].curve[-1], f"{SHORT.get(n, n)}  {rows[n].accuracy:.1%}") for n in names}
        label_ends(ax, ends)
        ax.text(1.04, 1.02, "test accuracy", fontsize=9, color="0.4", transform=ax.transAxes)
    figure.suptitle("Handwritten digits, 64-64-64-10 network", x=0.065, ha="left", fontsize=13)
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("digits", "Train one network on handwritten digits with every optimizer.", argv)
    epochs = 2 if args.tiny else 30
    train, test = digits(TEST)
    print(f"{len(train.y)} digits to train on, {len(test.y)} to test; {epochs} epochs of {EPOCH} steps")

    rows = train_all(epochs, train, test)

    print(f"\n{'optimizer':28}{'training loss':>14}{'test accuracy':>15}{'seconds':>9}")
    for name, row in sorted(rows.items(), key=lambda item: -item[1].accuracy):
        print(f"{name:28}{row.curve[-1]:14.5f}{row.accuracy:15.1%}{row.seconds:9.1f}")
    error = np.sqrt(0.97 * 0.03 / len(test.y))
    print(f"The standard error of an accuracy of 97 % on {len(test.y)} digits is {error:.1%}.")
    args.out.mkdir(parents=True, exist_ok=True)
    draw(rows).savefig(args.out / "loss.png", dpi=130)
    print(f"\nwrote {args.out / 'loss.png'}")
    if not args.tiny and rows["adamw"].accuracy < 0.97:
        raise SystemExit(f"AdamW should get 97 % of the test digits right, got {rows['adamw'].accuracy:.1%}")


if __name__ == "__main__":
    main()
