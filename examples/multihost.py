"""Trains a language model in several processes, which may be killed at any moment, and goes on with more or fewer.

    python examples/multihost.py                   # here: 2 processes, of which one is killed; then 4, the same; then 1
    python examples/multihost.py --processes 4 2   # other numbers of them, one after the other
    srun python examples/multihost.py --join       # this is one process of a run: of SLURM, or of a TPU pod
    python examples/multihost.py --join --coordinator host:1234 --count 4 --id 2     # anywhere else

The model, its text and the optimizer are those of `train_lm.py`, whose options it takes too. Each device has all
parameters, its share of the optimizer's state, and its rows of each batch. A checkpoint is written by all processes
together. It does not know how many there were: whoever reads it says how the arrays are to lie.
"""

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from lm import model, text
from lm.options import options as train_lm_options
from processes.demonstration import demonstrate
from processes.losses import write
from train_lm import identity, optimizer

import gdjax

# Of what `train_lm.py` takes, what is another here: a batch for four devices or eight, and a run of a minute.
SMALL = (
    "--optimizer adamw --batch 8 --length 64 --width 64 --layers 2 --heads 2 --steps 300 --checkpoint-every 20".split()
)
TINY = "--batch 8 --length 16 --width 16 --layers 1 --heads 1 --steps 30 --checkpoint-every 4".split()
MIN_BYTES = 2**12  # smaller arrays of the state are whole on every device; the model is small


class Run(NamedTuple):
    params: Any
    state: Any  # the optimizer's


def join(o: argparse.Namespace) -> None:
    """Joins the other processes of the run. If not all are there in time, this one ends and says so."""

    def give_up() -> None:
        me = "this process" if o.id is None else f"process {o.id} of {o.count}, at {o.coordinator},"
        print(
            f"{me} waited {o.join_seconds} s, and not all processes joined. Is each of them started, with the same "
            "address and count and an id of its own, and can it reach the address? Nothing was changed.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    late = threading.Timer(o.join_seconds, give_up)
    late.daemon = True
    late.start()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # used by CPUs alone
    # JAX's own time ends later: it aborts the process, and tells less.
    jax.distributed.initialize(o.coordinator, o.count, o.id, initialization_timeout=o.join_seconds + 30)
    late.cancel()


def train(o: argparse.Namespace, data: text.Text, devices: Sequence[jax.Device]) -> Run:
    """The steps from the latest checkpoint, or from the start, to the end."""
    if o.batch % len(devices):
        raise SystemExit(f"a batch of {o.batch} sequences cannot be divided over {len(devices)} devices: see --batch")
    mesh = Mesh(np.array(devices), ("data",))
    whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    tx, _ = optimizer(o)

    def start() -> Run:
        params = model.init(jax.random.key(o.seed), o.width, o.layers, o.heads)
        params = jax.tree.map(lambda p: p.astype(o.params), params)
        return Run(params, tx.init(params))

    params = jax.eval_shape(start).params
    divided = gdjax.state_sharding(tx, params, mesh, min_bytes=MIN_BYTES)
    places = Run(jax.tree.map(lambda _: whole, params), divided)

    def step(run: Run, batch: jax.Array) -> tuple[Run, jax.Array]:
        loss, grads = jax.value_and_grad(model.loss)(run.params, batch)
        updates, state = tx.update(grads, run.state, run.params)
        return Run(gdjax.apply_updates(run.params, updates), state), loss

    compiled = jax.jit(step, out_shardings=(places, whole), donate_argnums=0)
    about, first = identity(o, data), jax.process_index() == 0
    with manager(o) as checkpoints:
        run, done = resume(o, checkpoints, jax.jit(start, out_shardings=places), about)
        report = Report(o, done, len(devices)) if first else None
        for n in range(done, o.steps):
            windows = text.batch(data.train, o.batch, o.length, o.seed, n)  # of all devices: it is small
            batch = jax.make_array_from_callback(windows.shape, rows, lambda index, windows=windows: windows[index])
            run, loss = compiled(run, batch)
            if report:
                report(n + 1, float(loss))
            if (n + 1) % o.checkpoint_every == 0 or n + 1 == o.steps:
                save(checkpoints, n + 1, run, about)
        checkpoints.wait_until_finished()
        if report:
            report.progress.close()
    return run


class Report:
    """The progress and the losses of a run, which one process shows and writes."""

    def __init__(self, o: argparse.Namespace, done: int, devices: int):
        say, where = "going on" if done else "starting", f"processes: {jax.process_count()}, devices: {devices}"
        print(f"{say} at step {done} of {o.steps}; {where}", flush=True)
        self.progress, self.folder = gdjax.Progress(o.steps), o.out

    def __call__(self, step: int, loss: float) -> None:
        write(self.folder, step, jax.process_count(), loss)
        self.progress.update(step, loss=loss)


def manager(o: argparse.Namespace) -> ocp.CheckpointManager:
    """Of the folder, which all processes see. What a killed run left half written goes."""
    return ocp.CheckpointManager(
        (o.out / "checkpoints").absolute(),
        options=ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True),
        item_handlers={"run": ocp.StandardCheckpointHandler(), "about": ocp.JsonCheckpointHandler()},
    )


