"""AdEMAMix and its simplification."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def ademamix(
    x: Any, gradient: Any, lr: Any = 0.01, b1: float = 0.9, b2: float = 0.999, b3: Any = 0.9999, alpha: Any = 5.0,
    eps: float = 1e-8, eps_root: float = 0.0, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    m1, m2, nu = np.zeros((3, *np.shape(x)))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        slow = oracles.at(b3, t)
        m1 = b1 * m1 + (1 - b1) * g
        m2 = slow * m2 + (1 - slow) * g
        nu = b2 * nu + (1 - b2) * g**2
        direction = m1 / (1 - b1**t) + oracles.at(alpha, t) * m2
        root = np.sqrt(nu / (1 - b2**t) + eps_root) + eps
        x = x - oracles.at(lr, t) * (
            np.divide(direction, root, where=root > 0, out=np.zeros_like(m1)) + weight_decay * x
        )
        yield x, {"m1": m1, "m2": m2, "nu": nu}


def simplified(
    x: Any, gradient: Any, lr: Any = 0.01, b1: float = 0.99, b2: float = 0.95, alpha: Any = 0.0, eps: float = 1e-8,
    eps_root: float = 0.0, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    m, n = np.zeros((2, *np.shape(x)))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + g
        n = b2 * n + (1 - b2) * g**2
        direction = (m + oracles.at(alpha, t) * g) / (np.sqrt(n / (1 - b2**t) + eps_root) + eps)
        x = x - oracles.at(lr, t) * (direction + weight_decay * x)
        yield x, {"m": m, "n": n}


def double(count: Any) -> Any:
    return jnp.where(count < 20, 2.0, 4.0)


def slower(count: Any) -> Any:
    return jnp.where(count < 20, 0.75, 0.875)


MIXTURES = {
    "default": {},
    "all": {"b1": 0.8, "b2": 0.9, "b3": 0.99, "alpha": 8.0, "eps": 0.125, "eps_root": 0.0625, "weight_decay": 0.25},
    "schedules": {"learning_rate": oracles.fall, "b3": slower, "alpha": double},
}
SIMPLE = {
    "default": {},
    "all": {"b1": 0.8, "b2": 0.9, "alpha": 8.0, "eps": 0.125, "eps_root": 0.0625, "weight_decay": 0.25},
    "schedules": {"learning_rate": oracles.fall, "alpha": double, "b1": 0.5},
}


def follows(tx: Any, oracle: Any, dtype: str, counts: set[str]) -> None:
    params, state = oracles.run(tx, dtype)
    for name in counts:
        np.testing.assert_array_equal(state[name], np.arange(1, oracles.STEPS + 1))
    state = {k: v for k, v in state.items() if k not in counts}
    # Directions here are up to 50 times those of Adam, and so is the rounding.
    tolerance = {"rtol": 2e-5, "atol": 2e-5} if dtype == "float32" else {"rtol": 1e-13, "atol": 1e-13}
    oracles.assert_same((params, state), oracles.expected(oracle), **tolerance)


@DTYPES
@pytest.mark.parametrize("name", MIXTURES)
def test_ademamix(name: str, dtype: str):
    hyper = {"learning_rate": 0.01, **MIXTURES[name]}
    rest = {k: v for k, v in hyper.items() if k != "learning_rate"}
    oracle = lambda x, g: ademamix(x, g, hyper["learning_rate"], **rest)
    follows(gdjax.ademamix(**hyper), oracle, dtype, {"count", "count_m2"})


@DTYPES
@pytest.mark.parametrize("name", SIMPLE)
def test_simplified_ademamix(name: str, dtype: str):
    hyper = {"learning_rate": 0.001, **SIMPLE[name]}
    rest = {k: v for k, v in hyper.items() if k != "learning_rate"}
    oracle = lambda x, g: simplified(x, g, hyper["learning_rate"], **rest)
    follows(
        gdjax.simplified_ademamix(**hyper), oracle, dtype, {"t", "count"} if callable(hyper["learning_rate"]) else {"t"}
    )


def test_the_two_counts_are_told_apart():
    # count_m2 is what the schedules see, count what corrects the averages.
    x = jnp.ones(3)
    tx = gdjax.scale_by_ademamix(b3=0.5, alpha=lambda count: count.astype(jnp.float32))
    state = tx.update(x, tx.update(x, tx.init(x))[1])[1]
    assert (int(state.count), int(state.count_m2)) == (2, 2)
    u, new = tx.update(x, state._replace(count_m2=jnp.int32(0), m2=jnp.zeros(3)))
    assert (int(new.count), int(new.count_m2)) == (3, 1)
    np.testing.assert_allclose(u, 1.0, rtol=1e-6)  # alpha(0) = 0; the fast average alone, of ones
    u, _ = tx.update(x, new)
    np.testing.assert_allclose(u, 1.0 + 1 * 0.75, rtol=1e-6)


def test_the_second_moment_is_kept_in_float32():
    state = gdjax.scale_by_ademamix(mu_dtype="bfloat16").init(jnp.ones(2, "bfloat16"))
    assert (state.m1.dtype, state.m2.dtype, state.nu.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert gdjax.scale_by_simplified_ademamix().init(jnp.ones(2, "bfloat16")).n.dtype == jnp.float32


@pytest.mark.parametrize("tx", [gdjax.scale_by_ademamix(eps=0.0), gdjax.scale_by_simplified_ademamix(eps=0.0)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zero_gradients_and_no_eps(tx: Any, dtype: str):
    zero = jnp.zeros(2, dtype)
    u, state = tx.update(zero, tx.init(zero))
    assert u.tolist() == [0, 0] and tx.update(zero, state)[0].tolist() == [0, 0]


def test_a_state_of_another_transform_is_an_error():
    x = jnp.ones(2)
    with pytest.raises(
        ValueError, match=r"gdjax.scale_by_ademamix: state has fields \('count', 'mu', 'nu'\), expected"
    ):
        gdjax.scale_by_ademamix().update(x, gdjax.scale_by_adam().init(x))
    with pytest.raises(ValueError, match=r"gdjax.ademamix: b3 must be in \[0, 1\).* got 1.0"):
        gdjax.ademamix(0.1, b3=1.0)
