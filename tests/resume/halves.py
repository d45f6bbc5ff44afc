"""Trains with many optimizers at once: the first process saves after half of the steps, the second goes on from there.

    python -m tests.resume.halves first|second FOLDER CASE:DTYPE ...

Each writes the bits of what it has, for the test to compare.
"""

import pickle
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import serialization

import gdjax
from tests.cases import by_name
from tests.resume.bits import bits
from tests.resume.target import target
from tests.trees import is_key, random_tree

# Flax does not know the dict that keeps its order, in which the state of `named_chain` is.
serialization.register_serialization_state(
    OrderedDict,
    lambda d: {k: serialization.to_state_dict(x) for k, x in d.items()},
    lambda d, stored: OrderedDict((k, serialization.from_state_dict(x, stored[k])) for k, x in d.items()),
)

HALF = 3  # steps: odd, so that windows and intervals of two are cut in their middle
Run = dict[str, tuple[Any, Any]]  # from job, such as "adam:float32", to parameters and state


def dtype_of(job: str) -> str:
    return job.split(":")[1]


class Training:
    """The jobs as one program: compiling many small ones takes longer."""

    def __init__(self, jobs: list[str]):
        self.optimizers = {job: by_name(job.split(":")[0]).make() for job in jobs}
        self.step = jax.jit(self._step)

    def start(self) -> Run:
        params = {job: random_tree(0, dtype_of(job)) for job in self.optimizers}
        return {job: (params[job], tx.init(params[job])) for job, tx in self.optimizers.items()}

    def go(self, run: Run, numbers: range) -> Run:
        """Takes the steps with these numbers."""
        for n in numbers:
            run = self.step(run, {dtype: random_tree(n + 1, dtype) for dtype in {dtype_of(job) for job in run}})
        return run

    def _step(self, run: Run, gradients: dict[str, Any]) -> Run:
        new = {}
        for job, (params, state) in run.items():
            updates, state = self.optimizers[job].update(gradients[dtype_of(job)], state, params)
            new[job] = gdjax.apply_updates(params, updates), state
        return new


def first(training: Training, folder: Path, checkpointer: ocp.StandardCheckpointer) -> dict[str, Any]:
    half = training.go(training.start(), range(HALF))
    checkpointer.save(folder / "orbax", half)
    (folder / "msgpack").write_bytes(serialization.to_bytes(without_keys(half)))
    return {"half": bits(half), "whole": bits(training.go(half, range(HALF, 2 * HALF)))}


def second(training: Training, folder: Path, checkpointer: ocp.StandardCheckpointer) -> dict[str, Any]:
    like = target(training.start)
    half = checkpointer.restore(folder / "orbax", like)
    packed = serialization.from_bytes(jax.eval_shape(without_keys, like), (folder / "msgpack").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # older releases of Orbax miss the devices
        untargeted = checkpointer.restore(folder / "orbax")
    return {
        "half": bits(half),
        "msgpack": bits(with_keys(packed, like)),
        "whole": bits(training.go(half, range(HALF, 2 * HALF))),
        "untargeted": {job: answer(training.optimizers[job], *untargeted[job]) for job in untargeted},
    }


def without_keys(tree: Any) -> Any:
    """The data of PRNG keys in their place: msgpack has no such type."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def with_keys(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, y: jax.random.wrap_key_data(x) if is_key(y) else x, tree, like)


def answer(tx: Any, params: Any, state: Any) -> str:
    """What an update says to a state that was restored without a target: "" where it takes it."""
    try:
        jax.eval_shape(tx.update, params, state, params)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return ""


if __name__ == "__main__":
    half, folder, jobs = {"first": first, "second": second}[sys.argv[1]], Path(sys.argv[2]), sys.argv[3:]
    with ocp.StandardCheckpointer() as checkpointer:
        (folder / sys.argv[1]).write_bytes(pickle.dumps(half(Training(jobs), folder, checkpointer)))
