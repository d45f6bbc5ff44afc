"""Schedules that begin with a warm-up. `gdjax.schedules` says what a schedule takes and returns."""

from typing import Any, Literal

from gdjax.core.types import ArrayLike, Schedule
from gdjax.core.values import value as by_value
from gdjax.schedules import curves
from gdjax.schedules.arguments import check_choice, check_numbers, check_steps, is_zero, warn_of_constant
from gdjax.schedules.curves import of_count
from gdjax.schedules.decay import checked_decay, checked_line

__all__ = [
    "warmup_constant_schedule", "warmup_cosine_decay_schedule", "warmup_exponential_decay_schedule",
    "warmup_linear_decay_schedule", "warmup_stable_decay_schedule",
]  # fmt: skip


@by_value
def warmup_constant_schedule(init_value: ArrayLike, peak_value: ArrayLike, warmup_steps: int) -> Schedule:
    """A straight line from `init_value` at step 0 to `peak_value` at step `warmup_steps`, and `peak_value` from there.

    Args:
      init_value: the value at step 0, exactly.
      peak_value: the value from step `warmup_steps` on, exactly.
      warmup_steps: length of the warm-up in steps. With 0 or less the value stays `init_value`, as in Optax; without a
        warm-up take `constant_schedule(peak_value)`.

    Warns:
      UserWarning: `warmup_steps` is 0 or less.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.warmup_constant_schedule(0.0, 0.1, warmup_steps=4)
      >>> [round(float(schedule(step)), 3) for step in range(7)]
      [0.0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.1]
    """
    name = "warmup_constant_schedule"
    check_numbers(name, init_value=init_value, peak_value=peak_value)
    return of_count(checked_line(name, init_value, peak_value, warmup_steps, name="warmup_steps"))


@by_value
def warmup_cosine_decay_schedule(
    init_value: ArrayLike, peak_value: ArrayLike, warmup_steps: int, decay_steps: int, end_value: ArrayLike = 0.0,
    exponent: ArrayLike = 1.0,
) -> Schedule:  # fmt: skip
    """A straight line up to `peak_value`, then half a period of a cosine down to `end_value`.

    Up to step warmup_steps the line of `warmup_constant_schedule`, then, with
    x = (step - warmup_steps) / (decay_steps - warmup_steps), at most 1::

        value = end_value + (peak_value - end_value) * ((1 + cos(pi * x)) / 2)^exponent

    Args:
      init_value: the value at step 0, exactly, unless there is no warm-up.
      peak_value: the value at step `warmup_steps`, exactly.
      warmup_steps: length of the warm-up in steps, at least 0.
      decay_steps: length of the whole schedule, *warm-up included*; more than `warmup_steps`.
      end_value: the value from step `decay_steps` on, exactly; 0 where `peak_value` is 0, as in Optax.
      exponent: power of the cosine, above 0; 0 turns the decay off, and the value stays `peak_value`.

    Departs from Optax, which cannot trace `peak_value`.

    Warns:
      UserWarning: `exponent` is 0, or `peak_value` is 0 and `end_value` is not.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.warmup_cosine_decay_schedule(
      ...     0.0, 0.1, warmup_steps=10, decay_steps=110, end_value=0.01)
      >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 60, 110)]
      [0.0, 0.05, 0.1, 0.055, 0.01]
      >>> tx = gdjax.adamw(schedule)  # calls it with the number of updates made so far
    """
    arguments = init_value, peak_value, warmup_steps, decay_steps, end_value, exponent
    return of_count(warmup_decay("warmup_cosine_decay_schedule", *arguments, shape=curves.half_cosine))


