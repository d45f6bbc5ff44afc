"""MoMo and MoMo-Adam."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import finite

FACTORIES = pytest.mark.parametrize("factory", [gdjax.momo, gdjax.momo_adam])
X, G = jnp.array([1.0, -2.0]), jnp.array([3.0, 4.0])


def update(tx: Any, g: Any = G, x: Any = X, **extra: Any) -> Any:
    return tx.update(g, tx.init(x), x, **extra)[0]


@FACTORIES
@pytest.mark.parametrize("value", [0.5, np.float64(0.5), np.float32(0.5), jnp.bfloat16(0.5), jnp.array(0.5)])
def test_a_value_of_any_type(factory: Any, value: Any):
    tx = factory(1.0)
    np.testing.assert_array_equal(update(tx, value=value), update(tx, value=jnp.float32(0.5)))
    assert (update(tx, value=value) < 0).all()


@FACTORIES
@pytest.mark.parametrize("adapt", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zero_gradients_do_not_move(factory: Any, adapt: bool, value: float, dtype: str):
    tx, x, zero = factory(1.0, adapt_lower_bound=adapt), X.astype(dtype), jnp.zeros(2, dtype)
    state = tx.init(x)
    for _ in range(2):
        u, state = tx.update(zero, state, x, value=value)
        assert u.tolist() == [0, 0] and finite(state)


@FACTORIES
def test_derivatives_at_zero_gradients(factory: Any):
    tx = factory(1.0, eps=0.0) if factory is gdjax.momo_adam else factory(1.0)
    assert np.isfinite(jax.jit(jax.grad(lambda g: jnp.sum(update(tx, g, value=1.0))))(jnp.zeros(2))).all()


def test_the_lower_bound_ends_the_descent():
    assert update(gdjax.momo(lower_bound=2.0), value=2.0).tolist() == [0, 0]
    assert update(gdjax.momo(lower_bound=2.0), value=1.0).tolist() == [0, 0]
    np.testing.assert_allclose(update(gdjax.momo(lower_bound=2.0), value=2.5), -0.5 / 25 * G, rtol=1e-6)
    # An adapted bound does not fall below the given one.
    tx = gdjax.momo(lower_bound=-1.0, adapt_lower_bound=True)
    assert tx.update(G, tx.init(X), X, value=-50.0)[1].lb == -1.0


@FACTORIES
@pytest.mark.parametrize("x", [0 * X, X], ids=["zero", "x"])
def test_a_lower_bound_above_the_model_is_reset(factory: Any, x: Any):
    # At the first step <d, x> is gamma, and the model f there, 4: the bound 10 becomes 4 / 2, the step aims at 2, and
    # the estimate becomes f less half of what the step promises.
    tx = factory(1.0, adapt_lower_bound=True)
    state = tx.init(x)
    u, new = tx.update(G, state._replace(lb=jnp.float32(10.0)), x, value=4.0)
    np.testing.assert_allclose(-u @ G, 2.0, rtol=1e-5)
    np.testing.assert_allclose(new.lb, 3.0, rtol=1e-5)


def test_a_small_gradient_still_moves():
    # |d|^2 = 2.5e-19 is below the bound under which Optax takes no step.
    np.testing.assert_allclose(update(gdjax.momo(), 1e-10 * G, 0 * X, value=2.5e-19), -1e-10 * G, rtol=1e-5)


@FACTORIES
def test_the_decay_shrinks_the_step_too(factory: Any):
    # Where the step is lr: (x - lr d) / (1 + lr decay).
    plain, decayed = (update(factory(0.5, weight_decay=w), value=1e3) for w in (0.0, 0.5))
    np.testing.assert_allclose(X + decayed, (X + plain) / 1.25, rtol=1e-6)


@FACTORIES
def test_errors(factory: Any):
    tx, name = factory(), factory.__name__
    with pytest.raises(ValueError, match=rf"gdjax.{name}: this transform needs value=...: call update\(updates"):
        update(tx)
    with pytest.raises(ValueError, match=rf"gdjax.{name}: value must be a scalar, got None"):
        update(tx, value=None)
    with pytest.raises(ValueError, match=rf"gdjax.{name}: value must be a scalar, got shape \(1,\)"):
        update(tx, value=jnp.ones(1))
    with pytest.raises(ValueError, match=rf"gdjax.{name}: lower_bound must be finite, got nan"):
        factory(lower_bound=float("nan"))
    with pytest.raises(ValueError, match=rf"gdjax.{name}: (beta|b1) must be in \[0, 1\).* got 1.0"):
        factory(1.0, 1.0)
