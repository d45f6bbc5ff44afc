"""MADGRAD."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import steps


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
