"""The table of schedules."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from tests.pages.claims.claim import anything, apart, claim, is_nan, near, told

COSINE = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 10}


@claim("one-cycle with phases of no steps", theirs=apart(4e-6), ours=near(4e-6))
def a_phase_of_no_steps(o: Any) -> float:
    return float(o.linear_onecycle_schedule(100, 1.0, pct_start=0.3, pct_final=1.0)(100))


@claim("one-cycle, `pct_start=0.29` of 100 steps", theirs=28, ours=29)
def the_step_of_the_peak(o: Any) -> int:
    return int(np.argmax([float(o.linear_onecycle_schedule(100, 1.0, pct_start=0.29)(t)) for t in range(101)]))


@claim("one-cycle with a share outside", theirs=anything, ours=ValueError)
def a_share_above_one(o: Any) -> Any:
    return o.linear_onecycle_schedule(100, 1.0, pct_start=1.5)


@claim("one-cycle with a share outside", theirs=anything, ours=ValueError)
def shares_that_cross(o: Any) -> Any:
    return o.linear_onecycle_schedule(100, 1.0, pct_start=0.9, pct_final=0.5)


@claim("`sgdr_schedule([])`", theirs=anything, ours=ValueError)
def no_cycle(o: Any) -> Any:
    return o.sgdr_schedule([])


@claim("`sgdr_schedule([])`", theirs=True, ours=False)
def a_wrong_cycle_is_not_named(o: Any) -> bool:
    try:
        o.sgdr_schedule([COSINE, {**COSINE, "warmup_steps": 20}])
    except ValueError as e:
        return "cosine_kwargs[1]" not in str(e)
    return True


@claim("no steps or a negative number of them", theirs=(1.0, 0), ours=(1.0, 1))
def no_steps(o: Any) -> Any:
    value: list[float] = []
    warned = told(lambda: value.append(float(o.linear_schedule(1.0, 0.0, -1)(7))))
    return value[0], len(warned)


@claim("no steps or a negative number of them", theirs=(1.0, 0), ours=(1.0, 1))
def a_power_of_zero(o: Any) -> Any:
    value: list[float] = []
    warned = told(lambda: value.append(float(o.cosine_decay_schedule(1.0, 10, exponent=0.0)(7))))
    return value[0], len(warned)


@claim("`warmup_cosine_decay` with a peak of 0", theirs=(0.0, 0), ours=(0.0, 1))
def a_peak_of_zero(o: Any) -> Any:
    value: list[float] = []
    schedule = lambda: o.warmup_cosine_decay_schedule(0.0, 0.0, 2, 10, end_value=0.5)
    warned = told(lambda: value.append(float(schedule()(10))))
    return value[0], len(warned)


@claim("a negative `transition_begin`", theirs=(1.0, 0), ours=(1.0, 1))
def a_negative_begin(o: Any) -> Any:
    value: list[float] = []
    warned = told(lambda: value.append(float(o.linear_schedule(1.0, 0.0, 10, -5)(0))))
    return value[0], len(warned)


@claim("a negative power, exponent or decay rate", theirs=is_nan, ours=ValueError)
def a_negative_rate(o: Any) -> Any:
    return o.exponential_decay(1.0, 10, -0.5)(5)


@claim("a negative power, exponent or decay rate", theirs=anything, ours=ValueError)
def a_negative_warmup(o: Any) -> Any:
    return o.warmup_cosine_decay_schedule(0.0, 1.0, -2, 10)


@claim("a number of steps or a boundary that is a float", theirs=near(0.5), ours=near(0.5))
def steps_of_a_float(o: Any) -> Any:
    return o.linear_schedule(1.0, 0.0, 0.1 * 100)(5)


@claim("a number of steps or a boundary that is a float", theirs=0.0, ours=1.0)
def the_step_before_a_late_boundary(o: Any) -> float:
    return float(o.join_schedules([lambda t: 1.0, lambda t: 0.0], [2.0**24 + 1])(jnp.int32(2**24)))


@claim("`join_schedules` of fewer boundaries", theirs=near(1.0), ours=ValueError)
def a_schedule_without_boundary(o: Any) -> Any:
    return o.join_schedules([lambda t: 1.0, lambda t: 0.0], [])(100)


@claim("`join_schedules` of fewer boundaries", theirs=near(0.0), ours=near(0.0))
def boundaries_too_many(o: Any) -> Any:
    return o.join_schedules([lambda t: 1.0, lambda t: 0.0], [5, 10])(100)


@claim("a schedule that returns None or a string", theirs=False, ours=True)
def a_schedule_of_none(o: Any) -> bool:
    """Whether the error names the hyperparameter."""
    try:
        o.sgd(lambda t: None).update(jnp.ones(2), o.sgd(lambda t: None).init(jnp.ones(2)))
    except Exception as e:
        return "learning_rate" in str(e)
    return False


@claim("dtype of the value", theirs=[True, False, False, True], ours=[True, True, True, True])
def weak_types(o: Any) -> Any:
    made = [
        o.linear_schedule(1.0, 0.0, 10)(3),
        o.linear_schedule(1.0, 0.0, 10)(jnp.int32(3)),
        o.linear_onecycle_schedule(10, 1.0)(3),
        o.cosine_decay_schedule(1.0, 10)(jnp.int32(3)),
    ]
    return [jnp.asarray(x).weak_type for x in made]


@claim("counts above 2^24", theirs=0.0, ours=2.0**-26)
def the_last_of_many_steps(o: Any) -> float:
    return float(o.linear_schedule(1.0, 0.0, 2**26)(jnp.int32(2**26 - 1)))


@claim("`inject_stateful_hyperparams`", theirs=True, ours=False)
def a_warning(o: Any) -> bool:
    return any("deprecat" in x for x in told(lambda: o.inject_stateful_hyperparams(o.sgd)(0.1)))
