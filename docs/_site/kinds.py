"""What each optimizer keeps, as a table for the pages: which of its fields `quantize_state` may keep coarsely."""

import inspect
import warnings
from typing import Any

import catalogue
import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey

import gdjax
from gdjax.core.parts import state_arrays

# What stands for arguments that must be given.
ARGUMENTS = {
    "learning_rate": 1e-3, "inner": gdjax.sgd(1e-3), "optimizer": gdjax.sgd(1e-3), "base_optimizer": gdjax.sgd(1e-3),
    "adv_optimizer": gdjax.sgd(1e-3), "steps": 1000, "l2_norm_clip": 1.0, "noise_multiplier": 1.0, "key": 0,
    "data_size": 1000, "prox": gdjax.prox.none(),
}  # fmt: skip
PARAMS = {
    "hidden": {"kernel": jax.ShapeDtypeStruct((256, 256), jnp.float32)},
    "bias": jax.ShapeDtypeStruct((256,), jnp.float32),
    "head": jax.ShapeDtypeStruct((256, 128), jnp.float32),
}
COLUMNS = {
    "moment": "moments",
    "slow": "slow moments, or of a matrix",
    "matrix": "slow moments, or of a matrix",
    "square": "squares",
    "fine": "bears 16 bits",
    "basis": "bases",
    "factor": "stays",  # but for the argument `factors`
    "exact": "stays",
}


def made(name: str) -> Any:
    """An optimizer with its defaults."""
    arguments = inspect.signature(getattr(gdjax, name)).parameters.values()
    needed = [x.name for x in arguments if x.default is x.empty or x.name == "key"]
    return getattr(gdjax, name)(**{x: ARGUMENTS[x] for x in needed})


def kinds(name: str) -> dict[str, dict[str, None]]:
    """From each column to the fields of a state that have arrays of it; few numbers for a tree are left out."""
    found: dict[str, dict[str, None]] = {column: {} for column in COLUMNS.values()}
    tx = made(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = jax.eval_shape(tx.init, PARAMS)
    for x in state_arrays(tx, state, PARAMS):
        field = [key.name for key in x.field if isinstance(key, GetAttrKey)][-1]
        if x.array.size >= 256 and jnp.issubdtype(x.array.dtype, jnp.floating):
            found[COLUMNS[x.kind]][field] = None
    return found


def names() -> list[str]:
    """The optimizers, in the order of the tables of `docs/optimizers.md`."""
    own = {symbol.short for symbol in catalogue.symbols() if catalogue.is_optimizer(symbol)}
    own -= {"constrained"}  # which is for another tree than `PARAMS`, and keeps nothing of its own
    return [name for group in catalogue.groups().values() for name in group if name in own]


def table() -> str:
    """A row for each optimizer that keeps an array for a parameter; those alike stand in one row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in names():
        fields = kinds(name)
        if any(fields.values()):
            rows.setdefault(tuple(", ".join(f"`{f}`" for f in column) for column in fields.values()), []).append(name)
    heads = ["optimizer", *dict.fromkeys(COLUMNS.values())]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {', '.join(f'`{x}`' for x in several)} | {' | '.join(row)} |" for row, several in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
