"""Schedules that go from one value to another, and decays of averages by their half-life.

`gdjax.schedules` says what a schedule takes and returns.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.types import ArrayLike, Schedule
from gdjax.core.values import value as by_value
from gdjax.schedules import curves
from gdjax.schedules.arguments import ANY, check_begin, check_numbers, check_steps, is_zero, warn_of_constant
from gdjax.schedules.curves import of_count

__all__ = [
    "constant_schedule", "cosine_decay_schedule", "exponential_decay", "half_life_schedule", "linear_schedule",
    "polynomial_schedule",
]  # fmt: skip


@by_value
def constant_schedule(value: ArrayLike) -> Schedule:
    """`value` at every step.

    Args:
      value: a number, or a traced scalar.

    Returns:
      The argument as it is for one step, and an array of it for an array of steps, for which Optax returns one value.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> schedule = gdjax.constant_schedule(0.1)
      >>> print(schedule(0), schedule(jnp.arange(3)))
      0.1 [0.1 0.1 0.1]
    """
    check_numbers("constant_schedule", finite=False, value=value)  # infinity is no bound
    return lambda count: jnp.full(np.shape(count), value) if np.ndim(count) else value


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
      transition_steps: length of the line in steps. 0 or less turns it off, and the value stays `init_value`; for a
        warm-up that may have no steps use `join_schedules`, which leaves out a line of no steps.
      transition_begin: steps before the line; less than 0 is 0.

    Departs from Optax, which loses steps above 2^24, and misses `end_value` by a rounding when compiled.

    Warns:
      UserWarning: `transition_steps` is 0 or less, or `transition_begin` below 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> schedule = gdjax.linear_schedule(1.0, 0.0, transition_steps=4, transition_begin=2)
      >>> print(schedule(jnp.arange(8)))  # a schedule takes one count or an array of them
      [1.   1.   1.   0.75 0.5  0.25 0.   0.  ]
    """
    check_numbers("linear_schedule", init_value=init_value, end_value=end_value)
    return of_count(checked_line("linear_schedule", init_value, end_value, transition_steps, transition_begin))


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
      power: above 0; 1 is `linear_schedule`. 0 turns the curve off, and the value stays `init_value`.
      transition_steps: length of the curve in steps; 0 or less turns it off as well.
      transition_begin: steps before the curve; less than 0 is 0.

    Departs from Optax as `linear_schedule` does, and warns as it does.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.polynomial_schedule(1.0, 0.0, power=2, transition_steps=4)
      >>> [round(float(schedule(step)), 4) for step in range(6)]
      [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """
    name = "polynomial_schedule"
    check_numbers(name, init_value=init_value, end_value=end_value, power=power)
    return of_count(checked_line(name, init_value, end_value, transition_steps, transition_begin, power))


@by_value
def exponential_decay(
    init_value: ArrayLike, transition_steps: int, decay_rate: ArrayLike, transition_begin: int = 0,
    staircase: bool = False, end_value: ArrayLike | None = None,
) -> Schedule:  # fmt: skip
    """Multiplies by `decay_rate` once in `transition_steps` steps, smoothly or in stairs.

    With q = max(step - transition_begin, 0) / transition_steps, rounded down if `staircase`::

        value = init_value * decay_rate^q

    and then max(value, end_value) if decay_rate < 1, else min(value, end_value).

    Args:
      init_value: the value up to step `transition_begin`.
      transition_steps: steps per factor; 0 or less turns the decay off, and the value stays `init_value`.
      decay_rate: the factor, above 0; 0 turns the decay off as well.
      transition_begin: steps before the decay; less than 0 is 0.
      staircase: whether the value changes only at multiples of `transition_steps`.
      end_value: a limit that the value reaches exactly and does not pass, or None.

    Departs from Optax, which is off by 1e-4 after 10,000 factors of 0.999: here a rate that is a plain number keeps its
    double precision.

    Warns:
      UserWarning: `transition_steps` is 0 or less, `decay_rate` is 0, or `transition_begin` is below 0.

    Example:
      >>> import gdjax
      >>> smooth = gdjax.exponential_decay(0.8, transition_steps=10, decay_rate=0.5)
      >>> stairs = gdjax.exponential_decay(0.8, 10, 0.5, staircase=True)
      >>> [round(float(smooth(step)), 3) for step in (0, 5, 10, 15, 20)]
      [0.8, 0.566, 0.4, 0.283, 0.2]
      >>> [round(float(stairs(step)), 3) for step in (0, 5, 10, 15, 20)]
      [0.8, 0.8, 0.4, 0.4, 0.2]
    """
    check_numbers("exponential_decay", init_value=init_value)
    decay = transition_steps, decay_rate, transition_begin, staircase, end_value
    return of_count(checked_decay("exponential_decay", init_value, *decay))


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
      exponent: power of the cosine, above 0; 0 turns the decay off, and the value stays `init_value`.

    Departs from Optax, which follows the cosine at negative steps, and near the end loses digits in 1 + cos(pi * x).

    Warns:
      UserWarning: `exponent` is 0.

    Example:
      >>> import gdjax
      >>> schedule = gdjax.cosine_decay_schedule(0.1, decay_steps=100, alpha=0.1)
      >>> [round(float(schedule(step)), 4) for step in (0, 25, 50, 75, 100, 1000)]
      [0.1, 0.0868, 0.055, 0.0232, 0.01, 0.01]

    Reference: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, eq. 5.
    """
    name = "cosine_decay_schedule"
    steps = check_steps(name, "decay_steps", decay_steps, least=1)
    numbers: dict[str, Any] = {"init_value": init_value, "alpha": alpha, "exponent": exponent}
    check_numbers(name, positive=[] if is_zero(exponent) else ["exponent"], **numbers)
    if is_zero(exponent):
        warn_of_constant(name, "exponent", exponent, "init_value")
        return of_count(curves.constant(init_value))
    end = init_value, alpha
    return of_count(curves.transition(init_value, end, steps, power=exponent, shape=curves.half_cosine))


@by_value
def precond_update_prob_schedule(
    max_prob: float = 1.0, min_prob: float = 0.03, decay: float = 0.001, flat_start: int = 500
) -> Schedule:
    """How often PSGD's preconditioner is updated: `max_prob` at first, then less and less, down to `min_prob`.

        p_t = min(max_prob, max(min_prob, max_prob exp(-decay (t - flat_start))))

    Args:
      max_prob: the probability up to step `flat_start`.
      min_prob: the least probability.
      decay: how fast it falls, per step.
      flat_start: the step from which on it falls.

    Raises:
      ValueError: an argument is not finite.

    Example:
      >>> import gdjax
      >>> probability = gdjax.precond_update_prob_schedule(flat_start=500)
      >>> [round(float(probability(step)), 2) for step in (0, 500, 1000, 2000, 10_000)]
      [1.0, 1.0, 0.61, 0.22, 0.03]
      >>> tx = gdjax.psgd_kron(1e-3, preconditioner_update_probability=probability)

    Reference: psgd_jax, https://github.com/evanatyourservice/psgd_jax.
    """
    name = "precond_update_prob_schedule"
    check_numbers(name, max_prob=max_prob, min_prob=min_prob, decay=decay, flat_start=flat_start)
    falling = lambda t: max_prob * jnp.exp(-decay * (curves.real(t) - flat_start))
    return of_count(lambda step: jnp.clip(falling(step), min_prob, max_prob))


def exponential(
    start: ArrayLike, steps: float, rate: Any, begin: float, staircase: bool, end: ArrayLike | None
) -> curves.Curve:
    """The curve start * rate^(periods since begin), limited by `end` unless that is None."""

    def curve(step: jax.Array) -> jax.Array:
        dtype = curves.float_type(start, rate, end, step)
        n, lost, rest = curves.periods(step, begin, steps, dtype)
        rest = lost if staircase else lost + rest
        base = curves.product(rate, dtype)
        factor = base**n * base**rest
        if isinstance(base, float):
            # The error of rounding a plain rate to float32 grows with the power; its logarithm, a double, undoes that.
            slip = math.log(base) - math.log(float(n.dtype.type(base)))
            factor = factor * jnp.exp(jnp.clip((n + rest) * slip, -80.0, 80.0))  # neither 0 nor inf
        value = curves.product(start, dtype) * factor
        if end is None:
            return value
        limit = curves.product(end, dtype)
        return jnp.where(base < 1.0, jnp.maximum(value, limit), jnp.minimum(value, limit))

    return curve


def checked_decay(
    factory: str, start: ArrayLike, transition_steps: int, decay_rate: ArrayLike, transition_begin: int,
    staircase: bool, end: ArrayLike | None,
) -> curves.Curve:  # fmt: skip
    steps = check_steps(factory, "transition_steps", transition_steps, least=ANY)
    begin = check_begin(factory, transition_begin)
    off = steps <= 0 or is_zero(decay_rate)
    check_numbers(factory, positive=[] if off else ["decay_rate"], decay_rate=decay_rate)
    if end is not None:
        check_numbers(factory, end_value=end)
    if not isinstance(staircase, bool | np.bool_):
        raise TypeError(f"gdjax.{factory}: staircase must be True or False, got {staircase!r}")
    if not off:
        return exponential(start, steps, decay_rate, begin, bool(staircase), end)
    name, x = ("transition_steps", steps) if steps <= 0 else ("decay_rate", decay_rate)
    return unchanging(factory, name, x, start, "init_value" if factory == "exponential_decay" else "peak_value")


def checked_line(
    factory: str, start: ArrayLike, end: ArrayLike, steps: int | float, begin: int | float = 0, power: ArrayLike = 1,
    name: str = "transition_steps",
) -> curves.Curve:  # fmt: skip
    """A line, or a power of one, from `start` to `end`; constant where it has no steps or the power is 0."""
    steps, begin = check_steps(factory, name, steps, least=ANY), check_begin(factory, begin)
    if steps <= 0 or is_zero(power):
        name, x = (name, steps) if steps <= 0 else ("power", power)
        return unchanging(factory, name, x, start, "init_value")
    check_numbers(factory, positive=["power"], power=power)
    return curves.transition(start, end, steps, begin, power)


def unchanging(factory: str, name: str, x: object, value: ArrayLike, called: str) -> curves.Curve:
    """The constant `value`, with a warning that argument `name` makes it one.

    Steps of 0 are warned of where the schedule is called: in a join, many programs have a phase of no steps where they
    want none, and it is never called.
    """
    constant = curves.constant(value)
    if not ("steps" in name and is_zero(x)):
        warn_of_constant(factory, name, x, called)
        return constant

    def curve(step: jax.Array) -> jax.Array:
        warn_of_constant(factory, name, x, called)
        return constant(step)

    return curve


@by_value
def half_life_schedule(half_life: ArrayLike | Schedule, tokens_per_step: ArrayLike | Schedule = 1) -> Schedule:
    """The decay of an average, b1 or b2 or a momentum, that forgets half in `half_life` tokens, whatever the batch.

        value = 2^(-tokens_per_step / half_life)

    What b2 = 0.95 forgets in a batch of 0.5 million tokens takes 512 times as many steps in one of 1,000: there it is
    0.9999. With the half-life held fixed a change of the batch leaves b2 right.

    Args:
      half_life: in tokens, above 0; b at a batch of n tokens has the half-life n ln(2) / -ln(b). A number, or a
        schedule for a momentum that warms up; where that is 0 nothing is remembered.
      tokens_per_step: tokens in a batch, or what else the half-life counts; above 0. A number, or a schedule for a
        batch that grows. 1 lets it count steps.

    Not in Optax.

    Example:
      >>> import gdjax, math
      >>> half_life = 524_288 * math.log(2) / -math.log(0.95)  # of 0.95 at 0.5 million tokens
      >>> for tokens in (524_288, 1024):
      ...     b2 = gdjax.half_life_schedule(half_life, tokens)
      ...     print(tokens, round(float(b2(0)), 4))
      524288 0.95
      1024 0.9999
      >>> tx = gdjax.adamw(1e-3, b2=b2)

    Reference: Marek, Lotfi, Somasundaram, Wilson and Goldblum, Small Batch Size Training for Language Models: When
    Vanilla SGD Works, and Why Gradient Accumulation Is Wasteful, 2025, https://arxiv.org/abs/2507.07101.
    """
    arguments: dict[str, Any] = {"half_life": half_life, "tokens_per_step": tokens_per_step}
    numbers: dict[str, Any] = {name: x for name, x in arguments.items() if isinstance(x, type) or not callable(x)}
    check_numbers("half_life_schedule", positive=list(numbers), **numbers)

    def curve(step: Any) -> Any:
        values: list[Any] = [x(step) if callable(x) else x for x in arguments.values()]
        life, tokens = values
        dtype = curves.float_type(life, tokens)
        steps = curves.product((tokens, curves.Inverse(life)), dtype)
        return jnp.broadcast_to(jnp.exp2(-steps), step.shape)

    return of_count(curve)
