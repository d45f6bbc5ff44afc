"""Transforms as values: equal, hashed, pickled and printed by the call that made them."""

import copy
import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax.core.values import value
from tests.cases import Case, every
from tests.trees import assert_close, random_tree


@every()
def test_transforms_are_values(case: Case):
    tx, again = case.make(), case.make()
    assert tx == again and hash(tx) == hash(again) and tx is not again
    assert tx.init == again.init and tx.update == again.update and tx.init != tx.update
    assert repr(tx) == repr(again)
    for other in (pickle.loads(pickle.dumps(tx)), copy.deepcopy(tx), copy.copy(tx)):
        assert other == tx and hash(other) == hash(tx) and repr(other) == repr(tx)
    init, update = tx
    assert (init, update) == (tx.init, tx.update)
    assert update.__name__ == "update" and init.__name__ == "init"


@every(lambda case: bool(case.hyper) and case.scheduled)
def test_other_numbers_are_another_value(case: Case):
    for name, number in case.hyper.items():
        other = case.make(**{name: number / 2 if number else 0.125})
        assert other != case.make() and repr(other) != repr(case.make())


@pytest.mark.full
@every(sampled=True)
def test_rebuilt_transforms_are_one_trace(case: Case):
    traces = 0

    @functools.partial(jax.jit, static_argnums=0)
    def step(tx: Any, g: Any, state: Any, params: Any) -> Any:
        nonlocal traces
        traces += 1
        return tx.update(g, state, params)

    params = g = random_tree(0)
    state = case.make().init(params)
    for tx in (case.make(), case.make(), pickle.loads(pickle.dumps(case.make()))):
        step.eval_shape(tx, g, state, params)
    assert traces == 1


def test_a_rebuilt_transform_does_not_compile_the_eager_update_again():
    params = random_tree(0)
    compiled = gdjax.core.base._compiled
    gdjax.sgd(0.123).update(params, gdjax.sgd(0.123).init(params), params)
    before = compiled._cache_size()
    gdjax.sgd(0.123).update(params, gdjax.sgd(0.123).init(params), params)
    assert compiled._cache_size() == before


def test_repr_is_the_call():
    assert repr(gdjax.sgd(0.1)) == "sgd(learning_rate=0.1, momentum=None, nesterov=False, accumulator_dtype=None)"
    shown = repr(gdjax.adam(1e-3, mu_dtype=jnp.bfloat16))
    assert shown.startswith("adam(learning_rate=0.001, b1=0.9, b2=0.999, eps=1e-08,") and "mu_dtype=bfloat16" in shown
    assert repr(gdjax.chain(gdjax.scale(2.0), gdjax.identity())) == "chain(scale(step_size=2.0), identity())"
    schedule = gdjax.linear_schedule(1.0, 0.0, 10)
    assert repr(gdjax.scale_by_schedule(schedule)) == f"scale_by_schedule(step_size_fn={schedule!r})"
    assert repr(schedule).startswith("linear_schedule(init_value=1.0, end_value=0.0")
    assert repr(gdjax.sgd(0.1).update).startswith("<function sgd.update at ")


def test_type_and_value_of_an_argument_count():
    assert gdjax.scale(1) != gdjax.scale(1.0)
    assert gdjax.sgd(0.1) != gdjax.sgd(0.2)
    assert gdjax.sgd(0.1) != gdjax.scale(0.1)
    assert gdjax.sgd(0.1) == gdjax.sgd(learning_rate=0.1, momentum=None)
    # Arrays are compared by identity: looking at their values would wait for the device, and fail on tracers.
    rate = jnp.float32(0.1)
    assert gdjax.sgd(rate) == gdjax.sgd(rate) != gdjax.sgd(jnp.float32(0.1))


def test_arguments_of_every_kind_can_be_used():
    tx = gdjax.adamw(gdjax.cosine_decay_schedule(0.1, 10), mask=gdjax.mask_by_path("kernel"))
    again = gdjax.adamw(gdjax.cosine_decay_schedule(0.1, 10), mask=gdjax.mask_by_path("kernel"))
    assert tx == again and hash(tx) == hash(again) and pickle.loads(pickle.dumps(tx)) == tx
    tree_mask = {"a": True, "b": False}
    assert gdjax.masked(gdjax.sgd(0.1), tree_mask) == gdjax.masked(gdjax.sgd(0.1), dict(tree_mask))
    assert gdjax.masked(gdjax.sgd(0.1), tree_mask) != gdjax.masked(gdjax.sgd(0.1), {"a": True, "b": True})


def test_a_schedule_of_ones_own_can_be_a_value():
    @value
    def staircase(height: float) -> Any:
        return lambda count: height * count

    assert staircase(2.0) == staircase(2.0) != staircase(3.0)
    assert gdjax.sgd(staircase(2.0)) == gdjax.sgd(staircase(2.0))
    assert staircase(2.0)(3) == 6.0


@pytest.mark.parametrize("call", [lambda: gdjax.adam(), lambda: gdjax.adam(0.1, beta1=0.9), lambda: gdjax.scale(1, 2)])
def test_wrong_arguments_are_answered_with_the_right_ones(call: Any):
    with pytest.raises(TypeError, match=r"^gdjax\.\w+: .*; its arguments are (learning_rate, b1|step_size)"):
        call()


def test_functions_that_know_no_module():
    names: dict[str, Any] = {"gdjax": gdjax}
    exec("@gdjax.transform\ndef own(rate):\n    return gdjax.sgd(rate)\n", names)
    exec("@gdjax.leafwise()\ndef twice(g, s, p, t, by=2.0):\n    return by * g, s\n", names)
    own, twice = names["own"], names["twice"]
    assert own.__module__ is None and own(0.1) == own(0.1) and repr(twice()) == "twice(by=2.0)"
    tx = gdjax.chain(own(0.1), twice(), gdjax.inject_hyperparams(own)(0.1))
    g = jnp.ones(2)
    u, state = tx.update(g, tx.init(g), g)
    assert_close(u, 0.02 * g)
    assert gdjax.get_hyperparams(tx, state)
    with pytest.raises(TypeError, match=r"^own: unknown argument 'rat': perhaps rate;"):
        own(rat=0.1)
    gdjax.chain(gdjax.sgd(0.1), gdjax.sgd(0.1), twice(by=-1.0))  # may turn the sign, so that no one warns of two rates
    exec("def init(p):\n    return 3\ndef halve(g, s, p=None):\n    return g / 2, s\n", names)
    with pytest.raises(ValueError, match=r"\bhalve\b"):
        gdjax.get_hyperparams(gdjax.GradientTransformation(names["init"], names["halve"]), 3)