@by_value
def warmup_linear_decay_schedule(
    init_value: ArrayLike, peak_value: ArrayLike, warmup_steps: int, decay_steps: int, end_value: ArrayLike = 0.0
) -> Schedule:
    """Linear-to-zero: a straight line up to `peak_value`, then one down to `end_value`, by default to exactly 0.

    Up to step warmup_steps the line of `warmup_constant_schedule`, then, with
    x = (step - warmup_steps) / (decay_steps - warmup_steps), at most 1::

        value = peak_value + (end_value - peak_value) * x

    Args:
      init_value: the value at step 0, exactly, unless there is no warm-up.
      peak_value: the value at step `warmup_steps`, exactly.
      warmup_steps: length of the warm-up in steps, at least 0.
      decay_steps: length of the whole schedule, *warm-up included*; more than `warmup_steps`. The last of so many
        updates is step `decay_steps - 1`, where the value is still above `end_value` by the fall of one step.
      end_value: the value from step `decay_steps` on, exactly.

    Not in Optax.

    Example:
      >>> import gdjax
      >>> rate = gdjax.warmup_linear_decay_schedule(0.0, 1.0, warmup_steps=2, decay_steps=6)
      >>> [float(rate(step)) for step in range(6)]  # the rates of a run of 6 updates
      [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
      >>> float(rate(6))
      0.0

    Reference: Bergsma et al., Straight to Zero: Why Linearly Decaying the Learning Rate to Zero Works Best for LLMs,
    2025.
    """
    arguments = init_value, peak_value, warmup_steps, decay_steps, end_value, 1
    return of_count(warmup_decay("warmup_linear_decay_schedule", *arguments, shape=curves.straight))


@by_value
def warmup_stable_decay_schedule(
    init_value: ArrayLike, peak_value: ArrayLike, warmup_steps: int, stable_steps: int, decay_steps: int,
    end_value: ArrayLike = 0.0, decay_shape: Literal["linear", "cosine", "1-sqrt"] = "1-sqrt",
) -> Schedule:  # fmt: skip
    """WSD: a straight line up to `peak_value`, that value for a while, then a cooldown to `end_value`.

    Up to step warmup_steps the line of `warmup_constant_schedule`, then, with
    x = (step - warmup_steps - stable_steps) / decay_steps, held within [0, 1]::

        value = end_value + (peak_value - end_value) * (1 - x)                    "linear"
        value = end_value + (peak_value - end_value) * (1 + cos(pi * x)) / 2      "cosine"
        value = end_value + (peak_value - end_value) * (1 - sqrt(x))              "1-sqrt"

    Schedules that differ in `stable_steps` agree up to the earlier cooldown: a run can be extended, or cooled down from
    a checkpoint, as if it had been planned so.

    Args:
      init_value: the value at step 0, exactly, unless there is no warm-up.
      peak_value: the value from step `warmup_steps` to step `warmup_steps + stable_steps`, exactly.
      warmup_steps: length of the warm-up in steps, at least 0.
      stable_steps: length of the stable phase in steps, at least 0.
      decay_steps: length of the cooldown alone in steps, at least 1. The whole schedule is
        `warmup_steps + stable_steps + decay_steps` long.
      end_value: the value from the end of the cooldown on, exactly.
      decay_shape: "linear", "cosine" or "1-sqrt"; the last did best in Haegele et al.

    Not in Optax. The cooldown of MiniCPM, which halves the value again and again, is
    `warmup_exponential_decay_schedule` with decay_rate=0.5 and transition_begin=stable_steps.

    Example:
      >>> import gdjax
      >>> def wsd(stable):
      ...     return gdjax.warmup_stable_decay_schedule(0.0, 1.0, 10, stable, decay_steps=10)
      >>> short, long = wsd(20), wsd(40)
      >>> [round(float(short(step)), 3) for step in (0, 5, 10, 30, 35, 40, 60)]
      [0.0, 0.5, 1.0, 1.0, 0.293, 0.0, 0.0]
      >>> [round(float(long(step)), 3) for step in (0, 5, 10, 30, 35, 40, 60)]
      [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.0]

    Reference: Hu et al., MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies,
    2024, sec. 4; Haegele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, 2024,
    sec. 3.
    """
    name = "warmup_stable_decay_schedule"
    shapes = {"linear": curves.straight, "cosine": curves.half_cosine, "1-sqrt": curves.one_minus_root}
    check_choice(name, "decay_shape", decay_shape, shapes)
    warmup = check_steps(name, "warmup_steps", warmup_steps)
    stable = check_steps(name, "stable_steps", stable_steps)
    steps = check_steps(name, "decay_steps", decay_steps, least=1)
    check_numbers(name, init_value=init_value, peak_value=peak_value, end_value=end_value)
    rise = curves.transition(init_value, peak_value, warmup)
    fall = curves.transition(peak_value, end_value, steps, stable, shape=shapes[decay_shape])
    return of_count(curves.join([rise, fall], [warmup]))


