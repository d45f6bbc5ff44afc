"""The search for a step that meets the strong Wolfe conditions: Nocedal & Wright, Algorithms 3.5 and 3.6.

`between` says where to look next between two points.
"""

from typing import NamedTuple

import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.core import meshes
from gdjax.core.types import Params
from gdjax.linesearch.line import Array, Line


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
    of = numerics.power_of_two(jnp.stack([A, B, a.slope]))  # or squares are lost of values that are very small or large
    A, B, slope = A / of, B / of, a.slope / of
    root = jnp.sqrt(B * B - 3 * A * slope)
    # The same zero of the derivative in two forms; neither subtracts numbers of like size, nor divides by an A near 0.
    return a.eta + jnp.where(B > 0, -slope / (B + root), (root - B) / (3 * A))


def _second(a: Trial, b: Trial) -> Array:
    """(phi_b - phi_a - phi'_a x) / x^2 with x = eta_b - eta_a."""
    x = b.eta - a.eta
    return ((b.value - a.value) / x - a.slope) / x


PATIENCE = 10  # trials; where these found nothing the right step size is orders away:
HASTE = 10.0  # from there on it is this much longer or shorter with each


class Wolfe(NamedTuple):
    """What a search asks of a step, and how it looks for one; see `scale_by_zoom_linesearch`."""

    c1: Array  # of the decrease that the slope promises
    c2: Array  # of the slope that may be left
    c3: Array | None  # of the value that rounding may hide
    hidden: Array | None  # of the value: by so much it may rise where the slope still points down
    tol: Array  # of both conditions
    guess: Array  # the step size to begin with
    factor: Array  # from one to the next, while there is no interval
    top: Array  # the largest
    precision: Array  # the shortest interval
    most: int | Array  # evaluations


class Choice(NamedTuple):
    """The step to take if the search ended now; at the beginning none."""

    eta: Array  # ()
    value: Array  # ()
    grad: Params  # like the parameters
    decrease_error: Array  # ()
    curvature_error: Array  # ()


class Search(NamedTuple):
    count: Array  # () int32, evaluations made
    ended: Array  # () bool
    safe: Array  # () bool, whether a step with enough decrease has been found
    low: Trial  # the lowest point that may bound the interval, but for rounding; while there is none, the last point
    high: Trial  # the other bound, on either side of low; at infinity while there is none
    ref: Trial  # the bound last given up
    choice: Choice


def search(line: Line, w: Wolfe) -> Search:
    """The search from its beginning to its end; what it found is the `choice`."""
    zero, inf, no = jnp.zeros_like(line.value), jnp.full_like(line.value, jnp.inf), jnp.zeros((), bool)
    low, high = Trial(zero, line.value, line.slope), Trial(inf, inf, inf)
    choice = Choice(zero, line.value, line.grad, inf, inf)
    start = Search(jnp.zeros((), jnp.int32), no, no, low, high, high, choice)
    return meshes.while_loop(lambda s: ~s.ended, lambda s: _step(line, w, s), start)


def errors(line: Line, w: Wolfe, new: Trial) -> tuple[Array, Array]:
    """By how much a point misses the conditions of decrease and curvature: 0 if not at all, inf if it is not finite."""
    decrease = new.value - line.value - w.c1 * new.eta * jnp.minimum(line.slope, 0)  # uphill no rise is a decrease
    if w.c3 is not None:
        flat, level = new.slope - (2 * w.c1 - 1) * line.slope, new.value - line.value - w.c3 * jnp.abs(line.value)
        decrease = jnp.minimum(decrease, jnp.maximum(flat, level))
    curvature = jnp.abs(new.slope) - w.c2 * jnp.abs(line.slope)
    curvature = jnp.where(jnp.isnan(curvature), 0, curvature)  # 0 inf: any slope will do
    finite = jnp.isfinite(new.value) & jnp.isfinite(new.slope) & ~jnp.isnan(decrease)
    decrease, curvature = (jnp.where(finite, jnp.maximum(x, 0), jnp.inf) for x in (decrease, curvature))
    return decrease, curvature


def _step(line: Line, w: Wolfe, s: Search) -> Search:
    """Tries one more step size. Algorithm 3.5 is 3.6 with the upper bound at infinity, where it is not yet known."""
    bracketed, late = jnp.isfinite(s.high.eta), s.count >= PATIENCE
    factor = jnp.where(late, jnp.maximum(w.factor, HASTE), w.factor)
    longer = jnp.minimum(jnp.where(s.count == 0, w.guess, factor * s.low.eta), w.top)
    shorter = jnp.where(late & ~s.safe, s.low.eta + (s.high.eta - s.low.eta) / HASTE, between(s.low, s.high, s.ref))
    eta = jnp.where(bracketed, shorter, longer)
    value, grad, slope = line.evaluate(eta)
    new = Trial(eta, value, slope)
    decrease_error, curvature_error = errors(line, w, new)

    rises = (decrease_error > 0) | ((value >= s.low.value) & (s.count > 0))
    ahead = slope * jnp.sign(s.high.eta - s.low.eta) < 0
    if w.hidden is not None:  # the values may be all rounding, and the decrease farther away
        level = jnp.abs(value - line.value) <= w.hidden * jnp.abs(line.value)
        rises &= ~(ahead & level & jnp.isfinite(decrease_error))
    turns = ~rises & ~ahead
    low = tree.where(rises, s.low, new)
    high = tree.where(rises, new, tree.where(turns, s.low, s.high))
    ref = tree.where(rises | turns, s.high, s.low)

    # At the largest step size the slope still points down: no step meets the curvature condition.
    stays = (longer >= w.top) & ~jnp.isfinite(high.eta)
    met = jnp.maximum(decrease_error, curvature_error) <= w.tol
    done = (met | stays) & jnp.isfinite(decrease_error)
    enough = decrease_error <= w.tol
    # Of the points below the start the lowest with enough decrease; until there is one, the lowest.
    better = jnp.where(enough == (s.choice.decrease_error <= w.tol), value < s.choice.value, enough)
    better &= jnp.isfinite(decrease_error) & (value < line.value)
    choice = tree.where(done & enough | better, Choice(eta, value, grad, decrease_error, curvature_error), s.choice)
    safe = s.safe | enough
    short = bracketed & (jnp.abs(s.high.eta - s.low.eta) <= w.precision) & safe
    return Search(s.count + 1, done | short | (s.count + 1 >= w.most), safe, low, high, ref, choice)
