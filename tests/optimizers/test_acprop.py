"""ACProp as Optax and as the paper have it."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

import gdjax
from tests import oracles


def acprop(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-16,
    eps_root: float = 1e-16, weight_decay: float = 0.0, new_mean: bool = False,
) -> Iterator[Any]:  # fmt: skip
    mu, nu = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        root = np.sqrt(nu / (1 - b2 ** (t - 1))) if t > 1 else np.ones(np.shape(x))
        x = x - oracles.at(learning_rate, t) * (g / (root + eps) + weight_decay * x)
        old, mu = mu, b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * (g - (mu if new_mean else old)) ** 2 + eps_root
        yield x, {"mu": mu, "nu": nu}


CASES = {
    "default": {},
    "all": {"b1": 0.8, "b2": 0.9, "eps": 0.125, "eps_root": 0.0625, "weight_decay": 0.25, "new_mean": True},
    "schedule": {"learning_rate": oracles.fall, "b2": 0.75, "eps_root": 0.25},
}


# A step is divided by a root down to 1e-1, which magnifies the rounding of the mean.
test_follows_the_paper = oracles.follows(gdjax.acprop, acprop, CASES, float32=1e-5, float64=1e-13, learning_rate=0.01)


def test_the_papers_mean_makes_steps_longer_by_one_over_b1():
    g = [jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])]
    updates = []
    for new_mean in (False, True):
        tx = gdjax.scale_by_acprop(b1=0.5, eps=0.0, eps_root=0.0, new_mean=new_mean)
        state = tx.update(g[0], tx.init(g[0]))[1]
        updates.append(tx.update(g[1], state)[0])
    np.testing.assert_allclose(updates[1], 2 * updates[0], rtol=1e-6)


def test_zero_gradients_and_no_eps():
    tx, zero = gdjax.scale_by_acprop(eps=0.0, eps_root=0.0), jnp.zeros(2)
    state = tx.init(zero)
    for _ in range(2):
        u, state = tx.update(zero, state)
        assert u.tolist() == [0, 0]
    assert tx.update(jnp.ones(2), state)[0].tolist() == [1, 1]  # nothing to divide by
