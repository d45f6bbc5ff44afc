"""Gradient descent with Polyak's step size."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

X, G = jnp.array([1.0, -2.0]), jnp.array([3.0, 4.0])


def update(tx: Any, g: Any = G, **extra: Any) -> Any:
    return tx.update(g, tx.init(X), X, **extra)[0]


@pytest.mark.parametrize("value", [0.5, np.float64(0.5), np.float32(0.5), jnp.bfloat16(0.5), jnp.array(0.5)])
def test_a_value_of_any_type(value: Any):
    np.testing.assert_allclose(update(gdjax.polyak_sgd(), value=value), -0.5 / 25 * G, rtol=1e-6)


def test_scaling_halves_the_step():
    whole, half = (update(gdjax.polyak_sgd(scaling=s), value=2.0) for s in (1.0, 0.5))
    np.testing.assert_allclose(half, whole / 2, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_zero_gradient_does_not_move(value: float, dtype: str):
    tx, zero = gdjax.polyak_sgd(), jnp.zeros(2, dtype)
    assert update(tx, zero, value=value).tolist() == [0, 0]
    total = lambda g: jnp.sum(update(tx, g, value=value)).astype(jnp.float32)
    assert np.isfinite(jax.grad(total)(zero)).all()


def test_at_and_below_the_least_value():
    assert update(gdjax.polyak_sgd(f_min=2.0), value=2.0).tolist() == [0, 0]
    assert (update(gdjax.polyak_sgd(f_min=2.0), value=1.0) > 0).all()  # uphill
    assert update(gdjax.polyak_sgd(f_min=2.0, variant="sps+"), value=1.0).tolist() == [0, 0]


def test_a_small_gradient_still_moves():
    # |g|^2 = 2.5e-19 is below the bound under which Optax takes no step.
    np.testing.assert_allclose(update(gdjax.polyak_sgd(), 1e-10 * G, value=2.5e-19), -1e-10 * G, rtol=1e-5)


def test_norms_of_16_bit_gradients():
    # The sum of 4096 ones stops at 256 in bfloat16.
    x = jnp.ones(4096, "bfloat16")
    tx = gdjax.scale_by_polyak()
    assert tx.update(x, tx.init(x), x, value=2048.0)[0][0] == 0.5


def test_errors():
    tx = gdjax.polyak_sgd()
    with pytest.raises(ValueError, match=r"gdjax.polyak_sgd: this transform needs value=...: call update\(updates"):
        update(tx)
    with pytest.raises(ValueError, match=r"gdjax.\w+: value must be a scalar, got None"):
        update(tx, value=None)
    with pytest.raises(ValueError, match=r"gdjax.\w+: value must be a scalar, got shape \(1,\)"):
        update(tx, value=jnp.ones(1))
    with pytest.raises(ValueError, match=r"gdjax.\w+: variant must be one of sps, sps\+, got 'max'"):
        update(gdjax.polyak_sgd(variant="max"), value=1.0)
