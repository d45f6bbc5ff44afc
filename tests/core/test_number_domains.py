"""Domains of numbers: intervals as texts, their ends, and how an error names them."""

import math

import numpy as np
import pytest

from gdjax.core import number_domains as domains
from gdjax.core.number_domains import in_words, interval

INF, NAN = math.inf, math.nan


def inside(text: str, *numbers: float) -> list[bool]:
    return [interval(text).inside(x) for x in numbers]


def test_a_bracket_includes_its_end():
    assert inside("[0, 1)", 0, 0.5, 1) == [True, True, False]
    assert inside("(0, 1]", 0, 0.5, 1) == [False, True, True]
    assert inside("[-1, 1]", -1, 1, 1.5, -2) == [True, True, False, False]
    assert inside("(0, inf)", 1e30, INF) == [True, False]
    assert inside("(0, inf]", INF) == [True]
    assert inside("[0, 1]", NAN) == [False]


def test_what_float32_rounds_to_an_open_end_is_outside():
    below, above = 1 - 1e-12, 1e-60  # in float32 1 and 0
    assert np.float32(below) == 1 and np.float32(above) == 0
    assert inside("[0, 1)", below) == inside("(0, 1]", above) == [False]
    assert inside("[0, 1]", below) == inside("[0, 1]", above) == [True]


def test_spaces_do_not_count():
    assert interval(" ( 0 ,2 ] ").inside(2) and interval(" ( 0 ,2 ] ").words == "in ( 0 ,2 ]"


@pytest.mark.whole
@pytest.mark.parametrize("text", ["", "0, 1", "[0 1]", "[0, x]", "[1, 0]", "[1, 1]", "[nan, 1]", "[0, 1, 2]"])
def test_no_interval(text: str):
    with pytest.raises(ValueError, match="is no interval such as"):
        interval(text)


def test_an_error_names_the_domain():
    assert in_words(domains.FINITE, INF) == "finite"
    assert in_words(domains.DECAY, 1.5) == in_words(domains.DECAY, 1.0) == "in [0, 1)"


def test_an_error_says_what_rounding_does():
    assert in_words(domains.DECAY, 1 - 1e-12) == "in [0, 1), and below 1 in float32 too"
    assert in_words(interval("(0, 1)"), 1e-60) == "in (0, 1), and above 0 in float32 too"


# At the ends of each domain: numbers outside, and numbers inside.
ENDS = {
    "FINITE": ([INF, NAN], [-1, 0, 1e300]),
    "RATE": ([-1e-9, INF, NAN], [0, 1]),
    "SIZE": ([-1e-9, INF, NAN], [0, 1]),
    "POSITIVE": ([0, -1, INF, NAN], [1e-300]),
    "BOUND": ([-1e-9, NAN], [0, INF]),
    "SHARE": ([-1e-9, 1.1, NAN], [0, 1]),
    "PROBABILITY": ([-1e-9, 1.1, NAN], [0, 1]),
    "FINITE_FROM_1": ([0.9, INF, NAN], [1]),
    "FROM_1": ([0.9, NAN], [1, INF]),
    "ABOVE_0": ([0, NAN], [1e-300, INF]),
    "FRACTION": ([0, 1, NAN], [0.5]),
    "DECAY": ([-1e-9, 1, NAN], [0, 0.999]),
    "SQUARES": ([-1e-9, 1, NAN], [0, 0.999]),
}


def test_the_ends_of_each_domain():
    assert {name for name, x in vars(domains).items() if isinstance(x, domains.Domain)} == set(ENDS)
    for name, (outside, within) in ENDS.items():
        domain = getattr(domains, name)
        assert not any(map(domain.inside, outside)) and all(map(domain.inside, within)), name
