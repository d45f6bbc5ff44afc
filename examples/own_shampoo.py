"""Your own matrix method, in about forty lines: one-sided Shampoo.

    python examples/own_shampoo.py

A matrix method needs something dear of each matrix: here the inverse root of its factor, every ten steps. The rule is
one of one matrix, and says what is done in turns: `gdjax.in_turns` spreads the roots over these steps. Prints the
losses beside Adam's, and draws them where matplotlib is installed.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from own_optimizer import heading, network, score, spirals

import gdjax

Array = jax.Array

# --- The optimizer ----------------------------------------------------------------------------------------------------


class OneSidedState(NamedTuple):
    count: Array  # () int32, updates made so far
    m: Any  # (number, m, n), average of the gradients
    L: Any  # for each shape (number, rows, rows), average of G G^T
    root: Any  # the same, L^(-1/2) of an earlier step; I at first


def root_of(first: Any, root: Array, L: Array) -> list[Array]:
    return [gdjax.inverse_root(L, 2, ridge=1e-4)]


@gdjax.matrixwise(OneSidedState, m=gdjax.first_moment, L=gdjax.Side(0), root=gdjax.Side(0, identity=True))
def scale_by_one_sided_shampoo(
    G: Array, s: Any, p: Any, t: Any, b1: Any = 0.9, b2: Any = 0.95, every: Any = 10
) -> tuple[Array, Any]:
    """L^(-1/2) of an average of gradients, scaled so that its mean square is 1."""
    m = b1 * s.m + (1 - b1) * G
    L = b2 * s.L + (1 - b2) * G @ G.T
    u = s.root @ m
    (root,) = gdjax.in_turns(root_of, every)([s.root], L)  # of the new L, for the next step
    return u / gdjax.safe_root_mean_squares(u, 1e-16), s._replace(m=m, L=L, root=root)


@gdjax.transform
def one_sided_shampoo(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.95, every: Any = 10) -> Any:
    """The rule for the weights; Adam for the biases, which are no matrices."""
    rates = {"biases": gdjax.adam(learning_rate)}
    rates["weights"] = gdjax.chain(
        scale_by_one_sided_shampoo(b1, b2, every, sides="rows"), gdjax.scale_by_learning_rate(learning_rate)
    )
    return gdjax.partition(rates, gdjax.label_by_path({"w$": "weights", "b$": "biases"}))


# --- A problem to try it on: the spirals of `own_optimizer.py` --------------------------------------------------------


def train(params: Any, optimizers: dict[str, Any], steps: int) -> dict[str, np.ndarray]:
    """The loss before every step of each, on all points at once."""
    points, side = spirals(100)

    def loss(params: Any) -> Array:
        return jnp.mean(jax.nn.softplus(-side * score(params, points)))

    losses = {}
    for name, tx in optimizers.items():
        result = gdjax.minimize(loss, params, tx, steps=steps)
        losses[name] = np.asarray(result.history["loss"])
        correct = np.mean(np.sign(score(result.params, points)) == side)
        few = next((t for t, x in enumerate(losses[name]) if x < 0.1), "never")
        print(f"{name:18}  loss {losses[name][-1]:.1e}  correct {correct:7.2%}  below 0.1 after {few} steps")
    return losses


def draw(losses: dict[str, np.ndarray], file: Path) -> None:
    from _style import plain
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, values in losses.items():
        axes.plot(values, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    plain(axes, "Loss on two spirals")
    figure.savefig(file, dpi=130)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="One-sided Shampoo in about forty lines.")
    parser.add_argument("--tiny", action="store_true", help="a run of a few seconds")
    parser.add_argument("--out", type=Path, default=Path("out/own_shampoo"), help="folder for the loss curves")
    args = parser.parse_args(argv)
    steps, width = (300, 16) if args.tiny else (1500, 32)

    heading(f"Two spirals, {steps} steps, beside Adam at the same rate")
    rate = gdjax.cosine_decay_schedule(0.02, steps)
    tx = one_sided_shampoo(rate)
    losses = train(network(width), {"one_sided_shampoo": tx, "adam": gdjax.adam(rate)}, steps)

    args.out.mkdir(parents=True, exist_ok=True)
    table = np.stack(list(losses.values()), axis=1)
    np.savetxt(args.out / "loss.csv", table, "%.6g", ",", header=",".join(losses), comments="")
    print(f"\nwrote {args.out / 'loss.csv'}")
    if importlib.util.find_spec("matplotlib"):
        draw(losses, args.out / "loss.png")
        print(f"wrote {args.out / 'loss.png'}")


if __name__ == "__main__":
    main()
