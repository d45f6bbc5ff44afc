"""Errors of the factories of schedules: each names the factory and the argument."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax import schedules
from gdjax.schedules import linear_schedule, warmup_cosine_decay_schedule

JOINED = schedules.join_schedules([linear_schedule(0.0, 1.0, 10), schedules.constant_schedule(0.7)], [10])
NAMES = {**vars(schedules), "jax": jax, "jnp": jnp, "math": math, "JOINED": JOINED}
STEPS = np.arange(40, dtype=np.int32)
NAMES["CYCLE"] = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 5}

# {call: what it raises, after the name of the factory}
ERRORS = {
    "linear_schedule(1.0, 0.1, math.inf)": "ValueError: transition_steps must be finite, got inf",
    "linear_schedule(1.0, 0.1, math.nan)": "ValueError: transition_steps must be finite, got nan",
    "linear_schedule(1.0, 0.1, 9j)": "TypeError: transition_steps must be an int, got 9j",
    "linear_schedule(1.0, 0.1, jnp.ones(1))": "TypeError: transition_steps must be an int, got Array([1.]",
    "linear_schedule(1.0, 0.1, jnp.array(True))": "TypeError: transition_steps must be an int, got Array(True",
    "linear_schedule(1.0, 0.1, None)": "TypeError: transition_steps must be an int, got None",
    "linear_schedule(1.0, 0.1, '9')": "TypeError: transition_steps must be an int, got '9'",
    "linear_schedule(1.0, 0.1, 9, 0, 1)": "TypeError: too many positional arguments; its arguments are init_value, ",
    "linear_schedule('a', 0.1, 9)": "TypeError: init_value must be a real number, got 'a'",
    "linear_schedule(1.0, None, 9)": "TypeError: end_value must be a real number, got None",
    "linear_schedule(jnp.ones(1), 0.1, 9)": "ValueError: init_value must be a scalar, got shape (1,)",
    "constant_schedule(1j)": "TypeError: value must be a real number, got 1j",
    "polynomial_schedule(1.0, 0.1, -2, 5)": "ValueError: power must be positive and finite, got -2",
    "exponential_decay(1.0, 9, -0.5)": "ValueError: decay_rate must be positive and finite, got -0.5",
    "exponential_decay(1.0, 9, math.nan)": "ValueError: decay_rate must be positive and finite, got nan",
    "exponential_decay(1.0, 9, 0.9, True)": "TypeError: transition_begin must be an int, got True",
    "exponential_decay(1.0, 9, 0.9, 0, 0.1)": "TypeError: staircase must be True or False, got 0.1",
    "exponential_decay(1.0, 9, 0.9, end_value='0')": "TypeError: end_value must be a real number, got '0'",
    "cosine_decay_schedule(1.0, 0)": "ValueError: decay_steps must be positive, got 0",
    "cosine_decay_schedule(1.0, 9, 0.0, -1)": "ValueError: exponent must be positive and finite, got -1",
    "warmup_cosine_decay_schedule(0.0, 1.0, -1, 10)": "ValueError: warmup_steps must not be negative, got -1",
    "warmup_cosine_decay_schedule(0.0, 1.0, 0, 0)": "ValueError: decay_steps must be positive, got 0",
    "warmup_cosine_decay_schedule(0.0, 1.0, 9, 9)": "ValueError: decay_steps includes the warm-up and must be more "
    "than warmup_steps, got decay_steps=9 and warmup_steps=9",
    "warmup_exponential_decay_schedule(0.0, 1.0, -1, 9, 0.9)": "ValueError: warmup_steps must not be negative, got -1",
    "warmup_exponential_decay_schedule(0.0, 1.0, 1, 9, -1)": "ValueError: decay_rate must be positive and finite",
    "piecewise_constant_schedule(1.0, {-1: 0.5})": "ValueError: a boundary must not be negative, got -1",
    "piecewise_constant_schedule(1.0, {-0.5: 0.5})": "ValueError: a boundary must not be negative, got -0.5",
    "piecewise_constant_schedule(1.0, {'5': 0.5})": "TypeError: a boundary must be an int, got '5'",
    "piecewise_constant_schedule(1.0, {5: -0.5})": "ValueError: the scale at boundary 5 must not be negative, got -0.5",
    "piecewise_constant_schedule(1.0, {5: 'x'})": "TypeError: the scale at boundary 5 must be a real number, got 'x'",
    "piecewise_interpolate_schedule('x', 1)": "ValueError: interpolate_type must be 'linear' or 'cosine', got 'x'",
    "join_schedules([], [])": "ValueError: needs a schedule, and a boundary for each but the first, got 0 boundaries "
    "for 0 schedules",
    "join_schedules([], [5])": "ValueError: needs a schedule, and a boundary for each but the first, got 0 boundaries ",
    "join_schedules([JOINED, JOINED], [])": "ValueError: needs a schedule, and a boundary for each but the first, got "
    "0 boundaries for 2 schedules",
    "join_schedules([JOINED] * 3, [20, 10])": "ValueError: boundaries must not fall, got [20, 10]",
    "join_schedules([JOINED] * 2, [-1])": "ValueError: boundaries[0] must not be negative, got -1",
    "join_schedules([JOINED] * 2, ['1'])": "TypeError: boundaries[0] must be an int, got '1'",
    "join_schedules([0.1, JOINED], [1])": "TypeError: schedules[0] must be callable, got 0.1; see constant_schedule",
    "join_schedules([JOINED, lambda t: jnp.ones(1)], [1])(0)": "ValueError: schedules[1] returned shape (1,), not ()",
    "join_schedules([JOINED] * 2 + [lambda t: None], [1, 1])(0)": "TypeError: schedules[2] returned None, not a number",
    "join_schedules([lambda t: '0.1'], [])(0)": "TypeError: schedules[0] returned '0.1', not a number",
    "powercool_schedule(1.0, -1, 9)": "ValueError: stable_steps must not be negative, got -1",
    "powercool_schedule(1.0, 9, 0)": "ValueError: decay_steps must be positive, got 0",
    "powercool_schedule(1.0, 9, 9, power=0.0)": "ValueError: power must be positive and finite, got 0.0",
    "half_life_schedule(0.0)": "ValueError: half_life must be positive and finite, got 0.0",
    "half_life_schedule(5.0, -1)": "ValueError: tokens_per_step must be positive and finite, got -1",
    "half_life_schedule('x')": "TypeError: half_life must be a real number, got 'x'",
    "rex_schedule(1.0, 0.0, 0)": "ValueError: transition_steps must be positive, got 0",
    "rex_schedule(1.0, 0.0, 9, -1)": "ValueError: transition_begin must not be negative, got -1",
    "rex_schedule(1.0, 'x', 9)": "TypeError: end_value must be a real number, got 'x'",
    "warmup_linear_decay_schedule(0.0, 1.0, 9, 9)": "ValueError: decay_steps includes the warm-up and must be more "
    "than warmup_steps, got decay_steps=9 and warmup_steps=9",
    "warmup_linear_decay_schedule(0.0, 1.0, -1, 9)": "ValueError: warmup_steps must not be negative, got -1",
    "warmup_stable_decay_schedule(0.0, 1.0, -1, 5, 5)": "ValueError: warmup_steps must not be negative, got -1",
    "warmup_stable_decay_schedule(0.0, 1.0, 5, -1, 5)": "ValueError: stable_steps must not be negative, got -1",
    "warmup_stable_decay_schedule(0.0, 1.0, 5, 5, 0)": "ValueError: decay_steps must be positive, got 0",
    "warmup_stable_decay_schedule(0.0, 1j, 5, 5, 5)": "TypeError: peak_value must be a real number, got 1j",
    "warmup_stable_decay_schedule(0.0, 1.0, 5, 5, 5, 0.0, 'sqrt')": "ValueError: decay_shape must be 'linear', "
    "'cosine' or '1-sqrt', got 'sqrt'",
    "inverse_sqrt_schedule(0.0, 1.0, -1)": "ValueError: warmup_steps must not be negative, got -1",
    "inverse_sqrt_schedule(0.0, 1.0, 0)": "ValueError: without a warm-up timescale must be given, got None and ",
    "inverse_sqrt_schedule(0.0, 1.0, 5, 0.0)": "ValueError: timescale must be positive and finite, got 0.0",
    "log_time_schedule(0.0)": "ValueError: delta must be positive and finite, got 0.0",
    "power_schedule(1.0, 0.0, -0.5)": "ValueError: amplitude must be positive and finite, got 0.0",
    "power_schedule(1.0, 4.0, 0.5)": "ValueError: exponent must be negative, got 0.5",
    "power_schedule(1.0, 4.0, math.nan)": "ValueError: exponent must be finite, got nan",
    "power_schedule(1.0, 4.0, -0.5, -1)": "ValueError: warmup_steps must not be negative, got -1",
    "power_schedule(1.0, 4.0, -0.5, 1, -4)": "ValueError: tokens_per_step must be positive and finite, got -4",
    "cyclic_schedule(0.0, 1.0, 0)": "ValueError: up_steps must be positive, got 0",
    "cyclic_schedule(0.0, 1.0, 5, 0)": "ValueError: down_steps must be positive, got 0",
    "cyclic_schedule(0.0, 1.0, 5, mode='saw')": "ValueError: mode must be 'triangular', 'triangular2' or 'exp_range', "
    "got 'saw'",
    "cyclic_schedule(0.0, 1.0, 5, mode=[])": "ValueError: mode must be 'triangular', ",
    "cyclic_schedule(0.0, 1.0, 5, mode='exp_range')": "ValueError: the mode 'exp_range', and no other, takes gamma; ",
    "cyclic_schedule(0.0, 1.0, 5, gamma=0.9)": "ValueError: the mode 'exp_range', and no other, takes gamma; ",
    "cyclic_schedule(0.0, 1.0, 5, mode='exp_range', gamma=0)": "ValueError: gamma must be positive and finite, got 0",
    "cyclic_schedule(0.0, 1.0, 5, mode='exp_range', gamma=2)": "ValueError: gamma must not be above 1, got 2",
    "linear_onecycle_schedule(0, 1.0)": "ValueError: transition_steps must be positive, got 0",
    "linear_onecycle_schedule(9, 'a')": "TypeError: peak_value must be a real number, got 'a'",
    "linear_onecycle_schedule(9, 1.0, -0.1)": "ValueError: pct_start must be in [0, 1], got -0.1",
    "linear_onecycle_schedule(9, 1.0, 30)": "ValueError: pct_start must be in [0, 1], got 30",
    "linear_onecycle_schedule(9, 1.0, math.nan)": "ValueError: pct_start must be finite, got nan",
    "linear_onecycle_schedule(9, 1.0, 'a')": "TypeError: pct_start must be a real number, got 'a'",
    "linear_onecycle_schedule(9, 1.0, 0.3, 1.1)": "ValueError: pct_final must be in [0, 1], got 1.1",
    "linear_onecycle_schedule(9, 1.0, 0.8, 0.3)": "ValueError: pct_start must not be above pct_final, got 0.8 and 0.3",
    "linear_onecycle_schedule(9, 1.0, div_factor=0)": "ValueError: div_factor must be positive and finite, got 0",
    "cosine_onecycle_schedule(-1, 1.0)": "ValueError: transition_steps must be positive, got -1",
    "cosine_onecycle_schedule(9, 1.0, 2)": "ValueError: pct_start must be in [0, 1], got 2",
    "cosine_onecycle_schedule(9, 1.0, final_div_factor=-1)": "ValueError: final_div_factor must be positive and ",
    "sgdr_schedule([])": "ValueError: cosine_kwargs must have at least one cycle, got none",
    "sgdr_schedule(CYCLE)": "TypeError: cosine_kwargs[0]: must be a dict, got 'init_value'",
    "sgdr_schedule([CYCLE, 5])": "TypeError: cosine_kwargs[1]: must be a dict, got 5",
    "sgdr_schedule([CYCLE, {'peak_value': 1.0}])": "TypeError: cosine_kwargs[1]: missing a required argument: ",
    "sgdr_schedule([{**CYCLE, 'steps': 1}])": "TypeError: cosine_kwargs[0]: unknown argument 'steps'; its ",
    "sgdr_schedule([CYCLE, {**CYCLE, 'decay_steps': 0}])": "ValueError: cosine_kwargs[1]: decay_steps must be positive",
    "sgdr_schedule([CYCLE, {**CYCLE, 'warmup_steps': 9}])": "ValueError: cosine_kwargs[1]: decay_steps includes ",
    "sgdr_schedule([CYCLE, {**CYCLE, 'decay_steps': '5'}])": "TypeError: cosine_kwargs[1]: decay_steps must be an int",
    "sgdr_schedule([{**CYCLE, 'exponent': -1}])": "ValueError: cosine_kwargs[0]: exponent must be positive",
}


@pytest.mark.parametrize(("call", "raised"), ERRORS.items(), ids=ERRORS)
def test_errors(call, raised):
    error, message = raised.split(": ", 1)
    with pytest.raises({"TypeError": TypeError, "ValueError": ValueError}[error]) as caught:
        eval(call, NAMES)
    assert str(caught.value).startswith(f"gdjax.{call.partition('(')[0]}: {message}")


def test_traced_step_count():
    with pytest.raises(TypeError, match="linear_schedule: transition_steps must be a Python int, got a traced value"):
        jax.jit(lambda steps: linear_schedule(1.0, 0.1, steps)(0))(9)


def test_traced_share():
    with pytest.raises(TypeError, match="cosine_onecycle_schedule: pct_start must be a Python number, got a traced"):
        jax.jit(lambda share: schedules.cosine_onecycle_schedule(10, 1.0, share)(0))(0.3)


@pytest.mark.parametrize("step", [True, "3", 1j, None])
def test_step_of_a_wrong_kind(step):
    with pytest.raises(TypeError, match="gdjax: the step of a schedule must be an integer or a float, got "):
        JOINED(step)


WHOLE = 1e1, 0.1 * 0.2 * 0.5 * 1000, np.int32(10), np.float32(0.1) * np.float32(100), np.array(10), np.array(10.0)


@pytest.mark.parametrize("ten", [*WHOLE, jnp.int32(10), jnp.uint8(10), jnp.float32(10.000001)])
def test_a_whole_number_of_steps_is_one_in_any_type(ten: Any):
    schedule = warmup_cosine_decay_schedule(0.0, 1.0, ten, 2 * ten)
    assert jnp.array_equal(schedule(STEPS), warmup_cosine_decay_schedule(0.0, 1.0, 10, 20)(STEPS))
    joined = schedules.join_schedules([schedule, JOINED], [ten])
    assert jnp.array_equal(joined(STEPS), schedules.join_schedules([schedule, JOINED], [10])(STEPS))
    long = linear_schedule(1.0, 0.0, 2**25, ten)
    assert long(2**25 + 9) == 2.0**-25  # no step is lost, as in float32 it would be


def test_boundaries_that_differ_by_a_rounding_keep_both_scales():
    scales = {10: 0.5, 0.1 * 0.2 * 0.5 * 1000: 0.25}
    assert len(scales) == 2
    assert [float(schedules.piecewise_constant_schedule(1.0, scales)(t)) for t in (9, 10)] == [1.0, 0.125]
