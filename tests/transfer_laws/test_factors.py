"""Factors by the law of an update and by what has grown."""

from typing import Any

import pytest

from gdjax.core.growth import LAWS
from gdjax.transfer_laws.factors import Growth, gradient_factor, rate_factor, start_factor

WIDE = ((8, 8), (32, 32))
MATRIX, EMBEDDING, HEAD = Growth("matrix", 4, 4, shapes=WIDE), Growth("embedding", 1, 4), Growth("head", 4, 1)
NORM = Growth("norm", 1, 4)


RATES = {  # of a hidden matrix, an embedding, a norm and a head, at 4 times the width
    "elementwise": (0.25, 1, 1, 0.25),
    "gradient": (1, 4, 4, 0.25),
    "orthonormal": (1, 2, 2, 0.5),
    "fits": (1, 1, 1, 1),
}


def test_rates_by_law_and_role():
    rates = {law: tuple(rate_factor(x, LAWS[law]) for x in (MATRIX, EMBEDDING, NORM, HEAD)) for law in RATES}
    assert rates == {law: pytest.approx(expected) for law, expected in RATES.items()}


def test_rates_by_the_shapes_of_matrices():
    tall = Growth("matrix", 4, 1, shapes=((8, 8), (32, 8)))
    wide = Growth("matrix", 1, 4, shapes=((8, 8), (8, 32)))
    assert rate_factor(tall, LAWS["by_shape"]) == pytest.approx(0.5) and rate_factor(wide, LAWS["by_shape"]) == 1
    assert rate_factor(MATRIX, LAWS["by_rms"]) == pytest.approx(0.5)
    vocabulary = Growth("embedding", 1, 4, shapes=((64, 8), (64, 32)))
    assert rate_factor(vocabulary, LAWS["orthonormal"]) == pytest.approx(1)


def test_starts():
    for role, factor in {"matrix": 0.5, "head": 0.25, "router": 0.25, "norm": 1.0}.items():
        assert start_factor(Growth(role, 4, 1)) == factor
        assert start_factor(Growth(role, 4, 1), done=-0.5) == (factor if factor == 1 else factor * 2)
        assert start_factor(Growth(role, 4, 1, layers=2, branch="last")) == factor / 2


def test_more_layers():
    last, inside = (Growth("matrix", layers=2, branch=branch) for branch in ("last", "inside"))
    laws: Any = LAWS["elementwise"], LAWS["gradient"]
    assert [rate_factor(last, law) for law in laws] == [0.5, 0.5]
    assert [rate_factor(inside, law) for law in laws] == [1, 2]
    assert (gradient_factor(last), gradient_factor(inside), gradient_factor(MATRIX)) == (1, 0.5, 0.25)
