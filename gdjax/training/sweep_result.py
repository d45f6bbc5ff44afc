"""What `sweep` returns: a table of points and losses."""

from typing import Any, NamedTuple

import jax
import numpy as np

from gdjax import plots
from gdjax.core import callers
from gdjax.core.field_docs import with_field_docs
from gdjax.core.types import Params
from gdjax.inspection.table import Table
from gdjax.training.results import History

Point = dict[str, Any]  # name of a hyperparameter -> number


@with_field_docs
class Best(NamedTuple):
    """The point of a sweep with the lowest score.

    Attributes:
      index: its place in `SweepResult.points`.
      point: its hyperparameters, from name to number.
      score: its score.
      params: its last trained parameters, not their average.
    """

    index: int
    point: Point
    score: float
    params: Params


@with_field_docs
class SweepResult(NamedTuple):
    """What `sweep` returns. It prints as a table with a row for each point.

    `history`, `params`, `steps` and `evaluations` are named as in `MinimizeResult`.

    Attributes:
      points: the hyperparameters of each point, a list of dicts from name to number.
      history: {"loss": (points, steps)}, each loss before its update.
      params: the last trained parameters, not their average, stacked: each leaf has a first axis of the points.
      scores: (points,), the lower the better: what `evaluate` returned, or the mean loss of the last tenth of the
        steps.
      evaluated: True if the scores are from `evaluate`, False if they are means of the loss.
    """

    points: list[Point]
    history: History
    params: Params
    scores: np.ndarray
    evaluated: bool

    @property
    def steps(self) -> int:
        """Updates made at each point."""
        return self.history["loss"].shape[1]

    @property
    def evaluations(self) -> History:
        """{"step": the updates before the call, "evaluation": what `evaluate` returned}, each (points,).

        A row is of a point, not of a step as with `minimize`: a sweep evaluates each point once, at its end. Empty
        without `evaluate`.
        """
        return {"step": np.full(len(self.points), self.steps), "evaluation": self.scores} if self.evaluated else {}

    @property
    def losses(self) -> np.ndarray:
        """The older name of `history["loss"]`."""
        callers.warn('gdjax.sweep: .losses is now .history["loss"], as minimize has it', DeprecationWarning)
        return self.history["loss"]

    @property
    def best(self) -> Best:
        """The point with the lowest finite score.

        Raises:
          FloatingPointError: no score is finite.
        """
        if not np.isfinite(self.scores).any():
            raise FloatingPointError("gdjax.sweep: every point diverged; try lower learning rates")
        k = int(np.nanargmin(np.where(np.isfinite(self.scores), self.scores, np.nan)))
        return Best(k, self.points[k], float(self.scores[k]), jax.tree.map(lambda x: x[k], self.params))

    @property
    def diverged(self) -> np.ndarray:
        """For each point the first step at which the loss was not finite, or -1."""
        bad = ~np.isfinite(self.history["loss"])
        return np.where(bad.any(axis=1), bad.argmax(axis=1), -1)

    def plot(self, ax: Any = None) -> Any:
        """`gdjax.plots.plot_sweep` of this."""
        return plots.plot_sweep(self, ax=ax)

    def __str__(self) -> str:
        best = self.best.index if np.isfinite(self.scores).any() else -1
        score, rows = "evaluation" if self.evaluated else "mean of the last tenth", []
        for k, (point, step) in enumerate(zip(self.points, self.diverged, strict=True)):
            remark = "best" if k == best else f"not finite at step {step}" if step >= 0 else ""
            numbers = point | {"last loss": self.history["loss"][k, -1], score: self.scores[k]}
            rows.append({name: float(x) for name, x in numbers.items()} | {"remark": remark})
        return str(Table(rows))

    __repr__ = __str__
