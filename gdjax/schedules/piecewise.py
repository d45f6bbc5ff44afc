"""Schedules made of pieces. `gdjax.schedules` says what a schedule takes and returns."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gdjax.core.callers import schedule as check_schedule
from gdjax.core.checks import NUMBER
from gdjax.core.types import ArrayLike, Schedule
from gdjax.core.values import value as by_value
from gdjax.schedules import curves
from gdjax.schedules.arguments import check_choice, check_numbers, check_steps
from gdjax.schedules.curves import of_count

__all__ = ["join_schedules", "piecewise_constant_schedule", "piecewise_interpolate_schedule"]


@by_value
def piecewise_constant_schedule(
    init_value: ArrayLike, boundaries_and_scales: Mapping[int, ArrayLike] | None = None
) -> Schedule:
    """`init_value` times the scales of all boundaries that the step has reached.

    Args:
      init_value: the value before the first boundary, exactly.
      boundaries_and_scales: {step: scale}, in any order; steps and scales at least 0. None is no boundary.

    Departs from Optax, which accepts boundaries that no step reaches, and rounds each product to float32; here plain
    numbers multiply in double precision.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.piecewise_constant_schedule(0.1, {30: 0.1, 60: 0.5})
      >>> [round(float(schedule(step)), 4) for step in (29, 30, 59, 60)]
      [0.1, 0.01, 0.01, 0.005]
    """
    starts, levels = _levels("piecewise_constant_schedule", init_value, boundaries_and_scales)
    return of_count(curves.join([curves.constant(level) for level in levels], starts))


@by_value
def piecewise_interpolate_schedule(
    interpolate_type: Literal["linear", "cosine"],
    init_value: ArrayLike,
    boundaries_and_scales: Mapping[int, ArrayLike] | None = None,
) -> Schedule:
    """The values of `piecewise_constant_schedule` at step 0 and at the boundaries, joined by lines or half cosines.

    Between boundaries s and e with values a and b, with x = (step - s) / (e - s)::

        value = a + (b - a) * x                              "linear"
        value = b + (a - b) * (1 + cos(pi * x)) / 2          "cosine"

    Args:
      interpolate_type: "linear" or "cosine".
      init_value: the value at step 0, exactly, unless that is a boundary.
      boundaries_and_scales: {step: scale}, in any order; steps and scales at least 0. None is no boundary. At a
        boundary the value is `init_value` times the scales of it and all before it; after the last it stays.

    Departs from Optax as `piecewise_constant_schedule` does.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.piecewise_interpolate_schedule("linear", 1.0, {10: 0.5, 20: 0.5})
      >>> [float(schedule(step)) for step in (0, 5, 10, 15, 20, 25)]
      [1.0, 0.75, 0.5, 0.375, 0.25, 0.25]
    """
    name = "piecewise_interpolate_schedule"
    shapes = {"linear": curves.straight, "cosine": curves.half_cosine}
    check_choice(name, "interpolate_type", interpolate_type, shapes)
    starts, levels = _levels(name, init_value, boundaries_and_scales)
    return of_count(curves.through(levels, starts, shapes[interpolate_type]))


@by_value
def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """One schedule after the other, each counting its steps from its boundary.

    Args:
      schedules: functions of a step to a scalar; the first one sees the steps as they are.
      boundaries: the step at which each schedule but the first takes over; at least 0 and never falling. A schedule is
        left out if the next one takes over at once, at an equal boundary or at 0. Further boundaries are ignored, so
        there may be one for the end of every schedule.

    Raises:
      ValueError: a schedule has no boundary to begin at, or boundaries fall; later, if a schedule returns neither a
        scalar nor one value per step.
      TypeError: a schedule is no function of one argument; later, if one returns no number.

    Departs from Optax, which ignores the schedules that have no boundary, and hands a schedule negative steps before
    its turn; here it sees 0.

    Example:
      >>> import gdjax
      >>> warmup = gdjax.linear_schedule(0.0, 1.0, transition_steps=4)
      >>> decay = gdjax.cosine_decay_schedule(1.0, decay_steps=4)
      >>> schedule = gdjax.join_schedules([warmup, decay], boundaries=[4])
      >>> [round(float(schedule(step)), 2) for step in range(9)]
      [0.0, 0.25, 0.5, 0.75, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    name, joined = "join_schedules", tuple(schedules)
    inner = tuple(boundaries)[: max(len(joined) - 1, 0)]
    for i, schedule in enumerate(joined):
        if not callable(schedule):
            raise TypeError(f"gdjax.{name}: schedules[{i}] must be callable, got {schedule!r}; see constant_schedule")
        check_schedule(f"gdjax.{name}", f"schedules[{i}]", schedule)
    if len(joined) != len(inner) + 1:
        raise ValueError(
            f"gdjax.{name}: needs a schedule, and a boundary for each but the first, "
            f"got {len(inner)} boundaries for {len(joined)} schedules"
        )
    starts = [check_steps(name, f"boundaries[{i}]", start) for i, start in enumerate(inner)]
    if any(a > b for a, b in itertools.pairwise(starts)):
        raise ValueError(f"gdjax.{name}: boundaries must not fall, got {starts}")
    return of_count(curves.join(joined, starts))


def _levels(
    factory: str, init_value: ArrayLike, scales: Mapping[int, Any] | None
) -> tuple[list[float], list[tuple[Any, ...]]]:
    """The boundaries in order, and `init_value` times the scales: before the first boundary and from each one on."""
    check_numbers(factory, init_value=init_value)
    pairs = [(check_steps(factory, "a boundary", start), scale) for start, scale in (scales or {}).items()]
    pairs.sort(key=lambda pair: pair[0])  # pairs, since two boundaries that differ by rounding are one with two scales
    for start, scale in pairs:
        check_numbers(factory, **{f"the scale at boundary {start}": scale})
        if isinstance(scale, NUMBER) and not scale >= 0:
            raise ValueError(f"gdjax.{factory}: the scale at boundary {start} must not be negative, got {scale}")
    factors = [scale for _, scale in pairs]
    return [start for start, _ in pairs], [(init_value, *factors[:i]) for i in range(len(factors) + 1)]
