"""8 or 4 bits for each number and a scale for each block of a column, or for each row.

A number of a block, divided by the scale, is a place on a scale of codes; which of the two codes beside it is taken
may be drawn.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.codes.rounding import Salt, uniform
from gdjax.core import meshes
from gdjax.core.types import Array, Format
from gdjax.xla.reads import as_integers, in_pairs, out_of_pairs
from gdjax.xla.sums import largest_size


def rounded(place: Array, shares: Array, value: Callable[[Array], Array]) -> Array:
    """One of the two whole numbers beside a place, at random, so that the mean of what it stands for is right.

    Args:
      place: at least 0.
      shares: in [0, 1); 0.5 for the one whose value is nearer.
      value: what a place stands for, over the scale.
    """
    near, below = jnp.round(place), jnp.floor(place)
    less = value(below)
    up = shares * (value(below + 1) - less) < value(place) - less
    # What was decoded gets its code again, where division by the scale has moved it a little.
    known = jnp.abs(place - near) <= near * np.float32(2.0**-19)
    return jnp.where(known, near, below + up.astype(jnp.float32))


def share(k: Array, n: float) -> Array:
    """k / n, and 1 for n: a compiler may take 1 / n into the scale, which must not grow by a last place a step."""
    return jnp.where(jnp.abs(k) == n, jnp.sign(k), k / n)


def rounded_softsign(size: Array, shares: Array, n: float) -> Array:
    return rounded(2 * n * size / (1 + size), shares, lambda k: inverse_softsign(k, n))


def inverse_softsign(k: Array, n: float) -> Array:
    """r of the code k = n * 2 r / (1 + |r|)."""
    return k / (2 * n - jnp.abs(k))


def rounded_float8(size: Array, shares: Array, largest: float) -> Array:
    """One of the two floats with 3 bits behind the leading one, and a least exponent of -6, beside `largest * size`."""
    size = largest * size
    step = jnp.exp2(jnp.floor(jnp.log2(jnp.maximum(size, np.float32(2.0**-6)))) - 3)
    return rounded(size / step, shares, lambda k: k) * step


def up_to_bfloat16(x: Array) -> Array:
    """The least bfloat16 that is at least x, which is not negative; as float32."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    up = jax.lax.bitcast_convert_type((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), jnp.minimum(up, float(jnp.finfo(jnp.bfloat16).max)), x)


# fmt: skip


FLOAT8 = jnp.float8_e4m3fn
LARGEST = {jnp.dtype("int8"): 127.0, jnp.dtype(FLOAT8): float(jnp.finfo(FLOAT8).max)}

ROW = 0  # in place of the length of blocks, where each row is one
ROOT = np.float32(2.0**64 - 2.0**40)  # the largest float32 whose square is one


class BlockCodes(NamedTuple):
    """The codes of `Blocks`."""

    codes: Array  # int8 or float8_e4m3fn, like the array
    scales: Array  # (..., rows / block, columns), the largest size in each block

    @property
    def format(self) -> Format:
        return Blocks(_block(self), str(self.scales.dtype), str(self.codes.dtype))


class BlockCodesOfSquares(NamedTuple):
    """The codes of `BlocksOfSquares`."""

    roots: Array  # uint8, like the array
    scales: Array  # (..., rows / block, columns), the root of the largest number in each block

    @property
    def format(self) -> Format:
        return BlocksOfSquares(_block(self), str(self.scales.dtype))


class FourBitCodes(NamedTuple):
    """The codes of `FourBits`."""

    # uint8 (..., rows / 2, columns): in each block the first half of its rows below, the second above. Where blocks are
    # rows, so of the array; if these are odd in number, nothing is above the last.
    pairs: Array
    scales: Array  # (..., rows / block, columns), the largest size in each block

    @property
    def format(self) -> Format:
        block = _block(self)
        return FourBits(block and 2 * block, str(self.scales.dtype))


def _block(codes: Any) -> int:
    (rows, columns), (blocks, width) = codes[0].shape[-2:], codes.scales.shape[-2:]
    return rows // blocks if width == columns else ROW


