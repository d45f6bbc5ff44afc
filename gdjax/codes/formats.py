"""Which format keeps which kind of array."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeGuard

import jax
import jax.numpy as jnp

from gdjax.codes.blocks import BlockCodes, BlockCodesOfSquares, Blocks, BlocksOfSquares, FourBitCodes, FourBits
from gdjax.codes.dynamic import Dynamic, DynamicCodes, DynamicCodesOfSquares
from gdjax.codes.logs import LogCodes, LogCodesOfSquares, Logs
from gdjax.codes.narrow import NarrowCodes, NarrowFloats
from gdjax.core.codec import Format
from gdjax.core.part import Kind
from gdjax.core.types import ArrayTree

Array = jax.Array

Name = Literal["log", "blocks", "fp8", "4 bits", "dynamic", "bfloat16", "float32"]
PLURAL: dict[Kind, str] = dict.fromkeys(("moment", "slow", "matrix"), "moments")
PLURAL |= {"square": "squares", "basis": "bases", "factor": "factors"}
CODES = (
    LogCodes, LogCodesOfSquares, BlockCodes, BlockCodesOfSquares, FourBitCodes, DynamicCodes, DynamicCodesOfSquares,
    NarrowCodes,
)  # fmt: skip

# The formats of each kind by name, in the order in which they are tried: the first that fits a shape is taken. "log"
# alone has a largest number: none of the others may fall back on it.
MOMENTS: Mapping[str, Sequence[Format]] = {
    "log": [Logs(True)],
    "blocks": [Blocks(), NarrowFloats()],
    "fp8": [Blocks(dtype="float8_e4m3fn"), NarrowFloats()],
    "4 bits": [FourBits(), NarrowFloats()],
    "dynamic": [Dynamic(True)],
    "bfloat16": [NarrowFloats()],
    "float32": [],
}
TABLE: Mapping[Kind, Mapping[str, Sequence[Format]]] = {
    "moment": MOMENTS,
    "slow": MOMENTS,
    "matrix": MOMENTS,
    "square": {
        "log": [Logs(False)],
        "blocks": [BlocksOfSquares(), NarrowFloats()],
        "dynamic": [Dynamic(False)],
        "bfloat16": [NarrowFloats()],
        "float32": [],
    },
    "basis": {name: MOMENTS[name] for name in ("blocks", "fp8", "4 bits", "bfloat16", "float32")},
    "factor": {name: MOMENTS[name] for name in ("blocks", "bfloat16", "float32")},
    "exact": {"float32": []},
}


def of_shape(formats: Sequence[Format], shape: tuple[int, ...]) -> Format | None:
    """The first that can keep an array of this shape."""
    return next((f.for_shape(shape) for f in formats if f.fits(shape)), None)


def _shape(codes: Any) -> tuple[int, ...]:
    return jax.eval_shape(codes.format.decode, codes).shape


def is_codes(x: object) -> TypeGuard[Any]:
    """Whether x is what a format keeps in place of an array."""
    return isinstance(x, CODES)


def names(tree: ArrayTree) -> list[str]:
    """For each array of a state its dtype, or the format whose codes it is part of."""
    nodes = jax.tree.leaves(tree, is_leaf=is_codes)
    return [name for x in nodes for name in ([repr(x.format)] * len(x) if is_codes(x) else [str(x.dtype)])]


def decoded(tree: ArrayTree) -> Any:
    """A state in which arrays stand in place of codes."""
    return jax.tree.map(lambda x: x.format.decode(x) if is_codes(x) else x, tree, is_leaf=is_codes)


def encoded(tree: ArrayTree, like: ArrayTree, salted: Callable[[int], Array | None] = lambda i: None) -> Any:
    """A state in which codes stand in place of arrays, in the formats of a state like it.

    Args:
      salted: from the number of an entry of the state to the salt of its random bits.
    """
    codes, structure = jax.tree.flatten(like, is_leaf=is_codes)
    xs = enumerate(zip(codes, structure.flatten_up_to(tree), strict=True))
    news = [c.format.encode(x.astype(jnp.float32), salted(i)) if is_codes(c) else x for i, (c, x) in xs]
    return structure.unflatten(news)


def of_kinds(label: str, names: Mapping[Kind, str], block: int, scale_dtype: str) -> dict[Kind, list[Format]]:
    """The formats of each kind that is named, in the order in which they are tried.

    Raises:
      ValueError: a kind has no format of that name.
    """
    found: dict[Kind, list[Format]] = {"exact": []}
    for kind, name in names.items():
        if name not in TABLE[kind]:
            raise ValueError(
                f"{label}: {PLURAL[kind]} can be kept as {', '.join(map(repr, TABLE[kind]))}, got {name!r}"
            )
        found[kind] = [_with(x, block, scale_dtype) for x in TABLE[kind][name]]
    return found


def _with(format: Any, block: int, scale_dtype: str) -> Format:
    has_blocks = isinstance(format, Blocks | BlocksOfSquares | FourBits)
    return replace(format, block=block, scale_dtype=scale_dtype) if has_blocks else format


def check(label: str, state: ArrayTree, kinds: Mapping[Kind, Sequence[Format]]) -> None:
    """Raises where a state has codes of none of these formats."""
    for path, x in jax.tree_util.tree_leaves_with_path(state, is_leaf=is_codes):
        if is_codes(x) and not any(x.format == of_shape(several, _shape(x)) for several in kinds.values()):
            known = ", ".join(dict.fromkeys(repr(f) for several in kinds.values() for f in several))
            where = f"{label}: state{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where} is kept as {x.format!r}, not as {known}: gdjax.migrate converts a state")
