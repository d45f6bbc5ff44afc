"""8 or 4 bits for each number and a scale for each block of a column."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.codes.random_rounding import uniform
from gdjax.core import meshes
from gdjax.core.codec import Format
from gdjax.xla.bits import as_integers
from gdjax.xla.sums import largest_size

Array = jax.Array

FLOAT8 = jnp.float8_e4m3fn
LARGEST = {jnp.dtype("int8"): 127.0} | {jnp.dtype(x): float(jnp.finfo(x).max) for x in (FLOAT8, jnp.bfloat16)}

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

    pairs: Array  # uint8 (..., rows / 2, columns): in each block the first half of its rows below, the second above
    scales: Array  # (..., rows / block, columns), the largest size in each block

    @property
    def format(self) -> Format:
        return FourBits(2 * _block(self), str(self.scales.dtype))


def _block(codes: Any) -> int:
    return codes[0].shape[-2] // codes.scales.shape[-2]


@dataclass(frozen=True)
class _InBlocks(Format):
    """What formats with a scale for each block have in common.

    Blocks lie along the second-last axis. A TPU's memory has 32 numbers of 8 bits of a column side by side, so that no
    block needs another layout. Numbers are kept relative to the largest of their block: a block of zeros stays zeros,
    and one with a number that is not finite becomes NaN.

    Args:
      block: how many numbers, which must divide the second-last axis of an array.
      scale_dtype: "float32", or "bfloat16", which is rounded up. (float16 underflows where gradients are small.)
    """

    block: int = 64
    scale_dtype: str = "float32"

    def fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) > 1 and shape[-2] % self.block == 0 and math.prod(shape) > 0

    def _split(self, x: Array, block: int) -> Array:
        """(..., rows, columns) as (..., blocks, rows in each, columns)."""
        return x.reshape(*x.shape[:-2], -1, block, x.shape[-1])

    def _ratios(self, sizes: Array) -> tuple[Array, Array]:
        """Numbers in blocks over the largest of each, and these, as they are kept."""
        scales = largest_size(sizes, -2)
        scales = jnp.where(jnp.isfinite(scales), scales, jnp.nan)
        scales = _up_to_bfloat16(scales) if self.scale_dtype == "bfloat16" else scales
        of_each = scales[..., None, :]
        ratios = jnp.clip(sizes / jnp.where(of_each > 0, of_each, 1), -1, 1)
        return jnp.where(of_each > 0, ratios, 0), scales.astype(self.scale_dtype)

    def encode(self, x: Array, salt: Array | None = None) -> Any:
        shares = jnp.full_like(x, 0.5) if salt is None else uniform(salt, x)
        scales = x if _divides_evenly(x, self.block) else None
        return self._codes(*meshes.partitioned(self._encoded, (x, scales), x, shares))

    def decode(self, codes: Any) -> Array:
        return meshes.partitioned(self._decoded, codes[0], *codes)

    def _codes(self, codes: Array, scales: Array) -> Any:
        raise NotImplementedError

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

    def _codes(self, codes: Array, scales: Array) -> BlockCodes:
        return BlockCodes(codes, scales)

    def _encoded(self, x: Array, shares: Array) -> tuple[Array, Array]:
        r, scales = self._ratios(self._split(x, self.block))
        rounded = _rounded_softsign if self.dtype == "int8" else _rounded_float8
        codes = rounded(jnp.abs(r), self._split(shares, self.block), LARGEST[jnp.dtype(self.dtype)])
        return as_integers(jnp.where(r < 0, -codes, codes), self.dtype).reshape(x.shape), scales

    def _decoded(self, codes: Array, scales: Array) -> Array:
        k, n = self._split(codes.astype(jnp.float32), self.block), LARGEST[jnp.dtype(self.dtype)]
        r = _inverse_softsign(k, n) if self.dtype == "int8" else _share(k, n)
        return (r * scales.astype(jnp.float32)[..., None, :]).reshape(codes.shape)

    def __repr__(self) -> str:
        return _named("int8" if self.dtype == "int8" else "float8", self)


@dataclass(frozen=True)
class BlocksOfSquares(_InBlocks):
    """Keeps squares: 255 sqrt(x / max x) as uint8, up or down at random so that the mean of its square is right.

    A square above 0 never gets code 0, which an update would divide by: it gets 1. One below 0 makes its block NaN.
    """

    def _codes(self, codes: Array, scales: Array) -> BlockCodesOfSquares:
        return BlockCodesOfSquares(codes, scales)

    def _encoded(self, x: Array, shares: Array) -> tuple[Array, Array]:
        r, scales = self._ratios(self._split(jnp.sqrt(x), self.block))
        codes = _rounded(255 * r, self._split(shares, self.block), jnp.square)
        return as_integers(jnp.where(r > 0, jnp.maximum(codes, 1), 0), jnp.uint8).reshape(x.shape), scales

    def _decoded(self, codes: Array, scales: Array) -> Array:
        r = _share(self._split(codes.astype(jnp.float32), self.block), 255)
        roots = jnp.minimum(r * scales.astype(jnp.float32)[..., None, :], ROOT)  # a scale may have been rounded up
        return jnp.square(roots).reshape(codes.shape)

    def __repr__(self) -> str:
        return _named("uint8", self)


@dataclass(frozen=True)
class FourBits(_InBlocks):
    """Keeps signed numbers in 4 bits: r = x / max |x| as 7 * 2 r / (1 + |r|), up or down at random as `Blocks` does."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        return super().fits(shape) and self.block % 2 == 0

    def _codes(self, codes: Array, scales: Array) -> FourBitCodes:
        return FourBitCodes(codes, scales)

    def _encoded(self, x: Array, shares: Array) -> tuple[Array, Array]:
        r, scales = self._ratios(self._split(x, self.block))
        size = _rounded_softsign(jnp.abs(r), self._split(shares, self.block), 7)
        first, second = jnp.split(jnp.where(r < 0, -size, size) + 8, 2, axis=-2)
        rows = x.shape[-2] // 2
        return as_integers(first + 16 * second, jnp.uint8).reshape(*x.shape[:-2], rows, x.shape[-1]), scales

    def _decoded(self, codes: Array, scales: Array) -> Array:
        both = self._split(codes.astype(jnp.float32), self.block // 2)
        second = jnp.floor(both * np.float32(1 / 16))
        k = jnp.concatenate([both - 16 * second, second], axis=-2) - 8
        x = _inverse_softsign(k, 7) * scales.astype(jnp.float32)[..., None, :]
        return x.reshape(*codes.shape[:-2], 2 * codes.shape[-2], codes.shape[-1])

    def __repr__(self) -> str:
        return _named("4-bit", self)


def _rounded(place: Array, shares: Array, value: Callable[[Array], Array]) -> Array:
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


def _share(k: Array, n: float) -> Array:
    """k / n, and 1 for n: a compiler may take 1 / n into the scale, which must not grow by a last place a step."""
    return jnp.where(jnp.abs(k) == n, jnp.sign(k), k / n)


def _rounded_softsign(size: Array, shares: Array, n: float) -> Array:
    return _rounded(2 * n * size / (1 + size), shares, lambda k: _inverse_softsign(k, n))


def _inverse_softsign(k: Array, n: float) -> Array:
    """r of the code k = n * 2 r / (1 + |r|)."""
    return k / (2 * n - jnp.abs(k))


def _rounded_float8(size: Array, shares: Array, largest: float) -> Array:
    """One of the two floats with 3 bits behind the leading one, and a least exponent of -6, beside `largest * size`."""
    size = largest * size
    step = jnp.exp2(jnp.floor(jnp.log2(jnp.maximum(size, np.float32(2.0**-6)))) - 3)
    return _rounded(size / step, shares, lambda k: k) * step


def _up_to_bfloat16(x: Array) -> Array:
    """The least bfloat16 that is at least x, which is not negative; as float32."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    up = jax.lax.bitcast_convert_type((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), jnp.minimum(up, LARGEST[jnp.dtype(jnp.bfloat16)]), x)


def _divides_evenly(x: Array, block: int) -> bool:
    """Whether the axes of a mesh that divide the rows divide the blocks too."""
    how = meshes.division(x)
    axes = how.spec[x.ndim - 2] if how is not None and len(how.spec) >= x.ndim - 1 else None
    names = axes if isinstance(axes, tuple) else (axes,) if axes else ()
    return (x.shape[-2] // block) % int(np.prod([how.mesh.shape[name] for name in names if how])) == 0


def _named(name: str, format: _InBlocks) -> str:
    return f"{name} blocks of {format.block}" + (" with bfloat16 scales" if format.scale_dtype == "bfloat16" else "")
