"""Steps from the distance gone."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def ldog(x: Any, gradient: Any, reps_rel: float = 1e-6, eps: float = 1e-8, global_scale: float = 1.0) -> Iterator[Any]:
    start, norm = x, lambda y: np.sqrt(np.sum(y**2))
    distance, total = reps_rel * (1 + norm(x)), 0.0
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        distance = max(distance, norm(x - start))
        total += np.sum(g**2)
        x = x - global_scale * distance / np.sqrt(total + eps) * g
        yield x, {"max_dist": distance}


def assert_follows(kwargs: Any, dtype: str, **tolerance: float) -> None:
    tx = gdjax.chain(gdjax.scale_by_distance_over_gradients(**kwargs, param_dtype=dtype), gdjax.scale(-1.0))
    params, state = oracles.run(tx, dtype)
    got = params, {"max_dist": state["max_dist"]}
    oracles.assert_same(got, oracles.expected(functools.partial(ldog, **kwargs)), **tolerance)


@pytest.mark.parametrize("kwargs", [{}, {"reps_rel": 0.125, "eps": 0.25, "global_scale": 0.5}], ids=oracles.named)
def test_oracle(kwargs):
    # The distances of the first steps, 1e-6, are differences of parameters near 1.
    assert_follows(kwargs, "float64", rtol=1e-9, atol=1e-12)


def test_oracle_in_single_precision():
    assert_follows({"reps_rel": 0.125}, "float32", rtol=1e-5, atol=1e-5)


def test_state():
    params = {"a": jnp.full((2, 2), 2.0, "bfloat16"), "b": jnp.zeros((), "complex64")}
    state = gdjax.scale_by_distance_over_gradients(0.5).init(params)
    assert float(state.max_dist["a"]) == 0.5 * 5 and float(state.max_dist["b"]) == 0.5
    assert state.grad_sum_of_squares["a"].shape == (1,) and state.max_dist["a"].dtype == jnp.float32
    assert (state.init_params["a"].dtype, state.init_params["b"].dtype) == (jnp.float32, jnp.complex64)


def test_zero_gradients_without_eps():
    tx, zero = gdjax.scale_by_distance_over_gradients(eps=0.0), jnp.zeros(2)
    np.testing.assert_array_equal(tx.update(zero, tx.init(zero), zero)[0], zero)
