"""The parameter trees that the benchmarks run on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def gpt2_small() -> dict[str, Any]:
    """GPT-2 small: 148 leaves, 124 M parameters."""
    d = 768
    tree: dict[str, Any] = {"wte": (50257, d), "wpe": (1024, d), "ln_f": {"w": (d,), "b": (d,)}}
    for i in range(12):
        tree[f"h{i}"] = {
            "ln_1": {"w": (d,), "b": (d,)},
            "attn": {"qkv": {"w": (d, 3 * d), "b": (3 * d,)}, "out": {"w": (d, d), "b": (d,)}},
            "ln_2": {"w": (d,), "b": (d,)},
            "mlp": {"up": {"w": (d, 4 * d), "b": (4 * d,)}, "down": {"w": (4 * d, d), "b": (d,)}},
        }
    return tree


def many(leaves: int = 1000) -> dict[str, Any]:
    """Many small leaves, 64 x 64 each: what a tree costs beside its bytes."""
    return {f"w{i:04d}": (64, 64) for i in range(leaves)}


def small_gpt2() -> dict[str, Any]:
    """The 148 leaves of GPT-2 small with every side cut to at most 16: what a call costs beside its bytes."""
    return jax.tree.map(lambda shape: tuple(min(n, 16) for n in shape), gpt2_small(), is_leaf=is_shape)


TREES = {"gpt2-small": gpt2_small, "many": many, "gpt2-cut": small_gpt2}


def is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def shapes(tree: Any, dtype: Any = jnp.float32) -> Any:
    """The tree without its numbers: enough to trace and compile."""
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, dtype), tree, is_leaf=is_shape)


def arrays(tree: Any, seed: int, scale: float, dtype: Any = jnp.float32) -> Any:
    """The tree filled with Gaussian numbers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape, np.float32) * scale, dtype), tree, is_leaf=is_shape
    )


def size(tree: Any) -> tuple[int, int]:
    """Leaves and bytes of a tree of arrays or shapes."""
    leaves = jax.tree.leaves(tree)
    return len(leaves), sum(x.size * x.dtype.itemsize for x in leaves)
