"""LaProp."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

import gdjax
from tests import oracles
from tests.papers.adam import laprop


def of_the_authors(x: Any, gradient: Any, learning_rate: Any, weight_decay: float = 0.0) -> Iterator[Any]:
    """The authors' code: the rate is inside the average, and the decay is not times it."""
    n, m, rates = np.zeros(np.shape(x)), np.zeros(np.shape(x)), 0.0
    for t in range(1, oracles.STEPS + 1):
        g, rate = gradient(t, x), oracles.at(learning_rate, t)
        n = 0.999 * n + 0.001 * g**2
        rates = 0.9 * rates + 0.1 * rate
        m = 0.9 * m + 0.1 * rate * g / (np.sqrt(n / (1 - 0.999**t)) + 1e-15)
        x = x - m / (rates / rate)
        x = x - weight_decay * x
        yield x, {"mu": m / rate, "nu": n}


def test_a_constant_rate_is_that_of_the_authors_code():
    oracles.assert_follows(gdjax.laprop(0.01), functools.partial(of_the_authors, learning_rate=0.01), "float64")
    one, two = (functools.partial(f, learning_rate=oracles.fall) for f in (laprop, of_the_authors))
    assert oracles.distance(one, two) > 0.01  # what the docstring says of schedules


def test_no_decay_of_squares_is_signum():
    tx = gdjax.scale_by_laprop(b1=0.5, b2=0.0)
    state = tx.init(jnp.zeros(3))
    for g, want in [([5.0, -0.1, 0.0], [1, -1, 0]), ([-2.0, -9.0, 0.0], [-1 / 3, -1, 0])]:
        u, state = tx.update(jnp.array(g), state)
        np.testing.assert_allclose(u, want, rtol=1e-6)


def test_a_direction_stays_bounded_where_adams_does_not():
    # b1 above sqrt(b2): the second moment forgets the large gradient before the average does.
    tx, adam = (f(b1=0.9, b2=0.3) for f in (gdjax.scale_by_laprop, gdjax.scale_by_adam))
    state, other = tx.init(jnp.zeros(1)), adam.init(jnp.zeros(1))
    u, v = jnp.zeros(1), jnp.zeros(1)
    for g in (1e6, *[1.0] * 20):
        u, state = tx.update(jnp.array([g]), state)
        v, other = adam.update(jnp.array([g]), other)
    assert abs(u[0]) <= 1 / np.sqrt(1 - 0.3) and v[0] > 1e3


def test_adams_average_is_not_taken_for_one_of_normalised_gradients():
    params, g = {"w": jnp.ones(2)}, {"w": jnp.array([100.0, -100.0])}
    old, new = gdjax.adam(0.1), gdjax.laprop(0.1)
    state, _ = gdjax.migrate(old.update(g, old.init(params))[1], old, new, params)
    assert jnp.abs(new.update(g, state, params)[0]["w"]).max() <= 0.11
