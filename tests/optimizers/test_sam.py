"""SAM, both modes, against the paper's Algorithm 1 in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import assert_close, assert_equal, signature

PARAMS = {"a": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(3.0)}
RATE, RHO, ROUNDS = 0.1, 0.05, 5


def slope(params: Any) -> Any:
    """The gradient of x^4 / 4 + 2 x, leaf by leaf, for NumPy and JAX."""
    return jax.tree.map(lambda x: x**3 + 2, params)


def paper(ascents: int = 1, momentum: float = 0.0) -> list[Any]:
    """The points after each round, in float64: steps uphill of length RHO, then one downhill from where they began."""
    x = jax.tree.map(lambda p: np.asarray(p, np.float64), PARAMS)
    v, points = jax.tree.map(np.zeros_like, x), []
    for _ in range(ROUNDS):
        y = x
        for _ in range(ascents):
            g = slope(y)
            size = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(g)))
            y = jax.tree.map(lambda y, g, size=size: y + RHO * g / size, y, g)
        v = jax.tree.map(lambda v, g: momentum * v + g, v, slope(y))
        x = jax.tree.map(lambda x, v: x - RATE * v, x, v)
        points.append(x)
    return points


def make(period: int = 2, momentum: Any = None, **options: Any) -> Any:
    adversary = gdjax.chain(gdjax.normalize(), gdjax.sgd(RHO))
    return gdjax.sam(gdjax.sgd(RATE, momentum), adversary, period, **options)


@pytest.mark.parametrize(("period", "momentum"), [(2, None), (3, None), (2, 0.9)])
def test_transparent_mode_follows_the_paper(period: int, momentum: Any):
    tx, params, points = make(period, momentum), PARAMS, []
    state = tx.init(params)
    update = jax.jit(tx.update)
    for n in range(ROUNDS * period):
        assert int(state.steps_since_sync) == n % period
        updates, state = update(slope(params), state, params)
        params = gdjax.apply_updates(params, updates)
        points.append(params)
    for got, want in zip(points[period - 1 :: period], paper(period - 1, momentum or 0.0), strict=True):
        assert_close(got, want, 2e-6, 2e-6)
    assert signature(state) == signature(tx.init(PARAMS))


@pytest.mark.parametrize(("period", "momentum"), [(2, None), (3, 0.9)])
def test_opaque_mode_follows_the_paper(period: int, momentum: Any):
    tx, params, seen = make(period, momentum, opaque_mode=True), PARAMS, []
    state = tx.init(params)
    assert state.cache is None

    def grad_fn(point: Any, i: int) -> Any:
        seen.append(i)
        return slope(point)

    for want in paper(period - 1, momentum or 0.0):
        updates, state = tx.update(slope(params), state, params, grad_fn=grad_fn)
        params = gdjax.apply_updates(params, updates)
        assert_close(params, want, 2e-6, 2e-6)
        assert int(state.steps_since_sync) == 0
    assert seen == list(range(period - 1)) * ROUNDS


def test_a_period_of_one_is_the_optimizer():
    tx, plain = gdjax.sam(gdjax.sgd(RATE), gdjax.sgd(RHO), 1), gdjax.sgd(RATE)
    params = expected = PARAMS
    state, plain_state = tx.init(params), plain.init(params)
    for _ in range(3):
        updates, state = tx.update(slope(params), state, params)
        params = gdjax.apply_updates(params, updates)
        updates, plain_state = plain.update(slope(expected), plain_state, expected)
        expected = gdjax.apply_updates(expected, updates)
    assert_close(params, expected)


def test_the_optimizer_sees_the_parameters_it_starts_from():
    tx = gdjax.sam(gdjax.chain(gdjax.add_decayed_weights(0.5), gdjax.sgd(RATE)), gdjax.sgd(1.0), 2)
    state, params = tx.init(PARAMS), PARAMS
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    for g in (slope(PARAMS), zero):
        updates, state = tx.update(g, state, params)
        params = gdjax.apply_updates(params, updates)
    assert_close(params, jax.tree.map(lambda p: p - RATE * 0.5 * p, PARAMS), 2e-6, 2e-6)


def test_the_state_of_the_adversary():
    for reset in (True, False):
        tx = gdjax.sam(gdjax.sgd(RATE), gdjax.sgd(RHO, 0.9), 2, reset_state=reset)
        state = tx.init(PARAMS)
        _, ascended = tx.update(slope(PARAMS), state, PARAMS)
        assert_equal(ascended.adv_state[0].trace, slope(PARAMS))
        assert_equal(ascended.opt_state, state.opt_state)
        _, back = tx.update(slope(PARAMS), ascended, PARAMS)
        assert_equal(back.adv_state, state.adv_state if reset else ascended.adv_state)
    keyed = gdjax.sam(gdjax.sgd(RATE), gdjax.noisy_sgd(RHO, key=0), 2)
    state = keyed.init(PARAMS)
    for _ in range(2):
        _, state = keyed.update(slope(PARAMS), state, PARAMS)
    assert_equal(state.adv_state, keyed.init(PARAMS).adv_state)


def test_opaque_mode_averages_over_a_mapped_axis():
    tx = make(opaque_mode=True, batch_axis_name="batch")
    shift = jnp.array([-1.0, 1.0])

    def update(shift: Any, g: Any) -> Any:
        grad_fn = lambda p, i: jax.tree.map(lambda x: x + shift, slope(p))
        return tx.update(g, tx.init(PARAMS), PARAMS, grad_fn=grad_fn)[0]

    both = jax.vmap(update, (0, None), axis_name="batch")(shift, slope(PARAMS))
    wanted = make(opaque_mode=True)
    alone, _ = wanted.update(slope(PARAMS), wanted.init(PARAMS), PARAMS, grad_fn=lambda p, i: slope(p))
    for i in range(2):
        assert_close(jax.tree.map(lambda x, i=i: x[i], both), alone)


def test_16_bit_parameters():
    params = jax.tree.map(lambda x: x.astype("bfloat16"), PARAMS)
    tx = make()
    state = tx.init(params)
    for _ in range(2):
        g = slope(jax.tree.map(lambda x: x.astype("float32"), params))
        updates, new = tx.update(g, state, params)
        assert signature(new) == signature(state)
        params, state = gdjax.apply_updates(params, updates), new
    # Near 3 the adversarial point is rounded by up to 2^-7, and the gradient changes by 27 times that.
    assert_close(params, paper()[0], 0, RATE * 27 * 2.0**-7)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make(0), ValueError, "gdjax.sam: sync_period must be at least 1, got 0"),
        (lambda: gdjax.sam(gdjax.sgd(0.1), 3), TypeError, "gdjax.sam: argument 1 is 3"),
        (
            lambda: make(opaque_mode=True).update(PARAMS, make(opaque_mode=True).init(PARAMS), PARAMS),
            ValueError,
            r"gdjax.sam: opaque mode needs grad_fn: call update\(",
        ),
        (lambda: make().update(PARAMS, make().init(PARAMS)), ValueError, "gdjax.sam: this transform needs params"),
    ],
)
def test_errors(call: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        call()
