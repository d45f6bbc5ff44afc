"""COCOB."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.trees import steps


def cocob(
    x: Any, gradient: Any, learning_rate: Any = 1.0, alpha: float = 100.0, eps: float = 1e-8, weight_decay: float = 0.0
) -> Iterator[Any]:
    """Algorithm 2, with its signs: it is given -g, and theta adds that up."""
    start = np.array(x)
    L, G, reward, theta = np.full(np.shape(x), eps), *np.zeros((3, *np.shape(x)))
    for t in range(1, oracles.STEPS + 1):
        negative = -oracles.at(learning_rate, t) * (gradient(t, x) + weight_decay * x)
        L = np.maximum(L, np.abs(negative))
        G = G + np.abs(negative)
        reward = np.maximum(reward + (x - start) * negative, 0)
        theta = theta + negative
        x = start + theta / (L * np.maximum(G + L, alpha * L)) * (L + reward)
        yield x, {
            "init_particles": start, "cumulative_gradients": theta, "scale": L, "subgradients": G, "reward": reward,
        }  # fmt: skip


CASES = {
    "default": {},
    "all": {"alpha": 4.0, "eps": 0.5, "weight_decay": 0.25},
    "schedule": {"learning_rate": oracles.fall, "alpha": 8.0},
}


# The sums G, of order 100 after 50 steps, carry 50 roundings.
test_follows_the_paper = oracles.follows(gdjax.cocob, cocob, CASES, float32=1e-5, float64=1e-13, learning_rate=1.0)


def test_it_does_not_depend_on_the_scale_of_the_gradients():
    x = jnp.array([1.0, -1.0])
    gs = [jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0]), jnp.array([-2.0, 1.0])]
    for size in (1e-6, 1e6, 1e17, 1e-25):
        eps = 1e-8 if size > 1e-7 else 0.0
        got = steps(gdjax.cocob(eps=eps), x, [size * g for g in gs])[0]
        np.testing.assert_allclose(got, steps(gdjax.cocob(), x, gs)[0], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_zero_gradients_do_not_move(dtype: str, eps: float):
    # In float16 the eps of Optax is 0, and 0 / 0 follows.
    x = jnp.array([1.0, -1.0], dtype)
    got, state = steps(gdjax.cocob(eps=eps), x, [jnp.zeros(2, dtype)] * 2)
    assert got.tolist() == [1, -1] and state[-1].scale.dtype == jnp.float32
    assert np.isfinite(steps(gdjax.cocob(eps=eps), x, [jnp.ones(2, dtype)] * 2)[0].astype("float32")).all()
