"""The same run with many hyperparameters at once, in one compiled step, and the table that `sweep` returns."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import plots
from gdjax.combine.conditional import eval_params
from gdjax.core import base, callers, checks
from gdjax.core.field_docs import with_field_docs
from gdjax.core.types import Array, OptState, Params
from gdjax.inspection.tabulate import Table
from gdjax.training import objective
from gdjax.training.loop import Report, shown
from gdjax.training.progress import Recorder
from gdjax.training.results import History
from gdjax.training.sizes import SweepBySize, check_sizes
from gdjax.training.step import Inputs, gradient, overwritable, updated

__all__ = ["SweepResult", "sweep"]

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


Factory = Callable[..., Any]
Grid = Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]
LABEL = "gdjax.sweep"


@overload
def sweep(
    loss_fn: Callable[..., Any], params: Params, factory: Factory, grid: Grid, *, steps: int, sizes: None = None,
    data: Iterable[Any] | None = None, has_aux: bool = False, key: Array | None = None,
    evaluate: Callable[[Params], Any] | None = None, progress: bool | Report = False,
) -> SweepResult: ...  # fmt: skip
@overload
def sweep(
    loss_fn: Callable[..., Any], params: None, factory: Factory, grid: Grid, *, steps: int, sizes: Sequence[int],
    data: Iterable[Any] | None = None, has_aux: bool = False, key: Array | None = None,
    evaluate: Callable[[Params], Any] | None = None, progress: bool | Report = False,
) -> SweepBySize: ...  # fmt: skip
def sweep(
    loss_fn: Callable[..., Any], params: Params, factory: Factory, grid: Grid, *, steps: int,
    sizes: Sequence[int] | None = None, data: Iterable[Any] | None = None, has_aux: bool = False,
    key: Array | None = None, evaluate: Callable[[Params], Any] | None = None, progress: bool | Report = False,
) -> SweepResult | SweepBySize:  # fmt: skip
    """Runs `minimize` for every point of a grid of hyperparameters at once: one step, compiled once, over all points.

    All points start at `params`, see the same batches and get the same keys. A run that diverges goes on with its NaNs
    and leaves the others as they are. Memory is that of one run times the number of points.

    Args:
      loss_fn: `loss_fn(params)`, or `loss_fn(params, batch)` with `data`. It returns a real scalar; with `has_aux` a
        pair of that and anything else. With `key` it gets `key=...`, a new one at every step.
      params: where every run starts.
      factory: returns the transform of a point when called with it: `factory(**point)`; `gdjax.adam`, for instance, or
        a function of yours that puts a number into a schedule or a chain.
      grid: {name: numbers}, for all combinations of them, the last name fastest; or a list of points, {name: number}.
      steps: updates to make at each point.
      sizes: of models, in rising order, such as their widths: the sweep is made for each. `loss_fn` is then a function
        `make(size)` that returns the pair of the loss and the parameters of that size, and `params` is None. The grid
        is of one number, the rate, which the result follows from size to size.
      data: batches, the same for all points. A list, or whatever else can be iterated again, starts over when it ends.
      has_aux: whether `loss_fn` returns a pair.
      key: a PRNG key, from which the keys of the steps are made.
      evaluate: a function of the parameters that `eval_params` gives, the average where the optimizer keeps one; it
        returns a real scalar, for JAX to compile, and judges the last parameters of each point, on held-out data for
        instance. None judges by the mean loss of the last tenth.
      progress: True shows a line on stderr; a function is called as `progress(steps_done, loss=...)`. The loss is the
        lowest of all points.

    Returns:
      A `SweepResult`, which prints as a table; for `sizes` a `SweepBySize`, with the best rate of each size, its drift
      in octaves a doubling, and what the rate of the smallest costs the largest.

    Raises:
      TypeError: the grid has something that is no number, or a number that shapes the program, such as the rank of
        GaLore: run one sweep for each of its values. What `minimize` raises for the loss.
      ValueError: the grid is empty, its points have different names, a number is out of its range, or `data` has no
        batch; with `sizes`, these do not rise, or not exactly one number varies, at 3 points or more.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss(params):
      ...     return jnp.sum((params - 3.0) ** 2)
      >>> grid = {"learning_rate": [0.001, 0.1, 10.0]}
      >>> result = gdjax.sweep(loss, jnp.zeros(2), gdjax.sgd, grid, steps=50)
      >>> result.best.point
      {'learning_rate': 0.1}
    """
    checks.structural(LABEL, "steps", steps, 1)
    points = _points(grid)
    if sizes is not None:
        check_sizes(sizes, points)
        objective.check_again(LABEL, data)
        if params is not None:
            raise TypeError(f"{LABEL}: with sizes, params comes from make(size), the first argument: pass None")
        pairs = {size: objective.made(LABEL, f"make({size})", loss_fn(size)) for size in sizes}
        return SweepBySize({
            size: sweep(loss, params, factory, grid, steps=steps, data=data, has_aux=has_aux, key=key,
                        evaluate=evaluate, progress=progress)
            for size, (loss, params) in pairs.items()
        })  # fmt: skip
    _check_points(factory, points)
    objective.check_arguments(LABEL, loss_fn, data, key)
    values = {name: jnp.asarray(np.array([p[name] for p in points])) for name in points[0]}
    _check_shapes_nothing(factory, points[0], values, params)
    objective.warn_of_ascent(LABEL, factory(**points[0]))

    loss = objective.checked(LABEL, loss_fn, has_aux, data)
    step = jax.jit(jax.vmap(_step_of(factory, loss), in_axes=(0, 0, 0, None)), donate_argnums=(1, 2))
    start = jax.vmap(lambda p, v: (p, factory(**v).init(p)), in_axes=(None, 0), axis_size=len(points))
    stacked, state = overwritable(start(overwritable(params), values))
    batches, recorder, rows = objective.batches(LABEL, data), Recorder(), []
    with shown(LABEL, progress, steps) as report:
        for i in range(steps):
            batch = next(batches, None)
            if batch is None:
                break
            stacked, state, losses = step(values, stacked, state, Inputs(batch, np.int32(i), key))
            _note(recorder.add(losses), rows, report)
        _note(recorder.fetch(), rows, report)
    if not rows:
        raise ValueError(f"{LABEL}: data has no batch")
    table = np.stack(rows, axis=1)
    evaluated = None if evaluate is None else _evaluated(factory, evaluate, values, state, stacked)
    return SweepResult(points, {"loss": table}, stacked, _scores(table, evaluated), evaluate is not None)


def _points(grid: Grid) -> list[Point]:
    """The points of a grid, each with the same names."""
    if isinstance(grid, Mapping):
        for name, numbers in grid.items():
            if isinstance(numbers, str) or not hasattr(numbers, "__len__") or np.ndim(numbers) == 0:  # type: ignore[arg-type]
                raise TypeError(f"{LABEL}: grid[{name!r}] must be a sequence of numbers, got {numbers!r}")
        points = [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]
    else:
        points = [dict(point) for point in grid]
    if not points or not points[0]:
        raise ValueError(f"{LABEL}: the grid has no point: {grid!r}")
    for i, point in enumerate(points):
        if set(point) != set(points[0]):
            raise ValueError(f"{LABEL}: point {i} has {sorted(point)}, and point 0 {sorted(points[0])}")
        for name, x in point.items():
            if np.shape(x) != () or not np.issubdtype(np.asarray(x).dtype, np.number):
                why = f"is {x!r} in the grid; only numbers can differ within one compiled step"
                raise TypeError(_one_sweep_each(name, why))
    return points


def _one_sweep_each(name: str, why: str) -> str:
    each = f"run one sweep for each value of {name}, with functools.partial(factory, {name}=...)"
    return f"{LABEL}: {name} {why}: {each}"


def _check_points(factory: Factory, points: list[Point]) -> None:
    """Makes every transform once from numbers, whose ranges can be checked as those of traced numbers cannot."""
    for point in points:
        try:
            base.check_transform(LABEL, "factory(**point)", factory(**point))
        except (TypeError, ValueError) as e:
            e.add_note(f"{LABEL}: for the point {point}")
            raise


def _check_shapes_nothing(factory: Factory, point: Point, values: dict[str, Array], params: Params) -> None:
    """Raises for hyperparameters of which the transform needs the value while it is traced."""

    def trace(varying: Iterable[str]) -> None:
        fixed = {name: x for name, x in point.items() if name not in varying}
        step = _step_of(lambda **v: factory(**{**fixed, **v}), _any_loss)
        traced = {name: values[name][0] for name in varying}
        state = jax.eval_shape(lambda v, p: factory(**{**fixed, **v}).init(p), traced, params)
        jax.eval_shape(step, traced, params, state, Inputs((), np.int32(0), None))

    try:
        trace(values)
    except Exception:
        for name in values:
            try:
                trace([name])
            except Exception as e:
                why = "shapes the program, so it cannot differ within one compiled step"
                raise TypeError(_one_sweep_each(name, why)) from e
        raise


def _any_loss(params: Params) -> tuple[Array, None]:
    """In the place of the user's, which is traced once, when all is known to be right."""
    leaves = [x for x in jax.tree.leaves(params) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return sum((jnp.sum(jnp.real(x)).astype(jnp.float32) for x in leaves), jnp.float32(0)), None


def _step_of(factory: Factory, loss: Callable[..., Any]) -> Callable[..., Any]:
    """The step of one point."""

    def step(values: Point, params: Params, state: OptState, inputs: Inputs) -> tuple[Params, OptState, Array]:
        grad = gradient(loss, params, inputs)
        return *updated(factory(**values), grad, params, state), grad.loss

    return step


def _note(fetched: list[Any], rows: list[np.ndarray], report: Report | None) -> None:
    for losses in fetched:
        rows.append(np.asarray(losses))
        if report is not None:
            finite = losses[np.isfinite(losses)]
            report(len(rows), loss=finite.min() if finite.size else np.nan)


def _evaluated(
    factory: Factory, evaluate: Callable[[Params], Any], values: Point, state: OptState, params: Params
) -> np.ndarray:
    """What `evaluate` returns for each point, of the parameters to evaluate."""

    def one(values: Point, state: OptState, params: Params) -> Any:
        return evaluate(eval_params(factory(**values), state, params))

    return np.asarray(jax.jit(jax.vmap(one))(values, state, params))


def _scores(losses: np.ndarray, evaluated: np.ndarray | None) -> np.ndarray:
    """A number for each point, the lower the better."""
    if evaluated is None:
        return losses[:, -max(1, losses.shape[1] // 10) :].astype(float).mean(axis=1)
    if evaluated.shape != losses.shape[:1]:
        raise TypeError(f"{LABEL}: evaluate must return a real scalar, got shape {evaluated.shape[1:]}")
    return evaluated
