"""A rule as a part of an optimizer: its state, and how it joins a pass."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax import EmptyState, ScaleByScheduleState, ScheduledState, TraceState, leafwise
from gdjax.core import base
from gdjax.lift.rule import run, state_of, steps_of
from tests.lift.test_leafwise import GRADIENTS, PARAMS, Average, average
from tests.lift.test_one_leaf import spy
from tests.trees import assert_close, steps


@leafwise(TraceState)
def summed(g: Any, s: Any, p: Any, t: Any, gain: Any = 1.0) -> Any:
    total = s.trace + g
    return gain * total, TraceState(total)


@pytest.mark.parametrize("schedule", [None, gdjax.constant_schedule(1.0)])
def test_which_states_there_are(schedule: Any):
    hyper = [] if schedule is None else [schedule]
    assert type(spy(*hyper).init(PARAMS)) is (EmptyState if schedule is None else ScaleByScheduleState)
    assert type(summed(*hyper).init(PARAMS)) is (TraceState if schedule is None else ScheduledState)
    assert type(average(*hyper).init(PARAMS)) is Average
    assert_close(steps(summed(*hyper), PARAMS, GRADIENTS)[0], steps(summed(), PARAMS, GRADIENTS)[0])


@leafwise()
def over_sum(g: Any, s: Any, p: Any, t: Any) -> Any:
    return g / gdjax.total(jnp.sum(g)), s


def passes(*txs: Any) -> list[tuple[str, float]]:
    """The first rule of each pass over a leaf (1, 3) and a leaf (4,), and the first number that it gets."""
    g, seen = {"a": jnp.array([1.0, 3.0]), "b": jnp.array([4.0])}, []
    steps = [step for tx in txs for step in steps_of(tx, tx.init(g))]
    run(steps, g, g, {}, lambda step, updates: seen.append((step.part.label, float(updates["a"][0]))))
    return seen


def test_rules_share_a_pass_until_one_needs_the_updates_of_all_leaves():
    double = gdjax.scale(2.0)
    assert passes(double, double, double) == [("gdjax.scale", 1.0)]
    assert passes(over_sum(), double) == [("over_sum", 1.0)]
    # Seen in its first pass, it waits for the second.
    assert passes(double, over_sum(), double) == [("gdjax.scale", 1.0), ("over_sum", 2.0)]


def test_the_rule_of_a_wrapper_gets_the_updates_from_before_the_transform():
    @gdjax.wrapper()
    def difference(u: Any, g: Any, s: Any, p: Any, t: Any) -> Any:
        return u - g, s

    tx = gdjax.chain(gdjax.scale(3.0), difference(gdjax.scale(5.0)))  # 3, then 15 less 3
    u, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    assert u.tolist() == [12, 12]
    assert passes(gdjax.scale(3.0), difference(gdjax.scale(5.0))) == [("gdjax.scale", 1.0), ("gdjax.scale", 3.0)]


def test_what_is_no_rule_is_a_pass_by_itself():
    @gdjax.stateless
    def plus_one(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda u: u + 1, updates)

    tx = gdjax.chain(gdjax.scale(2.0), plus_one, gdjax.scale(3.0))
    u, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    assert u.tolist() == [9, 9]


def test_steps_and_states_of_a_chain():
    tx = gdjax.chain(gdjax.scale_by_adam(), gdjax.chain(summed(), gdjax.scale(2.0)))
    state = tx.init(jnp.ones(2))
    steps = list(steps_of(tx, state))
    assert [step.part.label for step in steps] == ["gdjax.scale_by_adam", "summed", "gdjax.scale"]
    assert state_of(tx, iter(["adam", "sum", "scale"])) == ("adam", ("sum", "scale"))


def test_what_a_rule_says_of_itself():
    rate = gdjax.linear_schedule(1.0, 0.0, 4)
    part = base.part_of(average(rate))
    assert (part.slots, part.shared, [*part.schedules]) == (("mean",), (), ["gain"])
    assert part.counts and not part.stateless
    state = Average(jnp.int32(1), {"w": jnp.ones(2)})
    assert float(part.hyperparams(state)["gain"]) == 0.75
    assert float(part.hyperparams(state, lambda count: count + 1)["gain"]) == 0.5
    plain = base.part_of(gdjax.scale(2.0))
    assert plain.stateless and not plain.counts and plain.split("anything") == (None, [], {})


def test_a_state_taken_apart_and_joined():
    part = base.part_of(summed(gdjax.linear_schedule(1.0, 0.0, 4)))
    state = ScheduledState(jnp.int32(3), TraceState({"w": jnp.ones(2)}))
    count, slots, shared = part.split(state)
    assert (int(count), len(slots), shared) == (3, 1, {})
    assert part.join(count, slots, shared) is not state and part.join(count, slots, shared) == state
    with pytest.raises(ValueError, match="summed: state has fields"):
        part.split(TraceState(0))
