"""Chains."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from gdjax import EmptyState
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
