"""A training run that saves after every step and, started again, goes on from its latest step.

    python -m tests.resume.training FOLDER STEPS

Says on a line each what it does: `start N`, `saving N`, `step N`, with the digest of all it has, and the losses.
"""

import functools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import gdjax
from tests.resume.bits import digest
from tests.resume.target import target

WIDTH = 64
OPTIMIZERS = {
    "scheduled": gdjax.chain(
        gdjax.clip_by_global_norm(1.0), gdjax.adamw(gdjax.warmup_cosine_decay_schedule(0.0, 0.05, 5, 200))
    ),
    "injected": gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.inject_hyperparams(gdjax.adamw)(0.05)),
}
Run = dict[str, tuple[Any, Any]]  # from the name of an optimizer to parameters and state


def start() -> Run:
    sizes = {"first": (8, WIDTH), "second": (WIDTH, WIDTH), "last": (WIDTH, 1)}
    rng = np.random.default_rng(0)
    first = {k: (rng.standard_normal(n) / n[0] ** 0.5).astype(np.float32) for k, n in sizes.items()}
    params = {name: jax.tree.map(jnp.array, first) for name in OPTIMIZERS}  # of its own each: they are donated
    return {name: (params[name], tx.init(params[name])) for name, tx in OPTIMIZERS.items()}


def batch(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The examples of step n, whichever process takes it."""
    x = np.random.default_rng([1, n]).standard_normal((32, 8)).astype(np.float32)
    return x, x[:, :1] * x[:, 1:2]


def loss(params: Any, x: Any, y: Any) -> Any:
    return jnp.mean((jnp.tanh(jnp.tanh(x @ params["first"]) @ params["second"]) @ params["last"] - y) ** 2)


@functools.partial(jax.jit, donate_argnums=0)
def step(run: Run, x: Any, y: Any) -> tuple[Run, dict[str, Any]]:
    new, losses = {}, {}
    for name, (params, state) in run.items():
        losses[name], g = jax.value_and_grad(loss)(params, x, y)
        updates, state = OPTIMIZERS[name].update(g, state, params)
        new[name] = gdjax.apply_updates(params, updates), state
    return new, losses


def say(*words: Any) -> None:
    print(*words, flush=True)


def main(folder: Path, steps: int) -> None:
    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(folder, options=options) as manager:
        done = manager.latest_step() or 0
        run = manager.restore(done, args=ocp.args.StandardRestore(target(start))) if done else start()
        say("start", done, digest(run))
        for n in range(done, steps):
            hyperparams = run["injected"][1][1].hyperparams
            hyperparams["learning_rate"] = 0.97 * hyperparams["learning_rate"]  # lost, if the state were
            run, losses = step(run, *batch(n))
            say("step", n + 1, digest(run), *(float(x).hex() for x in losses.values()))
            say("saving", n + 1)
            manager.save(n + 1, args=ocp.args.StandardSave(run))  # goes on while the next step donates what it saves


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
