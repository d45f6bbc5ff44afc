"""The tail average against the loop of the record that it comes from, in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, precision, random_tree

PARAMS = random_tree(0)


def run(tx: Any, number: int, params: Any = PARAMS) -> tuple[list[Any], Any]:
    """The parameters after each update, and the last state."""
    state, seen, update = tx.init(params), [], jax.jit(tx.update)
    for i in range(number):
        grads = jax.tree.map(lambda p, i=i: p * (0.3 + 0.1 * i), params)
        updates, state = update(grads, state, params)
        params = gdjax.apply_updates(params, updates)
        seen.append(params)
    return seen, state


def readout(seen: list[Any], start: int, horizon: float, blend: float) -> Any:
    """modded-nanogpt: the weights are copied after step `start`, then followed, then blended with the last ones."""
    ema = None
    for step, weights in enumerate(seen, 1):
        if step == start:
            ema = np.array(weights, "float64")
        elif step > start:
            ema = ema + (np.asarray(weights, "float64") - ema) / horizon
    return np.asarray(seen[-1], "float64") if ema is None else (1 - blend) * np.asarray(seen[-1]) + blend * ema


@pytest.mark.parametrize("start, number", [(3, 8), (1, 8), (8, 8), (9, 8)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_follows_the_record(start: int, number: int, dtype: str):
    with precision(dtype):
        params, tx = random_tree(0, dtype), gdjax.tail_ema(gdjax.adam(0.1), start, horizon=4.0, blend=0.6)
        seen, state = run(tx, number, params)
        assert_equal(seen, run(gdjax.adam(0.1), number, params)[0])
        found = gdjax.eval_params(tx, state, seen[-1])
        wanted = jax.tree.map(lambda *xs: readout(list(xs), start, 4.0, 0.6), *seen)
        rtol = 1e-5 if dtype == "float32" else 1e-12
        for got, want in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)
        if number <= start:
            assert_equal(found, seen[-1])  # to the last bit: the average is the parameters


def test_the_defaults_are_those_of_the_record():
    tx = gdjax.tail_ema(gdjax.sgd(0.1), 5)
    numbers = gdjax.get_hyperparams(tx, tx.init(PARAMS))
    assert {k: float(numbers[k]) for k in ("horizon", "blend")} == {"horizon": 150, "blend": pytest.approx(0.6)}


def test_bfloat16_keeps_a_float32_average():
    params = jnp.ones(2, jnp.bfloat16)
    tx = gdjax.tail_ema(gdjax.sgd(1.0), 1, horizon=1000.0, blend=1.0)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(8):
        updates, state = update(jnp.asarray([0.0, -0.5], jnp.bfloat16), state, params)
        params = gdjax.apply_updates(params, updates)
    assert state.ema.dtype == jnp.float32 and gdjax.eval_params(tx, state, params).dtype == jnp.bfloat16
    wanted = readout([np.float64([1, 1.5 + 0.5 * i]) for i in range(8)], 1, 1000.0, 1.0)
    np.testing.assert_allclose(state.ema, wanted, rtol=1e-6)  # in bfloat16 it would stay at 1.5


def test_a_leaf_can_be_left_out():
    """As the record leaves out the embedding of tokens."""
    params = {"embed": jnp.ones(3), "w": jnp.ones((2, 2))}
    tail = gdjax.tail_ema(gdjax.identity(), 2, horizon=4.0)
    tx = gdjax.chain(gdjax.sgd(0.1), gdjax.masked(tail, {"embed": False, "w": True}))
    seen, state = run(tx, 6, params)
    found = gdjax.eval_params(tx, state, seen[-1])
    assert_equal(found["embed"], seen[-1]["embed"])
    assert_close(found["w"], jnp.float32(readout([x["w"] for x in seen], 2, 4.0, 0.6)), rtol=1e-6)


def test_through_injection_and_a_scheduled_blend():
    make = lambda blend: gdjax.tail_ema(gdjax.sgd(0.1), 2, 4.0, blend)
    with relaxed():
        injected = gdjax.inject_hyperparams(make)(0.5)
        seen, state = run(injected, 5)
        plain = gdjax.eval_params(make(0.5), run(make(0.5), 5)[1], seen[-1])
        assert_close(gdjax.eval_params(injected, state, seen[-1]), plain, rtol=1e-6)
    seen, state = run(make(lambda count: jnp.where(count < 4, 0.9, 0.5)), 5)
    assert float(state.blend) == 0.5  # that of the last update
    assert_close(gdjax.eval_params(gdjax.identity(), state, seen[-1]), plain, rtol=1e-6)


@pytest.mark.parametrize("arguments", [(-1,), (3, 0.5), (3, 150.0, 1.5), (3, float("inf")), (3, 150.0, -0.1)])
def test_errors(arguments: Any):
    with pytest.raises(ValueError, match="^gdjax.tail_ema: (start|horizon|blend) must be"):
        gdjax.tail_ema(gdjax.sgd(0.1), *arguments)
