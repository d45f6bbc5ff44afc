"""Differentially private descent: what a promise of privacy costs in accuracy.

    python examples/private_digits.py

`gdjax.dpsgd` clips the gradient of every example and adds noise to their sum, so that the parameters tell little about
any one of them. Multinomial regression on all of scikit-learn's training digits in every step, at several noise levels.
Without sampling the accounting is exact: T steps of noise multiplier z are one Gaussian mechanism of mu = sqrt(T) / z
(Dong, Roth & Su 2022, https://arxiv.org/abs/1905.02383). Prints epsilon at delta = 1e-4 with the test accuracy, and
draws one over the other. The number of examples counts as public, and so do the learning rate and the bound, which were
chosen by hand on these digits.
"""

from typing import Any

import jax
import numpy as np
from _data import Split, digits
from _network import accuracy, cross_entropy, network
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure
from scipy.stats import norm

import gdjax

STEPS, RATE, CLIP, DELTA, SEEDS = 100, 1.0, 1.0, 1e-4, 8
NOISES = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)


def epsilon(noise: float, steps: int) -> float:
    """The epsilon of (epsilon, DELTA) privacy after `steps` steps, by bisection."""
    mu, low, high = steps**0.5 / noise, 0.0, 1e4
    for _ in range(60):
        e = (low + high) / 2
        # e^epsilon Phi(...) in logarithms: the first factor alone overflows.
        delta = norm.cdf(mu / 2 - e / mu) - np.exp(e + norm.logcdf(-mu / 2 - e / mu))
        low, high = (e, high) if delta > DELTA else (low, e)
    return high


def train(tx: Any, train: Split, test: Split, steps: int) -> jax.Array:
    """The test accuracy after `steps` steps with all training digits."""

    def gradient(params: Any, x: Any, y: Any) -> Any:
        return jax.grad(cross_entropy)(params, Split(x[None], y[None]))

    def step(carry: Any, _: Any) -> tuple[Any, None]:
        params, state = carry
        each = jax.vmap(gradient, (None, 0, 0))(params, train.x, train.y)  # leaves with an axis of examples
        updates, state = tx.update(each, state, params)
        return (gdjax.apply_updates(params, updates), state), None

    start = jax.tree.map(lambda p: 0 * p, network((64, 10)))
    (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), None, steps)
    return accuracy(params, test)


def draw(epsilons: list[float], accuracies: np.ndarray, without: float) -> Figure:
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    ax = figure.subplots()
    mean, sd = 100 * accuracies.mean(axis=1), 100 * accuracies.std(axis=1)
    ax.errorbar(epsilons, mean, sd, fmt="o-", color=COLOURS[0], capsize=3, label=f"DP-SGD, mean and sd of {SEEDS} runs")
    ax.axhline(100 * without, color="0.5", ls="--", lw=1, label="clipped, without noise")
    ax.axhline(10, color="0.8", lw=1, label="guessing")
    ax.set(xscale="log", xlabel=f"epsilon at delta = {DELTA:g}: less is more private", ylabel="test accuracy, %")
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.08))
    plain(ax, "1,347 digits: accuracy against privacy")
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("private_digits", "Differentially private descent on digits.", argv)
    noises, steps = (NOISES[::3], 10) if args.tiny else (NOISES, STEPS)
    split, test = digits()

    @jax.jit
    def run(noise: Any, key: Any) -> jax.Array:
        return train(gdjax.dpsgd(RATE, CLIP, noise, key), split, test, steps)

    without = float(run(0.0, jax.random.key(0)))
    print(f"{'noise':>8}{'epsilon':>10}{'test accuracy':>16}\n{0:8}{'none':>10}{without:16.1%}")
    epsilons, accuracies = [epsilon(noise, steps) for noise in noises], []
    with gdjax.Progress(len(noises) * SEEDS) as progress:
        for noise, eps in zip(noises, epsilons, strict=True):
            accuracies.append([])
            for key in jax.random.split(jax.random.key(1), SEEDS):
                accuracies[-1].append(float(run(noise, key)))
                progress.update(sum(map(len, accuracies)), epsilon=eps, test_accuracy=accuracies[-1][-1])
            print(f"{noise:8g}{eps:10.2f}{np.mean(accuracies[-1]):16.1%} +- {np.std(accuracies[-1]):.1%}")
    save(draw(epsilons, np.array(accuracies), without), args.out / "private_digits.png")


if __name__ == "__main__":
    main()