@by_value
def warmup_exponential_decay_schedule(
    init_value: ArrayLike, peak_value: ArrayLike, warmup_steps: int, transition_steps: int, decay_rate: ArrayLike,
    transition_begin: int = 0, staircase: bool = False, end_value: ArrayLike | None = None,
) -> Schedule:  # fmt: skip
    """A straight line from `init_value` to `peak_value`, then `exponential_decay`, which counts its steps from there.

    Args:
      init_value: the value at step 0, exactly, unless there is no warm-up.
      peak_value: the value at step `warmup_steps`, exactly.
      warmup_steps: length of the warm-up in steps, at least 0.
      transition_steps: steps per factor; 0 or less turns the decay off, and the value stays `peak_value`.
      decay_rate: the factor, above 0; 0 turns the decay off as well.
      transition_begin: steps between the warm-up and the decay; less than 0 is 0.
      staircase: whether the value changes only at multiples of `transition_steps`.
      end_value: a limit that the decay reaches exactly and does not pass, or None.

    Departs from Optax as `exponential_decay` does, and warns as it does.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.warmup_exponential_decay_schedule(
      ...     0.0, 1.0, warmup_steps=10, transition_steps=10, decay_rate=0.5, end_value=0.1)
      >>> [round(float(schedule(step)), 3) for step in (0, 10, 15, 20, 30, 100)]
      [0.0, 1.0, 0.707, 0.5, 0.25, 0.1]
    """
    name = "warmup_exponential_decay_schedule"
    warmup = check_steps(name, "warmup_steps", warmup_steps)
    check_numbers(name, init_value=init_value, peak_value=peak_value)
    rise = curves.transition(init_value, peak_value, warmup)
    fall = checked_decay(name, peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    return of_count(curves.join([rise, fall], [warmup]))


def warmup_decay(
    factory: str, init_value: ArrayLike, peak_value: ArrayLike, warmup_steps: int, decay_steps: int,
    end_value: ArrayLike, exponent: ArrayLike, *, shape: curves.Shape,
) -> curves.Curve:  # fmt: skip
    """A line up, then a fall of `shape`; `decay_steps` includes both. Checks the arguments of `factory`."""
    warmup = check_steps(factory, "warmup_steps", warmup_steps)
    steps = check_steps(factory, "decay_steps", decay_steps, least=1)
    if warmup >= steps:
        raise ValueError(
            f"gdjax.{factory}: decay_steps includes the warm-up and must be more than warmup_steps, "
            f"got decay_steps={steps} and warmup_steps={warmup}"
        )
    numbers: dict[str, Any] = dict(init_value=init_value, peak_value=peak_value, end_value=end_value, exponent=exponent)
    check_numbers(factory, positive=[] if is_zero(exponent) else ["exponent"], **numbers)
    if shape is curves.half_cosine and is_zero(peak_value) and not is_zero(end_value):
        warn_of_constant(factory, "peak_value", peak_value, f"0 after the warm-up, whatever end_value={end_value} says")
        end_value = peak_value
    rise = curves.transition(init_value, peak_value, warmup)
    fall = curves.transition(peak_value, end_value, steps - warmup, power=exponent, shape=shape)
    if is_zero(exponent):
        warn_of_constant(factory, "exponent", exponent, "peak_value")
        fall = curves.constant(peak_value)
    return curves.join([rise, fall], [warmup])