@dataclass(frozen=True)
class _InBlocks(Format):
    """What formats with a scale for each block have in common.

    Blocks lie along the second-last axis. A TPU's memory has 32 numbers of 8 bits of a column side by side, so that no
    block needs another layout. Numbers are kept relative to the largest of their block: a block of zeros stays zeros,
    and one with a number that is not finite becomes NaN.

    Where blocks do not divide that axis, each row is a block: what is padded to whole blocks a TPU would copy.

    Args:
      block: how many numbers; `ROW` for a row.
      scale_dtype: "float32", or "bfloat16", which is rounded up. (float16 underflows where gradients are small.)
    """

    block: int = 64
    scale_dtype: str = "float32"
    _codes: ClassVar[Callable[[Array, Array], Any]]

    def fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) > 1 and math.prod(shape) > 0 and (self._divides(shape) or shape[-1] >= self.block)

    def for_shape(self, shape: tuple[int, ...]) -> Format:
        return self if self._divides(shape) else replace(self, block=ROW)

    def _divides(self, shape: tuple[int, ...]) -> bool:
        return self.block != ROW and shape[-2] % self.block == 0

    def _scaled(self, sizes: Array) -> tuple[Array, Array]:
        """Numbers over the largest of their blocks, and these, as they are kept."""
        by_row = self.block == ROW
        scales = largest_size(sizes, -1)[..., None] if by_row else largest_size(_in_blocks(sizes, self.block), -2)
        scales = jnp.where(jnp.isfinite(scales), scales, jnp.nan)
        scales = up_to_bfloat16(scales) if self.scale_dtype == "bfloat16" else scales
        of_each = self._spread(scales, sizes)
        ratios = jnp.clip(sizes / jnp.where(of_each > 0, of_each, 1), -1, 1)
        return jnp.where(of_each > 0, ratios, 0), scales.astype(self.scale_dtype)

    def _spread(self, scales: Array, x: Array) -> Array:
        """For each number of x the scale of its block, in float32."""
        scales = scales.astype(jnp.float32)
        if self.block == ROW:
            return jnp.broadcast_to(scales, x.shape)
        shape = (*scales.shape[:-1], self.block, x.shape[-1])
        return jnp.broadcast_to(scales[..., None, :], shape).reshape(x.shape)

    def encode(self, x: Array, salt: Salt | None = None) -> Any:
        known: Any = self.for_shape(x.shape)
        shares = jnp.full_like(x, 0.5) if salt is None else uniform(salt, x)
        scales = x if known._divided_as(x) else None
        return known._codes(*meshes.partitioned(known._encoded, (x, scales), x, shares))

    def decode(self, codes: Any) -> Array:
        return meshes.partitioned(self._decoded, codes[0], *codes)

    def _divided_as(self, x: Array) -> bool:
        """Whether the axes of a mesh that divide an array divide its scales too."""
        how = meshes.division(x)
        rows, columns = ([*meshes.partitions(how.spec)] + [None] * x.ndim)[x.ndim - 2 : x.ndim] if how else (None, None)
        if self.block == ROW:
            return columns is None
        names = rows if isinstance(rows, tuple) else (rows,) if rows else ()
        return (x.shape[-2] // self.block) % int(np.prod([how.mesh.shape[name] for name in names if how])) == 0

    def _encoded(self, x: Array, shares: Array) -> tuple[Array, Array]:
        raise NotImplementedError

    def _decoded(self, codes: Array, scales: Array) -> Array:
        raise NotImplementedError


@dataclass(frozen=True)
class Blocks(_InBlocks):
    """Keeps signed numbers: r = x / max |x| as one of the two codes beside it, at random, so that its mean is right:

    int8:             127 * 2 r / (1 + |r|), finer near 0
    float8_e4m3fn:    448 r
    """

    dtype: str = "int8"

    _codes = BlockCodes

    def _encoded(self, x: Array, shares: Array) -> tuple[Array, Array]:
        r, scales = self._scaled(x)
        rounding = rounded_softsign if self.dtype == "int8" else rounded_float8
        codes = rounding(jnp.abs(r), shares, LARGEST[jnp.dtype(self.dtype)])
        return as_integers(jnp.where(r < 0, -codes, codes), self.dtype), scales

    def _decoded(self, codes: Array, scales: Array) -> Array:
        k, n = codes.astype(jnp.float32), LARGEST[jnp.dtype(self.dtype)]
        r = inverse_softsign(k, n) if self.dtype == "int8" else share(k, n)
        return r * self._spread(scales, k)

    def __repr__(self) -> str:
        return _named("int8" if self.dtype == "int8" else "float8", self)


@dataclass(frozen=True)
class BlocksOfSquares(_InBlocks):
    """Keeps squares: 255 sqrt(x / max x) as uint8, up or down at random so that the mean of its square is right.

    A square above 0 never gets code 0, which an update would divide by: it gets 1. One below 0 makes its block NaN.
    """

    _codes = BlockCodesOfSquares

    def _encoded(self, x: Array, shares: Array) -> tuple[Array, Array]:
        r, scales = self._scaled(jnp.sqrt(x))
        codes = rounded(255 * r, shares, jnp.square)
        return as_integers(jnp.where(r > 0, jnp.maximum(codes, 1), 0), jnp.uint8), scales

    def _decoded(self, codes: Array, scales: Array) -> Array:
        k = codes.astype(jnp.float32)
        return jnp.square(jnp.minimum(share(k, 255) * self._spread(scales, k), ROOT))  # a scale may be rounded up

    def __repr__(self) -> str:
        return _named("uint8", self)


@dataclass(frozen=True)
class FourBits(_InBlocks):
    """Keeps signed numbers in 4 bits: r = x / max |x| as 7 * 2 r / (1 + |r|), up or down at random as `Blocks` does."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        return super().fits(shape) and self.block % 2 == 0

    _codes = FourBitCodes

    def _half(self, rows: int) -> int:
        """How many rows lie between the two numbers of a pair."""
        return -(-rows // 2) if self.block == ROW else self.block // 2

    def _encoded(self, x: Array, shares: Array) -> tuple[Array, Array]:
        r, scales = self._scaled(x)
        size, half = rounded_softsign(jnp.abs(r), shares, 7), self._half(x.shape[-2])
        halves = lambda k: _in_blocks(_in_blocks(k, 2 * half), half)
        pairs = in_pairs(jnp.where(r < 0, -size, size) + 8, halves)
        return pairs.reshape(*x.shape[:-2], -1, x.shape[-1]), scales

    def _decoded(self, codes: Array, scales: Array) -> Array:
        rows = scales.shape[-2] if self.block == ROW else 2 * codes.shape[-2]
        together = lambda x: _in_rows(x.reshape(*codes.shape[:-2], -1, codes.shape[-1]), rows)
        k = out_of_pairs(_in_blocks(codes, self._half(rows)), together) - 8
        return inverse_softsign(k, 7) * self._spread(scales, k)

    def __repr__(self) -> str:
        return _named("4-bit", self)


def _in_blocks(x: Array, block: int) -> Array:
    """(..., rows, columns) as (..., blocks, rows in each, columns), with zeros below the last row."""
    missing = -x.shape[-2] % block
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, missing), (0, 0)]) if missing else x
    return x.reshape(*x.shape[:-2], -1, block, x.shape[-1])


def _in_rows(x: Array, rows: int) -> Array:
    """The first rows, without those that `_in_blocks` added."""
    return x if x.shape[-2] == rows else jax.lax.slice_in_dim(x, 0, rows, axis=x.ndim - 2)


def _named(name: str, format: _InBlocks) -> str:
    blocks = f"blocks of {format.block}" if format.block != ROW else "rows"
    return f"{name} {blocks}" + (" with bfloat16 scales" if format.scale_dtype == "bfloat16" else "")
