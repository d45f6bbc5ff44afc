"""ema and lookahead, against their definitions in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests import oracles
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, random_tree, signature, steps

PARAMS = random_tree(0)
GRADIENTS = [random_tree(seed) for seed in range(1, 8)]


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ema_follows_its_definition(debias: bool, dtype: str):
    def oracle(x: Any, gradient: Any) -> Any:
        m = np.zeros_like(x)
        for t in range(1, oracles.STEPS + 1):
            m = 0.9 * m + (1 - 0.9) * gradient(t, x)
            x = x - 0.1 * (m / (1 - 0.9**t) if debias else m)
            yield x, {"ema": m}

    oracles.assert_follows(gdjax.chain(gdjax.ema(0.9, debias), gdjax.scale(-0.1)), oracle, dtype)


def test_ema_of_constant_updates_is_the_constant():
    tx = gdjax.ema(0.999)
    state = tx.init(PARAMS)
    for _ in range(3):
        updates, state = tx.update(GRADIENTS[0], state)
        assert_close(updates, GRADIENTS[0])
    assert {x.dtype.name for x in jax.tree.leaves(gdjax.ema(0.9, True, "bfloat16").init(PARAMS).ema)} == {"bfloat16"}


def lookahead_by_hand(k: int, alpha: float, rate: float, reset: bool) -> Any:
    """The paper's two loops around gradient descent with momentum 0.9, in float64: the slow points of every round."""
    slow = {i: np.asarray(x, np.float64) for i, x in enumerate(jax.tree.leaves(PARAMS))}
    v = {i: 0 * x for i, x in slow.items()}
    gs, points = iter(GRADIENTS), []
    for _ in range(len(GRADIENTS) // k):
        fast = dict(slow)
        if reset:
            v = {i: 0 * x for i, x in slow.items()}
        for _ in range(k):
            for i, g in enumerate(jax.tree.leaves(next(gs))):
                v[i] = 0.9 * v[i] + np.asarray(g, np.float64)
                fast[i] = fast[i] - rate * v[i]
        slow = {i: x + alpha * (fast[i] - x) for i, x in slow.items()}
        points.append(list(slow.values()))
    return points


@pytest.mark.parametrize("reset", [False, True])
def test_lookahead_follows_the_paper(reset: bool):
    tx = gdjax.lookahead(gdjax.sgd(0.1, 0.9), 3, 0.4, reset)
    params = gdjax.LookaheadParams.init_synced(PARAMS)
    state, update = tx.init(params), jax.jit(tx.update)
    wanted = lookahead_by_hand(3, 0.4, 0.1, reset)
    for n, g in enumerate(GRADIENTS[:6], start=1):
        before = params
        updates, state = update(g, state, params)
        params = gdjax.apply_updates(params, updates)
        if n % 3:
            assert_equal(params.slow, before.slow)
        else:
            assert_close(jax.tree.leaves(params.slow), wanted[n // 3 - 1])
            assert_close(params.fast, params.slow)
        assert int(state.steps_since_sync) == n % 3
    if reset:
        assert_equal(state.fast_state, gdjax.sgd(0.1, 0.9).init(PARAMS))


def test_the_pair_does_not_share_memory():
    params = gdjax.LookaheadParams.init_synced(random_tree(0))
    assert_equal(params.fast, params.slow)
    fast, slow = ({x.unsafe_buffer_pointer() for x in jax.tree.leaves(t)} for t in params)
    assert not fast & slow
    tx = gdjax.lookahead(gdjax.adam(0.1), 2, 0.5)
    step = jax.jit(lambda params, state, g: tx.update(g, state, params), donate_argnums=(0, 1))
    step(params, tx.init(params), GRADIENTS[0])  # a buffer donated twice is an error


def test_lookahead_takes_the_fast_parameters_alone_in_init_and_optax_pairs():
    tx = gdjax.lookahead(gdjax.sgd(0.1, 0.9), 2, 0.5)
    pair = gdjax.LookaheadParams(PARAMS, PARAMS)
    assert_equal(tx.init(PARAMS), tx.init(pair))
    theirs = optax.LookaheadParams(PARAMS, PARAMS)
    updates, state = tx.update(GRADIENTS[0], tx.init(theirs), theirs)
    assert type(updates) is optax.LookaheadParams
    assert_equal(tuple(updates), tuple(tx.update(GRADIENTS[0], tx.init(pair), pair)[0]))


def test_lookahead_resets_a_state_with_a_key_and_one_of_optax():
    tx = gdjax.lookahead(gdjax.noisy_sgd(0.1, key=0), 1, 0.5, True)
    pair = gdjax.LookaheadParams(PARAMS, PARAMS)
    assert_equal(tx.update(GRADIENTS[0], tx.init(pair), pair)[1], tx.init(pair))
    with relaxed():
        tx = gdjax.lookahead(optax.adam(0.1), 1, 0.5, True)
        assert_equal(tx.update(GRADIENTS[0], tx.init(pair), pair)[1], tx.init(pair))


def test_16_bit_pairs_meet_again():
    params = gdjax.LookaheadParams.init_synced(random_tree(0, "bfloat16"))
    tx = gdjax.lookahead(gdjax.sgd(0.1), 2, 0.5)
    state = tx.init(params)
    for seed in (1, 2):
        updates, state = tx.update(random_tree(seed, "float32"), state, params)
        params = gdjax.apply_updates(params, updates)
    assert_equal(params.fast, params.slow)
    assert signature(state) == signature(tx.init(params))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gdjax.lookahead(gdjax.sgd(0.1), 0, 0.5), ValueError, "sync_period must be at least 1, got 0"),
        (lambda: gdjax.lookahead(gdjax.sgd(0.1), 2, lambda t: t), TypeError, "slow_step_size must be a number"),
        (
            lambda: steps(gdjax.lookahead(gdjax.sgd(0.1), 2, 0.5), PARAMS, GRADIENTS[:1]),
            TypeError,
            r"params must be LookaheadParams\(fast, slow\), got dict",
        ),
        (
            lambda: gdjax.lookahead(gdjax.sgd(0.1), 2, 0.5).update(
                PARAMS, gdjax.LookaheadState((gdjax.EmptyState(),) * 2, jnp.int32(0))
            ),
            ValueError,
            "gdjax.lookahead: this transform needs params",
        ),
    ],
)
def test_errors(call: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        call()
