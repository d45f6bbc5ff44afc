"""The decaying sum of the updates."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests import oracles
from tests.support import relaxed

# A schedule of the decay is the library's own: its state is wrapped, and Optax has none.
CASES = {
    "decay": {"decay": 0.9},
    "nesterov": {"decay": 0.9, "nesterov": True},
    "no decay": {"decay": 0.0},
    "schedule": {"decay": oracles.fall, "nesterov": True},
}


def descent(module, name):
    return gdjax.chain(module.trace(**CASES[name]), gdjax.scale(-0.0625))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_oracle(name, dtype):
    def oracle(x, gradient):
        v = 0.0
        for t in range(1, oracles.STEPS + 1):
            g, decay = gradient(t, x), oracles.at(CASES[name]["decay"], t)
            v = g + decay * v
            x = x - 0.0625 * (g + decay * v if CASES[name].get("nesterov") else v)
            yield x, {"trace": v}

    oracles.assert_follows(descent(gdjax, name), oracle, dtype)


@pytest.mark.parametrize("name", [name for name in CASES if name != "schedule"])
def test_optax(name):
    with relaxed():
        want = oracles.run(descent(optax, name))
    oracles.assert_same(oracles.run(descent(gdjax, name)), want, rtol=1e-5, atol=2e-6)


def test_is_a_sum_not_an_average():
    tx = gdjax.trace(0.75)
    state = tx.init(jnp.zeros(()))
    for _ in range(60):
        u, state = tx.update(jnp.ones(()), state)
    np.testing.assert_allclose(u, 4, rtol=1e-6)


SUMS = {
    "trace": lambda lib: lib.trace(1.0),
    "nesterov": lambda lib: lib.trace(1, nesterov=True),
    "sgd": lambda lib: lib.sgd(0.5, momentum=1.0),
    "lars": lambda lib: lib.lars(0.5, momentum=1.0),
    "rmsprop": lambda lib: lib.rmsprop(0.5, momentum=1.0),
    "dpsgd": lambda lib: lib.contrib.dpsgd(0.5, 1e3, 0.0, 0, momentum=1.0),
}


@pytest.mark.filterwarnings('ignore:"seed" is deprecated:DeprecationWarning')  # Optax's of its own dpsgd
@pytest.mark.parametrize("name", SUMS)
def test_a_momentum_of_1_is_a_plain_sum(name):
    params = jnp.array([0.5, -3.0])

    def updates(tx):
        state, found = tx.init(params), []
        for t in range(1, 6):
            g = jnp.array([1.0, -0.25]) * t
            u, state = tx.update(g[None] if name == "dpsgd" else g, state, params)
            found.append(u)
        return np.stack(found)

    with relaxed():
        want = updates(SUMS[name](optax))
    np.testing.assert_allclose(updates(SUMS[name](gdjax)), want, rtol=1e-6)
    if name == "trace":
        np.testing.assert_array_equal(want[-1], [15.0, -3.75])


def test_state():
    p = jnp.ones(2, jnp.bfloat16)
    assert isinstance(gdjax.trace(0.9).init(p), gdjax.TraceState)
    assert gdjax.trace(0.9).init(p).trace.dtype == jnp.bfloat16
    assert gdjax.trace(0.9, accumulator_dtype=jnp.float32).init(p).trace.dtype == jnp.float32
    scheduled = gdjax.trace(oracles.fall).init(p)
    assert isinstance(scheduled, gdjax.ScheduledState) and isinstance(scheduled.inner_state, gdjax.TraceState)


def test_accumulator_keeps_what_the_gradient_cannot():
    # 256 + 1 rounds to 256 in bfloat16, so that a sum kept there stays; the float32 one counts on.
    g, first = jnp.ones((), jnp.bfloat16), jnp.full((), 256, jnp.bfloat16)
    for dtype, want in ((None, 256), (jnp.float32, 266)):
        tx = gdjax.trace(0.99999994, accumulator_dtype=dtype)
        _, state = tx.update(first, tx.init(g))
        for _ in range(10):
            u, state = tx.update(g, state)
        assert u.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(state.trace), want, rtol=1e-5)
