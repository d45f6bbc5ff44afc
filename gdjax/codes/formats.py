"""Which format keeps which kind of array; and the formats without blocks.

- bfloat16 in place of float32, rounded at random;
- 8 bits for each number, by its logarithm: no scale, so one pass, and codes that lie where the numbers would.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.codes.blocks import BlockCodes, BlockCodesOfSquares, Blocks, BlocksOfSquares, FourBitCodes, FourBits
from gdjax.codes.dynamic import Dynamic, DynamicCodes, DynamicCodesOfSquares
from gdjax.codes.rounding import LARGEST, Salt, bits_of, float_of, number, random_bits, stochastically, uniform
from gdjax.codes.words import WORDS, InWord, Word
from gdjax.core.part import SlotKind
from gdjax.core.types import Array, ArrayTree, Format
from gdjax.xla.reads import as_integers


class NarrowCodes(NamedTuple):
    """The codes of `NarrowFloats`."""

    rounded: Array  # bfloat16, like the array

    @property
    def format(self) -> Format:
        return NarrowFloats()


@dataclass(frozen=True)
class NarrowFloats(Format):
    """Keeps a float32 number as bfloat16, one of the two beside it at random, so that its mean is right.

    What is not finite becomes NaN; what is finite stays so.
    """

    def __repr__(self) -> str:
        return "bfloat16"

    def encode(self, x: Array, salt: Salt | None = None) -> NarrowCodes:
        x = jnp.where(jnp.isfinite(x), jnp.clip(x, -LARGEST, LARGEST), jnp.nan)
        x = x if salt is None else stochastically(x, jnp.bfloat16, random_bits(salt, x))
        return NarrowCodes(x.astype(jnp.bfloat16))

    def decode(self, codes: NarrowCodes) -> Array:
        return codes.rounded.astype(jnp.float32)


STEP = np.uint32(7 << 19)  # between the bits of neighbours: 7/16 of a power of two


class LogCodes(NamedTuple):
    """The codes of `Logs(signed=True)`."""

    log: Array  # int8, like the array: the sign, and the place among the 127 sizes; -128 for NaN

    @property
    def format(self) -> Format:
        return SIGNED


class LogCodesOfSquares(NamedTuple):
    """The codes of `Logs(signed=False)`."""

    log_of_square: Array  # uint8, like the array: the place among the 235 sizes; 255 for NaN

    @property
    def format(self) -> Format:
        return SQUARES


@dataclass(frozen=True)
class Logs(Format):
    """Keeps a number 2^e (1 + f) as e + f in equal steps, a logarithm of straight pieces.

        code k = 1, ..., n    stands for    e + f = low + 7/16 (k - 1),    code 0 for 0

    The bits of a float32, read as an integer, are e + f but for a factor and an offset: a code is one product of
    integers away from its number, the same one on every backend.

    Signed numbers have n = 127, from 2^-44 to 2^11.2; squares n = 235, from 2^-80 to 2^22.5: ratios of 1.28 to 1.44.
    So a moment and the root of its square end together, and where both do an update is 1. (Squares had codes up to 254
    once, which can still be read.)
    A number between two codes becomes one of them at random, so that its mean is right. Sizes above the last code
    become it; a square above 0 never becomes 0, a signed number below the first code does, or becomes it, at random.
    What is not finite becomes NaN, and so does a square below 0.
    """

    signed: bool

    def __repr__(self) -> str:
        return "int8 log" if self.signed else "uint8 log"

    @property
    def _codes(self) -> tuple[int, Any]:
        """How many sizes there are, and the bits of the least."""
        return (127, np.uint32(127 - 44 << 23)) if self.signed else (235, np.uint32(127 - 80 << 23))

    def _size(self, code: Array) -> Array:
        return jnp.where(code > 0, float_of(code * STEP + (self._codes[1] - STEP)), 0)

    def encode(self, x: Array, salt: Salt | None = None) -> Any:
        n, low = self._codes
        size = bits_of(x) & np.uint32(0x7FFFFFFF)
        # Zero and all sizes below the first code are between 0 and it. n // 7 is n * 9363 >> 16 below 13,107.
        steps = ((jnp.maximum(size, low) - low) >> np.uint32(19)) * np.uint32(9363) >> np.uint32(16)
        below = jnp.where(size < low, np.uint32(0), jnp.minimum(steps, np.uint32(n - 2)) + np.uint32(1))
        less, more = self._size(below), self._size(below + np.uint32(1))
        share = uniform(salt, x) if salt is not None else np.float32(0.5)
        code = number(below) + (share * (more - less) < float_of(size) - less).astype(jnp.float32)
        finite = size < np.uint32(0x7F800000)
        if self.signed:
            code = jnp.where(finite, jnp.where(x < 0, -code, code), -128)
            return LogCodes(as_integers(code, jnp.int8))
        code = jnp.where(x > 0, jnp.maximum(code, 1), 0)
        return LogCodesOfSquares(as_integers(jnp.where(finite & (x >= 0), code, 255), jnp.uint8))

    def decode(self, codes: Any) -> Array:
        code = codes[0].astype(jnp.int32)
        size = self._size(jnp.abs(code).astype(jnp.uint32))
        if self.signed:
            return jnp.where(code == -128, jnp.nan, jnp.where(code < 0, -size, size))
        return jnp.where(code == 255, jnp.nan, size)


SIGNED, SQUARES = Logs(signed=True), Logs(signed=False)


Name = Literal["log", "blocks", "fp8", "4 bits", "dynamic", "bfloat16", "float32"]
MOMENT_KINDS: Sequence[SlotKind] = ("moment", "slow", "matrix")
PLURAL: dict[SlotKind, str] = dict.fromkeys(MOMENT_KINDS, "moments")
PLURAL |= {"square": "squares", "basis": "bases", "factor": "factors"}
CODES = (
    LogCodes, LogCodesOfSquares, BlockCodes, BlockCodesOfSquares, FourBitCodes, DynamicCodes, DynamicCodesOfSquares,
    NarrowCodes, Word, InWord,
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
TABLE: Mapping[SlotKind, Mapping[str, Sequence[Format]]] = {
    **dict.fromkeys(MOMENT_KINDS, MOMENTS),
    "square": {
        "log": [Logs(False)],
        "blocks": [BlocksOfSquares(), NarrowFloats()],
        "dynamic": [Dynamic(False)],
        "bfloat16": [NarrowFloats()],
        "float32": [],
    },
    "basis": {name: MOMENTS[name] for name in ("blocks", "fp8", "4 bits", "bfloat16", "float32")},
    "factor": {name: MOMENTS[name] for name in ("blocks", "bfloat16", "float32")},
    "fine": {name: MOMENTS[name] for name in ("bfloat16", "float32")},
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


@jax.jit
def decode(codes: Any) -> Any:
    """What codes stand for; of a `Word` both moments. Arrays of one shape share it in a program."""
    return codes.format.decode(codes)


@functools.partial(jax.jit, static_argnums=0)
def encode(format: Format, x: Any, salt: Salt | None = None) -> Any:
    """The codes of a float32 array, or of a pair of them. Arrays of one shape share it in a program."""
    return format.encode(x, salt)


def decoded(tree: ArrayTree) -> Any:
    """A state in which arrays stand in place of codes."""
    squares = list[Any]()  # of the words so far: in each state second moments come after the first, in their order

    def array(x: Any) -> Any:
        if isinstance(x, InWord):
            return squares.pop(0) if squares else x
        coded = is_codes(x) and bool(jax.tree.leaves(x))  # not so of a parameter that is masked here
        if isinstance(x, Word):
            m, v = decode(x) if coded else (x, InWord())
            squares.append(v)
            return m
        return decode(x) if coded else x

    return jax.tree.map(array, tree, is_leaf=is_codes)


def has_words(tree: ArrayTree) -> bool:
    """Whether a state has words."""
    return any(isinstance(x, Word) for x in jax.tree.leaves(tree, is_leaf=is_codes))


def with_words(tree: ArrayTree, other: ArrayTree, like: ArrayTree) -> Any:
    """A state of arrays, in which those that a state like it has in words are of another one."""
    codes, structure = jax.tree.flatten(like, is_leaf=is_codes)
    each = zip(codes, structure.flatten_up_to(tree), structure.flatten_up_to(other), strict=True)
    return structure.unflatten([y if isinstance(c, Word | InWord) else x for c, x, y in each])


def encoded(tree: ArrayTree, like: ArrayTree, salted: Callable[[int], Salt | None] = lambda i: None) -> Any:
    """A state in which codes stand in place of arrays, in the formats of a state like it.

    Args:
      salted: from the number of an entry of the state to the salt of its random bits.
    """
    codes, structure = jax.tree.flatten(like, is_leaf=is_codes)
    xs = structure.flatten_up_to(tree)
    present = lambda x: hasattr(x, "astype")
    pairs = zip(codes, xs, strict=True)
    squares = iter([x.astype(jnp.float32) for c, x in pairs if isinstance(c, InWord) and present(x)])

    def coded(i: int, c: Any, x: Array) -> Any:
        if isinstance(c, InWord) or is_codes(c) and not present(x):
            return c
        if not is_codes(c):
            return x
        x = x.astype(jnp.float32)
        return encode(c.format, (x, next(squares)) if isinstance(c, Word) else x, salted(i))

    return structure.unflatten([coded(i, c, x) for i, (c, x) in enumerate(zip(codes, xs, strict=True))])


def of_kinds(label: str, names: Mapping[SlotKind, str], block: int, scale_dtype: str) -> dict[SlotKind, list[Format]]:
    """The formats of each kind that is named, in the order in which they are tried.

    Raises:
      ValueError: a kind has no format of that name.
    """
    formats_of: dict[SlotKind, list[Format]] = {"exact": []}
    for kind, name in names.items():
        if name not in TABLE[kind]:
            raise ValueError(
                f"{label}: {PLURAL[kind]} can be kept as {', '.join(map(repr, TABLE[kind]))}, got {name!r}"
            )
        formats_of[kind] = [_with(x, block, scale_dtype) for x in TABLE[kind][name]]
    return formats_of


def before(block: int, scale_dtype: str) -> list[Sequence[Format]]:
    """The formats of states that were made when "blocks" were the default of what has no words."""
    return [[_with(x, block, scale_dtype) for x in TABLE[kind]["blocks"]] for kind in ("moment", "square")]


def _is_one(codes: Any, formats: Sequence[Format]) -> bool:
    shape = _shape(codes)
    return any(codes.format == f.for_shape(shape) for f in formats if f.fits(shape))


def _with(format: Any, block: int, scale_dtype: str) -> Format:
    has_blocks = isinstance(format, Blocks | BlocksOfSquares | FourBits)
    return replace(format, block=block, scale_dtype=scale_dtype) if has_blocks else format


def check(label: str, state: ArrayTree, known: Sequence[Sequence[Format]], pairs: bool) -> None:
    """Raises where a state has codes of none of these formats, or words unless there may be `pairs`."""
    for path, x in jax.tree_util.tree_leaves_with_path(state, is_leaf=is_codes):
        masked = not jax.tree.leaves(x) and not isinstance(x, InWord)
        if not is_codes(x) or masked:
            continue
        if not (pairs if x.format == WORDS else any(_is_one(x, several) for several in known)):
            formats = [*[WORDS] * pairs, *(f for several in known for f in several)]
            names = ", ".join(dict.fromkeys(map(repr, formats)))
            where = f"{label}: state{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where} is kept as {x.format!r}, not as {names}: gdjax.migrate converts a state")
