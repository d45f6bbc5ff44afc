"""StableAdamW."""

import functools

import jax.numpy as jnp
import numpy as np

import gdjax
from tests import oracles
from tests.papers.adam import stable_adamw


def test_clipping_makes_a_difference():
    one, two = (functools.partial(stable_adamw, learning_rate=0.01, clipping_threshold=c) for c in (1.0, None))
    assert oracles.distance(one, two) > 0.01


def test_zero_gradients_and_no_eps():
    tx, zero = gdjax.scale_by_stable_adamw(eps=0.0), jnp.zeros(2)
    u, state = tx.update(zero, tx.init(zero))
    assert u.tolist() == [0, 0]
    assert jnp.abs(tx.update(zero + 100, state)[0]).max() <= 1


def test_a_run_of_adamw_goes_on():
    params, g = {"w": jnp.ones((2, 2))}, {"w": jnp.arange(4.0).reshape(2, 2)}
    old, new = gdjax.adamw(0.1, b2=0.99, weight_decay=0.1), gdjax.stable_adamw(0.1, eps=1e-8, weight_decay=0.1)
    state, _ = gdjax.migrate(old.update(g, old.init(params), params)[1], old, new, params)
    updates, _ = new.update(g, state, params)
    wanted, _ = new.update(g, new.update(g, new.init(params), params)[1], params)
    np.testing.assert_allclose(updates["w"], wanted["w"], rtol=1e-6)
