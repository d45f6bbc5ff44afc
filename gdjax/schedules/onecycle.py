"""One-cycle schedules: one rise, one fall. `gdjax.schedules` says what a schedule takes and returns."""

from fractions import Fraction
from typing import Any

import numpy as np
from jax.core import Tracer

from gdjax.core.types import ArrayLike, Schedule
from gdjax.core.values import value as by_value
from gdjax.schedules import curves
from gdjax.schedules.arguments import check_numbers, check_steps
from gdjax.schedules.curves import Inverse, of_count


@by_value
def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: ArrayLike,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: ArrayLike = 25.0,
    final_div_factor: ArrayLike = 1e4,
) -> Schedule:
    """One cycle of straight lines: up to `peak_value`, back to where it began, and on to a much smaller value.

    The value is, at these steps and on lines between them::

        0                               init = peak_value / div_factor
        pct_start * transition_steps    peak_value
        pct_final * transition_steps    init
        transition_steps                init / final_div_factor

    Args:
      transition_steps: length of the cycle in steps, at least 1.
      peak_value: the largest value.
      pct_start: the fraction of the steps at which the peak is, in [0, 1]; 0.3 is 30 percent. Steps are rounded down.
      pct_final: the fraction at which the last line begins, in [pct_start, 1].
      div_factor: the peak as a multiple of the value at step 0, above 0.
      final_div_factor: the value at step 0 as a multiple of the last value, above 0.

    Where two of the steps are the same, the value jumps there to the later one.

    Departs from Optax, which drops a line of no steps together with its factor and so misses the last value, and which
    takes pct_start=0.29 of 100 steps for 28, because 0.29 * 100 is less than 29 in binary; here it is 29.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.linear_onecycle_schedule(transition_steps=100, peak_value=1.0)
      >>> [round(float(schedule(step)), 6) for step in (0, 15, 30, 85, 100)]
      [0.04, 0.52, 1.0, 0.04, 4e-06]

    Reference: Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates,
    2017.
    """
    name = "linear_onecycle_schedule"
    init, last = _feet(name, peak_value, div_factor, final_div_factor)
    steps, peak, final = _steps(name, transition_steps, pct_start=pct_start, pct_final=pct_final)
    if peak > final:
        raise ValueError(f"gdjax.{name}: pct_start must not be above pct_final, got {pct_start} and {pct_final}")
    return of_count(curves.through([init, peak_value, init, last], [peak, final, steps]))


@by_value
def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: ArrayLike,
    pct_start: float = 0.3,
    div_factor: ArrayLike = 25.0,
    final_div_factor: ArrayLike = 1e4,
) -> Schedule:
    """One cycle of half cosines: up to `peak_value`, and down to a value much smaller than the first one.

    The value is, at these steps and on half cosines between them::

        0                               init = peak_value / div_factor
        pct_start * transition_steps    peak_value
        transition_steps                init / final_div_factor

    Args:
      transition_steps: length of the cycle in steps, at least 1.
      peak_value: the largest value.
      pct_start: the fraction of the steps at which the peak is, in [0, 1]; 0.3 is 30 percent. Steps are rounded down.
      div_factor: the peak as a multiple of the value at step 0, above 0.
      final_div_factor: the value at step 0 as a multiple of the last value, above 0.

    Where two of the steps are the same, the value jumps there to the later one.

    Departs from Optax as `linear_onecycle_schedule` does.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.cosine_onecycle_schedule(
      ...     100, peak_value=1.0, pct_start=0.5, div_factor=10, final_div_factor=100)
      >>> [round(float(schedule(step)), 3) for step in (0, 25, 50, 100)]
      [0.1, 0.55, 1.0, 0.001]

    Reference: Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates,
    2017; the half cosines are those of the fastai library.
    """
    name = "cosine_onecycle_schedule"
    init, last = _feet(name, peak_value, div_factor, final_div_factor)
    steps, peak = _steps(name, transition_steps, pct_start=pct_start)
    return of_count(curves.through([init, peak_value, last], [peak, int(steps)], curves.half_cosine))


def _feet(
    factory: str, peak_value: ArrayLike, div_factor: ArrayLike, final_div_factor: ArrayLike
) -> tuple[tuple[Any, ...], ...]:
    """The first and the last value of a cycle."""
    factors: dict[str, Any] = {"div_factor": div_factor, "final_div_factor": final_div_factor}
    check_numbers(factory, positive=list(factors), peak_value=peak_value, **factors)
    init = peak_value, Inverse(div_factor)
    return init, (*init, Inverse(final_div_factor))


def _steps(factory: str, transition_steps: int, **shares: Any) -> list[float]:
    """The number of steps, and each of `shares` of it, rounded down; a share is the decimal fraction as written."""
    steps = check_steps(factory, "transition_steps", transition_steps, least=1)
    found = [steps]
    for name, share in shares.items():
        if isinstance(share, Tracer):
            raise TypeError(f"gdjax.{factory}: {name} must be a Python number, got a traced value")
        check_numbers(factory, **{name: share})
        if not 0 <= share <= 1:
            raise ValueError(f"gdjax.{factory}: {name} must be in [0, 1], got {share}")
        found.append(int(Fraction(str(+np.asarray(share)[()])) * Fraction(steps)))
    return found
