"""Adan."""

import functools

import jax.numpy as jnp
import numpy as np

import gdjax
from tests import oracles
from tests.papers.adam import adan


def test_the_decay_of_the_reference():
    rate, decay = 0.0625, 0.5
    tx = gdjax.adan(rate / (1 + rate * decay), weight_decay=decay)
    oracle = functools.partial(adan, learning_rate=rate, weight_decay=decay, proximal=True)
    oracles.assert_follows(tx, oracle, "float64")


def test_the_first_step_has_no_difference():
    tx, g = gdjax.scale_by_adan(eps=0.0), jnp.array([3.0, -4.0, 0.0])
    u, state = tx.update(g, tx.init(g))
    np.testing.assert_allclose(u, np.sign(g), rtol=1e-6)
    np.testing.assert_array_equal(state.v, np.zeros(3))


def test_a_schedule_of_a_decay():
    g = jnp.array([3.0, -4.0])
    got, want = (tx.update(g, tx.init(g))[0] for tx in (gdjax.scale_by_adan(lambda count: 0.98), gdjax.scale_by_adan()))
    np.testing.assert_allclose(got, want, rtol=1e-6)
