"""What a step of each method takes, alone: the gradient at a batch as in practice, and the update, apart.

The tasks' batches are small, so that many runs fit into an hour; the optimizer is then a large share of a step, which
would favour cheap methods. So the batch is doubled until AdamW's update is 2 % of a step at most. Where all data are in
each step nothing can be doubled, and the share is what it is.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import machine

import gdjax

from . import tasks
from .methods import METHODS, races
from .records import KEPT

SHARE, STEPS, ROUNDS, LARGEST = 0.02, 20, 5, 256
PATH = KEPT / "times.json"


def of_gradient(task: tasks.Task, times: int) -> float:
    """Seconds of a gradient at a batch so many times as large."""
    params = task.start(jax.random.key(0))
    batch = task.batch(jax.random.key(1), times)
    grad = jax.jit(jax.grad(task.loss))
    return typical(lambda: grad(params, batch))


def of_update(task: tasks.Task, name: str) -> float:
    """Seconds of an update and of adding it, over twenty steps of a compiled loop; searches for a step left out."""
    method, params = METHODS[name], task.start(jax.random.key(0))
    tx = method.make({k: np.float32(v) for k, v in method.untuned.items()}, np.float32(1000))
    grads = jax.grad(task.loss)(params, task.batch(jax.random.key(1)))

    @jax.jit
    def some(params: Any, state: Any) -> Any:
        def step(carry: Any, t: Any) -> Any:
            params, state = carry
            updates, state = tx.update(jax.tree.map(lambda g: g * (1 + 1e-6 * t), grads), state, params)
            return (gdjax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), jnp.arange(STEPS, dtype=float))[0]

    state = tx.init(params)
    return typical(lambda: some(params, state)) / STEPS


def typical(run: Callable[[], Any]) -> float:
    """The median of some calls after the first; each call as often as fits into a tenth of a second."""
    jax.block_until_ready(run())
    start = time.perf_counter()
    jax.block_until_ready(run())
    often = max(1, round(0.1 / (time.perf_counter() - start)))
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(often):
            jax.block_until_ready(run())
        taken.append((time.perf_counter() - start) / often)
    return statistics.median(taken)


def measure(names: list[str], methods: list[str], say: Callable[[str], None]) -> None:
    """Writes these tasks into times.json: of each the batch, seconds of its gradient, and of each method's update.

    A ratio is of one run, so a task is measured anew as a whole; AdamW's share decides the batch, so it always is in.
    """
    found: dict[str, Any] = kept()
    for name in names:
        jax.config.update("jax_enable_x64", name in tasks.DOUBLE)
        task = tasks.task(name)
        updates = {}
        for method in (m for m in METHODS if races(name, m) and METHODS[m].space and m in {"adamw", *methods}):
            updates[method] = of_update(task, method)
            say(f"{name} · {method} · {1e3 * updates[method]:.3f} ms an update")
        times, gradients = 1, {1: of_gradient(task, 1)}
        while share(updates["adamw"], gradients[times]) > SHARE and times < LARGEST and task.drawn:
            times *= 2
            gradients[times] = of_gradient(task, times)
            say(f"{name} · batch x {times} · {1e3 * gradients[times]:.2f} ms a gradient")
        found[name] = {"machine": machine(), "times": times, "gradients": gradients, "updates": updates}
        PATH.parent.mkdir(parents=True, exist_ok=True)
        PATH.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def kept() -> dict[str, Any]:
    return json.loads(PATH.read_text("utf-8")) if PATH.exists() else {}


def share(update: float, gradient: float) -> float:
    return update / (update + gradient)


def ratio(task: str, method: str, baseline: str) -> float | None:
    """Seconds of a step over the baseline's, at the batch of the table."""
    found = kept().get(task)
    if found is None or not {method, baseline} <= found["updates"].keys():
        return None
    gradient = found["gradients"][str(found["times"])]
    return (gradient + found["updates"][method]) / (gradient + found["updates"][baseline])
