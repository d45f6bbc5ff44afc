"""Replicas that meet every 8 or 32 steps, beside data parallel training: the loss by steps, and by bytes sent.

    python examples/diloco.py

A small transformer on the bytes of Python's own standard library. Each of four devices has 8 of 32 windows. Data
parallel they exchange gradients in every step; as replicas they exchange how far they have come, every H steps. The
outer optimizer takes the mean of the replicas, or is that of DiLoCo's paper. All runs have the same start, batches and
AdamW, whose rate was not tuned. The held-out loss is that of `eval_params`. Prints the last losses and what a device
sends, and draws both.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import numpy as np
from _style import COLOURS, DASHED, DOTTED, options, plain, save
from lm import model, text
from matplotlib.figure import Figure

import gdjax

REPLICAS, BATCH, LENGTH, RATE = 4, 32, 32, 1e-2


class Curve(NamedTuple):
    steps: np.ndarray
    losses: np.ndarray  # held out
    megabytes: float  # that a device sends, a step


def runs(params: Any, mesh: Any, steps: int) -> dict[str, tuple[Any, int]]:
    """The steps to train with, and how many of them share what one program exchanges."""
    adamw = gdjax.adamw(gdjax.warmup_cosine_decay_schedule(0.0, RATE, steps // 20, steps))
    tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), adamw)

    def replicas(every: int, **how: Any) -> tuple[Any, int]:
        return gdjax.diloco_step(model.loss, tx, params, mesh, every=every, **how), every

    return {
        "data parallel": (gdjax.sharded_step(model.loss, tx, params, mesh, "replica"), 1),
        "H = 8, mean": replicas(8, outer=gdjax.sgd(1.0)),
        "H = 32, mean": replicas(32, outer=gdjax.sgd(1.0)),
        "H = 8, DiLoCo": replicas(8),
        "H = 32, DiLoCo": replicas(32),
        "H = 32, streaming": replicas(32, fragments=4, delay=1, alpha=0.5),
    }


def train(step: Any, every: int, start: Any, batch: Callable[[int], Any], held_out: Any, steps: int) -> Curve:
    params, state = step.init(start)
    sent = sum(row.wire_bytes for row in gdjax.collectives(step.lower(params, state, batch(0)).compile()))
    loss = jax.jit(model.loss)
    at, losses = [], []
    for i in range(1, steps + 1):
        params, state, _ = step(params, state, batch(i))
        if i % 32 == 0 or i == steps:
            theta = jax.device_get(gdjax.eval_params(step.tx, state, params))
            at.append(i)
            losses.append(float(loss(theta, held_out)))
    return Curve(np.array(at), np.array(losses), sent / every / 1e6)


def draw(curves: dict[str, Curve]) -> Figure:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    by_step, by_bytes = figure.subplots(1, 2, sharey=True)
    for name, curve in curves.items():
        colour = "0.3" if name == "data parallel" else COLOURS["H = 32" in name]
        look = {"color": colour, "lw": 1.4, "ls": DASHED if "mean" in name else DOTTED if "streaming" in name else "-"}
        by_step.plot(curve.steps, curve.losses, label=name, **look)
        by_bytes.plot(curve.steps * curve.megabytes, curve.losses, **look)
    plain(by_step, "by steps")
    plain(by_bytes, "by what a device has sent")
    by_step.set(xlabel="step", ylabel="held-out loss, nats a byte")
    by_bytes.set(xlabel="MB", xscale="log")
    by_step.legend(frameon=False, fontsize=9)
    return figure


def main(argv: list[str] | None = None) -> None:
    args = options("diloco", "DiLoCo beside data parallel training.", argv)
    steps, width = (32, 16) if args.tiny else (512, 32)
    devices = np.asarray(jax.devices()[:REPLICAS])
    mesh = jax.sharding.Mesh(devices, ("replica",))
    start = model.init(jax.random.key(0), width, 2, 2)
    data = text.read()
    held_out = text.spread(data.held_out, 8 if args.tiny else 128, LENGTH)
    batch = lambda i: text.batch(data.train, BATCH, LENGTH, 0, i)
    curves = {}
    for name, (step, every) in runs(start, mesh, steps).items():
        curve = curves[name] = train(step, every, start, batch, held_out, steps)
        print(f"{name:20}held-out loss {curve.losses[-1]:.3f}   sent a step {1000 * curve.megabytes:8.1f} kB")
    save(draw(curves), args.out / "diloco.png")


if __name__ == "__main__":
    main()
