"""Updates times a number."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests import oracles
from tests.support import relaxed

# From name to transform (in a given module) and the factor at a count.
CASES = {
    "scale": (lambda m: m.scale(-0.0625), lambda count: -0.0625),
    "scale_by_schedule": (lambda m: m.scale_by_schedule(lambda c: -oracles.fall(c)), lambda c: -oracles.fall(c)),
    "scale_by_learning_rate": (lambda m: m.scale_by_learning_rate(0.0625), lambda count: -0.0625),
    "scheduled rate": (lambda m: m.scale_by_learning_rate(oracles.fall), lambda count: -oracles.fall(count)),
    "ascent": (lambda m: m.scale_by_learning_rate(0.0625, flip_sign=False), lambda count: 0.0625),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "ascent"])
def test_oracle(name, dtype):
    make, factor = CASES[name]

    def oracle(x, gradient):
        for t in range(1, oracles.STEPS + 1):
            x = x + oracles.at(factor, t) * gradient(t, x)
            yield x, {}

    oracles.assert_follows(make(gdjax), oracle, dtype)


@pytest.mark.parametrize("name", CASES)
def test_optax(name):
    """Bit for bit: one product. The count of a schedule too."""
    make, factor = CASES[name]
    ours, theirs = make(gdjax), make(optax)
    g = jax.tree.map(jnp.asarray, oracles.PARAMS)
    state, want_state = ours.init(g), theirs.init(g)
    for count in (0, 19, 20, 2**31 - 1):
        if jax.tree.leaves(state):
            state = want_state = gdjax.ScaleByScheduleState(jnp.int32(count))
        u, new = ours.update(g, state)
        with relaxed():
            want, want_new = theirs.update(g, want_state)
        jax.tree.map(np.testing.assert_array_equal, (u, tuple(new)), (want, tuple(want_new)))
        exact = jax.tree.map(lambda x, count=count: np.float32(factor(count)) * x, oracles.PARAMS)
        jax.tree.map(np.testing.assert_array_equal, u, exact)


def test_descent_without_a_rate_is_an_error():
    with pytest.raises(TypeError, match="gdjax.scale_by_learning_rate: learning_rate must be a number"):
        gdjax.scale_by_learning_rate(None)


def test_the_rate_keeps_its_digits_in_half_precision():
    # In bfloat16 the rate itself would be 0.00100708: the product is taken in float32 and rounded once.
    g = jnp.array([1000.0, 3.0], jnp.bfloat16)
    u, _ = gdjax.scale_by_learning_rate(0.001).update(g, gdjax.EmptyState())
    np.testing.assert_array_equal(np.float32(u), np.float32([-1, np.float32(-0.003).astype(jnp.bfloat16)]))