def save(checkpoints: ocp.CheckpointManager, step: int, run: Run, about: dict[str, Any]) -> None:
    """Each process writes what it has, beside the next steps; the checkpoint gets its name when all have."""
    items = ocp.args.Composite(run=ocp.args.StandardSave(run), about=ocp.args.JsonSave(about))
    checkpoints.save(step, args=items)


def resume(
    o: argparse.Namespace, checkpoints: ocp.CheckpointManager, make: Any, about: dict[str, Any]
) -> tuple[Run, int]:
    """The latest run saved, laid out as `make` lays out a new one, and its step; or a new run and 0."""
    step = checkpoints.latest_step()
    if step is None:
        return make(), 0
    folder, target = o.out / "checkpoints" / str(step), make.eval_shape()
    try:
        then = checkpoints.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        if odd := [f"{k} {then.get(k)!r} and not {about[k]!r}" for k in about if then.get(k) != about[k]]:
            raise SystemExit(f"{folder} is of a run with {', '.join(odd)}: take its options, or another --out")
        gdjax.check_restored(checkpoints.item_metadata(step).run, target)
        run = checkpoints.restore(step, args=ocp.args.Composite(run=ocp.args.StandardRestore(target))).run
        gdjax.check_restored(run, target)
    except Exception as e:  # Orbax raises errors of many kinds, bare exceptions among them
        older = [n for n in checkpoints.all_steps() if n < step]
        rest = f"remove {folder} to go on from step {max(older)}" if older else "there is no older one"
        raise SystemExit(f"{folder} cannot be restored; {rest}.\n{type(e).__name__}: {str(e)[:600]}") from None
    return run, step


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of this program, and those of `train_lm.py`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4, 1], help="how many, one run after the other")
    parser.add_argument("--out", type=Path, default=Path("out/multihost"), help="folder that all processes see")
    parser.add_argument("--tiny", action="store_true", help="a model and runs of seconds")
    parser.add_argument("--join", action="store_true", help="be one process of a run that something else started")
    parser.add_argument("--coordinator", help="host:port of process 0; SLURM and TPU pods tell it by themselves")
    parser.add_argument("--count", type=int, help="of processes")
    parser.add_argument("--id", type=int, help="of this process: 0, 1, ...")
    parser.add_argument("--join-seconds", type=int, default=300, help="how long to wait for the other processes")
    mine, rest = parser.parse_known_args(argv)
    theirs = train_lm_options(["--optimizer", "adamw", *(TINY if mine.tiny else SMALL), *rest])
    return argparse.Namespace(**(vars(theirs) | vars(mine)))


def main(argv: Sequence[str] | None = None) -> None:
    o = parsed(argv)
    if o.join:
        join(o)
        o.out.mkdir(parents=True, exist_ok=True)
        train(o, text.read(o.text), jax.devices())
    else:
        demonstrate(Path(__file__).resolve(), o, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    main()
