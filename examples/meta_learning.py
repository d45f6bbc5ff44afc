"""Meta-learning: gradients through the steps of an optimizer, to a start and rates from which one step does.

    python examples/meta_learning.py

Each task is a sinusoid of which ten points are seen. The inner optimizer is `gdjax.sgd` with a rate for every array;
`jax.grad` through its update gives the outer gradient, for Adam (MAML, Finn, Abbeel & Levine 2017, with the learned
rates of Meta-SGD). Beside it a network that is trained on all tasks together, with the best of six inner rates. Prints
both errors after 0, 1 and 10 inner steps on new tasks, and draws the fits to two of them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _network import network, scores
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure

import gdjax

SHOTS, TASKS, SIZES = 10, 32, (1, 40, 40, 1)


def tasks(key: Any, n: int) -> tuple[jax.Array, jax.Array]:
    """x and y, (n, 2, SHOTS, 1): points to adapt to, and others to judge by."""
    a, b, c = jax.random.split(key, 3)
    x = jax.random.uniform(a, (n, 2, SHOTS, 1), minval=-5, maxval=5)
    size = jax.random.uniform(b, (n, 1, 1, 1), minval=0.5, maxval=5.0)
    phase = jax.random.uniform(c, (n, 1, 1, 1), maxval=np.pi)
    return x, size * jnp.sin(x - phase)


def error(params: Any, x: Any, y: Any) -> jax.Array:
    return jnp.mean((scores(params, x) - y) ** 2)


def adapted(meta: Any, x: Any, y: Any, steps: int) -> Any:
    """The parameters after inner steps from meta["start"], with a rate exp(meta["log_rates"]) for each array."""
    groups = {str(i): gdjax.sgd(jnp.exp(r)) for i, r in enumerate(jax.tree.leaves(meta["log_rates"]))}
    labels = jax.tree.structure(meta["start"]).unflatten(list(groups))
    tx = gdjax.partition(groups, labels)
    params = meta["start"]
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(jax.grad(error)(params, x, y), state, params)
        params = gdjax.apply_updates(params, updates)
    return params


def meta_loss(meta: Any, batch: Any, steps: int) -> jax.Array:
    """The error on the other points after the inner steps, mean over tasks."""
    return jnp.mean(jax.vmap(lambda x, y: error(adapted(meta, x[0], y[0], steps), x[1], y[1]))(*batch))


def with_rate(start: Any, rate: float) -> dict[str, Any]:
    """One rate for every array."""
    return {"start": start, "log_rates": jax.tree.map(lambda p: jnp.log(rate), start)}


def learn(inner: int, steps: int) -> tuple[Any, np.ndarray]:
    """Start and rates for `inner` steps of adaptation; with 0 the network that fits all tasks at once."""
    meta = with_rate(network(SIZES), 0.01)
    tx = gdjax.chain(gdjax.clip_by_global_norm(10.0), gdjax.adam(gdjax.cosine_decay_schedule(0.003, steps)))
    make = jax.jit(lambda step: tasks(jax.random.fold_in(jax.random.key(0), step), TASKS))
    result = gdjax.minimize(
        lambda meta, batch: meta_loss(meta, batch, inner), meta, tx, steps=steps, data=map(make, range(steps)),
        progress=True,
    )  # fmt: skip
    return result.params, result.history["loss"]


def draw(metas: dict[str, Any], curves: dict[str, np.ndarray]) -> Figure:
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    first, *others = figure.subplots(1, 3)
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        width = max(1, len(curve) // 100)
        smooth = curve[: len(curve) // width * width].reshape(-1, width).mean(axis=1)
        first.plot(width * np.arange(len(smooth)), smooth, color=colour, label=name)
    first.set(xlabel="outer step", yscale="log")
    first.legend(frameon=False)
    plain(first, "error in training")
    x, y = tasks(jax.random.key(17), 2)
    line = jnp.linspace(-5, 5, 200)[:, None]
    for k, ax in enumerate(others):  # dotted: before the step
        ax.plot(x[k, 0], y[k, 0], "o", color="0.3", ms=5, label="seen")
        ax.plot(x[k, 1], y[k, 1], "o", color="0.5", mfc="none", ms=5, label="not seen")
        for meta, colour in zip(metas.values(), COLOURS, strict=False):
            ax.plot(line, scores(meta["start"], line), color=colour, lw=1, ls=":")
            ax.plot(line, scores(adapted(meta, x[k, 0], y[k, 0], 1), line), color=colour)
        plain(ax, "a new task: before (dotted) and after")
    others[0].legend(frameon=False)
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("meta_learning", "Learn a start and inner rates.", argv)
    steps = 100 if args.tiny else 6000
    metas, curves = {}, {}
    for name, inner in {"all tasks at once": 0, "meta-learned": 1}.items():
        metas[name], curves[name] = learn(inner, steps)
    test = tasks(jax.random.key(1), 500)
    loss = jax.jit(meta_loss, static_argnums=2)
    plain_start = metas["all tasks at once"]["start"]
    tried = [with_rate(plain_start, rate) for rate in (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)]
    metas["all tasks at once"] = min(tried, key=lambda meta: loss(meta, tasks(jax.random.key(2), 500), 1))
    for name, meta in metas.items():
        errors = "  ".join(f"{n} steps {float(loss(meta, test, n)):.3f}" for n in (0, 1, 10))
        print(f"{name:18} squared error on new tasks after {errors}")
    rates = jnp.exp(jnp.stack(jax.tree.leaves(metas["meta-learned"]["log_rates"])))
    print("learned rates, biases and weights in turn:", " ".join(f"{r:.4f}" for r in rates))
    save(draw(metas, curves), args.out / "meta_learning.png")


if __name__ == "__main__":
    main()
