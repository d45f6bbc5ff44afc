"""ADana against the paper's equations in NumPy, and its averages against sums of the gradients."""

import jax
import jax.numpy as jnp
import numpy as np

import gdjax


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
