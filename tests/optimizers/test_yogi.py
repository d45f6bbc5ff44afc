"""Yogi."""

import functools

import jax.numpy as jnp

import gdjax
from tests import oracles
from tests.papers.adam import yogi


def test_oracle_of_the_part():
    kwargs = {"eps_root": 0.25, "initial_accumulator_value": 0.5}
    tx = gdjax.chain(gdjax.scale_by_yogi(**kwargs), gdjax.scale(-0.01))
    oracles.assert_follows(tx, functools.partial(yogi, **kwargs), "float64")


def test_a_large_gradient_is_forgotten_slowly():
    # Adam's second moment falls by the factor b2, Yogi's by (1 - b2) g^2.
    state = gdjax.scale_by_yogi(b2=0.5).init(jnp.zeros(()))._replace(nu=jnp.float32(100.0))
    _, state = gdjax.scale_by_yogi(b2=0.5).update(jnp.float32(2.0), state)
    assert float(state.nu) == 98.0
