"""Weight decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests import oracles
from tests.support import relaxed

MATRICES = lambda params: jax.tree.map(lambda x: jnp.ndim(x) > 1, params)  # noqa: E731
CASES = {
    "constant": (0.25, None),
    "none": (0.0, None),
    "schedule": (oracles.fall, None),
    "mask": (0.25, MATRICES),
    "mask as a tree": (0.25, {"matrix": True, "vector": False, "scalar": False}),
    "mask, schedule": (oracles.fall, MATRICES),
}


def after_decay(module, name):
    """Decay, then a step of descent: the gradient of the loss with a penalty."""
    return gdjax.chain(module.add_decayed_weights(*CASES[name]), gdjax.scale(-0.0625))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_oracle(name, dtype):
    weight_decay, mask = CASES[name]

    def oracle(x, gradient):
        for t in range(1, oracles.STEPS + 1):
            decays = mask is None or np.ndim(x) > 1
            x = x - 0.0625 * (gradient(t, x) + (oracles.at(weight_decay, t) * x if decays else 0))
            yield x, {}

    oracles.assert_follows(after_decay(gdjax, name), oracle, dtype)


@pytest.mark.parametrize("name", CASES)
def test_optax(name):
    with relaxed():
        want = oracles.run(after_decay(optax, name))
    oracles.assert_same(oracles.run(after_decay(gdjax, name)), want, rtol=1e-5, atol=2e-6)


def test_is_the_gradient_of_an_l2_penalty():
    p, g = jnp.array([1.0, -2.0]), jnp.array([0.5, 0.25])
    tx = gdjax.add_decayed_weights(0.5)
    u, _ = tx.update(g, tx.init(p), p)
    np.testing.assert_allclose(u, g + jax.grad(lambda p: 0.5 / 2 * jnp.sum(p**2))(p), rtol=1e-7)


def test_state():
    p = jnp.ones(2)
    for weight_decay, state in ((0.1, gdjax.EmptyState()), (oracles.fall, gdjax.WeightDecaySchedule(jnp.int32(0)))):
        assert gdjax.add_decayed_weights(weight_decay).init(p) == state
        assert gdjax.add_decayed_weights(weight_decay, True).init(p) == gdjax.MaskedState(state)


@pytest.mark.parametrize("mask", [None, True])
def test_needs_params(mask):
    tx = gdjax.add_decayed_weights(0.1, mask)
    with pytest.raises(ValueError, match="gdjax.add_decayed_weights: .*needs params"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_half_precision_is_rounded_once():
    # 1 + 0.001 is 1 in bfloat16. In a chain the thousandth survives until the 1 is taken away.
    p = g = jnp.ones((), jnp.bfloat16)
    decay, minus = gdjax.add_decayed_weights(0.001), gdjax.scale(-1.0)
    assert float(decay.update(g, decay.init(p), p)[0]) == 1
    tx = gdjax.chain(decay, minus, gdjax.add_decayed_weights(1.0))
    u, _ = tx.update(g, tx.init(p), p)
    assert u.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(u), -0.001, rtol=2**-8)


@pytest.mark.parametrize("mask", [None, MATRICES])
def test_cautious_decay_does_not_pull_against_the_step(mask):
    p, g = jnp.array([[1.0, -2.0, 3.0, 4.0]]), jnp.array([[0.5, 0.25, 0.0, -1.0]])
    tx = gdjax.add_decayed_weights(0.5, mask, cautious=True)
    u, _ = tx.update(g, tx.init(p), p)
    np.testing.assert_array_equal(u, [[1.0, 0.25, 1.5, -1.0]])  # the second and the last grow
    c = jnp.array([1 + 1j, 1 - 1j])
    tx = gdjax.add_decayed_weights(0.5, cautious=True)
    u, _ = tx.update(jnp.array([1j, 1 + 2j]), tx.init(c), c)
    np.testing.assert_array_equal(u, [0.5 + 1.5j, 1 + 2j])
