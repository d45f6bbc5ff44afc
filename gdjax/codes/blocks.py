"""8 or 4 bits for each number and a scale for each block of a column."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import meshes
from gdjax.core.codec import Format
from gdjax.numerics.random_rounding import uniform
from gdjax.xla.bits import as_integers
from gdjax.xla.sums import largest_size

Array = jax.Array

FLOAT8 = jnp.float8_e4m3fn
LARGEST = {jnp.dtype("int8"): 127.0, jnp.dtype("uint8"): 255.0, jnp.dtype(FLOAT8): float(jnp.finfo(FLOAT8).max)}


class BlockCodes(NamedTuple):
    """The codes of `Blocks`."""

    codes: Array  # int8 or float8_e4m3fn, like the array
    scales: Array  # (..., rows / block, columns), the largest size in each block

    @property
    def format(self) -> Format:
        return Blocks(_block(self), str(self.scales.dtype), str(self.codes.dtype))


class BlockCodesOfSquares(NamedTuple):
    """The codes of `BlocksOfSquares`."""

    codes: Array  # uint8, like the array
    scales: Array  # (..., rows / block, columns), the root of the largest number in each block

    @property
    def format(self) -> Format:
        return BlocksOfSquares(_block(self), str(self.scales.dtype))


class FourBitCodes(NamedTuple):
    """The codes of `FourBits`."""

    codes: Array  # uint8 (..., rows / 2, columns): in each block the first half of its rows below, the second above
    scales: Array  # (..., rows / block, columns), the largest size in each block

    @property
    def format(self) -> Format:
        return FourBits(2 * _block(self), str(self.scales.dtype))


def _block(codes: Any) -> int:
    return codes.codes.shape[-2] // codes.scales.shape[-2]


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
        return len(shape) > 1 and shape[-2] % self.block == 0

    def _split(self, x: Array, block: int) -> Array:
        """(..., rows, columns) as (..., blocks, rows in each, columns)."""
        return x.reshape(*x.shape[:-2], -1, block, x.shape[-1])

    def _ratios(self, sizes: Array) -> tuple[Array, Array]:
        """Numbers in blocks over the largest of each, and these, as they are kept."""
        scales = largest_size(sizes, -2)
        scales = jnp.where(jnp.isfinite(scales), scales, jnp.nan)
        scales = _up_to_bfloat16(scales) if self.scale_dtype == "bfloat16" else scales
        of_each = scales[..., None, :]
        return jnp.where(of_each > 0, sizes / jnp.where(of_each > 0, of_each, 1), 0), scales.astype(self.scale_dtype)

    def encode(self, x: Array, salt: Array | None = None) -> Any:
        shares = jnp.full_like(x, 0.5) if salt is None else uniform(salt, x)
        scales = x if _divides_evenly(x, self.block) else None
        return self._codes(*meshes.partitioned(self._encoded, (x, scales), x, shares))

    def decode(self, codes: Any) -> Array:
        return meshes.partitioned(self._decoded, codes.codes, *codes)

    def _codes(self, codes: Array, scales: Array) -> Any:
        raise NotImplementedError

    def _encoded(self, x: Array, shares: Array) -> tuple[Array, Array]:
        raise NotImplementedError

    def _decoded(self, codes: Array, scales: Array) -> Array:
        raise NotImplementedError


@dataclass(frozen=True)
class Blocks(_InBlocks):
    """Keeps signed numbers: r = x / max |x| as

    int8:             round(127 * 2 r / (1 + |r|)), finer near 0
    float8_e4m3fn:    448 r, in the nearest float of 8 bits
    """

    dtype: str = "int8"

    def _codes(self, codes: Array, scales: Array) -> BlockCodes:
        return BlockCodes(codes, scales)

    def _encoded(self, x: Array, shares: Array) -> tuple[Array, Array]:
        r, scales = self._ratios(self._split(x, self.block))
        codes = jnp.round(127 * _softsign(r)) if self.dtype == "int8" else LARGEST[jnp.dtype(self.dtype)] * r
        return as_integers(codes, self.dtype).reshape(x.shape), scales

    def _decoded(self, codes: Array, scales: Array) -> Array:
        r = self._split(codes.astype(jnp.float32), self.block) * np.float32(1 / LARGEST[jnp.dtype(self.dtype)])
        r = _inverse_softsign(r) if self.dtype == "int8" else r
        return (r * scales.astype(jnp.float32)[..., None, :]).reshape(codes.shape)

    def __repr__(self) -> str:
        return _named("blocks" if self.dtype == "int8" else "fp8", self)


@dataclass(frozen=True)
class BlocksOfSquares(_InBlocks):
    """Keeps squares: 255 sqrt(x / max x) as uint8, up or down at random so that the mean of its square is right.

    A square above 0 never gets code 0, which an update would divide by: it gets 1.
    """

    def _codes(self, codes: Array, scales: Array) -> BlockCodesOfSquares:
        return BlockCodesOfSquares(codes, scales)

    def _encoded(self, x: Array, shares: Array) -> tuple[Array, Array]:
        r, scales = self._ratios(self._split(jnp.sqrt(x), self.block))
        place = 255 * r
        below = jnp.floor(place)
        up = self._split(shares, self.block) * (2 * below + 1) < place**2 - below**2
        codes = jnp.where(r > 0, jnp.clip(below + up.astype(jnp.float32), 1, 255), 0)
        return as_integers(codes, jnp.uint8).reshape(x.shape), scales

    def _decoded(self, codes: Array, scales: Array) -> Array:
        r = self._split(codes.astype(jnp.float32), self.block) * np.float32(1 / 255)
        return ((r * scales.astype(jnp.float32)[..., None, :]) ** 2).reshape(codes.shape)

    def __repr__(self) -> str:
        return _named("blocks", self)


@dataclass(frozen=True)
class FourBits(_InBlocks):
    """Keeps signed numbers in 4 bits: r = x / max |x| as 7 * 2 r / (1 + |r|), up or down at random.

    The mean of what is decoded is right. With no random bits, as for a basis, the nearer of the two.
    """

    def fits(self, shape: tuple[int, ...]) -> bool:
        return super().fits(shape) and self.block % 2 == 0

    def _codes(self, codes: Array, scales: Array) -> FourBitCodes:
        return FourBitCodes(codes, scales)

    def _encoded(self, x: Array, shares: Array) -> tuple[Array, Array]:
        r, scales = self._ratios(self._split(x, self.block))
        size, value = jnp.abs(r), lambda k: _inverse_softsign(k * np.float32(1 / 7))
        below = jnp.clip(jnp.floor(7 * _softsign(size)), 0, 6)
        less, more = value(below), value(below + 1)
        code = below + (self._split(shares, self.block) * (more - less) < size - less).astype(jnp.float32)
        code = jnp.where(r < 0, -code, code) + 8
        first, second = jnp.split(code, 2, axis=-2)
        rows = x.shape[-2] // 2
        return as_integers(first + 16 * second, jnp.uint8).reshape(*x.shape[:-2], rows, x.shape[-1]), scales

    def _decoded(self, codes: Array, scales: Array) -> Array:
        both = self._split(codes.astype(jnp.float32), self.block // 2)
        second = jnp.floor(both * np.float32(1 / 16))
        k = jnp.concatenate([both - 16 * second, second], axis=-2) - 8
        x = _inverse_softsign(k * np.float32(1 / 7)) * scales.astype(jnp.float32)[..., None, :]
        return x.reshape(*codes.shape[:-2], 2 * codes.shape[-2], codes.shape[-1])

    def __repr__(self) -> str:
        return _named("4 bits", self)


def _softsign(r: Array) -> Array:
    return 2 * r / (1 + jnp.abs(r))


def _inverse_softsign(y: Array) -> Array:
    return y / (2 - jnp.abs(y))


def _up_to_bfloat16(x: Array) -> Array:
    """The least bfloat16 that is at least x, which is not negative; as float32."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    up = jax.lax.bitcast_convert_type((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), up, x)


def _divides_evenly(x: Array, block: int) -> bool:
    """Whether the axes of a mesh that divide the rows divide the blocks too."""
    how = meshes.division(x)
    axes = how.spec[x.ndim - 2] if how is not None and len(how.spec) >= x.ndim - 1 else None
    names = axes if isinstance(axes, tuple) else (axes,) if axes else ()
    return (x.shape[-2] // block) % int(np.prod([how.mesh.shape[name] for name in names if how])) == 0


def _named(name: str, format: _InBlocks) -> str:
    return f"{name} of {format.block}" + (" with bfloat16 scales" if format.scale_dtype == "bfloat16" else "")
