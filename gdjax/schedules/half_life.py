"""Decays of averages by their half-life. `gdjax.schedules` says what a schedule takes and returns."""

from typing import Any

import jax.numpy as jnp

from gdjax.core.types import ArrayLike, Schedule
from gdjax.core.values import value as by_value
from gdjax.schedules import curves
from gdjax.schedules.arguments import check_numbers
from gdjax.schedules.curves import of_count


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
        given: list[Any] = [x(step) if callable(x) else x for x in arguments.values()]
        life, tokens = given
        dtype = curves.float_type(life, tokens)
        steps = curves.product((tokens, curves.Inverse(life)), dtype)
        return jnp.broadcast_to(jnp.exp2(-steps), step.shape)

    return of_count(curve)
