"""StableAdamW."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

import gdjax
from tests import oracles
from tests.declare import matrices


def stable_adamw(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.99, eps: float = 1e-6,
    weight_decay: Any = 0.2, mask: Any = None, clipping_threshold: float | None = 1.0,
) -> Iterator[Any]:  # fmt: skip
    """Algorithm 2, with the eps of the authors' code in the mean: v, u are the averages with b1, b2 corrected."""
    v, u = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        beta1, beta2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (b1, b2))
        v = beta1 * v + (1 - beta1) * g
        u = beta2 * u + (1 - beta2) * g**2
        rms = np.sqrt(np.mean(g**2 / np.maximum(u, eps**2)))
        rate = oracles.at(learning_rate, t)
        if clipping_threshold is not None:
            rate = rate / max(1, rms / clipping_threshold)
        decay = oracles.at(weight_decay, t) if mask is None or np.ndim(x) > 1 else 0
        x = x - rate * decay * x - rate * v / (np.sqrt(u) + eps)
        yield x, {"mu": v * (1 - b1**t), "nu": u * (1 - b2**t)}


CASES = {
    "default": {},
    "all": {"b1": 0.75, "b2": 0.5, "eps": 0.25, "weight_decay": 0.5, "mask": matrices, "clipping_threshold": 0.5},
    "schedules": {"learning_rate": oracles.fall, "weight_decay": oracles.fall},
    "no clipping": {"clipping_threshold": None},
}


test_follows_the_paper = oracles.follows(gdjax.stable_adamw, stable_adamw, CASES, learning_rate=0.01)


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
