"""The same sweep at several sizes: whether the best rate of a small model is that of a large one."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gdjax import plots
from gdjax.core.field_docs import with_field_docs
from gdjax.inspection.tabulate import Table

__all__ = ["SweepBySize"]

LABEL = "gdjax.sweep"


@with_field_docs
class Optimum(NamedTuple):
    """The best rate of a size, between the points of the grid.

    Attributes:
      rate: the lowest point of the parabola through the best three points, in log2 of the rate; a point of the grid
        where `at_edge`.
      score: the lowest of the grid.
      at_edge: the best point of the grid is its first or last, or one beside it diverged: the true optimum may lie
        beyond.
    """

    rate: float
    score: float
    at_edge: bool


@with_field_docs
class SweepBySize(NamedTuple):
    """What `sweep` returns for several `sizes`. It prints as a table with a row for each size.

    Attributes:
      results: a `SweepResult` for each size, in rising order.
    """

    results: Mapping[int, Any]

    @property
    def name(self) -> str:
        """The hyperparameter that the grid is of."""
        points = self._any.points
        return next(name for name in points[0] if points[0][name] != points[-1][name])

    @property
    def rates(self) -> np.ndarray:
        """Its numbers in the grid, in rising order."""
        return np.sort([float(point[self.name]) for point in self._any.points])

    @property
    def scores(self) -> dict[int, np.ndarray]:
        """For each size the scores in the order of `rates`."""
        order = np.argsort([float(point[self.name]) for point in self._any.points])
        return {size: np.asarray(result.scores, float)[order] for size, result in self.results.items()}

    @property
    def evaluated(self) -> bool:
        """Whether the scores are from `evaluate`."""
        return self._any.evaluated

    @property
    def best(self) -> dict[int, Optimum]:
        """For each size the best rate."""
        return {size: _optimum(np.log2(self.rates), scores) for size, scores in self.scores.items()}

    @property
    def drift(self) -> float:
        """How many octaves the best rate moves with each doubling of the size: the slope of a line through all sizes.

        -1 is a best rate that halves with each doubling.
        """
        sizes, rates = np.log2(list(self.best)), np.log2([best.rate for best in self.best.values()])
        return float(np.polyfit(sizes, rates, 1)[0])

    @property
    def costs(self) -> dict[int, float]:
        """For each size its score at the smallest size's best point of the grid, less its own lowest: not below 0.

        Not finite where it diverges there.
        """
        k = int(np.nanargmin(_finite(next(iter(self.scores.values())))))
        return {size: float(scores[k]) - self.best[size].score for size, scores in self.scores.items()}

    @property
    def cost(self) -> float:
        """That of the largest size."""
        return list(self.costs.values())[-1]

    def plot(self, ax: Any = None) -> Any:
        """`gdjax.plots.plot_transfer` of this."""
        return plots.plot_transfer(self, ax=ax)

    @property
    def _any(self) -> Any:
        return next(iter(self.results.values()))

    def __str__(self) -> str:
        score = "evaluation" if self.evaluated else "mean of the last tenth"
        rows = [
            {"size": size, f"best {self.name}": best.rate, "log2": round(float(np.log2(best.rate)), 2)}
            | {score: best.score, "cost of the smallest's": cost, "remark": "at an edge of the grid" * best.at_edge}
            for (size, best), cost in zip(self.best.items(), self.costs.values(), strict=True)
        ]
        return str(Table(rows, notes=[f"the best {self.name} moves {self.drift:+.2f} octaves a doubling"]))

    __repr__ = __str__


def check_sizes(sizes: Sequence[int], points: Sequence[Mapping[str, Any]]) -> None:
    """Raises where one rate alone does not vary over the grid, or `sizes` are no rising numbers."""
    if np.ndim(sizes) != 1 or not all(isinstance(x, int | float | np.number) for x in sizes):
        raise TypeError(f"{LABEL}: sizes must be a sequence of numbers, got {sizes!r}")
    if len(sizes) < 2 or sizes[0] <= 0 or any(x >= y for x, y in zip(sizes, sizes[1:], strict=False)):
        raise ValueError(f"{LABEL}: sizes must be at least 2 positive numbers in rising order, got {tuple(sizes)}")
    varying = {name: {float(point[name]) for point in points} for name in points[0]}
    varying = {name: numbers for name, numbers in varying.items() if len(numbers) > 1}
    if len(varying) != 1:
        raise ValueError(f"{LABEL}: with sizes one number alone differs over the grid, got {sorted(varying)}")
    ((name, numbers),) = varying.items()
    if len(numbers) < 3 or len(numbers) < len(points) or min(numbers) <= 0:
        raise ValueError(
            f"{LABEL}: with sizes the grid needs 3 or more different {name} above 0, got {sorted(numbers)}"
        )


def _finite(scores: np.ndarray) -> np.ndarray:
    """NaN for what is not finite."""
    if not np.isfinite(scores).any():
        raise FloatingPointError(f"{LABEL}: every point of a size diverged; try lower learning rates")
    return np.where(np.isfinite(scores), scores, np.nan)


def _optimum(x: np.ndarray, scores: np.ndarray) -> Optimum:
    y = _finite(scores)
    k = int(np.nanargmin(y))
    near = slice(k - 1, k + 2)
    at_edge = k in (0, len(x) - 1) or bool(np.isnan(y[near]).any())
    a, b, _ = (0, 0, 0) if at_edge else np.polyfit(x[near] - x[k], y[near], 2)
    return Optimum(float(2 ** (x[k] - (b / (2 * a) if a > 0 else 0))), float(y[k]), at_edge)  # a = 0: three alike
