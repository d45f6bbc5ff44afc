"""Logistic regression by L-BFGS and by Adam: what each gradient evaluation buys.

    python examples/lbfgs_logistic.py

The breast cancer data of scikit-learn, 30 measurements of a tumour, with a little L2 penalty, all examples in every
step. The minimum is known from Newton's method in float64. Prints how many evaluations each method needs to come within
1e-6 of it (a line search may take more than one in a step) and draws the gaps.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from _data import Split, breast_cancer
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure

import gdjax

PENALTY, GOAL = 1e-3, 1e-6


def loss(w: Any, split: Split, np: Any = jnp) -> Any:
    """Of 30 weights and a bias; with `np=numpy` in float64."""
    side = np.asarray(2 * split.y - 1, w.dtype)
    margins = side * (split.x @ w[:-1] + w[-1])
    return np.mean(np.logaddexp(w.dtype.type(0), -margins)) + w.dtype.type(PENALTY / 2) * np.sum(w[:-1] ** 2)


def minimum(split: Split) -> float:
    """The least loss, by Newton's method in float64."""
    x = np.c_[split.x.astype(np.float64), np.ones(len(split.y))]
    w, penalty = np.zeros(x.shape[1]), PENALTY * np.r_[np.ones(x.shape[1] - 1), 0]
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ w))
        hessian = (x * (p * (1 - p))[:, None]).T @ x / len(x) + np.diag(penalty)
        w = w - np.linalg.solve(hessian, x.T @ (p - split.y) / len(x) + penalty * w)
    return float(loss(w, split, np))


def descend(tx: Any, split: Split, steps: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """The last parameters; after every step the evaluations so far and the loss."""
    points, counts = [], []

    def note(step: int, w: Any, state: Any, metrics: Any) -> bool:
        search = gdjax.tree.get(state, "ZoomLinesearchInfo")
        counts.append(1 if search is None else int(search.num_linesearch_steps))
        points.append(np.asarray(w, np.float64))
        return False

    result = gdjax.minimize(lambda w: loss(w, split), jnp.zeros(31), tx, steps=steps, progress=True, callback=note)
    return result.params, np.cumsum(counts), np.array([loss(w, split, np) for w in points])


def draw(curves: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    ax = figure.subplots()
    for (name, (evaluations, gap)), colour in zip(curves.items(), COLOURS, strict=False):
        ax.plot(evaluations, np.maximum(gap, 1e-9), color=colour, label=name)
    ax.axhline(GOAL, color="0.6", lw=0.8, ls=":")
    ax.set(xscale="log", yscale="log", xlabel="evaluations of the gradient", ylabel="loss above the minimum")
    ax.legend(frameon=False, loc="lower left")
    plain(ax, "Logistic regression, 400 tumours x 30 measurements")
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("lbfgs_logistic", "Logistic regression by L-BFGS and Adam.", argv)
    steps = 100 if args.tiny else 3000
    train, test = breast_cancer()
    lowest = minimum(train)
    print(f"least loss {lowest:.6f}")
    optimizers = {"L-BFGS": (gdjax.lbfgs(), min(steps, 60))}
    for rate in (0.01, 0.1):
        optimizers[f"Adam, rate {rate}"] = (gdjax.adam(rate), steps)
    optimizers["Adam, cosine from 0.1"] = (gdjax.adam(gdjax.cosine_decay_schedule(0.1, steps // 3)), steps // 3)
    curves = {}
    for name, (tx, budget) in optimizers.items():
        w, evaluations, losses = descend(tx, train, budget)
        gap = losses - lowest
        reached = np.flatnonzero(gap < GOAL)
        when = f"{evaluations[reached[0]]} evaluations" if len(reached) else f"not in {evaluations[-1]}"
        correct = np.mean((np.asarray(test.x @ w[:-1] + w[-1]) > 0) == test.y)
        print(f"{name:24} within {GOAL:g}: {when:18} at last {max(gap[-1], 0):.1e}  test accuracy {correct:.1%}")
        curves[name] = evaluations, gap
    save(draw(curves), args.out / "lbfgs_logistic.png")


if __name__ == "__main__":
    main()
