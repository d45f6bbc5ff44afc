"""Regression in Equinox: sixteen small networks trained at once, and how sure they are.

    python examples/equinox_regression.py

`eqx.filter_vmap` makes an ensemble of MLPs; one gdjax transform trains them all, each member on examples drawn for it
alone. Predicts the progression of diabetes (scikit-learn's 442 patients). Prints R^2 on the patients held out, for
linear least squares, one network and the ensemble, and draws predictions with the ensemble's spread. Width, rate and
decay were chosen with these patients in view: the networks' figures are the better for it.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _data import Split, diabetes
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure

import gdjax

MEMBERS = 16


def ensemble(width: int) -> Any:
    """Networks of 10 -> width -> width -> 1, stacked: every array has an axis of members."""
    make = eqx.filter_vmap(lambda key: eqx.nn.MLP(10, "scalar", width, 2, key=key))
    return make(jax.random.split(jax.random.key(0), MEMBERS))


@eqx.filter_jit
def predict(models: Any, x: Any) -> jax.Array:
    """(members, n)"""
    return eqx.filter_vmap(lambda model: jax.vmap(model)(x))(models)


def loss(models: Any, x: Any, y: Any, weights: Any) -> jax.Array:
    """Huber's, which a few extreme patients do not rule; weights (members, n)."""
    errors = gdjax.huber_loss(predict(models, x), jnp.broadcast_to(y, weights.shape))
    return jnp.sum(jnp.mean(weights * errors, axis=1))


def train(models: Any, split: Split, test: Split, steps: int) -> tuple[Any, np.ndarray]:
    """The trained ensemble, and the losses of its mean member on training and test examples: (steps, 2)."""
    n = len(split.y)
    # A bootstrap: each member sees n draws with replacement, that is weights 0, 1, 2, ...
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), MEMBERS).astype(np.float32)
    tx = gdjax.adamw(gdjax.cosine_decay_schedule(0.005, steps), weight_decay=1.0, mask=gdjax.mask_by_path("weight"))
    state = tx.init(eqx.filter(models, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(models: Any, state: Any) -> Any:
        value, grads = eqx.filter_value_and_grad(loss)(models, split.x, split.y, weights)
        held_out = loss(models, test.x, test.y, jnp.ones((MEMBERS, len(test.y))))
        updates, state = tx.update(grads, state, models)
        return eqx.apply_updates(models, updates), state, jnp.stack([value, held_out]) / MEMBERS

    curves = []
    with gdjax.Progress(steps) as progress:
        for i in range(steps):
            models, state, both = step(models, state)
            curves.append(both)
            progress.update(i + 1, loss=both[0], test_loss=both[1])
    return models, np.stack(curves)


def r2(predicted: Any, y: np.ndarray) -> float:
    """The part of the variance that is explained."""
    return float(1 - np.mean((np.asarray(predicted) - y) ** 2) / np.var(y))


def draw(curves: np.ndarray, predicted: np.ndarray, y: np.ndarray, title: str) -> Figure:
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for curve, name, colour in zip(curves.T, ("training", "held out"), COLOURS, strict=False):
        left.plot(curve, color=colour, label=name)
    left.set(xlabel="step", ylim=(0, None))
    left.legend(frameon=False)
    plain(left, "Huber loss, mean of the members")
    right.errorbar(
        y, predicted.mean(axis=0), predicted.std(axis=0), fmt="o", ms=3, lw=0.6, color=COLOURS[0], ecolor="0.75"
    )
    ends = [y.min(), y.max()]
    right.plot(ends, ends, color="0.4", lw=1)
    right.set(xlabel="measured progression", ylabel="predicted, with the members' spread")
    plain(right, title)
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("equinox_regression", "Regression in Equinox.", argv)
    steps, width = (30, 8) if args.tiny else (100, 16)
    split, test = diabetes()
    mean, sd = split.y.mean(), split.y.std()
    split, test = (s._replace(y=(s.y - mean) / sd) for s in (split, test))

    models, curves = train(ensemble(width), split, test, steps)
    predicted = np.asarray(predict(models, test.x))
    line = np.linalg.lstsq(np.c_[split.x, np.ones(len(split.y))], split.y, rcond=None)[0]
    linear = r2(np.c_[test.x, np.ones(len(test.y))] @ line, test.y)
    single = float(np.mean([r2(p, test.y) for p in predicted]))
    together = r2(predicted.mean(axis=0), test.y)
    print(f"R^2 on {len(test.y)} patients: least squares {linear:.3f}, one network {single:.3f} (mean of {MEMBERS}),")
    print(f"the ensemble {together:.3f}; the standard error of such an R^2 is about 0.06")
    title = f"ensemble: $R^2$ = {together:.2f} held out"
    save(draw(curves, predicted, test.y, title), args.out / "equinox_regression.png")


if __name__ == "__main__":
    main()
