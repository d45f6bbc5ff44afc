"""EMA-Nesterov against its authors' loop, which keeps the parameters before the look-ahead, in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.oracles import at
from tests.trees import assert_close, assert_equal, random_tree


def rate(count: Any) -> Any:
    """Exact in every dtype, as `ahead` is."""
    return 0.0625 * jnp.maximum(1 - jnp.asarray(count, jnp.float32) / 64, 0)


def ahead(count: Any) -> Any:
    """Nothing at first and in the end, and with the rate between."""
    return jnp.where((count >= 3) & (count < oracles.STEPS - 4), 0.5 * rate(count) / 0.0625, 0.0)


def authors(lookahead: Any, decay: float, weight_decay: float = 0.0) -> Any:
    """`nesterov_step`, the step of the optimizer, `accum_lookahead`."""

    def oracle(p: Any, gradient: Any) -> Any:
        previous, buffer = p, 0 * p
        for t in range(1, oracles.STEPS + 1):
            # The next look-ahead has the rate of this update; before the first one the buffer is 0.
            p = p - at(rate, t) * (gradient(t, p) + weight_decay * p)
            buffer = decay * buffer + (1 - decay) * (p - previous)
            previous = p
            p = p + at(lookahead, t) * buffer
            yield p, {"m": buffer, "x": previous}

    return oracle


CASES = {
    "constant": (gdjax.ema_nesterov(gdjax.sgd(rate), 0.5, 0.75), authors(0.5, 0.75)),
    "scheduled": (gdjax.ema_nesterov(gdjax.sgd(rate), ahead), authors(ahead, 0.99)),
    "decayed": (
        gdjax.ema_nesterov(gdjax.chain(gdjax.add_decayed_weights(0.25), gdjax.sgd(rate)), ahead, 0.9),
        authors(ahead, 0.9, 0.25),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_follows_the_authors(name: str, dtype: str):
    tx, oracle = CASES[name]
    params, state = oracles.run(tx, dtype)
    want, want_state = oracles.expected(oracle)
    near = oracles.TOLERANCE[dtype]
    for leaf in oracles.SHAPES:
        np.testing.assert_allclose(params[leaf], want[leaf], **near)
        np.testing.assert_allclose(state["m"][leaf], want_state["m"][leaf], **near)
        x = params[leaf] - np.reshape(state["lookahead"], (-1, *[1] * (params[leaf].ndim - 1))) * state["m"][leaf]
        np.testing.assert_allclose(x, want_state["x"][leaf], **near)


def test_without_a_lookahead_it_is_the_optimizer():
    params, tx = random_tree(0), gdjax.adamw(0.1)
    plain, around = tx.init(params), gdjax.ema_nesterov(tx, 0.0).init(params)
    for seed in range(3):
        g = random_tree(seed)
        want, plain = tx.update(g, plain, params)
        got, around = gdjax.ema_nesterov(tx, 0.0).update(g, around, params)
        assert_equal(got, want)
        assert_equal(gdjax.eval_params(tx, around, params), params)
        params = gdjax.apply_updates(params, got)


def test_steps_of_one_direction_become_longer():
    tx = gdjax.ema_nesterov(gdjax.sgd(1.0), 0.5, decay=0.75)
    y, state, before = jnp.zeros(1), tx.init(jnp.zeros(1)), 0.0
    for _ in range(200):
        u, state = tx.update(jnp.ones(1), state)
        before, y = float(gdjax.eval_params(tx, state, y)[0]), gdjax.apply_updates(y, u)
    assert float(gdjax.eval_params(tx, state, y)[0]) - before == pytest.approx(-2, rel=0.3)
    np.testing.assert_allclose(state.m, -2, rtol=1e-5)  # 1 / (1 - 0.5) times as long


def test_one_lookahead_of_the_last_step_is_nesterov():
    """decay = 0 makes m the last step: x moves as under Nesterov's momentum with b = lookahead."""
    b, tx = 0.5, gdjax.ema_nesterov(gdjax.sgd(0.25), 0.5, decay=0.0)
    y, state = jnp.array([4.0, -2.0]), tx.init(jnp.zeros(2))
    x = before = np.array([4.0, -2.0])
    for _ in range(6):
        u, state = tx.update(y, state)
        y = gdjax.apply_updates(y, u)
        point = x + b * (x - before)
        x, before = point - 0.25 * point, x
        np.testing.assert_allclose(gdjax.eval_params(tx, state, y), x, rtol=1e-6)


def test_16_bits():
    """The average of steps that bfloat16 would round away is kept in float32."""
    tx, params = gdjax.ema_nesterov(gdjax.sgd(1.0), 0.75), jnp.ones(2, jnp.bfloat16)
    state, update = tx.init(params), jax.jit(tx.update)
    assert state.m.dtype == jnp.float32
    assert gdjax.ema_nesterov(gdjax.sgd(1.0), 0.75, accumulator_dtype="bfloat16").init(params).m.dtype == jnp.bfloat16
    m = 0.0
    for _ in range(40):
        u, state = update(jnp.full(2, 2.0**-10, jnp.bfloat16), state, params)
        m, params = 0.99 * m + 0.01 * (0.75 * m - 2.0**-10), gdjax.apply_updates(params, u)
    np.testing.assert_allclose(state.m, m, rtol=1e-5)
    assert u.dtype == jnp.bfloat16
    assert gdjax.eval_params(tx, state, params).dtype == jnp.bfloat16


def test_it_is_found_inside_and_warned_of():
    params = random_tree(0)
    tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.ema_nesterov(gdjax.sgd(0.1), gdjax.constant_schedule(0.5)))
    state = tx.init(params)
    u, state = tx.update(params, state, params)
    after = gdjax.apply_updates(params, u)
    inner = gdjax.tree.get(state, "EmaNesterovState")
    wanted = jax.tree.map(lambda y, m: y - 0.5 * m, after, inner.m)
    assert_close(gdjax.eval_params(tx, state, after), wanted, 1e-6, 1e-6)
    with pytest.warns(UserWarning, match="scale .* changes the updates after ema_nesterov .* put ema_nesterov around"):
        gdjax.chain(gdjax.ema_nesterov(gdjax.sgd(0.1), 0.5), gdjax.scale(0.5)).init(params)
    with pytest.warns(UserWarning, match="ema_nesterov changes the updates after params_ema"):
        gdjax.ema_nesterov(gdjax.params_ema(gdjax.sgd(0.1), 0.9), 0.5).init(params)


@pytest.mark.parametrize("arguments", [(-0.5,), (float("nan"),), (1.0,), (0.5, 1.0), (0.5, -0.1)])
def test_errors(arguments: Any):
    with pytest.raises(ValueError, match="^gdjax.ema_nesterov: (lookahead|decay) must be"):
        gdjax.ema_nesterov(gdjax.sgd(0.1), *arguments)
