"""A training run that may be stopped at any moment, by Ctrl-C or `kill -9`, and goes on when it is started again.

    python examples/resume.py                       # stop it where you like, and start it again
    python examples/resume.py --fresh --out other   # without a stop it prints the same fingerprint

What that takes: the checkpoint holds the parameters and the optimizer's state, which has the moments and every count;
a batch depends on its step alone; and Orbax gives a checkpoint its name only when all of it is written.
"""

import argparse
import functools
import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import gdjax

Array = jax.Array
BATCH, WIDTH = 256, 64


class Run(NamedTuple):
    params: Any
    state: Any  # the optimizer's


def optimizer(steps: int) -> Any:
    rate = gdjax.warmup_cosine_decay_schedule(0.0, 0.01, steps // 20, steps)
    return gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(rate))


def start(tx: Any) -> Run:
    """A run at step 0."""
    keys, sizes = jax.random.split(jax.random.key(0), 3), (2, WIDTH, WIDTH, 1)
    params = {
        f"layer{i}": {"w": jax.random.normal(keys[i], (n, m)) * np.float32(1.5 / n**0.5), "b": jnp.zeros((1, m))}
        for i, (n, m) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
    }
    return Run(params, tx.init(params))


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in a square and a function of them to learn; the points of a step are the same in every process."""
    x = np.random.default_rng([0, step]).uniform(-2, 2, (BATCH, 2)).astype(np.float32)
    return x, np.sin(3 * x[:, 0]) * np.cos(2 * x[:, 1])


def loss(params: Any, x: Array, y: Array) -> Array:
    for layer in ("layer0", "layer1"):
        x = jnp.tanh(x @ params[layer]["w"] + params[layer]["b"])
    return jnp.mean(((x @ params["layer2"]["w"] + params["layer2"]["b"])[:, 0] - y) ** 2)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def step(tx: Any, run: Run, x: Array, y: Array) -> tuple[Run, Array]:
    value, grads = jax.value_and_grad(loss)(run.params, x, y)
    updates, state = tx.update(grads, run.state, run.params)
    return Run(gdjax.apply_updates(run.params, updates), state), value


def resume(manager: ocp.CheckpointManager, tx: Any) -> tuple[Run, int]:
    """The latest run saved and its step, or a new one and 0."""
    done = manager.latest_step()
    if done is None:
        return start(tx), 0
    # A checkpoint has lists and dicts only: the target says which classes they were, and on which device the arrays go.
    here = jnp.zeros(()).sharding
    shapes = jax.eval_shape(lambda: start(tx))
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
    return manager.restore(done, args=ocp.args.StandardRestore(target)), done


def train(manager: ocp.CheckpointManager, steps: int, stop: int, every: int) -> Run:
    tx = optimizer(steps)
    run, done = resume(manager, tx)
    print(f"{'resumed' if done else 'started'} at step {done} of {steps}", flush=True)
    with gdjax.Progress(steps) as progress:
        for n in range(done, stop):
            run, value = step(tx, run, *batch(n))
            progress.update(n + 1, loss=value)
            if (n + 1) % every == 0 or n + 1 == stop:
                manager.save(n + 1, args=ocp.args.StandardSave(run))  # copies, and writes beside the next steps
    manager.wait_until_finished()
    return run


def fingerprint(run: Run) -> str:
    """Equal for two runs if every bit of parameters and state is."""
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(run))).hexdigest()[:16]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A run that goes on where it was stopped.")
    parser.add_argument("--tiny", action="store_true", help="a run of a few seconds")
    parser.add_argument("--stop-at", type=int, metavar="STEP", help="stop there, as if interrupted")
    parser.add_argument("--fresh", action="store_true", help="start anew even if the folder holds a run")
    parser.add_argument("--out", type=Path, default=Path("out/resume"), help="folder for the checkpoints")
    args = parser.parse_args(argv)
    steps, every = (60, 20) if args.tiny else (3000, 100)
    folder = args.out.absolute() / ("tiny" if args.tiny else "full")  # the schedules, and so the runs, differ
    if args.fresh:
        shutil.rmtree(folder, ignore_errors=True)

    # What a killed run left half written goes when the next one starts.
    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(folder, options=options) as manager:
        try:
            run = train(manager, steps, min(args.stop_at or steps, steps), every)
        except KeyboardInterrupt:
            raise SystemExit("\ninterrupted: the same command goes on from the latest checkpoint") from None
        done = manager.latest_step()
    print(f"{'finished' if done == steps else 'stopped'} at step {done}: fingerprint {fingerprint(run)}")
    held_out = float(loss(run.params, *batch(steps)))
    print(f"mean squared error on points not trained on: {held_out:.5f}")
    if not args.tiny and done == steps and held_out > 0.01:
        raise SystemExit("the error should be under 0.01")


if __name__ == "__main__":
    main()
