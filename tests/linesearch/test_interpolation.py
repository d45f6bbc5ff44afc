"""Interpolation between two points of a line: exact for the polynomials it fits."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.linesearch.wolfe import Trial, between, cubic_minimum, quadratic_minimum
from tests.linesearch.problems import precision


def trial(polynomial: Any, eta: float, dtype: str = "float64") -> Trial:
    p = np.polynomial.Polynomial(polynomial)
    return Trial(*(jnp.asarray(x, dtype) for x in (eta, p(eta), p.deriv()(eta))))


@pytest.mark.parametrize("points", [(0.0, 1.0, 2.0), (1.5, 0.2, 0.7), (-3.0, 5.0, 1.0)])
@pytest.mark.parametrize("cubic", [[1.0, -2.0, 0.5, 0.4], [0.0, 1.0, -3.0, 0.7], [2.0, -4.0, 3.0, -0.2]])
def test_cubic_minimum_is_exact(cubic: list[float], points: tuple[float, ...]):
    slope = np.polynomial.Polynomial(cubic).deriv()
    (minimum,) = [x for x in slope.roots() if slope.deriv()(x) > 0]
    with precision("float64"):
        got = cubic_minimum(*(trial(cubic, x) for x in points))
    np.testing.assert_allclose(got, minimum, rtol=1e-9)


def test_cubic_through_a_parabola_keeps_its_digits_in_float32():
    # The leading coefficient is rounding, by which the textbook's root divides.
    got = cubic_minimum(*(trial([3.0, -2.0, 1.7], x, "float32") for x in (0.0, 1.0, 2.5)))
    np.testing.assert_allclose(got, 1 / 1.7, rtol=1e-6)


def test_cubic_without_a_minimum_is_nan():
    assert jnp.isnan(cubic_minimum(*(trial([0.0, 1.0, 0.0, 1.0], x, "float32") for x in (0.0, 1.0, 2.0))))


def test_quadratic_minimum_is_exact():
    with precision("float64"):
        got = quadratic_minimum(trial([3.0, -2.0, 1.7], 0.3), trial([3.0, -2.0, 1.7], 2.0))
    np.testing.assert_allclose(got, 1 / 1.7, rtol=1e-12)


@pytest.mark.parametrize("flip", [False, True])
def test_between_falls_back(flip: bool):
    def chosen(polynomial: list[float], ref: Trial | None = None) -> float:
        low, high = (trial(polynomial, x) for x in ((4.0, 0.0) if flip else (0.0, 4.0)))
        return float(between(low, high, Trial(inf, inf, inf) if ref is None else ref))

    with precision("float64"):
        inf = jnp.asarray(jnp.inf, "float64")
        up = -1 if flip else 1
        # A cubic with its minimum inside; the same without the third point, where the parabola's is inside.
        cubic = [0.0, -up * 9.0, 2.0, 0.5] if not flip else [0.0, 0.0, -4.5, 1.0]
        slope = np.polynomial.Polynomial(cubic).deriv()
        (minimum,) = [x for x in slope.roots() if slope.deriv()(x) > 0]
        np.testing.assert_allclose(chosen(cubic, trial(cubic, 6.0)), minimum, rtol=1e-9)
        np.testing.assert_allclose(chosen([0.0, -2.0, 0.5]), 2.0, rtol=1e-12)
        # The parabola's minimum lies within 0.1 of an end, or outside, or its values are not finite: the middle.
        for far in ([0.0, -0.6, 1.0], [0.0, -7.9, 1.0], [0.0, -1.0, -1.0]):
            assert chosen(far) == 2.0
        low, high = trial([0.0, -1.0, 1.0], 0.0), Trial(jnp.asarray(4.0, "float64"), inf, inf)
        assert between(low, high, high) == 2.0
