"""How far the leaves of a model move at several widths, and so whether what was tuned at one carries over."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gdjax import plots
from gdjax.core import base, checks, misuse
from gdjax.core.field_docs import with_field_docs
from gdjax.core.parts import known
from gdjax.core.paths import paths_of
from gdjax.core.types import Params, Roles, Transform
from gdjax.inspection.tabulate import Table
from gdjax.inspection.walk import shapes_of
from gdjax.leaf_roles.plan import Leaf, plan_of, routing
from gdjax.linalg.matrices import Axes, is_trained
from gdjax.optimizers.adam import adam
from gdjax.training import objective
from gdjax.training.step import Inputs, gradient, overwritable, updated
from gdjax.transfer_laws.transfer import Transferred, transferred

__all__ = ["TransferCheck", "check_transfer"]

LABEL = "gdjax.check_transfer"
# How far from 0 an exponent may be by chance and by the finite width, by what moves; what is not here has 0.25, and so
# has a matrix of which one side grows.
LIMITS = {"matrix": 0.15, "activation": 0.1}
POWER = 0.3  # with an exponent nearer to 0 the standard transfers as well
Make = Callable[[int, int], tuple[Callable[..., Any], Params]]


@with_field_docs
class TransferCheck(NamedTuple):
    """What `check_transfer` returns. It prints as its table.

    Attributes:
      widths: those of the models.
      steps: the numbers of steps after which the movement was measured.
      movements: from the path of a leaf to how far it moved, (steps, widths, seeds); activations under
        "activations/".
      standard: the same of the standard, or empty.
      table: a row for each leaf: `leaf`, `kind` (its role, or "activation"), what of a matrix or a head `grows`,
        `shapes` at the smallest and the largest width, the exponent after each number of steps, its standard error over
        the seeds, the `standard`'s exponent, the `limit`, the `verdict`.
    """

    widths: tuple[int, ...]
    steps: tuple[int, ...]
    movements: dict[str, np.ndarray]
    standard: dict[str, np.ndarray]
    table: Table

    @property
    def holds(self) -> bool:
        """Whether no leaf fails, and for none it is unclear."""
        return not self.table.warnings

    def plot(self, ax: Any = None) -> Any:
        """`gdjax.plots.plot_movements` of this."""
        return plots.plot_movements(self, ax=ax)

    def __str__(self) -> str:
        return str(self.table)

    __repr__ = __str__


class ModelsOfWidth(NamedTuple):
    """The models of one width, one for each seed."""

    loss: Callable[..., Any]
    params: list[Params]
    shapes: Any
    leaves: dict[str, Leaf]  # those that are trained


def check_transfer(
    make: Make, tx: Transform | Callable[[Any, Any], Transform], widths: Sequence[int] = (64, 128, 256, 512), *,
    steps: Sequence[int] = (2, 10), seeds: int = 3, data: Iterable[Any] | None = None, has_aux: bool = False,
    standard: Transform | None = None, roles: Roles = None,
) -> TransferCheck:  # fmt: skip
    """Trains a model for a few steps at several widths: does the movement of each leaf depend on the width?

    The coordinate check of muP, without hooks in the model. With d = W_t - W_0 and n the width it fits the exponent a
    in `c n^a` to the movement, which is for a matrix

        sigma_max(d) sqrt(inputs / outputs)

    the largest of the leaf's matrices; of a head or a router the axes that grow are the inputs. For any other leaf it
    is the root mean square of d over the axes that grow, the largest over the rest. The exponent 0 is that of a leaf
    that moves its output as far at every width. With an exponent of 1, as of Adam at one rate, the rate of a small
    model is too large for a large one: it wants the factor 1 / n. A matrix may be 0.15 from 0 if inputs and
    outputs grow, any other leaf 0.25, an activation 0.1.

    A leaf whose rate `transfer` leaves as it is, such as a bias under Adam, may move too far since those around it do:
    the check then says so, and asks for no factor.

    Args:
      make: `make(width, seed)` returns `(loss_fn, params)`: your model at that width, started from that seed, and the
        loss as `minimize` takes it, `loss_fn(params)` or `loss_fn(params, batch)`. The loss of the first seed serves
        all seeds of a width. Models differ in shapes alone.
      tx: the optimizer for all widths, such as `transfer(adam(1e-3), base)`. Or a function of two trees of shapes,
        those of the smallest width and those of the model, that returns one.
      widths: at least two, in rising order. Below 64 the finite width itself bends the lines.
      steps: the numbers of steps after which to measure. After the first alone a head that starts at zero lets no
        gradient through.
      seeds: how many starts of each width. The exponent is the mean over them.
      data: batches, the same for all runs; a list starts over when it ends.
      has_aux: `loss_fn` returns a pair, and the arrays of the second part are activations: the check fits the root mean
        square of their change on the first batch as well.
      standard: an optimizer to compare with, that without the rule under test: where it moves with less than 0.3, the
        check says nothing about the rule.
      roles: which leaves are matrices, and how: None, by their paths and shapes; a dict from patterns of paths to
        roles, which overrides that; a tree, or a function from the parameters to one.

    Returns:
      A `TransferCheck`, which prints as a table. Its warnings name each leaf that fails, with a remedy.

    Raises:
      ValueError: fewer than two widths, or not rising; models of two widths differ in their leaves or numbers of axes;
        an axis shrinks; no axis grows.
      TypeError: an argument, or what `make` returns, is of the wrong kind; `data` is an iterator, which ends with the
        first run.
      FloatingPointError: a leaf is not finite.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def make(width, seed):
      ...     w = jax.random.normal(jax.random.key(seed), (width, width)) / width**0.5
      ...     return lambda p: jnp.mean((p["w"] @ jnp.ones(width) - 1) ** 2), {"w": w}
      >>> check = gdjax.check_transfer(make, gdjax.adam(1e-3), widths=(64, 256))
      >>> print(check.table["leaf"], check.table["kind"], check.holds)
      ['w'] ['matrix'] False

    Reference:
      Yang et al. 2022, Tensor programs V, appendix D.1, https://arxiv.org/abs/2203.03466;
      Yang, Simon and Bernstein 2023, A spectral condition, https://arxiv.org/abs/2310.17813
    """
    widths, steps = _rising("widths", widths, 2), _rising("steps", steps, 1)
    checks.structural(LABEL, "seeds", seeds, 1)
    objective.check_again(LABEL, data)
    models = [_model(make, width, seeds, data, has_aux, routing(roles)) for width in widths]
    kinds = _kinds(widths, models)

    def movements(tx: Any) -> dict[str, np.ndarray]:
        rows = [
            _moved(_transform_of(tx, models[0], m), m, w, kinds, steps, data)
            for w, m in zip(widths, models, strict=True)
        ]
        return {path: np.stack([row[path] for row in rows], 1) for path in rows[0]}

    moved, compared = movements(tx), {} if standard is None else movements(standard)
    left_alone = _left_alone(_transform_of(tx, models[0], models[-1]), models, roles)
    table = _table(widths, steps, moved, compared, kinds, models, left_alone)
    return TransferCheck(widths, steps, moved, compared, table)


def _left_alone(tx: Transform, models: Sequence[Any], roles: Any) -> set[str]:
    """The leaves whose rate `transfer` leaves as it is; those under Adam, where it knows nothing of a method."""
    small, large = models[0].shapes, models[-1].shapes
    candidates: list[Any] = [known(tx)] if isinstance(known(tx), Transferred) else [tx, adam(1.0)]
    for one in candidates:
        try:
            if not isinstance(one, Transferred):
                one = transferred(LABEL, one, small, roles if isinstance(roles, Mapping) else None, "forward")
            return {path for path, factor in one.rates(large).items() if factor == 1}
        except (ValueError, TypeError):
            continue
    return set()


def _rising(name: str, numbers: Sequence[int], fewest: int) -> tuple[int, ...]:
    if np.ndim(numbers) != 1:
        raise TypeError(f"{LABEL}: {name} must be a sequence of ints, got {numbers!r}")
    rising = tuple(checks.structural(LABEL, f"{name}[{i}]", x, 1) for i, x in enumerate(numbers))
    if len(rising) < fewest or any(x >= y for x, y in zip(rising, rising[1:], strict=False)):
        raise ValueError(f"{LABEL}: {name} must be at least {fewest} ints in rising order, got {rising}")
    return rising


def _model(make: Make, width: int, seeds: int, data: Any, has_aux: bool, numbers: Any) -> ModelsOfWidth:
    pairs = [objective.made(LABEL, f"make({width}, {seed})", make(width, seed)) for seed in range(seeds)]
    objective.check_arguments(LABEL, pairs[0][0], data, None)
    shapes = shapes_of(LABEL, pairs[0][1])
    leaves = plan_of(LABEL, shapes, numbers, quiet=True).leaves
    named = {path: leaf for (path, x), leaf in zip(paths_of(shapes), leaves, strict=True) if is_trained(x)}
    loss = objective.checked(LABEL, pairs[0][0], has_aux, data)
    return ModelsOfWidth(loss, [params for _, params in pairs], shapes, named)


class LeafGrowth(NamedTuple):
    """How the movement of a leaf is measured."""

    name: str  # its role; a matrix of which only the inputs grow is a head
    grown: tuple[int, ...]  # the axes that grow with the width
    matrix: bool
    grows: str = ""  # of a matrix, or a head: "inputs", "outputs" or both

    @property
    def limit(self) -> float:
        both = self.name != "matrix" or "," in self.grows
        return LIMITS.get(self.name, 0.25) if both else 0.25


ACTIVATION = LeafGrowth("activation", (), matrix=False)


def _kinds(widths: Sequence[int], models: Sequence[ModelsOfWidth]) -> dict[str, LeafGrowth]:
    first, last = models[0].leaves, models[-1].leaves
    for width, model in zip(widths, models, strict=True):
        if lacking := sorted(set(first) ^ set(model.leaves)):
            has = widths[0] if lacking[0] in first else width
            raise ValueError(
                f"{LABEL}: the models differ: of {widths[0]} and {width} only {has} has {', '.join(lacking)}"
            )
        for path, leaf in first.items():
            one, other = leaf.shape, model.leaves[path].shape
            if len(one) != len(other) or any(x > y for x, y in zip(one, other, strict=True)):
                what = "an axis shrinks" if len(one) == len(other) else "the axes differ"
                raise ValueError(f"{LABEL}: {path} is {one} at width {widths[0]} and {other} at {width}: {what}")
    kinds = {path: _kind(leaf, last[path]) for path, leaf in first.items()}
    if not any(kind.grown for kind in kinds.values()):
        raise ValueError(f"{LABEL}: no axis grows from width {widths[0]} to {widths[-1]}: make must use its width")
    return kinds


def _kind(small: Leaf, large: Leaf) -> LeafGrowth:
    grown = tuple(i for i, (x, y) in enumerate(zip(small.shape, large.shape, strict=True)) if y > x)
    if small.is_matrix:
        sides = zip(("inputs", "outputs"), small.axes[1:], strict=True)
        grows = ", ".join(side for side, axes in sides if any(i in grown for i in axes))
        return LeafGrowth("head" if grows == "inputs" else "matrix", grown, True, grows)
    alone = small.role in ("head", "router") and 0 < len(grown) < len(small.shape)
    return LeafGrowth(small.role, grown, alone, "inputs" if alone else "")


def _transform_of(tx: Any, first: ModelsOfWidth, model: ModelsOfWidth) -> Transform:
    of_shapes = callable(tx) and not misuse.is_transform(tx)
    made: Any = tx(first.shapes, model.shapes) if of_shapes else tx
    return base.check_transform(LABEL, "tx(base, params)" if of_shapes else "tx", made)


def _moved(
    tx: Transform, model: ModelsOfWidth, width: int, kinds: dict[str, LeafGrowth], steps: Sequence[int],
    data: Iterable[Any] | None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """From the path of a leaf to how far it moved, (steps, seeds)."""

    @jax.jit
    def step(params: Params, state: Any, inputs: Inputs) -> Any:
        return updated(tx, gradient(model.loss, params, inputs), params, state)

    def numbers(params: Params, batch: Any) -> dict[str, np.ndarray]:
        return _numbers(params) | _numbers(activations(params, batch), "activations/")

    init, activations = jax.jit(tx.init), jax.jit(lambda params, batch: model.loss(params, *batch)[1])
    sizes = []
    for start in model.params:
        params = overwritable(start)
        state, batches, first = overwritable(init(params)), objective.batches(LABEL, data), None
        before: dict[str, np.ndarray] = {}
        for t in range(steps[-1]):
            if (batch := next(batches, None)) is None:
                raise ValueError(f"{LABEL}: data has no batch")
            if t == 0:
                first, before = batch, numbers(params, batch)
            params, state = step(params, state, Inputs(batch, np.int32(t), None))
            if t + 1 in steps:
                changes = {path: x - before[path] for path, x in numbers(params, first).items()}
                sizes.append({path: _size(d, model.leaves.get(path), kinds.get(path)) for path, d in changes.items()})
    moved = {path: np.reshape([row[path] for row in sizes], (-1, len(steps))).T for path in sizes[0]}
    for path, sizes in moved.items():
        if not np.isfinite(sizes).all():
            t = steps[int(np.argmin(np.isfinite(sizes).all(axis=1)))]
            raise FloatingPointError(f"{LABEL}: {path} is not finite after {t} steps at width {width}; lower the rate")
    return moved


def _numbers(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The floating arrays of a tree by their paths, in float64."""
    arrays = {prefix + path: np.asarray(x) for path, x in paths_of(tree) if is_trained(x)}
    return {path: x.astype(np.result_type(x, float) if np.iscomplexobj(x) else float) for path, x in arrays.items()}


