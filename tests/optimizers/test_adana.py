"""ADana against the paper's equations in NumPy, and its averages against sums of the gradients."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from tests import oracles


def adana(
    x: Any, gradient: Any, learning_rate: Any = 0.01, kappa: float = 0.85, delta: float = 8.0, eps: float = 1e-8,
    weight_decay: Any = 0.0,
) -> Iterator[Any]:  # fmt: skip
    mu, nu = np.zeros((2, *np.shape(x)))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        b = 1 - delta / (delta + t)
        mu = b * mu + (1 - b) * g
        nu = b * nu + (1 - b) * g**2
        direction = (g + (1 + t) ** (1 - kappa) * mu) / (np.sqrt(nu) + eps)
        x = x - oracles.at(learning_rate, t) * (direction + oracles.at(weight_decay, t) * x)
        yield x, {"mu": mu, "nu": nu}


def falling(count: Any) -> Any:
    return jnp.where(count < 20, 0.5, 0.125)


test_oracle = oracles.follows(
    gdjax.adana,
    adana,
    {
        "default": {},
        "all": {"kappa": 0.5, "delta": 3.0, "eps": 0.125, "weight_decay": falling, "learning_rate": oracles.fall},
    },
    float32=5e-6,
    learning_rate=0.01,
)


def test_the_averages_reach_back_over_a_share_of_the_steps():
    """With delta = 1 they are the means of all steps and one of 0 before them."""
    gs = jnp.arange(1.0, 7.0)
    tx = gdjax.scale_by_adana(delta=1.0)
    state = tx.init(gs[0])
    for g in gs:
        _, state = tx.update(g, state)
    np.testing.assert_allclose(state.mu, np.sum(gs) / 7, rtol=1e-6)
    np.testing.assert_allclose(state.nu, np.sum(gs**2) / 7, rtol=1e-6)


def test_the_schedule_makes_the_average_of_another_optimizer():
    """Of `ema`, as the rule has it; one trace."""
    gs, tx = jnp.arange(1.0, 7.0), gdjax.ema(gdjax.log_time_schedule(4.0), debias=False)
    rule = gdjax.scale_by_adana(delta=4.0)
    state, own, update = tx.init(gs[0]), rule.init(gs[0]), jax.jit(tx.update)
    for g in gs:
        mean, state = update(g, state)
        _, own = rule.update(g, own)
        np.testing.assert_allclose(mean, own.mu, rtol=1e-6)
    assert update._cache_size() == 1


def test_kappa_1_counts_the_average_once():
    g, tx = jnp.array([2.0, -1.0]), gdjax.scale_by_adana(kappa=1.0, eps=0.0)
    u, state = tx.update(g, tx.init(g))
    np.testing.assert_allclose(u, (g + state.mu) / jnp.sqrt(state.nu), rtol=1e-6)
