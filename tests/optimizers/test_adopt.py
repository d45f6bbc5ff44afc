"""ADOPT, with and without clipping."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def adopt(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.9999, eps: float = 1e-6,
    nesterov: bool = False, use_clipping: bool = True,
) -> Iterator[Any]:  # fmt: skip
    """Algorithms 1 and 2: the first gradient, g_0, makes v_0 and no step."""
    nu, mu = gradient(1, x) ** 2, np.zeros(np.shape(x))
    yield x, {"mu": mu, "nu": nu}
    for t in range(1, oracles.STEPS):
        g = gradient(t + 1, x)
        n = g / np.maximum(np.sqrt(nu), eps)
        n = np.clip(n, -(t**0.25), t**0.25) if use_clipping else n
        mu = b1 * mu + (1 - b1) * n
        nu = b2 * nu + (1 - b2) * g**2
        x = x - oracles.at(learning_rate, t + 1) * (b1 * mu + (1 - b1) * n if nesterov else mu)
        yield x, {"mu": mu, "nu": nu}


CASES = {
    "default": {},
    "all": {"b1": 0.8, "b2": 0.9, "eps": 0.5, "nesterov": True},
    "no clipping": {"use_clipping": False, "eps": 0.25},
    "schedule": {"learning_rate": oracles.fall},
}


# An element whose first gradient is 0.05 is divided by that: 20 times the rounding, in directions of order 10.
test_follows_the_paper = oracles.follows(gdjax.adopt, adopt, CASES, float32=5e-5, learning_rate=0.01)


def test_clipping_makes_a_difference():
    one, two = (lambda x, g, c=c: adopt(x, g, use_clipping=c) for c in (True, False))
    assert oracles.distance(one, two) > 0.01


def test_a_clip_value_of_ones_own():
    tx, g = gdjax.scale_by_adopt(b1=0.0, clip_value_fn=lambda t: t / 2), jnp.array([1.0, -1.0])
    state = tx.update(g, tx.init(g))[1]
    u, state = tx.update(4 * g, state)
    np.testing.assert_allclose(u, 0.5 * g)
    np.testing.assert_allclose(tx.update(4 * g, state)[0], g)


def test_a_complex_number_is_clipped_in_size():
    tx, g = gdjax.scale_by_adopt(b1=0.0), jnp.array([3 + 4j, 0j])
    u, state = tx.update(g, tx.init(g))
    assert u.tolist() == [0, 0]
    np.testing.assert_allclose(tx.update(4 * g, state)[0], [0.6 + 0.8j, 0], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zero_gradients_and_no_eps(dtype: str):
    tx, zero = gdjax.scale_by_adopt(eps=0.0), jnp.zeros(2, dtype)
    state = tx.update(zero, tx.init(zero))[1]
    u, state = tx.update(zero, state)
    assert u.tolist() == [0, 0]
    # A gradient then is bounded by the clipping: c_2 (1 - b1).
    np.testing.assert_allclose(tx.update(zero + 100, state)[0], 2**0.25 * 0.1, rtol=1e-3)

    def total(g: Any) -> Any:
        return jnp.sum(tx.update(g, state)[0]).astype(jnp.float32)

    assert np.isfinite(jax.grad(total)(zero)).all()
