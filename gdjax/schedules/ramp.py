"""A batch that grows in the course of training, and the hyperparameters that go with it."""

import bisect
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from gdjax.core.callers import schedule as check_schedule
from gdjax.core.checks import structural
from gdjax.core.types import Array, ArrayLike, Schedule
from gdjax.core.values import value as by_value
from gdjax.schedules import curves
from gdjax.schedules.arguments import check_choice, check_numbers, check_steps
from gdjax.schedules.curves import of_count
from gdjax.schedules.decay import constant_schedule
from gdjax.schedules.piecewise import join_schedules

__all__ = ["BatchRamp", "batch_ramp"]

LABEL = "gdjax.batch_ramp"


class BatchRamp(NamedTuple):
    """What `batch_ramp` returns.

    A step is the number of updates made before it. `size` and `seen` are of Python ints, for a loader. The others
    return schedules, for an optimizer.
    """

    starts: tuple[int, ...]  # the first step of each stage; 0 first
    sizes: tuple[int, ...]  # the batch of each stage

    def size(self, step: int) -> int:
        """The batch of a step."""
        return self.sizes[bisect.bisect(self.starts, step) - 1]

    def seen(self, step: int) -> int:
        """The sum of the batches before a step."""
        stages = zip(self.starts, [*self.starts[1:], step], self.sizes, strict=True)
        return sum(size * max(min(end, step) - start, 0) for start, end, size in stages)

    def rate(self, learning_rate: ArrayLike | Schedule) -> Schedule:
        """sqrt(beta) learning_rate(seen / first batch), for beta = batch / first batch.

        So a schedule that was made for the first batch falls with the examples, not with the steps.
        """
        if callable(learning_rate):
            check_schedule(LABEL, "learning_rate", learning_rate)
        else:
            check_numbers("batch_ramp", learning_rate=learning_rate)
        first = self.sizes[0]
        stages = zip(self.starts, self.sizes, strict=True)
        rates = [_stage(learning_rate, self.seen(start) / first, size / first) for start, size in stages]
        return join_schedules(rates, self.starts[1:])

    def b2(self, b2: float) -> Schedule:
        """b2^beta: the half-life of an average of squares stays the same in examples."""
        check_numbers("batch_ramp", b2=b2)
        if not 0 <= b2 <= 1:
            raise ValueError(f"{LABEL}: b2 must be in [0, 1], got {b2}")
        return join_schedules([constant_schedule(b2 ** (size / self.sizes[0])) for size in self.sizes], self.starts[1:])

    def every(self, micro_batch: int) -> Schedule:
        """How many micro-batches of this size make the batch of a step, for `MultiSteps`.

        Raises:
          ValueError: it does not divide a batch.
        """
        structural(LABEL, "micro_batch", micro_batch, 1)
        for size in self.sizes:
            if size % micro_batch:
                raise ValueError(f"{LABEL}: micro-batches of {micro_batch} do not divide the batch of {size}")
        return join_schedules([constant_schedule(size // micro_batch) for size in self.sizes], self.starts[1:])


@by_value
def _stage(learning_rate: ArrayLike | Schedule, begin: float, beta: float) -> Schedule:
    """The rate of a stage that begins after the examples of `begin` first batches."""

    def rate(step: Array) -> Any:
        at = curves.real(step) * beta + begin if begin or beta != 1 else step
        return math.sqrt(beta) * (learning_rate(at) if callable(learning_rate) else learning_rate)

    return of_count(rate)


def batch_ramp(stages: Mapping[int, int], *, by: Literal["seen", "steps"] = "seen") -> BatchRamp:
    """A batch that grows in stages, with rate and b2 by the square-root rule.

        ramp = gdjax.batch_ramp({0: 64, 100_000: 128, 500_000: 256})
        tx = gdjax.adamw(ramp.rate(schedule), b2=ramp.b2(0.95))
        batches = (examples[ramp.seen(n) : ramp.seen(n + 1)] for n in range(steps))

    The noise scale (see `gdjax.metrics`) grows while the gradient gets small, so that later in training a larger batch
    pays. A batch beta times as large goes with a rate times sqrt(beta), and with b2^beta; b1 and a decay stay.

    Args:
      stages: from where on to which batch. The first is at 0; its batch is the one that the rate was tuned for.
      by: "seen" counts the examples of all batches before a step, or the tokens, where batches are of tokens; a stage
        begins with the first step that has seen as many. "steps" counts steps.

    Raises:
      ValueError: no stage begins at 0, a stage has no step, or a batch is below 1.
      TypeError: a batch or a place is no int.

    Example:
      >>> import gdjax
      >>> ramp = gdjax.batch_ramp({0: 10, 100: 40})
      >>> [(n, ramp.size(n), ramp.seen(n)) for n in (0, 9, 10, 11)]
      [(0, 10, 0), (9, 10, 90), (10, 40, 100), (11, 40, 140)]
      >>> rate = ramp.rate(gdjax.linear_schedule(1.0, 0.0, transition_steps=100))
      >>> [round(float(rate(n)), 2) for n in (0, 9, 10, 11)]
      [1.0, 0.91, 1.8, 1.72]

    Reference:
      Malladi et al. 2022, On the SDEs and scaling rules for adaptive gradient algorithms,
      https://arxiv.org/abs/2205.10287
    """
    check_choice("batch_ramp", "by", by, ["seen", "steps"])
    places = sorted((check_steps("batch_ramp", "the place of a stage", place), size) for place, size in stages.items())
    sizes = tuple(structural(LABEL, f"the batch from {place} on", size, 1) for place, size in places)
    if not places or places[0][0] != 0:
        raise ValueError(f"{LABEL}: the first stage must begin at 0, got {dict(stages)}")
    starts, reached = [0], 0  # and the examples seen at the last of them
    for (place, _), size in zip(places[1:], sizes, strict=False):
        steps = math.ceil(place - starts[-1] if by == "steps" else -((reached - place) // size))
        if steps < 1:
            raise ValueError(f"{LABEL}: the batch of {size} has no step: the stage before it passes {place}")
        starts, reached = [*starts, starts[-1] + steps], reached + steps * size
    return BatchRamp(tuple(starts), sizes)
