"""SM3."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.papers.descent import sm3


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


@pytest.mark.parametrize("b2", [-0.1, 1.1])
def test_b2_is_checked(b2):
    with pytest.raises(ValueError, match=r"^gdjax.scale_by_sm3: b2 must be in \[0, 1\]"):
        gdjax.scale_by_sm3(b2=b2)
