"""DoG and DoWG."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import finite, steps

EVERY = pytest.mark.parametrize(
    "tx",
    [
        gdjax.dog(),
        gdjax.dog(eps=0.0),
        gdjax.dog(init_step=("learning_rate", 0.1), eps=0.0),
        gdjax.dowg(),
        gdjax.dowg(init_estim_sq_dist=0.01, eps=0.0),
    ],
    ids=repr,
)


@EVERY
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zero_gradients_at_first(tx: Any, dtype: str):
    x, zero, g = jnp.ones(3, dtype), jnp.zeros(3, dtype), jnp.array([1.0, 2.0, 2.0], dtype)
    still, state = steps(tx, x, [zero, zero])
    assert still.tolist() == [1, 1, 1] and finite(state)
    slope = jax.grad(lambda g: jnp.sum(tx.update(g, state, x)[0]).astype(jnp.float32))
    assert np.isfinite(jax.jit(slope)(zero)).all()
    # Then the first step is what it would have been.
    late, state = tx.update(g, state, x)
    first, _ = tx.update(g, tx.init(x), x)
    np.testing.assert_allclose(late, first, rtol=1e-3 if dtype == "float16" else 1e-6)
    assert finite(state) and (late < 0).all()


def test_sums_in_bfloat16():
    # 300 gradients of norm 1: in bfloat16 the sum stops at 256.
    x, g = jnp.zeros(4, "bfloat16"), jnp.full(4, 0.5, "bfloat16")
    tx = gdjax.scale_by_dog(("distance", 1e-3))
    state = tx.init(x)
    step = jax.jit(lambda state: tx.update(g, state, x)[1])
    for _ in range(300):
        state = step(state)
    assert (float(state.sum_sq_norm_grads), state.sum_sq_norm_grads.dtype) == (300, jnp.float32)


def test_the_initial_step_may_be_traced():
    x, g = jnp.ones(3), jnp.ones(3)

    def first(size: Any) -> Any:
        tx = gdjax.dog(init_step=("distance", size))
        return tx.update(g, tx.init(x), x)[0]

    np.testing.assert_allclose(jax.jit(first)(0.5), first(0.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("init_step", "message"),
    [
        (("guess", 0.1), r"init_step must be a pair of distance or learning_rate or heuristic and a number: \('guess'"),
        (0.1, r"init_step must be a pair of .*: 0.1"),
        (("distance", 0.0), r"init_step\[1\] must be finite and above 0, got 0.0"),
    ],
)
def test_errors(init_step: Any, message: str):
    with pytest.raises(ValueError, match=rf"gdjax.scale_by_dog: {message}"):
        gdjax.dog(init_step=init_step)
