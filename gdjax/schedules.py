"""Schedules: functions of the step, the number of updates made before this one, to the value of a hyperparameter.

A schedule takes an int, a NumPy integer, a traced or an array step, element by element, or a float one. A negative step
counts as 0, an integer above 2^31 - 1 as 2^31 - 1. It returns a float32 of the step's shape (float64 if x64 is on and
a hyperparameter is a float64 array), in float32's accuracy however long the run; only a float step can be too coarse.

Hyperparameters may be Python numbers or scalar arrays, traced ones too. Numbers of steps must be Python ints: they
shape the program. Factories check what they can see: a wrong kind is a TypeError, a wrong value a ValueError.
"""

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from gdjax import curves
from gdjax.base import Schedule
from gdjax.curves import check_numbers, check_steps, of_count
from gdjax.piecewise import join_schedules as join_schedules
from gdjax.piecewise import piecewise_constant_schedule as piecewise_constant_schedule
from gdjax.piecewise import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from gdjax.values import value as by_value


@by_value
def constant_schedule(value: ArrayLike) -> Schedule:
    """`value` at every step.

    Departs from Optax, which returns the argument as it is: here it is a float32 of the step's shape.
    """
    check_numbers("constant_schedule", value=value)
    return of_count(curves.constant(value))


@by_value
def linear_schedule(
    init_value: ArrayLike, end_value: ArrayLike, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """A straight line from `init_value` to `end_value`.

    With x = (step - transition_begin) / transition_steps, held within [0, 1]::

        value = init_value + (end_value - init_value) * x

    Args:
      init_value: the value up to step `transition_begin`, exactly.
      end_value: the value from step `transition_begin + transition_steps` on, exactly.
      transition_steps: length of the line in steps, at least 1.
      transition_begin: steps before the line, at least 0.

    Departs from Optax, which loses steps above 2^24, misses `end_value` by a rounding when compiled, and holds
    `init_value` for ever if `transition_steps <= 0`.
    """
    steps = check_steps("linear_schedule", "transition_steps", transition_steps, least=1)
    begin = check_steps("linear_schedule", "transition_begin", transition_begin)
    check_numbers("linear_schedule", init_value=init_value, end_value=end_value)
    return of_count(curves.transition(init_value, end_value, steps, begin))


@by_value
def polynomial_schedule(
    init_value: ArrayLike, end_value: ArrayLike, power: ArrayLike, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """A power of the fraction of steps that is left, from `init_value` to `end_value`.

    With x = (step - transition_begin) / transition_steps, held within [0, 1]::

        value = end_value + (init_value - end_value) * (1 - x)^power

    Args:
      init_value: the value up to step `transition_begin`, exactly.
      end_value: the value from step `transition_begin + transition_steps` on, exactly.
      power: above 0; 1 is `linear_schedule`.
      transition_steps: length of the curve in steps, at least 1.
      transition_begin: steps before the curve, at least 0.

    Departs from Optax as `linear_schedule` does.
    """
    steps = check_steps("polynomial_schedule", "transition_steps", transition_steps, least=1)
    begin = check_steps("polynomial_schedule", "transition_begin", transition_begin)
    numbers = {"init_value": init_value, "end_value": end_value, "power": power}
    check_numbers("polynomial_schedule", positive=["power"], **numbers)
    return of_count(curves.transition(init_value, end_value, steps, begin, power))


@by_value
def exponential_decay(
    init_value: ArrayLike,
    transition_steps: int,
    decay_rate: ArrayLike,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: ArrayLike | None = None,
) -> Schedule:
    """Multiplies by `decay_rate` once in `transition_steps` steps, smoothly or in stairs.

    With q = max(step - transition_begin, 0) / transition_steps, rounded down if `staircase`::

        value = init_value * decay_rate^q

    and then max(value, end_value) if decay_rate < 1, else min(value, end_value).

    Args:
      init_value: the value up to step `transition_begin`.
      transition_steps: steps per factor, at least 1.
      decay_rate: the factor, above 0.
      transition_begin: steps before the decay, at least 0.
      staircase: whether the value changes only at multiples of `transition_steps`.
      end_value: a limit that the value reaches exactly and does not pass, or None.

    Departs from Optax, which holds `init_value` for ever if `transition_steps <= 0` or `decay_rate == 0`, and which
    is off by 1e-4 after 10,000 factors of 0.999: here a rate that is a plain number keeps its double precision.
    """
    check_numbers("exponential_decay", init_value=init_value)
    decay = transition_steps, decay_rate, transition_begin, staircase, end_value
    return of_count(_decay("exponential_decay", init_value, *decay))


@by_value
def cosine_decay_schedule(
    init_value: ArrayLike, decay_steps: int, alpha: ArrayLike = 0.0, exponent: ArrayLike = 1.0
) -> Schedule:
    """Half a period of a cosine, from `init_value` to `alpha * init_value`.

    With x = step / decay_steps, at most 1::

        value = init_value * (alpha + (1 - alpha) * ((1 + cos(pi * x)) / 2)^exponent)

    Args:
      init_value: the value at step 0, exactly.
      decay_steps: length of the decay in steps, at least 1.
      alpha: the last value as a multiple of `init_value`.
      exponent: power of the cosine, above 0.

    Departs from Optax, which follows the cosine at negative steps, and near the end loses what 1 + cos(pi * x) rounds
    away.

    Reference: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, eq. 5.
    """
    steps = check_steps("cosine_decay_schedule", "decay_steps", decay_steps, least=1)
    numbers = {"init_value": init_value, "alpha": alpha, "exponent": exponent}
    check_numbers("cosine_decay_schedule", positive=["exponent"], **numbers)
    end = init_value, alpha
    return of_count(curves.transition(init_value, end, steps, power=exponent, shape=curves.half_cosine))


@by_value
def warmup_constant_schedule(init_value: ArrayLike, peak_value: ArrayLike, warmup_steps: int) -> Schedule:
    """A straight line from `init_value` at step 0 to `peak_value` at step `warmup_steps`, which then stays.

    Args:
      init_value: the value at step 0, exactly, unless there is no warm-up.
      peak_value: the value from step `warmup_steps` on, exactly.
      warmup_steps: length of the warm-up in steps, at least 0.

    Departs from Optax, which without a warm-up stays at `init_value`.
    """
    warmup = check_steps("warmup_constant_schedule", "warmup_steps", warmup_steps)
    check_numbers("warmup_constant_schedule", init_value=init_value, peak_value=peak_value)
    return of_count(curves.transition(init_value, peak_value, warmup))


@by_value
def warmup_cosine_decay_schedule(
    init_value: ArrayLike,
    peak_value: ArrayLike,
    warmup_steps: int,
    decay_steps: int,
    end_value: ArrayLike = 0.0,
    exponent: ArrayLike = 1.0,
) -> Schedule:
    """A straight line up to `peak_value`, then half a period of a cosine down to `end_value`.

    Up to step warmup_steps the line of `warmup_constant_schedule`, then, with
    x = (step - warmup_steps) / (decay_steps - warmup_steps), at most 1::

        value = end_value + (peak_value - end_value) * ((1 + cos(pi * x)) / 2)^exponent

    Args:
      init_value: the value at step 0, exactly, unless there is no warm-up.
      peak_value: the value at step `warmup_steps`, exactly.
      warmup_steps: length of the warm-up in steps, at least 0.
      decay_steps: length of the whole schedule, *warm-up included*; more than `warmup_steps`.
      end_value: the value from step `decay_steps` on, exactly.
      exponent: power of the cosine, above 0.

    Departs from Optax, which replaces `end_value` by 0 if `peak_value` is 0, and cannot trace `peak_value`.
    """
    name = "warmup_cosine_decay_schedule"
    warmup = check_steps(name, "warmup_steps", warmup_steps)
    steps = check_steps(name, "decay_steps", decay_steps, least=1)
    if warmup >= steps:
        raise ValueError(
            f"gdjax.{name}: decay_steps includes the warm-up and must be more than warmup_steps, "
            f"got decay_steps={steps} and warmup_steps={warmup}"
        )
    numbers = {"init_value": init_value, "peak_value": peak_value, "end_value": end_value, "exponent": exponent}
    check_numbers(name, positive=["exponent"], **numbers)
    rise = curves.transition(init_value, peak_value, warmup)
    fall = curves.transition(peak_value, end_value, steps - warmup, power=exponent, shape=curves.half_cosine)
    return of_count(curves.join([rise, fall], [warmup]))


@by_value
def warmup_exponential_decay_schedule(
    init_value: ArrayLike,
    peak_value: ArrayLike,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: ArrayLike,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: ArrayLike | None = None,
) -> Schedule:
    """A straight line from `init_value` to `peak_value`, then `exponential_decay` from there, its steps counted anew.

    Args:
      init_value: the value at step 0, exactly, unless there is no warm-up.
      peak_value: the value at step `warmup_steps`, exactly.
      warmup_steps: length of the warm-up in steps, at least 0.
      transition_steps: steps per factor, at least 1.
      decay_rate: the factor, above 0.
      transition_begin: steps between the warm-up and the decay, at least 0.
      staircase: whether the value changes only at multiples of `transition_steps`.
      end_value: a limit that the decay reaches exactly and does not pass, or None.

    Departs from Optax as `exponential_decay` does.
    """
    name = "warmup_exponential_decay_schedule"
    warmup = check_steps(name, "warmup_steps", warmup_steps)
    check_numbers(name, init_value=init_value, peak_value=peak_value)
    rise = curves.transition(init_value, peak_value, warmup)
    fall = _decay(name, peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    return of_count(curves.join([rise, fall], [warmup]))


def _decay(
    factory: str, start: Any, transition_steps: Any, decay_rate: Any, transition_begin: Any, staircase: Any, end: Any
) -> curves.Curve:
    steps = check_steps(factory, "transition_steps", transition_steps, least=1)
    begin = check_steps(factory, "transition_begin", transition_begin)
    check_numbers(factory, positive=["decay_rate"], decay_rate=decay_rate)
    if end is not None:
        check_numbers(factory, end_value=end)
    if not isinstance(staircase, bool | np.bool_):
        raise TypeError(f"gdjax.{factory}: staircase must be True or False, got {staircase!r}")
    return curves.decay(start, steps, decay_rate, begin, bool(staircase), end)
