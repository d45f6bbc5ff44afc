"""One word of 16 bits for two moments of a gradient: an average m and one of squares, v."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.codes.rounding import Salt, bits_of, even_bits, float_of
from gdjax.core.types import Format
from gdjax.xla.reads import as_integers

Array = jax.Array
U = np.uint32

CUT = 21  # bits of a float32 that v does not keep: 8 of the exponent and the first 2 behind the leading one stay
LEAST, LARGEST = U(1 << 2), U((254 << 2) + 3)  # the codes of 2^-126 and of 1.75 * 2^127
BAD = U(0xFFFF)  # v is NaN

ENDS, LAST = 32.5, 31  # r is infinite at the code 32.5; the last code
EDGE = np.float32(2.0**-17)  # of a step: what was decoded may be that much away from its code


class Word(NamedTuple):
    """The codes of `Words`, in the place of the first moment."""

    word: Array  # uint16, like the array: 10 bits of v, the sign of m, 5 bits of m / sqrt(v)

    @property
    def format(self) -> Format:
        return WORDS


class InWord(NamedTuple):
    """Nothing, in the place of a second moment: its numbers are in the `Word` of the first."""

    @property
    def format(self) -> Format:
        return WORDS


@dataclass(frozen=True)
class Words(Format):
    """Keeps two moments of the same gradients in one word of 16 bits: no scale, so one pass.

        v as a float32 with 2 bits behind the leading one, in steps of 1.14 to 1.25 over all its range
        r = m / sqrt(v), of the v that is kept, as a code k = -31, ..., 31:    |r| = |k| / (65 - 2 |k|)

    So r is finest near 0, in steps of 1/63, and ends at 10.3. Adam's is at most 7.3 with b1 = 0.9 and b2 = 0.999, and
    10 after a first gradient with b2 = 0.9999.

    A number between two codes becomes one of them, by bits that are even in time. Of r the mean is right. A v that is
    a share f of the way up goes up in f + (f - f^3) / 20 of all cases, nearly so that the mean of log v is right: that
    makes updates as long as they should be, where with the mean of v right they are longer, since the mean of
    1 / sqrt(v) is above 1 / sqrt of the mean. It also lets v fade as it should.

    Adam's updates are then off by 15 % of their norm with b2 = 0.999, by 12 % with 0.95, and within 1 % as long.

    Where v is 0, so is m. A v above 0 never becomes 0. Where one is not finite, or v below 0, both are NaN.
    """

    def __repr__(self) -> str:
        return "uint16 word with squares"

    def encode(self, x: Any, salt: Salt | None = None) -> Word:
        """The words of a pair of float32 arrays, m and v."""
        m, v = x
        first, second = (np.uint32(1 << 31),) * 2 if salt is None else even_bits(salt, m)
        bits = bits_of(v)
        f = (bits & U((1 << CUT) - 1)).astype(jnp.float32) * np.float32(2.0**-CUT)
        up = (first >> U(8)).astype(jnp.float32) * np.float32(2.0**-24) < f + f * (1 - f * f) * np.float32(1 / 20)
        top = jnp.clip((bits >> U(CUT)) + up.astype(jnp.uint32), LEAST, LARGEST)
        size, half = jnp.abs(m), jnp.sqrt(float_of(top << U(CUT))) * 0.5
        place = ENDS * (size / (half + size))  # the code, with its fraction
        below = jnp.minimum(jnp.floor(place + EDGE), LAST - 1)
        share = (second >> U(16)).astype(jnp.float32) * np.float32(2.0**-16) + np.float32(2.0**-17)
        more = share * (ENDS - place) < (place - below) * (ENDS - 1 - below)  # so that the mean of r is right
        k = below.astype(jnp.uint32) + more.astype(jnp.uint32)
        word = (top << U(6)) | jnp.where(m < 0, U(32), U(0)) | k
        finite = (v >= 0) & (v < jnp.inf) & (size < jnp.inf)
        return Word(as_integers(jnp.where(finite, jnp.where(v > 0, word, U(0)), BAD), jnp.uint16))

    def decode(self, codes: Word) -> tuple[Array, Array]:
        """m and v."""
        word = codes.word.astype(jnp.uint32)
        v, k = float_of((word >> U(6)) << U(CUT)), (word & U(31)).astype(jnp.float32)
        r = k / (2 * ENDS - 2 * k)
        return jnp.where((word & U(32)) > 0, -r, r) * jnp.sqrt(v), v


WORDS = Words()
