"""SAM against SGD where some labels are wrong: flat minima remember fewer of them.

    python examples/sam_flatness.py

Three in ten training labels of scikit-learn's digits are replaced by random ones. SAM (`gdjax.sam`) takes the gradient
at the worst point nearby, two gradients a step, so SGD gets two times the epochs. Prints the test accuracies and the
sharpness of the minima, the largest eigenvalue of the Hessian, and draws the way there and the loss around them.
"""

from typing import Any

import jax
import numpy as np
from _data import Split, digits, mislabelled, orders
from _network import accuracy, cross_entropy, network, train
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure

import gdjax

SIZES = (64, 64, 64, 10)
BATCH, WRONG, RADIUS = 64, 0.3, 0.2


@jax.jit
def sharpness(params: Any, split: Split) -> jax.Array:
    """The largest eigenvalue of the Hessian of the training loss."""

    def product(v: Any) -> Any:
        return jax.jvp(lambda p: jax.grad(cross_entropy)(p, split), (params,), (v,))[1]

    return gdjax.power_iteration(product, v0=network(SIZES, key=7), num_iters=100)[0]


@jax.jit
def slices(params: Any, split: Split, ways: Any) -> jax.Array:
    """(directions, points) the loss along random directions of length `ways` at most."""

    def loss(key: Any, way: Any) -> jax.Array:
        direction = gdjax.tree.random_like(key, params)
        scale = way / gdjax.global_norm(direction)
        return cross_entropy(jax.tree.map(lambda p, d: p + scale * d, params, direction), split)

    keys = jax.random.split(jax.random.key(3), 20)
    return jax.vmap(lambda key: jax.lax.map(lambda way: loss(key, way), ways))(keys)


def draw(curves: dict[str, np.ndarray], around: dict[str, np.ndarray], ways: np.ndarray) -> Figure:
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        gradients = (2 if name == "SAM" else 1) * (1 + np.arange(len(curve)))
        left.plot(gradients, 100 * curve, color=colour, label=name)
        rise = around[name].mean(axis=0)
        right.plot(ways, rise - rise.min(), color=colour, label=name)
    left.set(xlabel="gradients an example", ylabel="test accuracy, %")
    left.legend(frameon=False)
    right.set(xlabel="distance from the minimum found", ylabel="rise of the training loss")
    plain(left, f"Digits, {WRONG:.0%} of the labels random")
    plain(right, "Random directions, mean of 20")
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("sam_flatness", "SAM against SGD with wrong labels.", argv)
    epochs = 2 if args.tiny else 60
    clean, test = digits()
    split = mislabelled(clean, WRONG)
    steps = len(split.y) // BATCH
    curves, around, ways = {}, {}, np.linspace(-10, 10, 41)
    for name, n in {"SGD": 2 * epochs, "SAM": epochs}.items():
        tx = gdjax.sgd(gdjax.cosine_decay_schedule(0.1, n * steps), momentum=0.9)
        if name == "SAM":
            tx = gdjax.sam(tx, gdjax.chain(gdjax.normalize(), gdjax.sgd(RADIUS)), opaque_mode=True)
        order = orders(len(split.y), BATCH, n)
        params, curves[name] = train(
            network(SIZES), tx, split, order, lambda params, state: accuracy(params, test), name, name == "SAM"
        )
        around[name] = np.asarray(slices(params, split, ways))
        fitted, flat = float(accuracy(params, split)), float(sharpness(params, split))
        right = f"{curves[name][-1]:.1%} (best epoch {curves[name].max():.1%})"
        print(f"{name}  test accuracy {right}  training labels fitted {fitted:.1%}  sharpness {flat:.1f}")
    save(draw(curves, around, ways), args.out / "sam_flatness.png")


if __name__ == "__main__":
    main()
