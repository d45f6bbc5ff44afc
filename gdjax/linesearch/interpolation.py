"""Where to look for a minimum between two points of a line."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Trial(NamedTuple):
    """A point of the line that has been tried."""

    eta: Array  # ()
    value: Array  # () phi(eta)
    slope: Array  # () phi'(eta)


def between(low: Trial, high: Trial, ref: Trial) -> Array:
    """A step size between those of `low` and `high`.

    It is the minimum of the cubic through the values at all three points with the slope at `low`; where that is closer
    to an end than 0.2 of the interval, of the parabola without `ref`; where that is closer than 0.1, the middle.
    """
    width, left = jnp.abs(high.eta - low.eta), jnp.minimum(low.eta, high.eta)

    def inside(x: Array, margin: float) -> Array:  # False for a NaN
        return (x > left + margin * width) & (x < left + (1 - margin) * width)

    cubic, quadratic = cubic_minimum(low, high, ref), quadratic_minimum(low, high)
    middle = low.eta + (high.eta - low.eta) / 2
    return jnp.where(inside(cubic, 0.2), cubic, jnp.where(inside(quadratic, 0.1), quadratic, middle))


def quadratic_minimum(a: Trial, b: Trial) -> Array:
    """Where the parabola through the values at a and b with the slope at a is stationary; not finite if nowhere."""
    return a.eta - a.slope / (2 * _second(a, b))


def cubic_minimum(a: Trial, b: Trial, c: Trial) -> Array:
    """The minimum of the cubic phi_a + phi'_a x + B x^2 + A x^3, x = eta - eta_a, through b and c; NaN if none."""
    rb, rc = _second(a, b), _second(a, c)
    A = (rb - rc) / (b.eta - c.eta)
    B = rb - A * (b.eta - a.eta)
    root = jnp.sqrt(B * B - 3 * A * a.slope)
    # The same zero of the derivative in two forms; neither subtracts numbers of like size, nor divides by an A near 0.
    return a.eta + jnp.where(B > 0, -a.slope / (B + root), (root - B) / (3 * A))


def _second(a: Trial, b: Trial) -> Array:
    """(phi_b - phi_a - phi'_a x) / x^2 with x = eta_b - eta_a."""
    x = b.eta - a.eta
    return ((b.value - a.value) / x - a.slope) / x