def _size(d: np.ndarray, leaf: Leaf | None, kind: LeafGrowth | None) -> float:
    """How far a leaf moved by its change `d`; of an activation, which is no leaf, the root mean square."""
    if leaf is None or kind is None:
        return float(np.sqrt(np.mean(np.abs(d) ** 2)))
    if not kind.matrix:
        return float(np.sqrt(np.mean(np.abs(d) ** 2, axis=kind.grown)).max(initial=0))
    if not leaf.is_matrix:
        axes = Axes((), kind.grown, tuple(i for i in range(d.ndim) if i not in kind.grown))
        leaf = leaf._replace(axes=axes, parts=())
    return max(map(_largest, leaf.split(d)))  # type: ignore[arg-type]


def _largest(x: np.ndarray) -> float:
    """The largest singular value of (n, inputs, outputs) times sqrt(inputs / outputs)."""
    inputs, outputs = x.shape[-2:]
    x = x if inputs <= outputs else x.swapaxes(-1, -2)
    squared = np.linalg.eigvalsh(x @ x.swapaxes(-1, -2).conj()).max()  # a third of the time of `svd`
    return float(np.sqrt(max(squared, 0.0) * inputs / outputs))


def exponents(widths: Sequence[int], moved: np.ndarray) -> np.ndarray:
    """For each number of steps and seed the exponent of the movement, (steps, seeds); NaN for what does not move."""
    x = np.log2(np.array(widths, float))
    x -= x.mean()
    still = (moved == 0).any(axis=1)
    y = np.log2(np.where(still[:, None], 1.0, moved))
    return np.where(still, np.nan, np.einsum("w,tws->ts", x, y) / (x @ x))


