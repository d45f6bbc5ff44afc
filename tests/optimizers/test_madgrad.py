"""MADGRAD."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.trees import steps


def madgrad(
    x: Any, gradient: Any, learning_rate: Any, momentum: float = 0.9, weight_decay: float = 0.0, eps: float = 1e-6
) -> Iterator[Any]:
    start, nu, s = np.array(x), np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x) + weight_decay * x
        lamb = (oracles.at(learning_rate, t) + eps) * np.sqrt(t)
        nu = nu + lamb * g**2
        s = s + lamb * g
        z = start - s / (np.cbrt(nu) + eps)
        x = momentum * x + (1 - momentum) * z
        yield x, {"grad_sum_sq": nu, "s": s, "x0": start}


CASES = {
    "default": {},
    "all": {"momentum": 0.5, "weight_decay": 0.25, "eps": 0.125},
    "schedule": {"learning_rate": oracles.fall},
}


test_follows_the_paper = oracles.follows(gdjax.madgrad, madgrad, CASES, float32=1e-5, float64=1e-13, learning_rate=0.01)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_zero_gradients_do_not_move(dtype: str, eps: float):
    x, zero = jnp.array([1.0, -1.0], dtype), jnp.zeros(2, dtype)
    assert steps(gdjax.madgrad(0.1, eps=eps), x, [zero] * 3)[0].tolist() == [1, -1]
    tx = gdjax.madgrad(0.1, eps=eps)

    def total(g: Any) -> Any:
        return jnp.sum(tx.update(g, tx.init(x), x)[0]).astype(jnp.float32)

    assert np.isfinite(jax.grad(total)(zero)).all()


def test_small_gradients_in_float16():
    # lamb g^2 = 1e-9 is nothing in float16; the step is that of float32.
    x, g = jnp.ones(2, "float16"), jnp.full(2, 1e-4, "float16")
    u = gdjax.madgrad(0.1).update(g, gdjax.madgrad(0.1).init(x), x)[0]
    tx, wide = gdjax.madgrad(0.1), x.astype("float32")
    np.testing.assert_allclose(u, tx.update(g.astype("float32"), tx.init(wide), wide)[0], rtol=1e-3)
    assert u[0] < -1e-4
