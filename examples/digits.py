"""Every optimizer on handwritten digits: one small network, the same start and the same mini-batches for all.

    python examples/digits.py

The data are scikit-learn's 1,797 digits of 8 x 8 pixels, which come with it. Prints a table of test accuracy and draws
the loss curves.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _style import SHORT, label_ends, look, plain
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import gdjax

Array = jax.Array
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


class Split(NamedTuple):
    images: np.ndarray  # (n, 64) float32 in [0, 1]
    labels: np.ndarray  # (n,) int32


def digits() -> tuple[Split, Split]:
    """Training and test digits, shuffled: the file is in the order of the writers."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = (data.data[order] / 16).astype(np.float32)
    labels = data.target[order].astype(np.int32)
    return Split(images[TEST:], labels[TEST:]), Split(images[:TEST], labels[:TEST])


def batches(train: Split) -> Iterator[Split]:
    """Mini-batches without end, in a new order in every epoch, and the same ones for every optimizer."""
    rng = np.random.default_rng(1)
    while True:
        order = rng.permutation(len(train.labels))[: EPOCH * BATCH]
        for chosen in order.reshape(EPOCH, BATCH):
            yield Split(train.images[chosen], train.labels[chosen])


def network() -> dict[str, Any]:
    """Initial parameters of 64 pixels -> WIDTH -> WIDTH -> 10 digits."""
    keys, sizes = jax.random.split(jax.random.key(0), 3), (64, WIDTH, WIDTH, 10)
    return {
        f"layer{i}": {"w": jax.random.normal(keys[i], (n, m)) * np.float32((2 / n) ** 0.5), "b": jnp.zeros((1, m))}
        for i, (n, m) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
    }


def scores(params: Any, images: Array) -> Array:
    """(n, 10) logits."""
    x = images
    for layer in ("layer0", "layer1"):
        x = jax.nn.relu(x @ params[layer]["w"] + params[layer]["b"])
    return x @ params["layer2"]["w"] + params["layer2"]["b"]


def loss(params: Any, batch: Split) -> Array:
    """Mean cross-entropy."""
    log_p = jax.nn.log_softmax(scores(params, batch.images))
    return -jnp.mean(jnp.take_along_axis(log_p, batch.labels[:, None], axis=1))


def accuracy(params: Any, split: Split) -> float:
    return float(np.mean(np.argmax(scores(params, split.images), axis=1) == split.labels))


class Row(NamedTuple):
    curve: np.ndarray  # (epochs,) mean training loss
    accuracy: float  # on the test digits
    seconds: float


def train_all(epochs: int, train: Split, test: Split) -> dict[str, Row]:
    steps, rows, start = epochs * EPOCH, {}, network()
    chosen = optimizers(steps)
    with gdjax.Progress(len(chosen) * steps) as progress:
        for i, (name, tx) in enumerate(chosen.items()):
            clock = time.perf_counter()
            report = reporter(progress, i * steps, name)
            result = gdjax.minimize(loss, start, tx, steps=steps, data=batches(train), progress=report)
            curve = result.history["loss"].reshape(epochs, EPOCH).mean(axis=1)
            rows[name] = Row(curve, accuracy(result.params, test), time.perf_counter() - clock)
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
    parser = argparse.ArgumentParser(description="Train one network on handwritten digits with every optimizer.")
    parser.add_argument("--tiny", action="store_true", help="a run of a few seconds, too short to judge by")
    parser.add_argument("--out", type=Path, default=Path("out/digits"), help="folder for the picture")
    args = parser.parse_args(argv)
    epochs = 2 if args.tiny else 30
    train, test = digits()
    print(f"{len(train.labels)} digits to train on, {len(test.labels)} to test; {epochs} epochs of {EPOCH} steps")

    rows = train_all(epochs, train, test)

    print(f"\n{'optimizer':28}{'training loss':>14}{'test accuracy':>15}{'seconds':>9}")
    for name, row in sorted(rows.items(), key=lambda item: -item[1].accuracy):
        print(f"{name:28}{row.curve[-1]:14.5f}{row.accuracy:15.1%}{row.seconds:9.1f}")
    error = np.sqrt(0.97 * 0.03 / len(test.labels))
    print(f"The standard error of an accuracy of 97 % on {len(test.labels)} digits is {error:.1%}.")
    args.out.mkdir(parents=True, exist_ok=True)
    draw(rows).savefig(args.out / "loss.png", dpi=130)
    print(f"\nwrote {args.out / 'loss.png'}")
    if not args.tiny and rows["adamw"].accuracy < 0.97:
        raise SystemExit(f"AdamW should get 97 % of the test digits right, got {rows['adamw'].accuracy:.1%}")


if __name__ == "__main__":
    main()