def _table(
    widths: tuple[int, ...], steps: tuple[int, ...], moved: dict[str, np.ndarray], standard: dict[str, np.ndarray],
    kinds: dict[str, LeafGrowth], models: Sequence[ModelsOfWidth], left_alone: set[str],
) -> Table:  # fmt: skip
    rows, warnings = [], []
    for path, sizes in moved.items():
        each = exponents(widths, sizes)
        mean, error = each.mean(axis=1), each.std(axis=1) / np.sqrt(max(each.shape[1] - 1, 1))
        k = int(np.nanargmax(np.abs(mean))) if np.isfinite(mean).any() else 0  # after so many steps it is the worst
        of_standard = {"standard": exponents(widths, standard[path]).mean(axis=1)[k]} if standard else {}
        kind = kinds.get(path, ACTIVATION)
        shapes = " to ".join(str(m.leaves[path].shape) for m in (models[0], models[-1])) if path in kinds else ""
        alone = not kind.grown or path in left_alone
        verdict, remedy = _verdict(kind.limit, mean[k], error[k], alone, of_standard.get("standard"), widths)
        if remedy:
            warnings.append(f"{path} ({', '.join(filter(None, [kind.name, shapes]))}): {remedy}")
        numbers = {f"after {t}": a for t, a in zip(steps, mean, strict=True)} | {"error": error[k]} | of_standard
        shown = {name: None if np.isnan(x) else round(float(x), 2) for name, x in numbers.items()}
        row = {"leaf": path, "kind": kind.name, "grows": kind.grows, "shapes": shapes}
        rows.append({**row, **shown, "limit": kind.limit, "verdict": verdict})
    notes = ["below a width of 64 exponents are far from their limits"] * (widths[0] < 64)
    if not standard:
        notes.append("a leaf that holds may hold without any rule: standard= compares")
    return Table(rows, warnings=warnings, notes=notes)


def _verdict(
    limit: float, exponent: float, error: float, alone: bool, standard: float | None, widths: Sequence[int]
) -> tuple[str, str]:
    """The verdict in a few words, and a sentence with the remedy where a leaf does not hold."""
    if np.isnan(exponent):
        return "does not move", ""
    if abs(exponent) <= limit:
        without = standard is not None and not abs(standard) > POWER
        return "holds, as without the rule: no power" if without else "holds", ""
    moves = f"it moves as width^{exponent:+.2f}"
    if abs(exponent) - limit < error:
        return "unclear", f"{moves}, with a standard error of {error:.2f}: take more seeds"
    if alone:
        return "fails", f"{moves}, after the leaves around it: mend those that grow first"
    factor = f"({widths[0]} / width)^{exponent:.2f}"
    how = f"its rate wants the factor {factor}: gdjax.transfer(tx, base), or gdjax.per_leaf(rate, factors)"
    return f"fails: rate x {(widths[0] / widths[-1]) ** exponent:.2g} at {widths[-1]}", f"{moves}; {how}"
