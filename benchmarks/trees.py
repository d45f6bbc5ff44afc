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


def gpt2_hidden() -> dict[str, Any]:
    """The 48 hidden matrices of GPT-2 small, 85 M parameters: what Muon is for."""
    blocks = {k: v for k, v in gpt2_small().items() if k.startswith("h")}
    return {k: {"attn": {n: v["w"] for n, v in b["attn"].items()}, "mlp": {n: v["w"] for n, v in b["mlp"].items()}}
            for k, b in blocks.items()}  # fmt: skip


def resnet50() -> dict[str, Any]:
    """ResNet-50: 161 leaves, 25.6 M parameters; kernels are (height, width, in, out)."""
    tree: dict[str, Any] = {"conv": (7, 7, 3, 64), "norm": {"scale": (64,), "bias": (64,)}}
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            sides = [(1, inputs, width), (3, width, width), (1, width, 4 * width)]
            sides += [(1, inputs, 4 * width)] if block == 0 else []
            tree[f"stage{stage}_block{block}"] = {
                f"conv{i}": {"kernel": (k, k, a, b), "scale": (b,), "bias": (b,)} for i, (k, a, b) in enumerate(sides)
            }
            inputs = 4 * width
    return {**tree, "head": {"kernel": (2048, 1000), "bias": (1000,)}}


def transformer(layers: int, d: int, hidden: int, kv: int, vocabulary: int, stack: int) -> dict[str, Any]:
    """A decoder with gated layers and fewer heads of keys and values; so many layers are one leaf."""
    layer = {"q": (d, d), "k": (d, kv), "v": (d, kv), "o": (d, d), "gate": (d, hidden), "up": (d, hidden),
             "down": (hidden, d), "norm_1": (d,), "norm_2": (d,)}  # fmt: skip
    stacked = {name: (stack, *shape) for name, shape in layer.items()}
    stacks = {f"layers{i or ''}": stacked for i in range(layers // stack)}
    return {"embed": (vocabulary, d), "norm": (d,), **stacks}


def llama_1b() -> dict[str, Any]:
    """1.24 B parameters, the layers one stack; the shapes of Llama 3.2 1B, whose head is its embedding."""
    return transformer(16, 2048, 8192, 512, 128256, stack=16)


def llama_70b() -> dict[str, Any]:
    """70.6 B parameters, the shapes of Llama 3 70B; four layers are one leaf, smaller than the embedding."""
    return transformer(80, 8192, 28672, 1024, 128256, stack=4) | {"head": (8192, 128256)}


def many(leaves: int = 1000) -> dict[str, Any]:
    """Many small leaves, 64 x 64 each: what a tree costs beside its bytes."""
    return {f"w{i:05d}": (64, 64) for i in range(leaves)}


def tiny() -> dict[str, Any]:
    """10 leaves of 16: what a call costs."""
    return {f"w{i}": (16,) for i in range(10)}


def cut(tree: Any, side: int = 16) -> Any:
    """The tree with every side cut to at most `side`: the same leaves, hardly any bytes."""
    return jax.tree.map(lambda shape: tuple(min(n, side) for n in shape), tree, is_leaf=is_shape)


TREES = {
    "gpt2-small": gpt2_small,
    "resnet50": resnet50,
    "many": many,
    "tiny": tiny,
    "gpt2-hidden": gpt2_hidden,
    "gpt2-cut": lambda: cut(gpt2_small()),
}


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
