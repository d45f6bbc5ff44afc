"""Gradients that are not there, and what a stateless transform is given: nothing of it is in the way."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from tests.cases import Case, every
from tests.trees import assert_close, assert_equal, random_tree, signature


def without_bias(tree: Any) -> Any:
    return {"dense": {"kernel": tree["dense"]["kernel"]}, "scale": tree["scale"]}


def with_bias(tree: Any, x: Any) -> Any:
    return {"dense": {"bias": x, "kernel": tree["dense"]["kernel"]}, "scale": tree["scale"]}


@every(lambda case: case.covers != "flatten", thin=4)  # whose state is one vector
def test_a_gradient_of_none_has_no_update(case: Case):
    tx, params, g = case.make(), random_tree(0), with_bias(random_tree(1), None)
    state = tx.init(params)
    u, new = jax.eval_shape(lambda state: tx.update(g, state, with_bias(params, jnp.tanh)), state)
    assert signature(new) == signature(state) and u["dense"]["bias"] is None


@pytest.mark.full
@every(lambda case: case.covers != "flatten", sampled=True)
def test_a_gradient_of_none_leaves_its_parameter_alone(case: Case):
    tx, params, g = case.make(), random_tree(0), random_tree(1)
    state, alone = tx.init(params), tx.init(without_bias(params))
    for _ in range(2):
        before = signature(state)
        u, state = tx.update(with_bias(g, None), state, with_bias(params, jnp.tanh))
        wanted, alone = tx.update(without_bias(g), alone, without_bias(params))
        assert signature(state) == before
        assert u["dense"]["bias"] is None
        if not case.random:
            assert_close(without_bias(u), wanted)


@pytest.mark.full
def test_the_state_of_what_is_left_alone_stays():
    for tx in (gdjax.adam(0.1), gdjax.MultiSteps(gdjax.sgd(0.1, 0.9), 2), gdjax.schedule_free_sgd(0.1)):
        params, g = random_tree(0), random_tree(1)
        _, state = tx.update(g, tx.init(params), params)
        _, new = tx.update(with_bias(g, None), state, params)
        biases = [
            [x for path, x in jax.tree_util.tree_leaves_with_path(s) if "bias" in jax.tree_util.keystr(path)]
            for s in (state, new)
        ]
        assert_equal(*biases)


STATELESS = {
    "clip": gdjax.clip(1.0),
    "clip_by_global_norm": gdjax.clip_by_global_norm(1.0),
    "scale": gdjax.scale(-0.1),
    "identity": gdjax.identity(),
    "set_to_zero": gdjax.set_to_zero(),
    "zero_nans of no state": gdjax.stateless(lambda g, p: g),
    "stateless_with_tree_map": gdjax.stateless_with_tree_map(lambda g, p: g),
    "centralize": gdjax.centralize(),
    "normalize": gdjax.normalize(),
    "scale_by_learning_rate": gdjax.scale_by_learning_rate(0.1),
    "scale_by_sign": gdjax.scale_by_sign(),
}


@pytest.mark.parametrize("tx", STATELESS.values(), ids=list(STATELESS))
def test_a_stateless_transform_takes_any_state_and_tree(tx: Any):
    g = random_tree(1)
    functions = {"a": jnp.tanh, "b": jnp.ones(2)}
    wanted, _ = tx.update(g, tx.init(g))
    for params in (None, functions, g):
        assert tx.init(params) == gdjax.EmptyState()
    for state in (None, {}, (), gdjax.EmptyState()):
        u, new = tx.update(g, state)
        assert new is state or new == state
        assert_equal(u, wanted)
        assert tx.update(None, state)[0] is None


@pytest.mark.full
def test_parameters_that_a_stateless_transform_does_not_read():
    g = random_tree(1)
    for tx in (gdjax.clip(1.0), gdjax.clip_by_global_norm(1.0), gdjax.scale(2.0)):
        wanted = tx.update(g, tx.init(g))[0]
        for params in ({"other": jnp.ones(3)}, jax.tree.map(lambda x: x[None], g), {"f": jnp.tanh}, 3.0):
            assert_equal(tx.update(g, tx.init(g), params)[0], wanted)


def test_a_step_and_its_parameters_must_still_fit():
    g = {"w": jnp.ones((1, 3))}
    with pytest.raises(ValueError, match=r"gdjax.sgd: params\['w'\]: gradient shape \(1, 3\) does not match"):
        gdjax.sgd(0.1).update(g, gdjax.sgd(0.1).init(g), {"w": jnp.ones((3, 1))})
    with pytest.raises(ValueError, match=r"gdjax.adamw: params\['w'\] is None, and has a gradient of shape \(1, 3\)"):
        gdjax.adamw(0.1).update(g, gdjax.adamw(0.1).init(g), {"w": None})
    u, _ = gdjax.adam(0.1).update(g, gdjax.adam(0.1).init(g), {"w": None})  # which reads no parameter
    assert u["w"].shape == (1, 3)
