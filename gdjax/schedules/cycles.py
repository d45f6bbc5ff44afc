"""Schedules that rise and fall again and again. `gdjax.schedules` says what a schedule takes and returns."""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.core.checks import NUMBER
from gdjax.core.types import Schedule
from gdjax.core.values import Value, bind
from gdjax.core.values import value as by_value
from gdjax.schedules import curves
from gdjax.schedules.arguments import check_choice, check_numbers, check_steps
from gdjax.schedules.curves import of_count
from gdjax.schedules.decay import exponential
from gdjax.schedules.warmup import warmup_cosine_decay_schedule, warmup_decay


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
    init_value: ArrayLike,
    peak_value: ArrayLike,
    up_steps: int,
    down_steps: int | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: ArrayLike | None = None,
) -> Schedule:
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
