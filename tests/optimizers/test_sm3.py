"""SM3."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def sm3(
    x: Any, gradient: Any, learning_rate: Any, momentum: float = 0.9, b2: float = 1.0, eps: float = 1e-8
) -> Iterator[Any]:
    """SM3-II element by element, the cover of an element being the slices of the array that it lies in."""
    shape, nu = np.shape(x), np.zeros(np.shape(x))
    slices = [(axis, i) for axis in range(len(shape)) for i in range(shape[axis])] or [()]
    mu: dict[Any, Any] = dict.fromkeys(slices, 0.0)
    for t in range(1, oracles.STEPS + 1):
        g, u = np.array(gradient(t, x)), np.zeros(shape)
        new: dict[Any, Any] = dict.fromkeys(slices, 0.0)
        for i in np.ndindex(shape):
            cover = list(enumerate(i)) or [()]
            v = b2 * min(mu[r] for r in cover) + (1 if b2 == 1 else 1 - b2) * g[i] ** 2
            u[i] = g[i] / np.sqrt(v + eps)
            for r in cover:
                new[r] = max(new[r], v)
        mu, nu = new, momentum * nu + (1 - momentum) * u
        x = x - oracles.at(learning_rate, t) * nu
        yield x, {"nu": nu}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kwargs", [{}, {"momentum": 0.0}, {"learning_rate": oracles.fall}], ids=oracles.named)
def test_oracle(kwargs, dtype):
    kwargs = {"learning_rate": 0.0625, **kwargs}
    params, state = oracles.run(gdjax.sm3(**kwargs), dtype)
    want = oracles.expected(functools.partial(sm3, **kwargs))
    oracles.assert_same((params, {"nu": state["nu"]}), want, **oracles.TOLERANCE[dtype])


@pytest.mark.parametrize("b2", [0.75, jnp.float32(0.75), gdjax.constant_schedule(0.75)])
def test_averages(b2):
    tx = gdjax.chain(gdjax.scale_by_sm3(0.5, b2, 1e-3), gdjax.scale(-0.0625))
    want = oracles.expected(functools.partial(sm3, learning_rate=0.0625, momentum=0.5, b2=0.75, eps=1e-3))
    params, state = oracles.run(tx)
    oracles.assert_same((params, {"nu": state["nu"]}), want, **oracles.TOLERANCE["float32"])


def test_the_state_is_a_vector_for_each_axis():
    params = {"a": jnp.ones((2, 3), "bfloat16"), "b": jnp.ones(4), "c": jnp.ones(()), "d": jnp.zeros((0, 3)), "e": 1.0}
    tx = gdjax.sm3(0.1)
    state = tx.init(params)
    shapes = {k: [m.shape for m in v] for k, v in state[0].mu.items()}
    assert shapes == {"a": [(2,), (3,)], "b": [(4,)], "c": [()], "d": [(0,), (3,)], "e": [()]}
    assert {m.dtype for m in jax.tree.leaves(state[0].mu)} == {jnp.dtype("float32")}
    g = {**params, "a": jnp.array([[1, 2, 3], [4, 0, 0]], "bfloat16")}
    _, state = tx.update(g, state, params)
    np.testing.assert_array_equal(state[0].mu["a"][0], [9, 16])
    np.testing.assert_array_equal(state[0].mu["a"][1], [16, 4, 9])


def test_zero_gradients_without_eps():
    tx, zero = gdjax.scale_by_sm3(eps=0.0), jnp.zeros((2, 2), "float16")
    np.testing.assert_array_equal(tx.update(zero, tx.init(zero))[0], zero)


@pytest.mark.parametrize("b2", [-0.1, 1.1])
def test_b2_is_checked(b2):
    with pytest.raises(ValueError, match=r"^gdjax.scale_by_sm3: b2 must be in \[0, 1\]"):
        gdjax.scale_by_sm3(b2=b2)
