"""The order warning: by what the transforms declare, leaf by leaf; nothing of the program runs."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gdjax
from gdjax.core.growth import LAWS, law_of
from gdjax.lift.order import OrderWarning, averages

PARAMS = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
A, B = {"a": True, "b": False}, {"a": False, "b": True}
SGD, DECAY, NONE = gdjax.sgd(0.1), gdjax.add_decayed_weights(0.1), gdjax.identity()
EMA = gdjax.params_ema(SGD, 0.9)


def warned(tx: Any, params: Any = PARAMS) -> str:
    """What `init` says of the order, in one text."""
    with warnings.catch_warnings(record=True, action="always") as caught:
        tx.init(params)
    return "\n".join(str(w.message) for w in caught if w.category is OrderWarning)


def refuse(updates: Any, state: Any, params: Any = None) -> Any:
    raise AssertionError("tried")


@gdjax.leafwise()
def refusing(g: Any, s: Any, p: Any, t: Any) -> Any:
    raise AssertionError("tried")


@gdjax.wrapper()
def refusing_wrapper(u: Any, g: Any, s: Any, p: Any, t: Any) -> Any:
    raise AssertionError("tried")


OF_OTHERS = {
    "two functions": gdjax.GradientTransformation(gdjax.init_empty_state, refuse),
    "stateless": gdjax.stateless(lambda g, p: refuse(g, p)),
    "a rule": refusing(),
    "a wrapper": refusing_wrapper(gdjax.identity()),
    "in a chain": gdjax.named_chain(("it", refusing())),
    "in groups": gdjax.partition({0: refusing(), 1: refusing()}, {"a": 0, "b": 1}),
    "injected": gdjax.inject_hyperparams(lambda r: refusing())(0.5),
    "of Optax": optax.scale(0.5),
    "Optax's, as one of ours": gdjax.from_optax(optax.scale(0.5)),
}


@pytest.mark.parametrize("name", OF_OTHERS)
def test_a_transform_of_others_is_not_tried_and_not_warned_of(name: str):
    assert warned(gdjax.chain(EMA, OF_OTHERS[name])) == ""
    assert warned(gdjax.chain(SGD, OF_OTHERS[name])) == ""
    assert warned(gdjax.chain(SGD, DECAY, OF_OTHERS[name])) == ""  # it may turn the sign


def test_a_wrapper_of_others_around_an_average_is_not_warned_of():
    assert warned(refusing_wrapper(EMA)) == ""
    assert "cautious changes the updates after params_ema has seen them" in warned(gdjax.cautious(EMA))
    assert warned(gdjax.swa(EMA, 1)) == ""


CHANGES = {
    "a rule": gdjax.scale(0.5),
    "an array": gdjax.scale(jnp.array(1.0)),  # which the program may donate or trace
    "a schedule": gdjax.scale_by_schedule(lambda t: 1.0),
    "a pair": gdjax.set_to_zero(),
    "a projection": gdjax.keep_params_nonnegative(),
    "a pair with extra arguments": gdjax.scale_by_backtracking_linesearch(5),
    "in a wrapper": gdjax.params_ema(gdjax.clip(1.0), 0.9),
    "a wrapper": gdjax.snoo(NONE),
    "a wrapper that waits": gdjax.MultiSteps(NONE, 2),
    "a guard": gdjax.apply_if_finite(NONE, 3),
    "a scale of the loss": gdjax.dynamic_loss_scale(NONE),
    "flat": gdjax.flatten(gdjax.clip(1.0)),
    "in the state": gdjax.inject_hyperparams(gdjax.scale)(0.5),
    "decay": DECAY,
    "another leaf too": gdjax.partition({0: gdjax.clip(1.0), 1: NONE}, {"a": 0, "b": 1}),
}
DOES_NOT = {
    "identity": NONE,
    "one": gdjax.scale(1.0),
    "no decay": gdjax.add_decayed_weights(0.0),
    "averages": gdjax.chain(gdjax.params_ema(NONE, 0.9), gdjax.swa(NONE, 1), gdjax.tail_ema(NONE, 1)),
    "measurements": gdjax.chain(gdjax.snapshot("n", gdjax.global_norm), gdjax.monitor({"n": gdjax.global_norm})),
    "metrics": gdjax.with_metrics(NONE),
    "flat": gdjax.flatten(NONE),
    "an average in the state": gdjax.inject_hyperparams(lambda decay: gdjax.params_ema(gdjax.identity(), decay))(0.5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_updates_after_an_average(name: str):
    text = warned(gdjax.chain(EMA, NONE, CHANGES[name]))
    assert "(argument 2) changes the updates after params_ema (argument 0) has seen them" in text


@pytest.mark.parametrize("name", DOES_NOT)
def test_what_changes_no_updates(name: str):
    assert warned(gdjax.chain(EMA, DOES_NOT[name])) == ""
    assert "parameters grow" in warned(gdjax.chain(SGD, DECAY, DOES_NOT[name]))


def test_an_average_and_a_change_of_different_leaves():
    """The leaves of an average are those that reach it: through masks, groups, chains with names, and states."""
    masked = gdjax.named_chain(("first", NONE), ("second", gdjax.masked(gdjax.chain(NONE, gdjax.gpa(SGD)), A)))
    scheduled = gdjax.masked(gdjax.gpa(SGD, lambda t: 0.9), A)  # its state lies in one that counts
    groups = gdjax.partition({0: EMA, 1: SGD}, {"a": 0, "b": 1})
    for average in (masked, scheduled, groups):
        assert warned(gdjax.chain(average, gdjax.masked(gdjax.clip(1.0), B))) == ""
        assert warned(gdjax.chain(average, gdjax.masked(gdjax.chain(gdjax.trace(0.9)), B))) == ""
        assert "changes the updates" in warned(gdjax.chain(average, gdjax.masked(gdjax.clip(1.0), A)))


GROWS = {
    "masked": gdjax.masked(gdjax.chain(gdjax.clip(1.0), DECAY), A),
    "grouped": gdjax.partition({0: DECAY, 1: gdjax.scale(-1.0)}, {"a": 0, "b": 1}),
    "flat": gdjax.flatten(DECAY),
    "in a guard": gdjax.apply_if_finite(DECAY, 3),
    "beside a number in the state": gdjax.inject_hyperparams(lambda r: gdjax.chain(DECAY))(1.0),
    "behind a state": gdjax.chain(gdjax.trace(0.9), DECAY),
    "behind one of others": gdjax.chain(OF_OTHERS["two functions"], DECAY),
    "clipped": gdjax.chain(DECAY, gdjax.clip_by_global_norm(1.0), gdjax.normalize_by_update_norm()),
    "turned elsewhere": gdjax.chain(DECAY, gdjax.masked(gdjax.scale(-1.0), A)),
}
DOES_NOT_GROW = {
    "turned": gdjax.chain(DECAY, gdjax.scale(-1.0)),
    "turned where it is": gdjax.chain(gdjax.masked(DECAY, A), gdjax.masked(gdjax.scale(-1.0), A)),
    "may be turned": gdjax.chain(DECAY, gdjax.scale_by_schedule(lambda t: -1.0)),
    "may be turned by a state": gdjax.chain(DECAY, gdjax.inject_hyperparams(gdjax.scale)(0.5)),
    "starts at 0": gdjax.add_decayed_weights(gdjax.linear_schedule(0.0, 1.0, 10)),
    "in the state": gdjax.inject_hyperparams(gdjax.add_decayed_weights)(0.1),
    "descends by itself": gdjax.chain(DECAY, gdjax.fromage(0.1)),
    "zero": gdjax.chain(DECAY, gdjax.set_to_zero()),
}


@pytest.mark.parametrize("name", GROWS)
def test_a_decay_behind_the_rate(name: str):
    assert "the parameters grow" in warned(gdjax.chain(SGD, GROWS[name]))
    assert warned(gdjax.chain(gdjax.scale_by_adam(), GROWS[name])) == ""


@pytest.mark.parametrize("name", DOES_NOT_GROW)
def test_a_decay_behind_the_rate_that_shrinks_or_may(name: str):
    assert warned(gdjax.chain(SGD, DOES_NOT_GROW[name])) == ""


def test_traces_shapes_and_placeholders():
    tx = gdjax.chain(gdjax.masked(EMA, gdjax.mask_by_path("a")), gdjax.masked(gdjax.clip(1.0), gdjax.mask_by_path("a")))
    for run in (jax.jit(tx.init), lambda params: jax.eval_shape(lambda p: tx.init(p), params)):
        with pytest.warns(OrderWarning, match="masked .argument 1. changes"):
            run(PARAMS)
    assert warned(gdjax.chain(EMA, gdjax.clip(1.0)), {}) == ""
    jax.jit(lambda decay: gdjax.chain(SGD, gdjax.add_decayed_weights(decay)).init(PARAMS))(0.1)
    scheduled = lambda decay: gdjax.chain(SGD, gdjax.add_decayed_weights(lambda t: decay)).init(PARAMS)
    jax.jit(scheduled)(0.1)  # a warning is an error here


def test_the_averages_of_a_state():
    states = gdjax.chain(gdjax.masked(EMA, A), optax.chain(gdjax.swa(SGD, 1), optax.identity())).init(PARAMS)
    assert [type(x) for x in averages(states)] == [gdjax.ParamsEmaState, gdjax.SWAState]
    theirs = optax.contrib.schedule_free(optax.sgd(0.1), 0.1).init(PARAMS)
    assert [type(x).__name__ for x in averages((theirs,))] == ["ScheduleFreeState"]


@pytest.mark.parametrize("word", ["unchanged", "decay", "direction", "same"])
def test_the_words_are_no_laws(word: str):
    assert law_of(word, {}, LAWS["gradient"], "matrix") == "same"
