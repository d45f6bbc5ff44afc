"""One word of 16 bits for two moments of a gradient: an average m and one of squares, v."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gdjax.codes.rounding import Salt, bits_of, even_bits, float_of, number
from gdjax.core.types import Array, Format
from gdjax.xla.reads import as_integers, reciprocal

U = np.uint32

CUT = 21  # bits of a float32 that v does not keep: 8 of the exponent and the first 2 behind the leading one stay
LEAST, LARGEST = U(1 << 2), U((254 << 2) + 3)  # the codes of 2^-126 and of 1.75 * 2^127
BAD = float(0xFFFF)  # v is NaN

ENDS, LAST = 32.5, 31  # r is infinite at the code 32.5; the last code
RISE = np.float32(1 / 64)  # the least share of the way to the next code that is no slow fading of v
EDGE = np.float32(2.0**-12)  # of a step: what was decoded may be that far from its code, and is no other number


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
        r = m / s, of the root s of the v that is kept, as a code k = -31, ..., 31:    |r| = |k| / (65 - 2 |k|)

    The root is made of the bits, and up to 7 % above sqrt(v): it divides m and multiplies r, so it may be any. r is
    finest near 0, in steps of 1/63, and ends at 10.3. Adam's is at most 7.3 with b1 = 0.9 and b2 = 0.999, and 10 after
    a first gradient with b2 = 0.9999.

    A number between two codes becomes one of them, by bits that are even in time; a v that rises by bits that start
    anew after some steps, since where gradients come in every k-th step alone the others may raise it again and again.
    Of r the mean is right. A v that is a share f of the way up goes up in f + (f - f^3) / 20 of all cases, nearly so
    that the mean of log v is right: that makes updates as long as they should be, where with the mean of v right they
    are longer, since the mean of 1 / sqrt(v) is above 1 / sqrt of the mean. It also lets v fade as it should.

    Adam's updates are then off by 16 % of their norm with b2 = 0.999, by 13 % with 0.95, and within 1 % as long; where
    gradients of the same size come in every k-th step, within 5 %.

    Where v is 0, so is m. A v above 0 never becomes 0. Where one is not finite, or v below 0, both are NaN.
    """

    def __repr__(self) -> str:
        return "uint16 word with squares"

    def encode(self, x: Any, salt: Salt | None = None) -> Word:
        """The words of a pair of float32 arrays, m and v."""
        m, v = x
        half = jnp.full_like(m, U(1 << 31), jnp.uint32)
        fading, second, new = (half, half, half) if salt is None else even_bits(salt, m)
        bits = bits_of(v)
        f = number(bits & U((1 << CUT) - 1)) * np.float32(2.0**-CUT)
        first = jnp.where((f > RISE) & (f < 0.5), new, fading)
        up = number(first >> U(8)) * np.float32(2.0**-24) < f + f * (1 - f * f) * np.float32(1 / 20)
        top = jnp.clip((bits >> U(CUT)) + up.astype(jnp.uint32), LEAST, LARGEST)
        size, scale = jnp.abs(m), root(top) * 0.5
        place = ENDS * (size / (scale + size))  # the code, with its fraction
        place = jnp.where(jnp.abs(place - jnp.round(place)) < EDGE, jnp.round(place), place)
        below = jnp.minimum(jnp.floor(place), LAST - 1)
        share = number(second >> U(16)) * np.float32(2.0**-16) + np.float32(2.0**-17)
        more = share * (ENDS - place) < (place - below) * (ENDS - 1 - below)  # so that the mean of r is right
        # As float32, exactly; see `as_integers`.
        word = number(top) * 64 + jnp.where(m < 0, 32.0, 0.0) + (below + more.astype(jnp.float32))
        finite = (v >= 0) & (v < jnp.inf) & (size < jnp.inf)
        return Word(as_integers(jnp.where(finite, jnp.where(v > 0, word, 0), BAD), jnp.uint16))

    def decode(self, codes: Word) -> tuple[Array, Array]:
        """m and v."""
        word = codes.word.astype(jnp.uint32)
        top, k = word >> U(6), number(word & U(31))
        v, r = float_of(top << U(CUT)), k * reciprocal(2 * ENDS - 2 * k)
        m = jnp.where((word & U(32)) > 0, -r, r) * root(top)
        return jnp.where(v < jnp.inf, m, jnp.nan), v


def root(top: Array) -> Array:
    """The square root of the v of these 10 bits, to within 7 %: half of e + f."""
    return float_of((top << U(CUT - 1)) + U(127 << 22))


WORDS = Words()
