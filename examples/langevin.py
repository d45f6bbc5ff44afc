"""Bayesian logistic regression by Langevin dynamics: gradient descent with the right amount of noise.

    python examples/langevin.py

With U the negative logarithm of the posterior, x <- x - lr grad U(x) + N(0, 2 lr) draws from it (`gdjax.sgld`, Welling
& Teh 2011). Here the loss is U itself, not a mean over examples, so data_size is 1. Two measurements of the breast
cancer data make a posterior of three numbers, which importance sampling also gives. Prints the mean and standard
deviation of each by both, and draws the samples and how sure the classifier is where.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _data import Split, breast_cancer, orders
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure

import gdjax

FEATURES = {"worst radius": 20, "worst texture": 21}
CHAINS, BATCH, PRIOR = 32, 100, 5.0
NAMES = *FEATURES, "bias"


def energy(w: Any, x: Any, side: Any, n: int) -> jax.Array:
    """-log posterior of two weights and a bias, up to a constant, from a batch that stands for all n examples."""
    return n * jnp.mean(jax.nn.softplus(-side * (x @ w[:2] + w[2]))) + jnp.sum(w**2) / (2 * PRIOR**2)


def sample(x: Any, side: Any, rate: float, epochs: int) -> np.ndarray:
    """(epochs, CHAINS, 3) one sample of each chain after every epoch."""
    n = len(side)
    x, side = jnp.asarray(x), jnp.asarray(side)

    def chain_of(key: Any) -> Any:
        return gdjax.sgld(rate, data_size=1, key=key)

    @jax.jit
    def epoch(ws: Any, states: Any, order: Any) -> Any:
        def step(carry: Any, chosen: Any) -> tuple[Any, None]:
            def one(w: Any, state: Any) -> Any:
                # The key that makes the noise is in the state; the one given here is not used again.
                updates, state = chain_of(0).update(jax.grad(energy)(w, x[chosen], side[chosen], n), state, w)
                return gdjax.apply_updates(w, updates), state

            return jax.vmap(one)(*carry), None

        return jax.lax.scan(step, (ws, states), order)[0]

    ws, drawn = jnp.zeros((CHAINS, 3)), []
    states = jax.vmap(lambda key, w: chain_of(key).init(w))(jax.random.split(jax.random.key(0), CHAINS), ws)
    with gdjax.Progress(epochs) as progress:
        for i, order in enumerate(orders(n, BATCH, epochs)):
            ws, states = epoch(ws, states, order)
            drawn.append(np.asarray(ws))
            progress.update(i + 1, mean_weight=ws[:, 0].mean())
    return np.stack(drawn)


def exact(x: Any, side: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by importance sampling from a Gaussian, wider than the one at the maximum."""
    f = jax.jit(lambda w: energy(w, x, side, len(side)))
    w = gdjax.minimize(f, jnp.zeros(3), gdjax.lbfgs(), steps=30, grad_tol=1e-3).params
    hessian = np.asarray(jax.hessian(f)(w), np.float64)
    covariance = 1.5 * np.linalg.inv((hessian + hessian.T) / 2)
    draws = np.random.default_rng(0).multivariate_normal(w, covariance, 20_000).astype(np.float32)
    away = draws - np.asarray(w)
    log_q = -0.5 * np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away)
    log_p = -np.asarray(jax.lax.map(f, draws, batch_size=500))
    weight = np.exp(log_p - log_q - (log_p - log_q).max())
    weight /= weight.sum()
    mean = weight @ draws
    return mean, np.sqrt(weight @ (draws - mean) ** 2)


def draw(ws: np.ndarray, mean: np.ndarray, sd: np.ndarray, split: Split) -> Figure:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(ws[:1500, 0], ws[:1500, 1], ".", color=COLOURS[0], ms=2, alpha=0.5, label="samples")
    left.errorbar(*mean[:2], sd[1], sd[0], fmt="o", color=COLOURS[1], capsize=3, label="exact mean and sd")
    left.set(xlabel=f"weight of {NAMES[0]}", ylabel=f"weight of {NAMES[1]}")
    left.legend(frameon=False)
    plain(left, "Posterior")
    grid = np.stack(np.meshgrid(np.linspace(-2.5, 4.5, 60), np.linspace(-2.5, 4.5, 60)), axis=-1)
    p = np.mean(1 / (1 + np.exp(-(grid @ ws[:1500, :2].T + ws[:1500, 2]))), axis=-1)
    shown = right.contourf(grid[..., 0], grid[..., 1], p, levels=np.linspace(0, 1, 11), cmap="RdBu", alpha=0.6)
    figure.colorbar(shown, ax=right, label="probability of benign")
    for c, name in enumerate(("malignant", "benign")):
        at = split.x[split.y == c]
        right.plot(at[:, 0], at[:, 1], "o", color=("#8b0000", "#00308f")[c], ms=2, label=name)
    right.set(xlim=(-2.5, 4.5), ylim=(-2.5, 4.5), xlabel=NAMES[0], ylabel=NAMES[1])
    right.legend(loc="upper right", markerscale=2)
    plain(right, "Mean over the posterior, standard units")
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("langevin", "Bayesian logistic regression by Langevin dynamics.", argv)
    epochs = 40 if args.tiny else 1500
    train, test = (s._replace(x=s.x[:, list(FEATURES.values())]) for s in breast_cancer())
    side = (2 * train.y - 1).astype(np.float32)
    drawn = sample(train.x, side, 1e-3, epochs)
    ws = drawn[epochs // 5 :].reshape(-1, 3)  # the first fifth is the way there
    mean, sd = exact(train.x, side)
    print(f"{'':16}{'mean':>8}{'exact':>8}{'sd':>8}{'exact':>8}   {len(ws):,} samples of {CHAINS} chains")
    for row in zip(NAMES, ws.mean(axis=0), mean, ws.std(axis=0), sd, strict=True):
        print(f"{row[0]:16}" + "".join(f"{x:8.3f}" for x in row[1:]))
    p = np.mean(1 / (1 + np.exp(-(test.x @ ws[::10, :2].T + ws[::10, 2]))), axis=1)
    print(f"test accuracy {np.mean((p > 0.5) == test.y):.1%}")
    save(draw(np.random.default_rng(1).permutation(ws), mean, sd, train), args.out / "langevin.png")


if __name__ == "__main__":
    main()
