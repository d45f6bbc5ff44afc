"""Search spaces: what each hyperparameter ranges over, and the quasi-random points that a study tries."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from scipy.stats import qmc

EDGE = 0.1  # the share of a range, at each end, in which a best point asks for a wider range
WIDER = 4.0  # by what factor a range of rates grows then


class Log(NamedTuple):
    """Even in the logarithm."""

    low: float
    high: float

    def at(self, place: float) -> float:
        return self.low * (self.high / self.low) ** place

    def place(self, value: float) -> float:
        return math.log(value / self.low) / math.log(self.high / self.low)

    def beyond(self, upwards: bool) -> "Log":
        """The range next to this one."""
        return Log(self.high, self.high * WIDER) if upwards else Log(self.low / WIDER, self.low)


class Decay(NamedTuple):
    """Of an average: even in the logarithm of 1 - b, the share of a step that is new."""

    low: float
    high: float

    def at(self, place: float) -> float:
        return 1 - Log(1 - self.low, 1 - self.high).at(place)

    def place(self, value: float) -> float:
        return Log(1 - self.low, 1 - self.high).place(1 - value)


Range = Log | Decay
Space = Mapping[str, Range]
Point = dict[str, float]


def points(space: Space, count: int, seed: int = 0) -> list[Point]:
    """The first `count` points, a power of 2, of a scrambled Sobol sequence; the same in every task."""
    if not space:
        return [{}] * count
    places = qmc.Sobol(len(space), scramble=True, seed=seed).random(count)
    return [{name: short(r.at(x)) for (name, r), x in zip(space.items(), row, strict=True)} for row in places]


def short(value: float) -> float:
    """Six digits, so that the configuration that a record prints is the one that ran."""
    return float(f"{value:.6g}")


def extended(space: Space, best: Point, rates: tuple[str, ...]) -> tuple[Space, Space] | None:
    """What lies beyond a best point at an edge of a rate's range, and the space with that; None if no rate is at one.

    Only rates: a decay of an average, and the shape of a schedule, have ends of their own.
    """
    beyond, both = dict(space), dict(space)
    for name in rates:
        r, place = space[name], space[name].place(best[name])
        if isinstance(r, Log) and not EDGE <= place <= 1 - EDGE:
            new = beyond[name] = r.beyond(upwards=place > 0.5)
            both[name] = Log(min(r.low, new.low), max(r.high, new.high))
    return (beyond, both) if beyond != dict(space) else None
