"""ScheduleFree+ against its authors' code, which keeps x, y and z, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import finite, precision, random_tree, signature


def test_x_is_recovered():
    """Of two steps, whose interpolations differ."""
    rates = lambda count: jnp.where(count == 0, 0.9, 0.5)
    tx, y, z = gdjax.schedule_free_plus(sf_b1=rates), jnp.array([2.0, -1.0]), [jnp.array([2.0, -1.0])]
    state = tx.init(y)
    for _ in range(2):
        u, state = tx.update(y, state, y, value=jnp.sum(y**2) / 2)
        y, z = gdjax.apply_updates(y, u), [*z, state.z]
    w = float(state.weight_sum) - float(state.max_lr) ** 2, float(state.max_lr) ** 2
    np.testing.assert_allclose(gdjax.eval_params(tx, state, y), (w[0] * z[1] + w[1] * z[2]) / (w[0] + w[1]), rtol=1e-5)


def test_zeros_and_what_is_below_the_least_value():
    tx, params = gdjax.schedule_free_plus(), random_tree(0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = tx.update(zeros, tx.init(params), params, value=3.0)
    assert not any(x.any() for x in jax.tree.leaves(updates)) and finite(state)
    updates, state = tx.update(random_tree(1), state, params, value=-1.0)  # no step, but moments
    assert not any(x.any() for x in jax.tree.leaves(updates)) and any(x.any() for x in jax.tree.leaves(state.mu))


def test_a_gradient_near_zero_leaves_numbers():
    """f / |g|_1 would be infinite, and so would the sum of the weights be from then on."""
    tx, params = gdjax.schedule_free_plus(weight_decay=0.1), random_tree(0)
    tiny = jax.tree.map(lambda x: jnp.full_like(x, 1e-37), params)
    updates, state = tx.update(tiny, tx.init(params), params, value=3.0)
    assert finite((updates, state)) and float(state.max_lr) == 2.0**45


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_dtypes(dtype: str):
    with precision(dtype):
        params, tx = random_tree(0, dtype), gdjax.schedule_free_plus(state_dtype="float32")
        state = tx.init(params)
        updates, new = tx.update(random_tree(1, dtype), state, params, value=jnp.float32(2.0))
        assert signature(new) == signature(state)
        average = gdjax.eval_params(tx, new, gdjax.apply_updates(params, updates))
        assert {x.dtype.name for x in jax.tree.leaves((updates, average))} == {dtype} and finite(average)


def test_errors():
    tx = gdjax.schedule_free_plus()
    with pytest.raises(ValueError, match="schedule_free_plus.*value"):
        tx.update(random_tree(0), tx.init(random_tree(0)), random_tree(0))
    for wrong in ({"sf_b1": 0.0}, {"polyak_beta": 1.0}, {"c_warmup": -1}, {"weight_decay": -1.0}):
        with pytest.raises(ValueError, match=f"^gdjax.schedule_free_plus: {next(iter(wrong))} must be"):
            gdjax.schedule_free_plus(**wrong)
