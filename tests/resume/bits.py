"""Trees as bits, to compare what two processes have."""

import hashlib
from typing import Any

import jax
import numpy as np

from tests.trees import is_key

Leaf = tuple[str, tuple[int, ...], bytes]  # dtype, shape, contents


def bits(tree: Any) -> dict[str, Leaf]:
    """Every leaf by its path. -0 differs from 0, a NaN from another, and float32 from bfloat16."""
    return {jax.tree_util.keystr(path): _leaf(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def digest(tree: Any) -> str:
    return hashlib.sha256(repr(sorted(bits(tree).items())).encode()).hexdigest()[:32]


def _leaf(x: Any) -> Leaf:
    array = np.asarray(jax.random.key_data(x) if is_key(x) else x)
    return str(x.dtype), array.shape, array.tobytes()
