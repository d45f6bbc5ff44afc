"""A rule as a part of an optimizer: its state, and how it joins a pass."""

from typing import Any

import pytest

import gdjax
from gdjax import EmptyState, ScaleByScheduleState, ScheduledState, TraceState, leafwise
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
