"""The dynamic map of bitsandbytes, for runs that must agree with it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gdjax.codes.rounding import Salt
from gdjax.core import meshes
from gdjax.core.types import Array, Format
from gdjax.xla.sums import largest_size

BLOCK = 256


class DynamicCodes(NamedTuple):
    """The codes of `Dynamic(signed=True)`."""

    dynamic: Array  # uint8, like the array: the place in the map
    largest: Array  # (blocks,) float32, the largest size in each

    @property
    def format(self) -> Format:
        return SIGNED


class DynamicCodesOfSquares(NamedTuple):
    """The codes of `Dynamic(signed=False)`."""

    dynamic_square: Array  # uint8, like the array: the place in the map
    largest: Array  # (blocks,) float32, the largest number in each

    @property
    def format(self) -> Format:
        return SQUARES


@dataclass(frozen=True)
class Dynamic(Format):
    """Keeps a number over the largest size of 256 neighbours of the flattened array as the nearest of 256 numbers.

    They are 0, 1, and for e = 0, ..., 6 the middles of 2^e equal parts of [0.1, 1], times 10^(e - 6), with both signs;
    without signs twice as many parts. The last block may be shorter. One with a number that is not finite becomes NaN.

    It is here for comparison: an average rounded to the nearest does not fade as it should, and a square above 0 may
    become 0.
    """

    signed: bool

    def __repr__(self) -> str:
        return "uint8 dynamic map" if self.signed else "uint8 dynamic map of squares"

    def encode(self, x: Array, salt: Salt | None = None) -> Any:
        codes, largest = meshes.partitioned(self._encoded, (x, None), x)
        return DynamicCodes(codes, largest) if self.signed else DynamicCodesOfSquares(codes, largest)

    def _encoded(self, x: Array) -> tuple[Array, Array]:
        blocks = _in_blocks(x)
        largest = largest_size(blocks, 1)
        largest = jnp.where(jnp.isfinite(largest), largest, jnp.nan)
        of_each = largest[:, None]
        ratios = jnp.where(of_each > 0, blocks / jnp.where(of_each > 0, of_each, 1), 0)
        codes = self._nearest(ratios).astype(jnp.uint8)
        return codes.reshape(-1)[: x.size].reshape(x.shape), largest

    def _nearest(self, ratios: Array) -> Array:
        numbers = _map(self.signed)
        return jnp.searchsorted(jnp.asarray((numbers[1:] + numbers[:-1]) / 2), ratios)

    def decode(self, codes: Any) -> Array:
        return meshes.partitioned(self._decoded, codes[0], *codes)

    def _decoded(self, codes: Array, largest: Array) -> Array:
        numbers = jnp.asarray(_map(self.signed))[_in_blocks(codes)]
        return (numbers * largest[:, None]).reshape(-1)[: codes.size].reshape(codes.shape)


SIGNED, SQUARES = Dynamic(signed=True), Dynamic(signed=False)


def _in_blocks(x: Array) -> Array:
    return jnp.pad(x.reshape(-1), (0, -x.size % BLOCK)).reshape(-1, BLOCK)


def _map(signed: bool) -> np.ndarray:
    """The 256 numbers, in order."""
    numbers = [0.0, 1.0]
    for e in range(7):
        ends = np.linspace(0.1, 1, 2**e + 1 if signed else 2 ** (e + 1) + 1)
        middles = 10.0 ** (e - 6) * (ends[1:] + ends[:-1]) / 2
        numbers += [*middles, *-middles] if signed else [*middles]
    return np.sort(np.asarray(numbers, np.float32))
