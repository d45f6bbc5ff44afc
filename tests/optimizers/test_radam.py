"""RAdam."""

import functools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.optimizers.radam import sma_length
from tests import oracles


def radam(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    eps_root: float = 0.0, threshold: float = 5.0, nesterov: bool = False, like: str = "optax",
) -> Iterator[Any]:  # fmt: skip
    m, v = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        rho_inf, rho = 2 / (1 - b2) - 1, length(b2, t)
        step = m_hat
        if rho >= threshold:
            r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            if like == "torch":
                step = r * m_hat * np.sqrt(1 - b2**t) / (np.sqrt(v + eps_root) + eps)
            else:
                root = np.sqrt(v / (1 - b2**t) + eps_root) + eps
                step = r * m_hat / np.where(root == 0, 1, root)
        x = x - oracles.at(learning_rate, t) * step
        yield x, {"mu": m, "nu": v}


def length(b: float, t: int) -> float:
    """rho_t, exactly."""
    b_ = Fraction(b)
    return float(2 / (1 - b_) - 1 - 2 * t * b_**t / (1 - b_**t))


CASES = {
    "default": {},
    "schedule": {"learning_rate": oracles.fall},
    "options": {"b1": 0.75, "b2": 0.9, "eps": 0.25, "eps_root": 0.125, "threshold": 4.5},
    "never": {"b2": 0.5},
    "nesterov": {"b2": 0.99, "nesterov": True},
    "torch": {"b2": 0.99, "eps": 0.25, "eps_root": 0.125, "like": "torch"},
    "torch, nesterov": {"b1": 0.75, "b2": 0.99, "nesterov": True, "learning_rate": oracles.fall, "like": "torch"},
}


# A rounding of rho, amplified by 1 / (rho - 4), and the double precision of the oracle's own powers.
test_oracle = oracles.follows(gdjax.radam, radam, CASES, 4e-6, 1e-12, learning_rate=0.01)


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
