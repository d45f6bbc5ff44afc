"""What an optimizer does to each leaf of the parameters, and what about it is probably a mistake."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.codes import formats
from gdjax.combine.chain import flips
from gdjax.core import base
from gdjax.core.parts import calls_of, state_arrays, wrapped_by
from gdjax.core.paths import path_of, paths_of
from gdjax.core.types import OptState, Params, Transform, is_skipped
from gdjax.inspection.cautions import at_largest_rates, cautions, waiting
from gdjax.inspection.tabulate import Table, bytes_of, state_and_order
from gdjax.inspection.walk import Listed, Walk, is_lookahead, shapes_of
from gdjax.leaf_roles.plan import Leaf
from gdjax.lift import probe
from gdjax.lift.order import first

__all__ = ["explain"]

LABEL = "gdjax.explain"
# The parts that multiply an update by a number, and the names of the number; the arguments that are a decay.
_FACTORS: Mapping[str, str] = {"rate": "learning_rate", "scale": "step_size", "schedule": "step_size_fn"}
_ALONE = frozenset({"gdjax.scale", "gdjax.scale_by_schedule", "gdjax.scale_by_learning_rate"})
_FREEZE = "set_to_zero", "freeze"
_DECAYS = "weight_decay", "weight_decay_rate"


class Explained(NamedTuple):
    """A row of `explain`."""

    path: str
    shape: tuple[int, ...] | None
    dtype: str
    group: str  # the label of `partition`
    steps: str  # what its gradient goes through, in this order
    rate: float | str | None  # at the first step
    decay: float | str | None
    state_bytes: int
    frozen: bool  # whether its update is always 0
    why: str  # why it is not updated, or not as one may think; empty where all is well
    role: str = ""  # of an optimizer that has a transform for matrices and one for the rest: "matrix 3 x 768 x 768"


def explain(tx: Transform, params: Params, state: OptState | None = None, **extra_args: Any) -> Table:
    """What `tx` does to each leaf of `params`: a table with a row for each leaf.

    It answers why a leaf is not updated, in the column `why`: it is frozen, its rate is 0 at the first step, no step
    sees it. The columns are the fields of `Explained`. The rate is the product of all factors of the first update, with
    the sign of a descent: a negative one goes up the gradient. Rate and decay are those of the leaf: of `per_leaf` the
    base times its factor, of a schedule "10 x schedule: 0.001 ...", the factor and the first value. The column `role`
    is there for an optimizer that gives matrices one method and the rest another.

    Args:
      tx: any transform. Those of another library, and functions, are shown by their names alone.
      params: arrays, or shapes as of `jax.ShapeDtypeStruct`; their update is tried on a few random numbers, in trees
        with shorter axes. Of `LookaheadParams` the fast ones.
      state: of a run that does not move. The warnings then also tell of a guard that skips the steps
        (`apply_if_finite`, `conditionally_transform`, `conditionally_mask`, a skip function of `MultiSteps`), of an
        accumulation that waits (`MultiSteps`, `accumulate`, `apply_every`), and after how many calls the next step
        comes. The rows are those of the first step as without it.
      **extra_args: those that `update` cannot do without, for instance `value=1.0`.

    Returns:
      A `Table`. Its `warnings` tell of groups without leaves, of masks that are False everywhere, of two learning rates
      or none, of clipping that comes after the direction, of a matrix method for an embedding, a head or a stack of
      biases, of matrices, embeddings and heads that the Adam inside such a method gets by mistake, of averages that are
      not last, of parameters that grow by a decay behind the rate, of a clip by norm inside a group, of stacks of
      layers that a rule takes for one array, of what roles leave unknown, of matrices of which none is known as the
      head, and of gradients that are added to the parameters as they are. Of `quantize_state` its `notes` tell which
      fields are kept in which codes.

    Raises:
      TypeError: tx is no transform; a leaf is neither an array nor a number; an array of `state` has no value.
      ValueError: params is None; whatever `init` raises; `state` is of another transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((4, 2)), "head": jnp.ones((2, 4))}
      >>> tx = gdjax.chain(gdjax.freeze(gdjax.mask_by_path("embed")), gdjax.scale_by_adam())
      >>> table = gdjax.explain(tx, params)
      >>> table["path"], table["why"]
      (['embed', 'head'], ['frozen by freeze', ''])
      >>> table.warnings
      ('no learning rate for head: end with scale_by_learning_rate, which multiplies by -1',)
    """
    base.check_transform(LABEL, "tx", tx)
    if is_lookahead(tx):
        params = getattr(params, "fast", params)  # the slow ones get no gradient
    shapes = shapes_of(LABEL, params)
    if any(isinstance(x, jax.ShapeDtypeStruct | Tracer) for x in jax.tree.leaves(state)):
        raise TypeError(f"{LABEL}: state has an array without a value; pass the state that `update` returned")
    waits = [] if state is None else list(waiting(tx, state))
    shape, out_of_order = state_and_order(tx, shapes)
    with warnings.catch_warnings(action="ignore"):  # masks and labels warn when the state is made
        walked = Walk(tx, shapes)
        parts, plan = walked.parts, walked.plan
        kinds, unknown = _update_kinds(tx, shapes, parts, extra_args)
    size = Counter[int]()
    for x in state_arrays(tx, shape, shapes):
        if x.leaf is not None:
            size[x.leaf] += bytes_of(x.array)
    rows = []
    for i, (path, x) in enumerate(paths_of(shapes)):
        parts_of_leaf = [part for part in parts if i in part.leaves]
        rows.append(_row(i, path, x, parts_of_leaf, kinds.get(i), size[i], plan.get(i)))
    trained = iter(rows)
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_skipped)
    shown = [_missing(path_of(path), x) if is_skipped(x) else next(trained) for path, x in leaves]
    columns = Explained._fields if plan else Explained._fields[:-1]
    warned = [*waits, *walked.notes, *out_of_order, *unknown, *cautions(rows, walked, shapes)]
    return Table(shown, columns, list(dict.fromkeys(warned)), _codes(tx, shape if state is None else state, shapes))


def _codes(tx: Transform, state: OptState, shapes: Any) -> list[str]:
    """Which fields of a state are kept in which codes: a sentence, if any are."""
    coded, number = Counter[tuple[str, str]](), Counter[str]()
    each = zip(state_arrays(tx, state, shapes), formats.names(state), strict=True)
    for x in jax.tree.leaves(state, is_leaf=formats.is_codes):
        arrays = list(islice(each, len(jax.tree.leaves(x))))
        if not arrays:  # in the words of another field
            continue
        array, name = arrays[0]
        field = path_of(array.field).rpartition("/")[2]
        number[field] += 1
        coded[field, name] += int(formats.is_codes(x))
    codes = [
        f"{field} as {name}" + f" ({n} of {number[field]} arrays)" * (n < number[field])
        for (field, name), n in coded.items()
        if n
    ]
    return [f"kept in codes: {', '.join(codes)}"] if codes else []


def _update_kinds(
    tx: Transform, shapes: Any, parts: Sequence[Listed], extra_args: dict[str, Any]
) -> tuple[dict[int, Any], list[str]]:
    """By the place of a leaf `ZERO` or `SAME`, where its update is that; and why nothing more is known."""
    trained = [i for i, x in enumerate(jax.tree.leaves(shapes)) if jnp.issubdtype(x.dtype, jnp.inexact)]
    try:
        if is_lookahead(tx):  # its updates are those of two trees
            tx = wrapped_by(calls_of(tx))
        # A wrapper that waits, or a schedule that begins at 0, does not hide what is inside.
        update_kinds = probe.update_kinds(at_largest_rates(tx, 1000), shapes, extra_args)
    except Exception as e:
        frozen = [i for part in parts if part.name in _FREEZE for i in part.leaves]
        text = f"the update cannot be tried; pass the extra arguments that it needs to explain ({e})"
        return dict.fromkeys(frozen, probe.ZERO), [] if isinstance(e, probe.Effects) else [text]
    return dict(zip(trained, update_kinds, strict=True)), []


def _row(
    leaf: int, path: str, x: Any, parts: Sequence[Listed], kind: Any, size: int, planned: Leaf | None
) -> Explained:
    group = "/".join(max((part.groups for part in parts), key=len, default=()))  # a step before `partition` has none
    steps = ", ".join(part.name for part in parts)
    rate, decay = rate_of(parts, leaf), _decay_of(parts, leaf)
    trained = jnp.issubdtype(x.dtype, jnp.inexact)
    frozen = kind == probe.ZERO or not trained
    why = _why(parts, kind, rate) if trained else f"{x.dtype} takes no gradient"
    role = "" if planned is None else f"{planned.role} {planned}".rstrip()
    return Explained(path, x.shape, str(x.dtype), group, steps, rate, decay, size, frozen, why, role)


def _why(parts: Sequence[Listed], kind: Any, rate: Any) -> str:
    if kind == probe.ZERO:
        if frozen := [part for part in parts if part.name in _FREEZE]:
            group = "/".join(frozen[-1].groups)
            return f"frozen by {frozen[-1].name}" + (f" in the group {group!r}" if group else "")
        return "its learning rate is 0" if rate == 0 else "its update is always 0"
    if frozen := [part.name for part in parts[:-1] if part.name in _FREEZE]:
        return f"{frozen[-1]} makes its gradient 0, and what comes after that may move it: put {frozen[-1]} last"
    if kind == probe.SAME:
        return "no step changes its gradient, which is added as it is"
    if rate == 0:  # a number that the program may change
        return "its learning rate is 0"
    return "its rate is 0 at the first step" if isinstance(rate, str) and "schedule: 0.0 " in rate else ""


def rate_of(parts: Sequence[Listed], leaf: int) -> float | str | None:
    """The factor of the first update of a leaf, above 0 for a descent.

    It is a text where it is a schedule, is traced, or cannot be read ("?"), and None where there is none.
    """
    factors = [(part, k) for part in parts if (k := _FACTORS.get(part.name, "")) in part.hyper]
    others = [(part, "learning_rate") for part in parts if part.name not in _FACTORS]
    of_rule = [(part, k) for part, k in others if part.hyper.get(k) is not None][:1]  # its rate is in its rule
    if not factors:
        return _shown(*of_rule[0], leaf) if of_rule else None if all(part.known for part in parts) else "?"
    taken = factors + ([] if any(part.name == "rate" for part, _ in factors) else of_rule)
    used = [part.hyper[k] for part, k in taken]
    numbers = [first(x) for x in used]
    turns = [part.rule is not None and flips(part.rule) for part, _ in factors]
    if None in numbers:
        return "traced"
    value = -math.prod(x for x in numbers if x is not None) * (-1) ** sum(turns) + 0.0  # no -0
    labels = {part.label for part, _ in factors}
    if value < 0 and sum(turns) < 2 and len(labels) == 1 and not labels & _ALONE:
        value = -value  # the method turns the sign itself, as COCOB does
    return _times(value, any(map(callable, used)), [part.factor(leaf, k) for part, k in taken])


def _decay_of(parts: Sequence[Listed], leaf: int) -> float | str | None:
    decays = [(part, k) for part in parts for k in _DECAYS if part.hyper.get(k) is not None]
    shown = [_shown(part, k, leaf) for part, k in decays]
    off = 0.0 if any(k in part.factors.get(leaf, ()) for part, k in decays) else None  # switched off for this leaf
    return next((x for x in shown if x != 0), off)


def _shown(part: Listed, name: str, leaf: int) -> float | str:
    x = part.hyper[name]
    number = first(x)
    return "traced" if number is None else _times(number, callable(x), [part.factor(leaf, name)])


def _times(value: float, scheduled: bool, factors: Sequence[Any]) -> float | str:
    """A number, or the first value of a schedule, with the factors that a leaf has of it."""
    if any(isinstance(x, Tracer) for x in factors):
        return "traced"
    factor = np.asarray(math.prod(np.asarray(x, float) for x in factors))
    low, high = float(factor.min()), float(factor.max())
    if low < high:  # it differs within the leaf, as for stacked layers
        base = f"schedule: {_short(value)} ..." if scheduled else _short(value)
        return f"{low:.4g} to {high:.4g} x {base}"
    if low == 0 or not scheduled:
        return value * low + 0.0
    times = "" if abs(low) == 1 else f"{abs(low):.4g} x "
    return f"{times}schedule: {_short(math.copysign(1, low) * value + 0.0)} ..."


def _short(x: float) -> str:
    return str(float(f"{x:.4g}"))


def _missing(path: str, x: Any) -> Explained:
    name = "None" if x is None else type(x).__name__
    return Explained(path, None, "", "", "", None, None, 0, True, f"{name} stands for it: no gradient")
