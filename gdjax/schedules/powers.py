"""Schedules that follow a power or a quotient of the step. `gdjax.schedules` says what a schedule takes and returns."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.core.checks import NUMBER
from gdjax.core.types import Schedule
from gdjax.core.values import value as by_value
from gdjax.schedules import curves
from gdjax.schedules.arguments import check_numbers, check_steps
from gdjax.schedules.curves import of_count

__all__ = ["inverse_sqrt_schedule", "log_time_schedule", "power_schedule", "powercool_schedule", "rex_schedule"]


@by_value
def inverse_sqrt_schedule(
    init_value: ArrayLike, peak_value: ArrayLike, warmup_steps: int, timescale: ArrayLike | None = None
) -> Schedule:
    """A straight line up to `peak_value`, then a fall with the inverse square root of the step, without an end.

    Up to step warmup_steps the line of `warmup_constant_schedule`, then::

        value = peak_value * sqrt(timescale / (timescale + step - warmup_steps))

    which is peak_value * sqrt(warmup_steps / step) for the default timescale.

    - The transformer of Vaswani et al., d^-0.5 * min(n^-0.5, n * w^-1.5) for a width d, a warm-up of w updates and
      the update n = step + 1: `inverse_sqrt_schedule(peak / w, peak, w - 1, timescale=w)` with peak = (d * w)^-0.5.
    - T5, 1 / sqrt(max(step, k)): `inverse_sqrt_schedule(k**-0.5, k**-0.5, k)`; k is 10,000 in the paper.

    Args:
      init_value: the value at step 0, exactly, unless there is no warm-up.
      peak_value: the value at step `warmup_steps`, exactly.
      warmup_steps: length of the warm-up in steps, at least 0.
      timescale: the steps after the peak in which the value falls by sqrt(2), above 0; None is `warmup_steps`, which
        must then be at least 1.

    Not in Optax.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.inverse_sqrt_schedule(0.0, 1.0, warmup_steps=100)
      >>> [round(float(schedule(step)), 3) for step in (0, 50, 100, 400, 10_000)]
      [0.0, 0.5, 1.0, 0.5, 0.1]

    Reference: Vaswani et al., Attention Is All You Need, 2017, eq. 3; Raffel et al., Exploring the Limits of Transfer
    Learning with a Unified Text-to-Text Transformer, 2020, sec. 3.1.2.
    """
    name = "inverse_sqrt_schedule"
    warmup = check_steps(name, "warmup_steps", warmup_steps)
    scale = warmup if timescale is None else timescale
    if timescale is None and warmup == 0:
        raise ValueError(f"gdjax.{name}: without a warm-up timescale must be given, got None and warmup_steps=0")
    check_numbers(name, positive=["timescale"], init_value=init_value, peak_value=peak_value, timescale=scale)

    def fall(step: jax.Array) -> jax.Array:
        dtype = curves.float_type(peak_value, scale, step)
        s = curves.product(scale, dtype)
        return curves.product(peak_value, dtype) * jnp.sqrt(s / (s + curves.in_dtype(curves.real(step), dtype)))

    return of_count(curves.join([curves.transition(init_value, peak_value, warmup), fall], [warmup]))


@by_value
def power_schedule(
    peak_value: ArrayLike, amplitude: ArrayLike, exponent: ArrayLike, warmup_steps: int = 0,
    tokens_per_step: ArrayLike = 1,
) -> Schedule:  # fmt: skip
    """The power scheduler: a power of the tokens seen, cut at `peak_value`, after a straight line up from 0.

    With n = tokens_per_step * step::

        eta(n) = min(peak_value, amplitude * n^exponent)
        value = eta(n)                                                         from step warmup_steps on
        value = step / warmup_steps * eta(tokens_per_step * warmup_steps)      before

    It has no end: `join_schedules` joins a cooldown to 0 to it, whenever it is wanted.

    Args:
      peak_value: the largest value; it is that of eta(0).
      amplitude: what n^exponent is multiplied by, above 0. In the paper a batch size times a constant, the same for
        models of all sizes.
      exponent: below 0.
      warmup_steps: length of the warm-up in steps, at least 0.
      tokens_per_step: tokens in a batch, or what else n counts; above 0. 1 lets n count steps.

    Not in Optax.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.power_schedule(
      ...     0.02, amplitude=4.0, exponent=-0.5, warmup_steps=10, tokens_per_step=1000)
      >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 40, 160, 1000)]
      [0.0, 0.01, 0.02, 0.02, 0.01, 0.004]

    Reference: Shen et al., Power Scheduler: A Batch Size and Token Number Agnostic Learning Rate Scheduler, 2024.
    """
    name = "power_schedule"
    warmup = check_steps(name, "warmup_steps", warmup_steps)
    numbers: dict[str, Any] = {"amplitude": amplitude, "tokens_per_step": tokens_per_step}
    check_numbers(name, positive=list(numbers), peak_value=peak_value, exponent=exponent, **numbers)
    if isinstance(exponent, NUMBER) and not exponent < 0:
        raise ValueError(f"gdjax.{name}: exponent must be negative, got {exponent}")

    def curve(step: jax.Array) -> jax.Array:
        dtype = curves.float_type(peak_value, amplitude, exponent, tokens_per_step, step)
        peak, a, b, tokens = (curves.product(x, dtype) for x in (peak_value, amplitude, exponent, tokens_per_step))
        n = curves.in_dtype(curves.real(curves.not_before(step, warmup)), dtype)
        eta = jnp.minimum(peak, a * (tokens * jnp.where(n > 0, n, 1.0)) ** b)  # 0^b is infinite, its derivative NaN
        eta = jnp.where(n > 0, eta, peak)
        return curves.fractions(step, 0, warmup, dtype)[0] * eta if warmup else eta

    return of_count(curve)


@by_value
def log_time_schedule(delta: ArrayLike) -> Schedule:
    """The decay of an average that grows with a run: it reaches back over about the last 1 / delta of the steps.

        value = 1 - delta / (delta + step + 1)

    It rises to 1 without an end. It is for b1, b2 or b3 of any optimizer; an average of gradients that long needs
    damping, as in `adana`. For a weight decay that falls as omega / (delta + t) write
    `lambda count: omega / delta * (1 - schedule(count))`.

    Args:
      delta: above 0; 8 in the paper.

    Not in Optax. Adam's correction by 1 - b^t is for a constant b. Here it is off by 2 % at most, in the first steps,
    for a delta of 8, and wrong for one of 2 or less.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.log_time_schedule(8.0)
      >>> [round(float(schedule(step)), 4) for step in (0, 7, 71, 791, 7991)]
      [0.1111, 0.5, 0.9, 0.99, 0.999]

    Reference: Ferbach et al., Logarithmic-time Schedules for Scaling Language Models with Momentum, 2026.
    """
    check_numbers("log_time_schedule", positive=["delta"], delta=delta)

    def curve(step: jax.Array) -> jax.Array:
        dtype = curves.float_type(delta, step)
        t = curves.in_dtype(curves.real(step), dtype) + 1.0
        return 1.0 / (1.0 + curves.product(delta, dtype) / t)

    return of_count(curve)


@by_value
def rex_schedule(
    init_value: ArrayLike, end_value: ArrayLike, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """REX, the reflected exponential: falls slowly at first, and fastest at the end.

    Not in Optax.

    With x = (step - transition_begin) / transition_steps, held within [0, 1]::

        value = end_value + (init_value - end_value) * (1 - x) / (1/2 + (1 - x) / 2)

    Args:
      init_value: the value up to step `transition_begin`, exactly.
      end_value: the value from step `transition_begin + transition_steps` on, exactly; 0 in the paper.
      transition_steps: length of the curve in steps, at least 1; in the paper the whole training budget.
      transition_begin: steps before the curve, at least 0.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.rex_schedule(1.0, 0.0, transition_steps=100)
      >>> [round(float(schedule(step)), 3) for step in (0, 25, 50, 75, 100)]
      [1.0, 0.857, 0.667, 0.4, 0.0]

    Reference: Chen, Wolfe and Kyrillidis, REX: Revisiting Budgeted Training with an Improved Schedule, 2021.
    """
    steps = check_steps("rex_schedule", "transition_steps", transition_steps, least=1)
    begin = check_steps("rex_schedule", "transition_begin", transition_begin)
    check_numbers("rex_schedule", init_value=init_value, end_value=end_value)
    return of_count(curves.transition(init_value, end_value, steps, begin, shape=_reflected_exponential))


@by_value
def powercool_schedule(
    peak_value: ArrayLike, stable_steps: int, decay_steps: int, end_value: ArrayLike = 0.0, power: ArrayLike = 1.2
) -> Schedule:
    """PowerCool: one value for a while, then a fall with a power of the steps that are left.

    With x = (step - stable_steps) / decay_steps, held within [0, 1]::

        value = end_value + (peak_value - end_value) * (1 - x)^power

    Args:
      peak_value: the value up to step `stable_steps`, exactly.
      stable_steps: length of the stable phase in steps, at least 0.
      decay_steps: length of the fall alone in steps, at least 1.
      end_value: the value from step `stable_steps + decay_steps` on, exactly.
      power: above 0; 1.2 in the reference, which is flatter at the end than the straight line of 1.

    Not in Optax. The reference writes min(lr, c (T - step)^power): there T is `stable_steps + decay_steps`, and
    `decay_steps` is (lr / c)^(1 / power). Its runs end before T, where the rate is not 0 yet.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.powercool_schedule(1.0, stable_steps=20, decay_steps=80)
      >>> [round(float(schedule(step)), 3) for step in (0, 20, 60, 90, 100)]
      [1.0, 1.0, 0.435, 0.082, 0.0]

    Reference: Jordan et al., modded-nanogpt, track 3, records 20 and 46, 2026,
    https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_3_optimization.
    """
    name = "powercool_schedule"
    stable = check_steps(name, "stable_steps", stable_steps)
    steps = check_steps(name, "decay_steps", decay_steps, least=1)
    check_numbers(name, positive=["power"], peak_value=peak_value, end_value=end_value, power=power)
    return of_count(curves.transition(peak_value, end_value, steps, stable, power))


def _reflected_exponential(gone: jax.Array, ahead: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gone / (1.0 + ahead), 2.0 * ahead / (1.0 + ahead)
