"""`get_hyperparams` tells the rate of the next step, of the last one, and of any other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import assert_close

PARAMS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
G = jax.tree.map(jnp.ones_like, PARAMS)
BAD = jax.tree.map(lambda g: g * jnp.nan, G)
RATE = gdjax.linear_schedule(1.0, 0.0, 8)
GROUPS = gdjax.label_by_path({"a": "x", ".*": "y"})
# With a gradient of ones the update of SGD is minus the rate.
TRANSFORMS = {
    "sgd": gdjax.sgd(RATE),
    "chain": gdjax.chain(gdjax.clip(10.0), gdjax.sgd(RATE)),
    "injected": gdjax.inject_hyperparams(gdjax.sgd)(RATE),
    "guard": gdjax.apply_if_finite(gdjax.sgd(RATE), 3),
    "masked": gdjax.masked(gdjax.sgd(RATE), lambda p: jax.tree.map(lambda _: True, p)),
    "metrics": gdjax.with_metrics(gdjax.sgd(RATE)),
    "named": gdjax.named_chain(("clip", gdjax.clip(10.0)), ("sgd", gdjax.sgd(RATE))),
    "stateful wrapper": gdjax.cautious(gdjax.sgd(RATE)),
}


def rate(tx: Any, state: Any, **how: Any) -> float:
    return float(gdjax.get_hyperparams(tx, state, **how)["learning_rate"])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_next_the_last_and_the_curve_are_the_rates_used(name: str):
    tx = TRANSFORMS[name]
    state, used = tx.init(PARAMS), []
    first = state
    assert rate(tx, state, step="last") == rate(tx, state) == 1.0
    for _ in range(4):
        told = rate(tx, state)
        updates, state = tx.update(G, state, PARAMS)
        used.append(-float(updates["b"]))
        np.testing.assert_allclose([told, rate(tx, state, step="last")], used[-1], rtol=1e-6)
    curve = gdjax.get_hyperparams(tx, first, count=jnp.arange(4))
    assert_close(curve["learning_rate"], jnp.asarray(used, jnp.float32))
    assert {x.shape for x in curve.values()} == {(4,)}
    assert rate(tx, state, count=3) == pytest.approx(used[3])
    square = gdjax.get_hyperparams(tx, state, count=np.arange(4).reshape(2, 2))["learning_rate"]
    assert_close(square, jnp.asarray(used, jnp.float32).reshape(2, 2))


def test_a_step_of_accumulation_is_one_of_the_inner_optimizer():
    tx = gdjax.MultiSteps(gdjax.sgd(RATE), 2)
    state, last = tx.init(PARAMS), []
    for _ in range(6):
        _, state = tx.update(G, state, PARAMS)
        last.append(rate(tx, state, step="last"))
    assert last == [1.0, 1.0, 1.0, 0.875, 0.875, 0.75]
    assert rate(tx, state) == 0.625 and rate(tx, state, count=4) == 0.5


def test_a_skipped_step_is_none():
    tx = gdjax.apply_if_finite(gdjax.sgd(RATE), 5)
    _, state = tx.update(G, tx.init(PARAMS), PARAMS)
    _, state = tx.update(BAD, state, PARAMS)
    assert (rate(tx, state, step="last"), rate(tx, state)) == (1.0, 0.875)


def test_of_groups():
    tx = gdjax.partition({"x": gdjax.sgd(RATE), "y": gdjax.sgd(0.5)}, GROUPS)
    curves = gdjax.get_hyperparams(tx, tx.init(PARAMS), count=jnp.arange(3))
    assert_close(curves["x/learning_rate"], jnp.array([1.0, 0.875, 0.75]))
    assert_close(curves["y/learning_rate"], jnp.full(3, 0.5))
    assert "x/learning_rate" in jax.jit(lambda s: gdjax.get_hyperparams(tx, s, step="last"))(tx.init(PARAMS))


def test_before_the_first_step_the_last_is_the_first():
    tx = gdjax.sgd(lambda count: 0.5**count)
    assert rate(tx, tx.init(PARAMS), step="last") == 1


def test_what_was_assigned_to_an_injected_number_is_the_next_rate():
    tx = gdjax.inject_hyperparams(gdjax.sgd)(0.5)
    state = tx.init(PARAMS)
    state.hyperparams["learning_rate"] = jnp.asarray(0.25)
    assert rate(tx, state) == rate(tx, state, count=7) == 0.25


def test_errors():
    tx = gdjax.sgd(RATE)
    state = tx.init(PARAMS)
    for how in ({"step": "previous"}, {"step": "last", "count": 3}):
        with pytest.raises(ValueError, match='^gdjax.get_hyperparams: step must be "next" or "last", the latter'):
            gdjax.get_hyperparams(tx, state, **how)
    with pytest.raises(TypeError, match="^gdjax.get_hyperparams: count must be of whole numbers, got 1.5"):
        gdjax.get_hyperparams(tx, state, count=1.5)
