"""Writes states_0_3.pickle and states_0_3.json: states as this version saves them, which later ones must read.

    python -m tests.golden.saved_states

Each optimizer of `OPTIMIZERS` makes `STEPS` steps. Its state is written as a pickle with NumPy's arrays, and as the
plain dict of `state_to_dict`; beside it stands the update that follows. A PRNG key is pickled in a form of JAX's own,
which another JAX need not read, and older releases of ml_dtypes lose the type bfloat16 once they have read an array of
it from a pickle: states with either are there as a dict alone.

The files are named after the version. Those of an older one are never written anew, or they would say nothing about old
states: a new version adds its own, which a test asks for.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from tests.trees import is_key

STEPS = 3
FOLDER = Path(__file__).parent
VERSION = "_".join(gdjax.__version__.split(".")[:2])


def array(shape: tuple[int, ...], phase: float) -> np.ndarray:
    return np.cos(0.7 * np.arange(np.prod(shape)) ** 1.5 + phase).reshape(shape).astype(np.float32)


SHAPES = {"bias": (2,), "first": (3, 2), "second": (3, 2)}
PARAMS = {name: array(shape, k) for k, (name, shape) in enumerate(SHAPES.items())}
TARGET = {name: array(shape, k + 0.5) for k, (name, shape) in enumerate(SHAPES.items())}


def loss(params: Any, k: Any) -> Any:
    """A quadratic that moves from step to step, so that no two gradients are alike."""
    off = jax.tree.map(lambda x, y: x - y * jnp.cos(0.3 * k).astype(x.dtype), params, TARGET)
    return 0.5 * sum(jnp.vdot(x * w, x) for w, x in enumerate(jax.tree.leaves(off), 1))


def matrices(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, tree)


def labels(tree: Any) -> Any:
    return jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "vector", tree)


RATE = gdjax.warmup_cosine_decay_schedule(0.01, 0.1, 2, 10)
FEW = {"precondition_frequency": 2}
# Functions, so that each is built when its test runs.
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: gdjax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: gdjax.adamw(RATE, mask=matrices),
    "adamw_bfloat16": lambda: gdjax.adamw(0.1, mu_dtype="bfloat16"),
    "clipped_adamw": lambda: gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(RATE)),
    "named_chain": lambda: gdjax.named_chain(("first", gdjax.trace(0.9)), ("rate", gdjax.scale_by_learning_rate(0.1))),
    "lion": lambda: gdjax.lion(0.01),
    "adabelief": lambda: gdjax.adabelief(0.1),
    "adafactor": lambda: gdjax.adafactor(0.1, min_dim_size_to_factor=2),
    "prodigy": lambda: gdjax.prodigy(1.0, estim_lr0=0.01),
    "muon": lambda: gdjax.muon(0.1),
    "normuon": lambda: gdjax.normuon(0.1),
    "soap": lambda: gdjax.soap(0.1, **FEW),
    "shampoo": lambda: gdjax.shampoo(0.1, **FEW),
    "lbfgs": lambda: gdjax.lbfgs(memory_size=3),
    "bfgs": lambda: gdjax.bfgs(),
    "noisy_sgd": lambda: gdjax.noisy_sgd(0.1, key=1),
    "multi_steps": lambda: gdjax.MultiSteps(gdjax.adam(0.1), 2),
    "apply_if_finite": lambda: gdjax.apply_if_finite(gdjax.adam(0.1), 2),
    "inject_hyperparams": lambda: gdjax.inject_hyperparams(gdjax.adamw)(learning_rate=RATE, weight_decay=0.01),
    "masked": lambda: gdjax.chain(gdjax.masked(gdjax.trace(0.9), matrices), gdjax.scale_by_learning_rate(0.1)),
    "partition": lambda: gdjax.partition({"matrix": gdjax.muon(0.1), "vector": gdjax.adam(0.1)}, labels),
    "with_metrics": lambda: gdjax.with_metrics(gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adam(RATE))),
    "params_ema": lambda: gdjax.params_ema(gdjax.adam(0.1), 0.9),
    "schedule_free": lambda: gdjax.schedule_free_adamw(0.1),
    "mechanize": lambda: gdjax.mechanize(gdjax.adam(1.0), s_init=0.01),
    "sam": lambda: gdjax.sam(gdjax.adam(0.1), gdjax.sgd(0.05)),
    "reduce_on_plateau": lambda: gdjax.chain(gdjax.adam(0.1), gdjax.reduce_on_plateau(0.5, patience=1)),
}


class Saved(NamedTuple):
    """One optimizer in the files."""

    state: Any  # from the pickle; None if it has a PRNG key or bfloat16
    plain: Mapping[str, np.ndarray]  # of `state_to_dict`, by paths
    params: Any  # when the state was saved
    updates: Mapping[str, np.ndarray]  # of the next step


def advance(tx: Any, params: Any, state: Any, k: int) -> tuple[Any, Any]:
    value, gradients = jax.value_and_grad(loss)(params, jnp.float32(k))
    extra = {"value": value, "grad": gradients, "value_fn": lambda p: loss(p, jnp.float32(k))}
    return tx.update(gradients, state, params, **extra)


def by_path(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in leaves}


def to_json(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Decimals that are read as the same float32, and no longer."""
    shortest = lambda x: float(str(x)) if isinstance(x, float | np.floating) else x
    plain = lambda x: x.astype(np.float32) if x.dtype.name == "bfloat16" else x
    return {k: [x.dtype.name, x.shape, [shortest(v) for v in plain(x).ravel()]] for k, x in arrays.items()}


def from_json(rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {k: np.asarray(x).astype(jnp.dtype(dtype)).reshape(shape) for k, (dtype, shape, x) in rows.items()}


def pickles_alike(x: Any) -> bool:
    return not is_key(x) and x.dtype != jnp.bfloat16


def read(version: str) -> dict[str, Saved]:
    states = pickle.loads((FOLDER / f"states_{version}.pickle").read_bytes())
    rows = json.loads((FOLDER / f"states_{version}.json").read_text("utf-8"))
    return {name: Saved(states[name], *(from_json(rows[name][field]) for field in Saved._fields[1:])) for name in rows}


def main() -> None:
    states: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    for name, make in OPTIMIZERS.items():
        tx = make()
        params: Any = jax.tree.map(jnp.asarray, PARAMS)
        state = tx.init(params)
        for k in range(STEPS):
            updates, state = advance(tx, params, state, k)
            params = gdjax.apply_updates(params, updates)
        updates, _ = advance(tx, params, state, STEPS)
        whole = all(map(pickles_alike, jax.tree.leaves(state)))
        states[name] = jax.device_get(state) if whole else None
        parts = by_path(gdjax.state_to_dict(state)), by_path(params), by_path(updates)
        rows[name] = {field: to_json(part) for field, part in zip(Saved._fields[1:], parts, strict=True)}
    if (FOLDER / f"states_{VERSION}.pickle").exists():
        raise SystemExit(f"the states of {VERSION} are there: delete them first, if no release has written such states")
    (FOLDER / f"states_{VERSION}.pickle").write_bytes(pickle.dumps(states, protocol=4))
    text = ",\n".join(f'"{name}": {json.dumps(row, default=int)}' for name, row in rows.items())
    (FOLDER / f"states_{VERSION}.json").write_text(f"{{\n{text}\n}}\n", "utf-8")


if __name__ == "__main__":
    main()
