"""Chains."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import EmptyState
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, random_tree, signature, steps

PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in (1, 2)]


def test_transforms_are_applied_in_order():
    g = {"x": jnp.array([3.0, -4.0])}
    clipped_first = gdjax.chain(gdjax.clip(1.0), gdjax.scale(2.0))
    scaled_first = gdjax.chain(gdjax.scale(2.0), gdjax.clip(1.0))
    np.testing.assert_array_equal(clipped_first.update(g, clipped_first.init(g))[0]["x"], [2, -2])
    np.testing.assert_array_equal(scaled_first.update(g, scaled_first.init(g))[0]["x"], [1, -1])


def parts() -> list[Any]:
    # A reduction, rules, a transform that is no rule, rules.
    return [
        gdjax.trace(0.5),
        gdjax.clip_by_global_norm(1.0),
        gdjax.scale_by_adam(),
        gdjax.identity(),
        gdjax.scale(-0.1),
    ]


@pytest.mark.full
def test_a_chain_equals_its_parts_by_hand():
    params, states = PARAMS, [tx.init(PARAMS) for tx in parts()]
    for g in GRADIENTS:
        for i, tx in enumerate(parts()):
            g, states[i] = tx.update(g, states[i], params)
        params = gdjax.apply_updates(params, g)
    assert_close(steps(gdjax.chain(*parts()), PARAMS, GRADIENTS), (params, tuple(states)))


def test_chains_are_associative():
    a, b, c, d, e = parts()
    flat, flat_state = steps(gdjax.chain(a, b, c, d, e), PARAMS, GRADIENTS)
    nested, state = steps(gdjax.chain(a, gdjax.chain(b, gdjax.chain(c, d)), gdjax.chain(), e), PARAMS, GRADIENTS)
    assert_close(nested, flat)
    assert_close((state[0], state[1][0], state[1][1][0], state[1][1][1], state[3]), flat_state)
    assert state[2] == ()


def test_the_state_is_a_plain_tuple():
    state = gdjax.adamw(0.1).init(PARAMS)
    assert type(state) is tuple
    assert [type(s) for s in state] == [gdjax.ScaleByAdamState, EmptyState, EmptyState]


def test_named_chain():
    tx = gdjax.named_chain(("adam", gdjax.scale_by_adam()), ("rate", gdjax.scale(-0.1)))
    params, state = steps(tx, PARAMS, GRADIENTS)
    assert isinstance(state, collections.OrderedDict) and list(state) == ["adam", "rate"]
    assert_close(params, steps(gdjax.chain(gdjax.scale_by_adam(), gdjax.scale(-0.1)), PARAMS, GRADIENTS)[0])
    # A plain dict, as a checkpoint may give back, will do.
    assert_close(tx.update(GRADIENTS[0], dict(state), params)[0], tx.update(GRADIENTS[0], state, params)[0])
    inside = gdjax.chain(gdjax.clip(1.0), tx)
    assert signature(steps(inside, PARAMS, GRADIENTS)[1]) == signature(inside.init(PARAMS))


class Recorder:
    """Any object with `init` and `update` will do, even one that takes no extra arguments."""

    def init(self, params: Any) -> Any:
        return {"calls": jnp.zeros((), jnp.int32)}

    def update(self, updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda u: 2 * u, updates), {"calls": state["calls"] + 1}


def wants_value() -> Any:
    def update(updates: Any, state: Any, params: Any = None, *, value: Any, **extra_args: Any) -> Any:
        return jax.tree.map(lambda u: u * value, updates), state

    return gdjax.GradientTransformation(lambda params: EmptyState(), update)


def test_any_object_is_a_transform_and_extra_arguments_reach_whom_they_concern():
    tx = gdjax.chain(Recorder(), gdjax.clip(1e9), gdjax.chain(wants_value()), Recorder())
    u, state = tx.update(GRADIENTS[0], tx.init(PARAMS), PARAMS, value=3.0)
    assert_close(u, jax.tree.map(lambda g: 12 * g, GRADIENTS[0]))
    assert state[0]["calls"] == state[3]["calls"] == 1


def test_a_part_that_branches_on_values_still_runs_eagerly():
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return (updates if float(jnp.sum(updates["x"])) > 0 else jax.tree.map(jnp.negative, updates)), state

    tx = gdjax.chain(gdjax.GradientTransformation(lambda params: EmptyState(), update), gdjax.scale(2.0))
    g = {"x": jnp.array([-1.0, -2.0])}
    assert_equal(tx.update(g, tx.init(g))[0], {"x": jnp.array([2.0, 4.0])})


def test_errors_name_the_part_of_a_plain_chain():
    tx = gdjax.chain(gdjax.clip(1.0), gdjax.scale_by_adam())
    try:
        tx.update(PARAMS, (EmptyState(), EmptyState()))
    except ValueError as e:
        assert str(e).startswith("gdjax.scale_by_adam: state has fields (), expected ScaleByAdamState")
    else:
        raise AssertionError


RATE = gdjax.scale_by_learning_rate
TWO_RATES = {
    "adam then a rate": lambda: gdjax.chain(gdjax.adam(1e-3), RATE(1e-2)),
    "two optimizers": lambda: gdjax.chain(gdjax.adam(1e-3), gdjax.sgd(0.1)),
    "named": lambda: gdjax.named_chain(("a", gdjax.adam(1e-3)), ("b", RATE(gdjax.constant_schedule(0.1)))),
    "with others between": lambda: gdjax.chain(gdjax.clip(1.0), gdjax.lion(1e-3), gdjax.scale(0.5), gdjax.sgd(0.1)),
    "a masked decay": lambda: gdjax.chain(gdjax.adamw(1e-3, mask=lambda p: True), RATE(0.1)),
    "nested": lambda: gdjax.chain(gdjax.chain(gdjax.clip(1.0), gdjax.adam(1e-3)), gdjax.chain(RATE(0.1))),
}


@pytest.mark.parametrize("make", TWO_RATES.values(), ids=TWO_RATES)
def test_two_learning_rates_ascend_and_warn(make: Any):
    with pytest.warns(UserWarning, match=r"^gdjax.\w+: 2 learning rates, of argument .* go up the gradient") as caught:
        tx = make()
    assert len(caught) == 1 and caught[0].filename == __file__
    u, _ = tx.update(GRADIENTS[0], tx.init(PARAMS), PARAMS)
    assert gdjax.tree.vdot(u, GRADIENTS[0]) > 0


def test_the_warning_of_two_rates_names_them():
    with pytest.warns(UserWarning, match=r"of argument 1 \(adamw\), argument 2 \(scale_by_learning_rate\), each"):
        inner = gdjax.chain(gdjax.clip(1.0), gdjax.adamw(1e-3), RATE(1.0))
    gdjax.chain(inner, gdjax.clip(1.0))  # it has been said


DECAY = gdjax.add_decayed_weights(1e-2)
ADDED = gdjax.stateless(lambda g, p: jax.tree.map(lambda x, y: x + 0.1 * jnp.sign(y), g, p))
GROWS = {
    "decay": gdjax.chain(gdjax.adam(1e-3), DECAY),
    "named": gdjax.named_chain(("adam", gdjax.adam(1e-3)), ("decay", DECAY)),
    "of some": gdjax.chain(gdjax.adam(1e-3), gdjax.add_decayed_weights(1e-2, mask={"a": True, "b": False})),
    "cautious": gdjax.chain(gdjax.adam(1e-3), gdjax.add_decayed_weights(1e-2, cautious=True)),
    "an array": gdjax.chain(gdjax.adam(1e-3), gdjax.add_decayed_weights(jnp.array(1e-2))),
    "a schedule": gdjax.chain(gdjax.sgd(lambda count: 0.1), gdjax.add_decayed_weights(lambda count: 0.1)),
    "not at once": gdjax.chain(gdjax.adam(1e-3), gdjax.clip(1.0), DECAY, gdjax.scale(0.5)),
    "a negative scale": gdjax.chain(gdjax.scale_by_adam(), gdjax.scale(-1e-3), DECAY),
    "in a chain": gdjax.chain(
        gdjax.chain(gdjax.scale_by_adam(), gdjax.scale_by_learning_rate(0.1)), gdjax.chain(DECAY)
    ),
    "after groups": gdjax.chain(gdjax.partition({0: gdjax.sgd(1.0)}, {"a": 0, "b": 0}), DECAY),
}
DECAYS = {
    "before the rate": gdjax.chain(gdjax.scale_by_adam(), DECAY, gdjax.scale_by_learning_rate(1e-3)),
    "before a scale": gdjax.chain(gdjax.scale_by_adam(), DECAY, gdjax.scale(-1e-3)),
    "of the gradient": gdjax.chain(DECAY, gdjax.adam(1e-3)),
    "none": gdjax.chain(gdjax.adam(1e-3), gdjax.add_decayed_weights(0.0)),
    "downwards": gdjax.chain(gdjax.adam(1e-3), gdjax.add_decayed_weights(lambda count: -1e-5)),
    "beside": gdjax.with_weight_decay(gdjax.adam(1e-3), 1e-3, 1e-2),
    "turned later": gdjax.chain(gdjax.scale(-1.0), DECAY, gdjax.sgd(0.1)),
    "turned by an array": gdjax.chain(gdjax.scale(-1.0), DECAY, gdjax.sgd(jnp.array(0.1))),
    "bounded": gdjax.chain(gdjax.adam(1e-3), gdjax.keep_params_nonnegative()),
    "of Optax, which hides what it does": gdjax.chain(gdjax.adam(1e-3), optax.add_decayed_weights(1e-2)),
    "by hand, of which nothing is known": gdjax.chain(gdjax.sgd(1e-3), ADDED),
}


@pytest.mark.parametrize("name", GROWS)
def test_a_decay_behind_the_rate_warns(name: str):
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    with relaxed(), pytest.warns(UserWarning, match="has multiplied by -1: the parameters grow"):
        GROWS[name].init(params)
    with relaxed():
        assert any("the parameters grow" in text for text in gdjax.explain(GROWS[name], params).warnings)


def test_what_the_warning_of_a_decay_names():
    with pytest.warns(UserWarning) as caught:
        gdjax.chain(gdjax.clip(1.0), gdjax.adam(1e-3), DECAY).init({"w": jnp.ones(3)})
    assert str(caught[0].message) == (
        "gdjax.chain: add_decayed_weights (argument 2) adds the parameters to updates that adam (argument 1) has "
        "multiplied by -1: the parameters grow; put the decay before the learning rate, or write with_weight_decay"
    )
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", DECAYS)
def test_a_decay_that_decays_is_no_warning(name: str):
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    DECAYS[name].init(params)
    assert not any("grow" in text for text in gdjax.explain(DECAYS[name], params).warnings)


def test_a_decay_of_unknown_sign_is_no_warning():
    @jax.jit
    def init(decay: Any, params: Any) -> Any:
        return gdjax.chain(gdjax.adam(1e-3), gdjax.add_decayed_weights(decay)).init(params)

    init(1e-2, jnp.ones(3))
    held = gdjax.inject_hyperparams(gdjax.add_decayed_weights)(weight_decay=1e-2)  # in the state, which may change
    gdjax.chain(gdjax.adam(1e-3), held).init(jnp.ones(3))


def test_a_late_transform_that_calls_the_program_is_not_tried():
    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return updates, state

    calls: list[int] = []
    late = gdjax.GradientTransformation(lambda params: (), update)
    tx = gdjax.chain(gdjax.adam(1e-3), late)
    tx.init(jnp.ones(3))
    gdjax.chain(gdjax.params_ema(gdjax.adam(1e-3), 0.9), late).init(jnp.ones(3))
    assert gdjax.explain(tx, jnp.ones(3)).warnings == ()
    jax.effects_barrier()
    assert not calls


def test_one_sign_is_no_warning():
    """Programs that turn the sign once, or where that is not known. Warnings are errors here."""
    rate, decay = gdjax.linear_schedule(1.0, 0.0, 10), gdjax.add_decayed_weights(0.1)
    gdjax.chain(gdjax.sgd(0.1), gdjax.scale_by_schedule(rate))
    gdjax.chain(gdjax.sgd(rate), decay, gdjax.scale(0.5))
    gdjax.chain(gdjax.adam(1e-3), gdjax.scale(-1.0))  # to maximise
    gdjax.chain(gdjax.adam(1e-3), gdjax.scale(-1.0), RATE(0.1))
    gdjax.chain(gdjax.adam(1e-3), RATE(0.1, flip_sign=False))
    gdjax.chain(gdjax.adam(1e-3), gdjax.scale_by_schedule(lambda t: -1.0), RATE(0.1))
    gdjax.chain(gdjax.adam(1e-3), Recorder(), RATE(0.1))
    gdjax.chain(gdjax.adam(1e-3), negated(), RATE(0.1))
    jax.jit(lambda x: gdjax.chain(gdjax.adam(1e-3), gdjax.scale(x), RATE(0.1)) and x)(1.0)
    only = [gdjax.masked(RATE(rate), {"a": a, "b": not a}) for rate, a in ((0.1, True), (0.2, False))]
    gdjax.chain(gdjax.scale_by_adam(), *only)
    gdjax.chain(gdjax.adam(1e-3), gdjax.chain())


@gdjax.leafwise()
def negated(g: Any, s: Any, p: Any, t: Any) -> Any:
    return -g, s


def test_three_rates_descend_and_are_no_warning():
    gdjax.chain(gdjax.adam(1e-3), RATE(1.0), RATE(1.0))
