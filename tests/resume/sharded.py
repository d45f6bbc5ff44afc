"""Trains over all the devices of a process; what was saved from eight is restored on another number of them.

    python -m tests.resume.sharded save|restore FOLDER RESULT CASE ...

`save` writes a checkpoint after half of the steps. Both write to RESULT the parameters and states then and at the end.
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gdjax
from tests.cases import by_name
from tests.resume.bits import bits
from tests.trees import numbers, random_tree

HALF = 3
# Since JAX 0.12 XLA:CPU rounds the same formula otherwise in arrays of 16 numbers or fewer. The kernel has more on each
# device, the bias fewer on any number of devices.
SHAPES = {"dense": {"kernel": (64, 8), "bias": (8,)}, "scale": ()}
MESH = Mesh(np.array(jax.devices()), ("data",))
EVERYWHERE = NamedSharding(MESH, PartitionSpec())


def tree(seed: int) -> Any:
    """Numbers that are split along their first axis; a scalar is on every device."""
    rows = NamedSharding(MESH, PartitionSpec("data"))
    return jax.tree.map(lambda x: jax.device_put(x, rows if x.ndim else EVERYWHERE), random_tree(seed, shapes=SHAPES))


def start(tx: Any) -> Any:
    """Moments are split like their parameters; the rest, such as the count, goes from one device to all of them.

    Restored to one device it would be bound to that, and a step that also gets parameters from others would not run.
    """
    params = tree(0)
    spread = lambda x: x if isinstance(x.sharding, NamedSharding) else jax.device_put(x, EVERYWHERE)
    return params, jax.tree.map(spread, tx.init(params))


def go(tx: Any, run: Any, steps: range) -> Any:
    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return gdjax.apply_updates(params, updates), state

    for n in steps:
        run = step(*run, tree(n + 1))
    return run


def split(run: Any) -> list[int]:
    """On how many devices the leaves of more than one number are split."""
    return sorted({len({str(s.index) for s in x.addressable_shards}) for x in jax.tree.leaves(run) if x.size > 1})


if __name__ == "__main__":
    saving, folder, result, names = sys.argv[1] == "save", Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
    optimizers = {name: by_name(name).make() for name in names}
    with ocp.StandardCheckpointer() as checkpointer:
        half: Any = {name: start(tx) for name, tx in optimizers.items()}
        if saving:
            half = {name: go(optimizers[name], run, range(HALF)) for name, run in half.items()}
            checkpointer.save(folder, half)
        else:
            half = checkpointer.restore(folder, half)
        whole = {name: go(optimizers[name], run, range(HALF, 2 * HALF)) for name, run in half.items()}
    found = {"half": bits(half), "bits": bits(whole), "whole": numbers(whole), "split": split(half)}
    result.write_bytes(pickle.dumps(found))
