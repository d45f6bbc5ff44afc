"""DoG and DoWG."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles, vectors
from tests.trees import finite, steps

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def norm(x: Any) -> Any:
    return np.sqrt(np.sum(x**2))


def dog(
    x: Any, gradient: Any, value: Any,
    learning_rate: Any = 1.0, init_step: Any = ("heuristic", 1e-6), eps: float = 1e-8, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    start, (kind, size), total = x, init_step, 0.0
    r = {"heuristic": size * (1 + norm(x)), "distance": size, "learning_rate": 0.0}[kind]
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x) + weight_decay * x
        r = max(r, norm(x - start))
        total += g @ g
        rate = size if t == 1 and kind == "learning_rate" else r / np.sqrt(total + eps)
        x = x - oracles.at(learning_rate, t) * rate * g
        yield x, {"max_dist": r, "sum_sq_norm_grads": total, "is_init_step": False}


def dowg(
    x: Any, gradient: Any, value: Any,
    learning_rate: Any = 1.0, init_estim_sq_dist: Any = None, eps: float = 1e-4, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    start, v, r2 = x, 0.0, eps if init_estim_sq_dist is None else init_estim_sq_dist
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x) + weight_decay * x
        r2 = max(r2, norm(x - start) ** 2)
        v += r2 * (g @ g)
        x = x - oracles.at(learning_rate, t) * r2 / (np.sqrt(v) + eps) * g
        yield x, {"estim_sq_dist": r2, "weighted_sq_norm_grads": v}


DOG = {
    "default": {},
    "distance": {"init_step": ("distance", 0.5), "eps": 2.0, "weight_decay": 0.25},
    "learning_rate": {"init_step": ("learning_rate", 0.125)},
    "schedule": {"learning_rate": oracles.fall, "init_step": ("heuristic", 0.25)},
}
DOWG = {
    "default": {},
    "all": {"learning_rate": 0.5, "init_estim_sq_dist": 0.25, "eps": 0.5, "weight_decay": 0.25},
}


@DTYPES
@pytest.mark.parametrize("name", DOG)
def test_dog(name: str, dtype: str):
    # By default the first step is 3e-6 long, which float32 measures to 2 %.
    tolerance = {"rtol": 2e-4, "atol": 2e-4} if (name, dtype) == ("default", "float32") else {}
    vectors.assert_follows(gdjax.dog(**DOG[name]), functools.partial(dog, **DOG[name]), dtype, **tolerance)


test_dowg = vectors.follows(gdjax.dowg, dowg, DOWG)


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
