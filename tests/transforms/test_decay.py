"""Weight decay."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests import oracles
from tests.support import relaxed

MATRICES = lambda params: jax.tree.map(lambda x: jnp.ndim(x) > 1, params)
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
    with pytest.warns(UserWarning, match="the parameters grow"):
        state = tx.init(p)
    u, _ = tx.update(g, state, p)
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


PEAK = 0.25
KINDS = {
    "decoupled": lambda rate: rate,
    "independent": lambda rate: rate / PEAK,
    "corrected": lambda rate: rate**2 / PEAK,
}


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_of_decay_beside_an_optimizer(kind: str, cautious: bool):
    def oracle(x, gradient):
        m = 0.0
        for t in range(1, oracles.STEPS + 1):
            lr = oracles.at(oracles.fall, t)
            m = 0.5 * m + gradient(t, x)
            decays = (x * m >= 0) if cautious else 1.0
            eta = KINDS[kind](lr) * (0.125 / (1 + t)) * (np.ndim(x) > 1)
            x = x - lr * m - eta * decays * x
            yield x, {"trace": m}

    tx = gdjax.with_weight_decay(
        gdjax.sgd(oracles.fall, 0.5), oracles.fall, lambda count: 0.125 / jnp.float32(count + 2), MATRICES,
        kind=kind, cautious=cautious, peak_learning_rate=PEAK,
    )  # fmt: skip
    oracles.assert_follows(tx, oracle, "float32")


@pytest.mark.parametrize("b", [None, 0.75])
@pytest.mark.parametrize(
    ("kind", "cautious"), [*((kind, i) for kind in KINDS for i in (False, True)), ("coupled", False)]
)
def test_decay_towards_the_start_or_an_average(kind: str, cautious: bool, b: float | None):
    """L2-SP is the coupled one towards the start."""

    def oracle(x, gradient):
        m, reference = 0.0, x
        for t in range(1, oracles.STEPS + 1):
            lr, weight_decay = oracles.at(oracles.fall, t), 0.125 * (np.ndim(x) > 1)
            reference = reference if b is None else b * reference + (1 - b) * x
            away = x - reference
            m = 0.5 * m + gradient(t, x) + (weight_decay * away if kind == "coupled" else 0)
            decays = (away * m >= 0) if cautious else 1.0
            eta = 0.0 if kind == "coupled" else KINDS[kind](lr) * weight_decay
            x = x - lr * m - eta * decays * away
            yield x, {"trace": m}

    given = {} if kind == "coupled" else {"peak_learning_rate": PEAK}
    given |= {"towards": "start"} if b is None else {"towards": "average", "average_decay": b}
    tx = gdjax.with_weight_decay(
        gdjax.sgd(oracles.fall, 0.5), oracles.fall, 0.125, MATRICES, kind=kind, cautious=cautious, **given
    )
    oracles.assert_follows(tx, oracle, "float32", some=True)


def test_the_average_of_16_bit_parameters_is_float32():
    """Where it would stall in theirs: 1 - b is less than their last place."""
    tx = gdjax.with_weight_decay(gdjax.sgd(1.0), 1.0, 1.0, towards="average", average_decay=1 - 2.0**-10)
    state, x = tx.init(jnp.ones(2, jnp.bfloat16)), jnp.full(2, 2, jnp.bfloat16)
    u, state = tx.update(jnp.zeros_like(x), state, x)
    np.testing.assert_array_equal(state[-1].reference, np.float32(1 + 2.0**-10))
    assert u.dtype == jnp.bfloat16 and (u == -1).all()  # to the average, 1 away


def test_the_start_is_a_copy_of_what_init_was_given():
    """Of the leaves that decay alone; another reference is that of another `init`."""
    x, reference = {"w": jnp.ones(2), "b": jnp.ones(2)}, {"w": jnp.full(2, 3.0), "b": jnp.ones(2)}
    tx = gdjax.with_weight_decay(gdjax.sgd(1.0), 1.0, 0.5, {"w": True, "b": False}, towards="start")
    state = jax.jit(tx.init)(reference)
    start = state[-1].inner_state.reference
    assert start["w"] is not reference["w"] and jax.tree.leaves(start["b"]) == []
    u, _ = jax.jit(tx.update, donate_argnums=1)(jax.tree.map(jnp.zeros_like, x), state, x)
    np.testing.assert_array_equal(u["w"], 1.0)  # half the way to 3
    np.testing.assert_array_equal(u["b"], 0.0)


def test_coupled_and_decoupled_are_what_there_was():
    rate, some = gdjax.linear_schedule(0.1, 0.01, 10), gdjax.mask_by_path("matrix")
    decay, adam = gdjax.add_decayed_weights(0.25, some), gdjax.adam(rate)
    coupled = gdjax.with_weight_decay(adam, rate, 0.25, some, kind="coupled")
    oracles.assert_same(oracles.run(coupled), oracles.run(gdjax.chain(decay, adam)), rtol=0, atol=0)
    wrapped = oracles.run(gdjax.with_weight_decay(adam, rate, 0.25, some))
    oracles.assert_same(wrapped, oracles.run(gdjax.adamw(rate, weight_decay=0.25, mask=some)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["independent", "corrected"])
def test_an_argument_of_the_optimizer_does_the_same(kind: str):
    """As the docstring has it."""
    of = {"independent": 0.125 / PEAK, "corrected": lambda count: 0.125 * oracles.fall(count) / PEAK}[kind]
    tx = gdjax.with_weight_decay(
        gdjax.lion(oracles.fall, weight_decay=0.0), oracles.fall, 0.125, kind=kind, peak_learning_rate=PEAK
    )
    oracles.assert_same(oracles.run(tx), oracles.run(gdjax.lion(oracles.fall, weight_decay=of)), rtol=1e-6, atol=1e-6)


def test_independent_decay_stays_where_the_rate_is_tuned():
    p, zero = jnp.array([2.0]), jnp.zeros(1)
    for rate in (0.1, 0.2):
        tx = gdjax.with_weight_decay(gdjax.sgd(rate), rate, 0.25, kind="independent")
        np.testing.assert_allclose(tx.update(zero, tx.init(p), p)[0], [-0.5], rtol=1e-6)


def test_factors_of_the_rate_are_factors_of_its_peak():
    """A leaf at a tenth of the rate has a tenth of the largest rate, too."""
    p = {"a": jnp.array([2.0]), "b": jnp.array([2.0])}
    zero, rate = jax.tree.map(jnp.zeros_like, p), gdjax.per_leaf(oracles.fall, {"b": 0.5})
    for kind, want in (("independent", [1.0, 1.0]), ("corrected", [1.0, 0.5])):
        tx = gdjax.with_weight_decay(gdjax.sgd(rate), rate, 0.25, kind=kind, peak_learning_rate=PEAK)
        u, _ = tx.update(zero, tx.init(p), p)
        first = u["a"][0]
        np.testing.assert_allclose([u["a"][0] / first, u["b"][0] / first], want, rtol=1e-6)


def test_a_schedule_leaves_the_norm_of_normalised_weights_alone():
    """Gradients orthogonal to the weights, as before a normalisation: the norm settles, then the rate falls."""
    steps, peak = 1200, 0.05
    rate = gdjax.join_schedules([lambda t: peak, gdjax.linear_schedule(peak, 0.001, 800)], [400])

    def norms(kind: str):
        tx = gdjax.with_weight_decay(gdjax.sgd(rate), rate, 0.5, kind=kind, peak_learning_rate=peak)

        def step(carry, key):
            x, state = carry
            g, direction = jax.random.normal(key, x.shape), x / jnp.linalg.norm(x)
            updates, state = tx.update(g - jnp.sum(g * direction) * direction, state, x)
            x = x + updates
            return (x, state), jnp.linalg.norm(x)

        x = jnp.ones(64)
        return jax.lax.scan(step, (x, tx.init(x)), jax.random.split(jax.random.key(0), steps))[1]

    at_peak, corrected = norms("corrected")[399], norms("corrected")[-1]
    decoupled = norms("decoupled")[-1]
    np.testing.assert_allclose(at_peak, (0.05 * 63 / (2 * 0.5)) ** 0.5, rtol=0.1)  # lr |u|^2 / (2 weight_decay)
    np.testing.assert_allclose(corrected, at_peak, rtol=0.15)
    assert decoupled < 0.5 * at_peak


def test_a_decay_of_0_does_not_read_the_parameter():
    p = {"a": jnp.array([jnp.nan]), "b": jnp.array([1.0])}
    tx = gdjax.with_weight_decay(gdjax.sgd(0.5), 0.5, gdjax.per_leaf(0.5, {"a": 0.0}))
    u, _ = tx.update(jax.tree.map(jnp.ones_like, p), tx.init(p), p)
    assert u["a"] == -0.5 and u["b"] == -0.75


def test_misuse_of_kinds():
    sgd = gdjax.sgd(oracles.fall)
    with pytest.raises(ValueError, match="^gdjax.with_weight_decay: kind='corrected' needs peak_learning_rate"):
        gdjax.with_weight_decay(sgd, oracles.fall, 0.1, kind="corrected")
    with pytest.raises(ValueError, match="^gdjax.with_weight_decay: cautious decay looks at the update"):
        gdjax.with_weight_decay(sgd, oracles.fall, 0.1, kind="coupled", cautious=True)
    tx = gdjax.with_weight_decay(sgd, oracles.fall, 0.1)
    with pytest.raises(ValueError, match=r"^gdjax\.with_weight_decay: "):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_cautious_decay_is_for_what_does_not_move_too():
    tx = gdjax.with_weight_decay(gdjax.sgd(1.0), 1.0, 0.5, cautious=True)
    x, g = jnp.array([2.0, 2.0, 2.0]), jnp.array([1.0, 0.0, -1.0])
    u, _ = tx.update(g, tx.init(x), x)
    np.testing.assert_array_equal(u, [-2.0, -1.0, 1.0])  # the last moves away from 0


@pytest.mark.parametrize("kind", ["independent", "corrected"])
def test_a_rate_of_zero_decays_nothing(kind: Any):
    tx, x = gdjax.with_weight_decay(gdjax.sgd(0.0), 0.0, 0.5, kind=kind), jnp.ones(2)
    u, _ = tx.update(x, tx.init(x), x)
    np.testing.assert_array_equal(u, [0.0, 0.0])
