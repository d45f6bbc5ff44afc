"""Schedules with cycles. `gdjax.schedules` says what a schedule takes and returns."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import accumulate
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.core.checks import NUMBER
from gdjax.core.types import ArrayLike, Schedule
from gdjax.core.values import Value, bind
from gdjax.core.values import value as by_value
from gdjax.schedules import curves
from gdjax.schedules.arguments import check_choice, check_numbers, check_steps
from gdjax.schedules.curves import Inverse, of_count
from gdjax.schedules.decay import exponential
from gdjax.schedules.warmup import warmup_cosine_decay_schedule, warmup_decay

__all__ = ["cosine_onecycle_schedule", "cyclic_schedule", "linear_onecycle_schedule", "sgdr_schedule"]


@by_value
def linear_onecycle_schedule(
    transition_steps: int, peak_value: ArrayLike, pct_start: float = 0.3, pct_final: float = 0.85,
    div_factor: ArrayLike = 25.0, final_div_factor: ArrayLike = 1e4,
) -> Schedule:  # fmt: skip
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
    transition_steps: int, peak_value: ArrayLike, pct_start: float = 0.3, div_factor: ArrayLike = 25.0,
    final_div_factor: ArrayLike = 1e4,
) -> Schedule:  # fmt: skip
    """One cycle of half cosines: up to `peak_value`, and down to a value much smaller than the first one.

    The value is, at these steps and on half cosines between them::

        0                               init = peak_value / div_factor
        pct_start * transition_steps    peak_value
        transition_steps                init / final_div_factor

    Arguments are those of `gdjax.linear_onecycle_schedule`.

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
    counts = [steps]
    for name, share in shares.items():
        if isinstance(share, Tracer):
            raise TypeError(f"gdjax.{factory}: {name} must be a Python number, got a traced value")
        check_numbers(factory, **{name: share})
        if not 0 <= share <= 1:
            raise ValueError(f"gdjax.{factory}: {name} must be in [0, 1], got {share}")
        counts.append(int(Fraction(str(+np.asarray(share)[()])) * Fraction(steps)))
    return counts


def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """SGDR, warm restarts: one `warmup_cosine_decay_schedule` after the other, each counting its steps from 0.

    Args:
      cosine_kwargs: the arguments of each cycle, at least one. A cycle lasts its `decay_steps`, warm-up included; after
        the last one its `end_value` stays.

    Raises:
      TypeError, ValueError: as `warmup_cosine_decay_schedule`, naming the cycle.

    Departs from Optax, which accepts no cycle and fails when called.

    Example:
      >>> import gdjax
      >>> cycle = dict(init_value=0.0, peak_value=1.0, warmup_steps=1)
      >>> first, second = dict(cycle, decay_steps=3), dict(cycle, decay_steps=5)
      >>> schedule = gdjax.sgdr_schedule([first, second])
      >>> [round(float(schedule(step)), 2) for step in range(9)]
      [0.0, 1.0, 0.5, 0.0, 1.0, 0.85, 0.5, 0.15, 0.0]

    Reference: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, sec. 3.
    """
    name, cycles, joined = "sgdr_schedule", [], []
    for i, kwargs in enumerate(cosine_kwargs):
        where = f"{name}: cosine_kwargs[{i}]"
        if not isinstance(kwargs, Mapping):
            raise TypeError(f"gdjax.{where}: must be a dict, got {kwargs!r}")
        try:
            arguments = bind(warmup_cosine_decay_schedule, (), dict(kwargs)).arguments
        except TypeError as e:
            raise TypeError(f"gdjax.{where}: {str(e).partition(': ')[2]}") from None
        cycles.append(arguments)
        joined.append(warmup_decay(where, **arguments, shape=curves.half_cosine))
    if not cycles:
        raise ValueError(f"gdjax.{name}: cosine_kwargs must have at least one cycle, got none")
    boundaries = [*accumulate(check_steps(name, "decay_steps", cycle["decay_steps"]) for cycle in cycles)]
    fn = of_count(curves.join(joined, boundaries[:-1]))
    # Called with copies: the value keeps neither an iterator nor the caller's dicts.
    return Value(bind(sgdr_schedule, (cycles,), {}), None, fn)


@by_value
def cyclic_schedule(
    init_value: ArrayLike, peak_value: ArrayLike, up_steps: int, down_steps: int | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular", gamma: ArrayLike | None = None,
) -> Schedule:  # fmt: skip
    """Cyclical learning rates: up to `peak_value` and down again in straight lines, for ever.

    In the cycle c = floor(step / (up_steps + down_steps)), with h the height of the triangle, 0 at its foot and 1 at
    its top::

        value = init_value + (peak_value - init_value) * h               "triangular"
        value = init_value + (peak_value - init_value) * h / 2^c         "triangular2"
        value = init_value + (peak_value - init_value) * h * gamma^step  "exp_range"

    Args:
      init_value: the value at the feet, exactly.
      peak_value: the value at the top, exactly in the first mode, and in the first cycle in the second.
      up_steps: steps from the foot to the top, at least 1; the paper's stepsize.
      down_steps: steps from the top to the foot, at least 1; None is `up_steps`, as in the paper.
      mode: "triangular", "triangular2" or "exp_range".
      gamma: the factor per step in the mode "exp_range", in (0, 1]; None in the others.

    Not in Optax. In the mode "exp_range" only the height shrinks, as in PyTorch; in the text of the paper the lower
    bound does too. For that, multiply the "triangular" value by `exponential_decay(1.0, 1, gamma)`.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.cyclic_schedule(0.0, 1.0, up_steps=2, mode="triangular2")
      >>> [float(schedule(step)) for step in range(10)]
      [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25, 0.0, 0.125]

    Reference: Smith, Cyclical Learning Rates for Training Neural Networks, 2017, sec. 3.
    """
    name = "cyclic_schedule"
    up = check_steps(name, "up_steps", up_steps, least=1)
    down = up if down_steps is None else check_steps(name, "down_steps", down_steps, least=1)
    check_choice(name, "mode", mode, ["triangular", "triangular2", "exp_range"])
    check_numbers(name, init_value=init_value, peak_value=peak_value)
    if (gamma is None) == (mode == "exp_range"):
        raise ValueError(f"gdjax.{name}: the mode 'exp_range', and no other, takes gamma; got {mode!r} and {gamma!r}")
    if gamma is not None:
        check_numbers(name, positive=["gamma"], gamma=gamma)
        if isinstance(gamma, NUMBER) and gamma > 1:
            raise ValueError(f"gdjax.{name}: gamma must not be above 1, got {gamma}")
    sizes = {
        "triangular": curves.constant(1.0),
        "triangular2": exponential(1.0, up + down, 0.5, 0, True, None),
        "exp_range": exponential(1.0, 1, gamma, 0, False, None),
    }

    def curve(step: jax.Array) -> jax.Array:
        dtype = curves.float_type(init_value, peak_value, gamma, step)
        at = curves.modulo(step, up + down)
        risen, to_rise = curves.fractions(at, 0, up, dtype)
        fallen, to_fall = curves.fractions(at, up, down, dtype)
        rising = curves.since(at, up) < 0
        high, low = jnp.where(rising, risen, to_fall), jnp.where(rising, to_rise, fallen)
        scale = curves.in_dtype(sizes[mode](step), dtype)
        start, end = curves.product(init_value, dtype), curves.product(peak_value, dtype)
        return curves.between(start, end, high * scale, low + high * (1.0 - scale))

    return of_count(curve)
