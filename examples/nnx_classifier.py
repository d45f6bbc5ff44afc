"""An image classifier in Flax nnx: convolutions, batch norm and dropout, trained with a gdjax chain.

    python examples/nnx_classifier.py

`nnx.Optimizer` takes a gdjax transform as it takes one of Optax: clipping, then AdamW whose decay a path pattern keeps
to the kernels. Prints the test accuracy after each epoch on scikit-learn's digits of 8 x 8 pixels, and draws the curves
and the digits that the network gets wrong.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _data import digits, orders
from _style import COLOURS, options, plain, save
from flax import nnx
from matplotlib.figure import Figure

import gdjax

BATCH = 64


class Network(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.first = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.second = nnx.Conv(width, 2 * width, (3, 3), strides=2, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(n, momentum=0.9, rngs=rngs) for n in (width, 2 * width)])
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.last = nnx.Linear(2 * width * 16, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(-1, 8, 8, 1)
        for layer, norm in zip((self.first, self.second), self.norms, strict=True):
            x = nnx.relu(norm(layer(x)))
        return self.last(self.dropout(x.reshape(len(x), -1)))


def loss(model: Network, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean(gdjax.softmax_cross_entropy_with_integer_labels(model(x), y))


@nnx.jit
def step(model: Network, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
    value, grads = nnx.value_and_grad(loss)(model, x, y)
    optimizer.update(model, grads)
    return value


@nnx.jit
def predict(model: Network, x: jax.Array) -> jax.Array:
    return jax.nn.softmax(model(x))


def draw(losses: np.ndarray, accuracies: list[float], images: np.ndarray, texts: list[str]) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(3, 3, 3))
    epoch = 1 + np.arange(len(accuracies))
    ax = left.subplots()
    ax.plot(epoch, losses.mean(axis=1), color=COLOURS[0])
    ax.set(xlabel="epoch", yscale="log")
    plain(ax, "training loss")
    ax = middle.subplots()
    ax.plot(epoch, [100 * (1 - x) for x in accuracies], color=COLOURS[1])
    ax.set(xlabel="epoch", ylim=(0, None))
    plain(ax, f"test errors in %, {100 * (1 - accuracies[-1]):.1f} at last")
    right.suptitle("the hardest test digits", x=0.05, ha="left", fontsize=11)
    cells = right.subplots(2, 4).ravel()
    for ax in cells:
        ax.axis("off")
    for ax, image, text in zip(cells, images, texts, strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray_r")
        ax.set_title(text, fontsize=8)
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("nnx_classifier", "An image classifier in Flax nnx.", argv)
    epochs, width = (2, 8) if args.tiny else (20, 24)
    train, test = digits()
    batches = orders(len(train.y), BATCH, epochs)
    rate = gdjax.warmup_cosine_decay_schedule(0.0, 0.005, batches[0].size // BATCH, epochs * len(batches[0]))
    model: Any = Network(width, nnx.Rngs(0))
    tx = gdjax.chain(
        gdjax.clip_by_global_norm(1.0), gdjax.adamw(rate, weight_decay=0.05, mask=gdjax.mask_by_path("kernel"))
    )
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    losses, accuracies = np.zeros(batches.shape[:2]), []
    p = np.zeros((0, 10))
    with gdjax.Progress(epochs) as progress:
        for i, epoch in enumerate(batches):
            model.train()  # batch norm takes the batch's own statistics, dropout drops
            losses[i] = [step(model, optimizer, train.x[chosen], train.y[chosen]) for chosen in epoch]
            model.eval()
            p = np.asarray(predict(model, test.x))
            accuracies.append(float(np.mean(p.argmax(axis=1) == test.y)))
            progress.update(i + 1, loss=losses[i].mean(), test_accuracy=accuracies[-1])
    print(f"test accuracy {accuracies[-1]:.1%}: {np.sum(p.argmax(axis=1) != test.y)} of {len(test.y)} digits wrong")
    own = p[np.arange(len(p)), test.y]  # the probability of the digit that it is
    hardest = np.argsort(own)[:8]
    texts = [f"{test.y[i]}" if own[i] == p[i].max() else f"{test.y[i]}, not {p[i].argmax()}" for i in hardest]
    save(draw(losses, accuracies, test.x[hardest], texts), args.out / "nnx_classifier.png")


if __name__ == "__main__":
    main()
