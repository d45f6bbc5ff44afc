"""What an argument may be, as its annotation says: the numbers of a domain, integers, or another kind of thing."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Domain(NamedTuple):
    """The numbers that an argument may be."""

    words: str
    inside: Callable[[float], bool]


class AtLeast(NamedTuple):
    """An integer of at least that. One that shapes the program is no schedule, and is not traced."""

    least: int
    static: bool = False


class Check(NamedTuple):
    """What is checked by the function of this name in `gdjax.core.argument_kinds`."""

    name: str


Fact = Domain | AtLeast | Check

FINITE = Domain("finite", math.isfinite)
RATE = Domain("finite and at least 0 (gdjax.scale takes a negative factor)", lambda x: 0 <= x < math.inf)
SIZE = Domain("finite and at least 0", lambda x: 0 <= x < math.inf)
POSITIVE = Domain("finite and above 0", lambda x: 0 < x < math.inf)
BOUND = Domain("at least 0", lambda x: x >= 0)
SHARE = Domain("in [0, 1]", lambda x: 0 <= x <= 1)
PROBABILITY = Domain("in [0, 1]", lambda x: 0 <= x <= 1)  # of a turn: a number spreads turns over steps of the program
FINITE_FROM_1 = Domain("finite and at least 1", lambda x: 1 <= x < math.inf)
FROM_1 = Domain("at least 1", lambda x: x >= 1)
ABOVE_0 = Domain("above 0", lambda x: x > 0)
FRACTION = Domain("between 0 and 1", lambda x: 0 < x < 1)
NO_DECAYS = RATE, SIZE, POSITIVE, FINITE, BOUND, FINITE_FROM_1, FROM_1, ABOVE_0

_INTERVAL = re.compile(r"\s*([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])\s*")


def interval(text: str) -> Domain:
    """The domain written as an interval, such as "[0, 1)": a bracket includes its end.

    Raises:
      ValueError: the text is no interval, or an empty one.
    """
    match = _INTERVAL.fullmatch(text)
    try:
        low, high = (float(x) for x in match.group(2, 3)) if match else (math.nan, math.nan)
    except ValueError:
        low = high = math.nan
    if match is None or not low < high:
        raise ValueError(f"{text!r} is no interval such as '[0, 1)', '(0, inf)' or '[-1, 1]'")
    with_low, with_high = match[1] == "[", match[4] == "]"

    def inside(x: float) -> bool:
        # What is below the end in float64 may be the end in float32, in which a step computes.
        y = float(np.float32(x)) if math.isfinite(x) else x
        return (low <= x if with_low else low < min(x, y)) and (x <= high if with_high else max(x, y) < high)

    return Domain(f"in {text.strip()}", inside)


def is_operand(x: Any, facts: Sequence[Fact]) -> bool:
    """Whether a hyperparameter of a rule is a number that a compiled program takes as an operand.

    0 and infinity are constants, since they say that something is left out; so is what shapes the program, as the
    probability of a turn. So is a number from 1/2 to 2 that may be a decay: 1 - b loses the digits of b where b is
    float32.

    Args:
      facts: what its annotation says.
    """
    if not isinstance(x, float) or x == 0 or not math.isfinite(x) or PROBABILITY in facts:
        return False
    may_be_traced = not facts or any(isinstance(fact, Domain) for fact in facts)
    return may_be_traced and (not 0.5 < x < 2 or any(fact in NO_DECAYS for fact in facts))


def in_words(domain: Domain, x: float) -> str:
    """The domain in words, for a number outside it; of one that only rounding moves out of an interval it says so."""
    match = _INTERVAL.fullmatch(domain.words.removeprefix("in "))
    if match is None or not float(match[2]) < x < float(match[3]):
        return domain.words
    side = f"below {match[3]}" if np.float32(x) >= float(match[3]) else f"above {match[2]}"
    return f"{domain.words}, and {side} in float32 too"


DECAY = interval("[0, 1)")
SQUARES = interval("[0, 1)")  # 1 is let in with a warning, as some programs name it and Optax takes it
