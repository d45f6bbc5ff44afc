"""RAdam."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.optimizers.radam import sma_length
from tests import oracles
from tests.papers.adam import length, radam


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_paper_adapts_from_above_4_and_has_no_eps(dtype):
    # The oracle's threshold is a little more than 4, where the root is real.
    oracle = functools.partial(radam, learning_rate=0.01, b2=0.9, eps=0.0, threshold=4 + 1e-9)
    assert oracles.distance(oracle, functools.partial(radam, learning_rate=0.01, b2=0.9)) > 1e-3
    tolerance = {"float32": {"rtol": 4e-6, "atol": 4e-6}, "float64": {"rtol": 1e-12, "atol": 1e-12}}[dtype]
    oracles.assert_follows(gdjax.radam(0.01, b2=0.9, like="paper"), oracle, dtype, **tolerance)


@pytest.mark.parametrize("b", [0.5, 0.79, 0.9, 0.99, 0.999, 0.9999, 0.0])
def test_the_length_is_exact(b):
    for t in (1, 2, 5, 6, 100, 3000):
        want = length(b, t)
        np.testing.assert_allclose(sma_length(b, jnp.float32(t)), want, rtol=2e-6, atol=1e-6)
    with oracles.precision("float64"):
        np.testing.assert_allclose(sma_length(b, jnp.asarray(6.0)), length(b, 6), rtol=1e-12)
        np.testing.assert_allclose(sma_length(jnp.asarray(b), jnp.asarray(6.0)), length(b, 6), rtol=1e-12)


def test_the_sixth_step_is_the_first_adaptive_one():
    assert length(0.999, 5) < 5 <= length(0.999, 6)
    tx, g = gdjax.scale_by_radam(), jnp.array([1e-3])
    state = tx.init(g)
    for t in range(1, 8):
        u, state = tx.update(g, state)
        assert (u[0] > 2e-3) == (t >= 6)


@pytest.mark.parametrize("threshold", [0.0, 4.0])
def test_a_low_threshold_means_above_four(threshold):
    # The root is of a negative number where rho is below 4.
    tx, g = gdjax.scale_by_radam(threshold=threshold), jnp.array([1e-3])
    state = tx.init(g)
    for t in range(1, 8):
        u, state = tx.update(g, state)
        assert np.isfinite(u).all()
        if length(0.999, t) <= 4:
            np.testing.assert_allclose(u, g, rtol=1e-6)


def test_the_derivative_of_the_first_steps_is_finite():
    tx = gdjax.scale_by_radam()
    state = tx.init(jnp.zeros(2))
    slope = jax.grad(lambda g: jnp.sum(tx.update(g, state)[0]))(jnp.zeros(2))
    np.testing.assert_allclose(slope, np.ones(2), rtol=1e-6)
