"""SNOO against its authors' two loops, in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.trees import assert_close, assert_equal, random_tree

RATE = 0.0625


def oracle(every: int, learning_rate: float, momentum: float, weight_decay: float = 0.0) -> Any:
    """The outer loop, and `every` steps of the inner optimizer in it."""

    def steps(p: Any, gradient: Any) -> Any:
        slow, b, t = p, 0 * p, 0
        while True:
            fast = slow
            for k in range(every):
                t += 1
                fast = fast - RATE * (gradient(t, fast) + weight_decay * fast)
                if k < every - 1:
                    yield fast, {"b": b, "slow": slow}
            s = slow - fast
            b = momentum * b + s
            slow = slow - learning_rate * (momentum * b + s)
            yield slow, {"b": b, "slow": slow}

    return steps


CASES = {
    "defaults": {"every": 28, "learning_rate": 0.68, "momentum": 0.37},
    "often": {"every": 3, "learning_rate": 0.75, "momentum": 0.5, "weight_decay": 0.25},
    "always": {"every": 1, "learning_rate": 1.25, "momentum": 0.25},
    "lookahead": {"every": 5, "learning_rate": 0.5, "momentum": 0.0},
}


def made(weight_decay: float = 0.0, **kwargs: Any) -> Any:
    inner = gdjax.chain(gdjax.add_decayed_weights(weight_decay), gdjax.sgd(RATE)) if weight_decay else gdjax.sgd(RATE)
    return gdjax.snoo(inner, **kwargs)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_follows_the_paper(name: str, dtype: str):
    params, state = oracles.run(made(**CASES[name]), dtype)
    want, want_state = oracles.expected(oracle(**CASES[name]))
    near = oracles.TOLERANCE[dtype]
    for leaf in oracles.SHAPES:
        np.testing.assert_allclose(params[leaf], want[leaf], **near)
        for field in ("b", "slow"):
            np.testing.assert_allclose(state[field][leaf], want_state[field][leaf], **near)
    np.testing.assert_array_equal(state["step_count"], np.arange(1, oracles.STEPS + 1))


def test_the_defaults_are_those_of_the_authors_record():
    tx = made(**CASES["defaults"])
    assert_equal(oracles.run(gdjax.snoo(gdjax.sgd(RATE)))[0], oracles.run(tx)[0])


def test_without_momentum_it_is_lookahead():
    every, alpha, inner = 3, 0.5, gdjax.adam(0.1)
    tx, other = gdjax.snoo(inner, every, alpha, 0.0), gdjax.lookahead(inner, every, alpha)
    params = random_tree(0)
    pair = gdjax.LookaheadParams.init_synced(params)
    state, other_state = tx.init(params), other.init(pair)
    for seed in range(7):
        u, state = tx.update(random_tree(seed), state, params)
        v, other_state = other.update(random_tree(seed), other_state, pair)
        params, pair = gdjax.apply_updates(params, u), gdjax.apply_updates(pair, v)
        assert_close(params, pair.fast, 1e-6, 1e-6)
        assert_close(gdjax.eval_params(tx, state, params), pair.slow, 1e-6, 1e-6)


def test_between_the_outer_steps_it_is_the_optimizer():
    inner, params = gdjax.adamw(0.1), random_tree(0)
    tx = gdjax.snoo(inner, every=4)
    state, plain, start = tx.init(params), inner.init(params), params
    for seed in range(3):
        u, state = tx.update(random_tree(seed), state, params)
        want, plain = inner.update(random_tree(seed), plain, params)
        assert_equal(u, want)
        assert_equal(gdjax.eval_params(tx, state, params), start)
        params = gdjax.apply_updates(params, u)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_after_an_outer_step_the_slow_parameters_are_the_parameters(dtype: str):
    """To the bit, so that the next displacement is that of the steps alone, and not of a rounding."""
    tx = gdjax.snoo(gdjax.adam(0.1), every=2, learning_rate=0.7, momentum=0.5)
    params = random_tree(0, dtype)
    state, update = tx.init(params), jax.jit(tx.update)
    for seed in range(6):
        u, state = update(random_tree(seed, dtype), state, params)
        params = gdjax.apply_updates(params, u)
        if seed % 2:
            assert_equal(state.slow, params)
    assert {x.dtype.name for x in jax.tree.leaves((u, state.slow, state.b))} == {dtype}
    assert gdjax.snoo(gdjax.sgd(0.1), accumulator_dtype="float32").init(params).b["scale"].dtype == jnp.float32


def test_a_schedule_of_the_outer_rate_and_its_place():
    """Every schedule counts the updates made before this one."""
    tx = gdjax.snoo(gdjax.sgd(1.0), every=2, learning_rate=lambda t: jnp.where(t < 2, 1.0, 0.5), momentum=0.0)
    run = gdjax.minimize(lambda p: p, jnp.array(8.0), tx, steps=4)  # to 7, 6; then 5, 4 and half way back
    assert run.params == 5.0
    with pytest.warns(UserWarning, match="scale .* changes the updates after snoo .* put snoo around"):
        gdjax.chain(gdjax.snoo(gdjax.sgd(0.1)), gdjax.scale(0.5)).init(random_tree(0))
    with pytest.warns(UserWarning, match="snoo changes the updates after params_ema"):
        gdjax.snoo(gdjax.params_ema(gdjax.sgd(0.1), 0.9)).init(random_tree(0))


@pytest.mark.parametrize("arguments", [(0,), (2, -0.5), (2, 0.5, 1.0), (2, 0.5, float("nan"))])
def test_errors(arguments: Any):
    with pytest.raises(ValueError, match="^gdjax.snoo: (every|learning_rate|momentum) must be"):
        gdjax.snoo(gdjax.sgd(0.1), *arguments)
