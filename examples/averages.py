"""Averages of the parameters on a noisy quadratic: what is evaluated, step by step.

    python examples/averages.py

The loss is sum_i h_i x_i^2 / 2 with curvatures from 1 to 1/300, and each gradient has noise. Left the rate is constant:
the trained parameters stay at the height of the noise, their averages do not. Right it falls to 0. Each curve is the
loss at `eval_params`, a mean over many runs. Prints the last losses and draws all of them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure

import gdjax

SIZE, RATE, NOISE = 64, 0.5, 1.0
CURVATURES = np.geomspace(1 / 300, 1, SIZE).astype(np.float32)


def loss(x: Any) -> jax.Array:
    return jnp.sum(CURVATURES * x**2, axis=-1) / 2


def losses(tx: Any, steps: int, runs: int) -> np.ndarray:
    """(steps,) the loss at the parameters one would keep after each update, a mean over the runs."""

    def run(key: Any) -> Any:
        def step(carry: Any, key: Any) -> Any:
            x, state = carry
            noise = NOISE * jax.random.normal(key, (SIZE,)) * np.sqrt(CURVATURES)
            updates, state = tx.update(CURVATURES * x + noise, state, x)
            x = gdjax.apply_updates(x, updates)
            return (x, state), loss(gdjax.eval_params(tx, state, x))

        start = jnp.full(SIZE, 3.0)
        return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, steps))[1]

    return np.asarray(jnp.mean(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), runs)), axis=0))


def panels(steps: int) -> dict[str, dict[str, Any]]:
    fall = gdjax.linear_schedule(RATE, 0.0, steps)
    plateau, falling = gdjax.sgd(RATE), gdjax.sgd(fall)

    def ahead(step: Any) -> Any:
        return jnp.where(step < 0.7 * steps, 0.6 * fall(step) / RATE, 0.0)

    return {
        f"constant rate of {RATE}": {
            "sgd": plateau,
            "params_ema, decay=0.99": gdjax.params_ema(plateau, 0.99),
            "swa, from half of the run on": gdjax.swa(plateau, steps // 2),
            "schedule_free_sgd": gdjax.schedule_free_sgd(RATE),
        },
        f"rate from {RATE} to 0": {
            "sgd": falling,
            "tail_ema, from 3/4 of the run on": gdjax.tail_ema(falling, 3 * steps // 4, horizon=steps / 15),
            "gpa, mu_x=0.95": gdjax.gpa(falling, 0.95),
            "ema_nesterov, lookahead=0.6 at first": gdjax.ema_nesterov(falling, ahead),
        },
    }


def draw(found: dict[str, dict[str, np.ndarray]]) -> Figure:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (title, curves) in zip(axes, found.items(), strict=True):
        for colour, (name, curve) in zip(("0.65", *COLOURS), curves.items(), strict=False):
            ax.plot(np.arange(1, len(curve) + 1), curve, color=colour, lw=1.4, label=name)
        plain(ax, title)
        ax.set(yscale="log", xlabel="step")
        ax.legend(frameon=False, fontsize=9)
    axes[0].set_ylabel("loss at eval_params")
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("averages", "Averages of the parameters on a noisy quadratic.", argv)
    steps, runs = (40, 4) if args.tiny else (1500, 64)
    found = {
        title: {name: losses(tx, steps, runs) for name, tx in methods.items()}
        for title, methods in panels(steps).items()
    }
    for title, curves in found.items():
        print(title)
        for name, curve in curves.items():
            print(f"  {name:36}{curve[-1]:10.4f}")
    save(draw(found), args.out / "averages.png")


if __name__ == "__main__":
    main()
