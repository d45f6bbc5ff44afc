"""8 bits for each number, by its logarithm: no scale, so one pass, and codes that lie where the numbers would."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.codes.random_rounding import uniform
from gdjax.core.codec import Format
from gdjax.xla.bits import as_integers

Array = jax.Array

STEP = 7 / 16  # log2 of the ratio of neighbours


class LogCodes(NamedTuple):
    """The codes of `Logs(signed=True)`."""

    log: Array  # int8, like the array: the sign, and the place among the 127 sizes; -128 for NaN

    @property
    def format(self) -> Format:
        return SIGNED


class LogCodesOfSquares(NamedTuple):
    """The codes of `Logs(signed=False)`."""

    log_of_square: Array  # uint8, like the array: the place among the 254 sizes; 255 for NaN

    @property
    def format(self) -> Format:
        return SQUARES


@dataclass(frozen=True)
class Logs(Format):
    """Keeps a number as the logarithm of its size, in steps of equal ratio.

        code k = 1, ..., n    stands for    2^(low + 7/16 (k - 1)),    code 0 for 0

    Signed numbers have n = 127, from 2^-44 to 2^11.1; squares n = 254, from 2^-80 to 2^30.7: steps of 1.35, both. A
    number between two codes becomes one of them at random, so that its mean is right. Sizes above the last code become
    it; a square above 0 never becomes 0, a signed number below the first code does, or becomes it, at random. What is
    not finite becomes NaN, and so does a square below 0.
    """

    signed: bool

    def __repr__(self) -> str:
        return "int8 log" if self.signed else "uint8 log"

    @property
    def _codes(self) -> tuple[int, float]:
        """How many sizes there are, and log2 of the least."""
        return (127, -44.0) if self.signed else (254, -80.0)

    def _size(self, code: Array) -> Array:
        # Exact but for exp2: however a compiler contracts products and sums, a code stands for one number.
        return jnp.where(code > 0, jnp.exp2((code - 1) * np.float32(STEP) + np.float32(self._codes[1])), 0)

    def encode(self, x: Array, salt: Array | None = None) -> Any:
        n, low = self._codes
        size = jnp.abs(x)
        # Zero and all sizes below the first code are between 0 and it.
        log = jnp.log2(jnp.maximum(size, np.float32(2.0 ** (low - 1))))
        below = jnp.clip(jnp.floor((log - np.float32(low)) * np.float32(1 / STEP) + 1), 0, n - 1)
        less, more = self._size(below), self._size(below + 1)
        share = uniform(salt, x) if salt is not None else np.float32(0.5)
        code = below + (share * (more - less) < size - less).astype(jnp.float32)
        if self.signed:
            code = jnp.where(jnp.isfinite(x), jnp.where(x < 0, -code, code), -128)
            return LogCodes(as_integers(code, jnp.int8))
        code = jnp.where(size > 0, jnp.maximum(code, 1), 0)
        return LogCodesOfSquares(as_integers(jnp.where(jnp.isfinite(x) & (x >= 0), code, 255), jnp.uint8))

    def decode(self, codes: Any) -> Array:
        code = codes[0].astype(jnp.float32)
        if self.signed:
            size = self._size(jnp.abs(code))
            return jnp.where(code == -128, jnp.nan, jnp.where(code < 0, -size, size))
        return jnp.where(code == 255, jnp.nan, self._size(code))


SIGNED, SQUARES = Logs(signed=True), Logs(signed=False)
