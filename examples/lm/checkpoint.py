"""A pytree of arrays in one `.npz` file: written whole or not at all, read without pickle."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np


def save(path: Path, tree: Any, about: dict[str, Any]) -> None:
    """Writes the leaves of `tree` under their paths, and `about` (of JSON types) beside them.

    The file appears under its name only when it is complete, so a run that is cut off leaves the one before.
    """
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in _named(tree)}
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def about(path: Path) -> dict[str, Any]:
    """What `save` was told about the tree."""
    with np.load(path, allow_pickle=False) as stored:
        return json.loads(str(stored["about"]))


def load(path: Path, like: Any) -> Any:
    """The stored leaves in the structure of `like`.

    Raises:
      ValueError: a leaf is missing, too many, or of another shape or dtype than in `like`; the message names it.
    """
    named = _named(like)
    with np.load(path, allow_pickle=False) as stored:
        if odd := {name for name, _ in named} ^ {name for name in stored.files if name != "about"}:
            raise ValueError(f"{path}: these leaves are only in the file or only in the run: {sorted(odd)}")
        leaves = [_typed(stored[name], wanted.dtype) for name, wanted in named]
    for (name, wanted), leaf in zip(named, leaves, strict=True):
        if (leaf.shape, leaf.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"{path}: {name} is {leaf.dtype}{list(leaf.shape)}, the run needs {wanted.dtype}{list(wanted.shape)}"
            )
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _typed(x: np.ndarray, dtype: Any) -> np.ndarray:
    """x, or if it is of a dtype that NumPy's files do not know, such as bfloat16, the same bits as that."""
    return x.view(dtype) if x.dtype.kind == "V" and x.dtype.itemsize == np.dtype(dtype).itemsize else x


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
