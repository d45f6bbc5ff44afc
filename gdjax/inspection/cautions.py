"""Cautions: what is likely a slip, and what a step waits for."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.combine.chain import flips
from gdjax.combine.groups import CLIPS_ALONE, clips_by_norm
from gdjax.core import misuse
from gdjax.core.parts import calls_of, every, is_state_of, known
from gdjax.core.structures import few
from gdjax.core.types import OptState, Schedule, Transform
from gdjax.core.values import Call
from gdjax.inspection.walk import Listed, Walk, short
from gdjax.leaf_roles.plan import NO_HEAD, ByRole, is_headless
from gdjax.leaf_roles.reading import Reading
from gdjax.lift.layers import LAYERS
from gdjax.linalg.matrices import Matrix
from gdjax.schedules.decay import constant_schedule
from gdjax.transforms.accumulation import AccumulateState, ApplyEvery, MultiStepsState
from gdjax.transforms.guards import ApplyIfFiniteState, ConditionallyMaskState, ConditionallyTransformState
from gdjax.transforms.spikes import SkipSpikesState

_RATES = "learning_rate", "adam_learning_rate", "step_size_fn"


def at_largest_rates(tx: Transform, steps: int) -> Any:
    """`tx` made again with the largest rate, in the first `steps` steps, in the place of each schedule of a rate.

    Wrappers whose first update is not that of the optimizer inside (`Inside.at_once`) are replaced by it. What is of
    another library stays.
    """
    calls = calls_of(tx)
    if not calls:
        return tx
    call: Call = calls[0]
    for inside in known(tx).inside():
        if inside.shown and not inside.at_once:
            return at_largest_rates(inside.tx, steps)
    arguments = {name: _changed(name, x, steps) for name, x in call.arguments.items()}
    if all(arguments[name] is x for name, x in call.arguments.items()):
        return tx
    bound = inspect.signature(call.factory).bind_partial()
    bound.arguments.update(arguments)
    return call.factory(*bound.args, **bound.kwargs)


def _changed(name: str, x: Any, steps: int) -> Any:
    """An argument, with what is inside it; the same object where nothing changes."""
    if misuse.is_transform(x):
        return at_largest_rates(x, steps)
    if name in _RATES and callable(x):
        largest = _largest(x, steps)
        return constant_schedule(largest) if name == "step_size_fn" else largest
    if isinstance(x, Mapping):
        new = {k: _changed("", y, steps) for k, y in x.items()}
        return x if all(new[k] is x[k] for k in x) else new
    if type(x) in (tuple, list):
        new = [_changed("", y, steps) for y in x]
        return x if all(a is b for a, b in zip(new, x, strict=True)) else type(x)(new)
    return x


def _largest(schedule: Schedule, steps: int) -> float:
    """The rate of the largest size among some 200 steps, evenly spread, the first and the last among them."""
    places = sorted({round(i * (steps - 1) / 199) for i in range(200)})
    return max((float(schedule(jnp.asarray(i, jnp.int32))) for i in places), key=abs)


AHEAD = 1000  # how many calls of a condition are looked at


def waiting(tx: Transform, state: OptState) -> Iterator[str]:
    """Sentences about the calls to come, in which an optimizer with this state makes no step."""
    for part, s, _ in every(tx, state):
        for kind, (counter, tell) in _TELL.items():
            if is_state_of(kind, s) and np.ndim(getattr(s, counter)) == 0:  # not of many runs at once, as of `sweep`
                calls = getattr(part, "calls", ()) or calls_of(part)
                yield from tell(s, calls[-1].arguments if calls else {})


def _of_guard(s: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    skipped, most = int(s.notfinite_count), arguments.get("max_consecutive_errors")
    calls = "call" if skipped == 1 else _counted(skipped, "call")
    text = f"{calls} ({int(s.total_notfinite)} in all): gradients or updates are not finite"
    if skipped and most is None:
        yield f"apply_if_finite, the last {text}"
    elif skipped > int(most or 0):
        yield f"apply_if_finite has given up after the last {text}; it skips {most} in a row at most, and applies these"
    elif skipped:
        left = int(most or 0) - skipped
        ahead = f"it skips {left} more, then applies them" if left else "the next is applied, finite or not"
        yield f"apply_if_finite skipped the last {text}; {ahead}"


def _of_spikes(s: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    if s.last_skipped:
        yield (
            f"skip_spikes skipped the last call ({int(s.total_skipped)} in all): "
            "the loss or the gradient norm was far above its mean, or not finite"
        )


def _of_condition(name: str, what: str) -> Any:
    def tell(s: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
        condition, inner = arguments.get("should_transform_fn"), arguments.get("inner")
        if condition is None or arguments.get("forward_extra_args"):
            return
        chosen = np.asarray(jax.vmap(condition)(int(s.step) + jnp.arange(AHEAD, dtype=jnp.int32)))
        if not chosen.any():
            yield f"{name} applies {inner!r} in none of the next {AHEAD:,} calls: {what}"
        elif first := int(chosen.argmax()):
            yield f"{name} waits: it applies {inner!r} after {_counted(first, 'call')} more, in which {what}"

    return tell


def _of_accumulation(s: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    gathered, every_k = int(s.mini_step), arguments.get("every_k_schedule")
    k: Any = every_k(s.gradient_step) if callable(every_k) else every_k
    k = None if k is None else round(float(k))
    info: Any = getattr(s, "skip_state", None)
    if isinstance(info, dict) and np.ndim(skip := info.get("should_skip", False)) == 0 and skip:
        numbers = {name: x for name, x in info.items() if name != "should_skip" and np.shape(x) == ()}
        why = ", ".join(_in_words(name, float(x)) for name, x in numbers.items())
        yield f"MultiSteps left out the gradients of the last call ({why}): the update is 0, and no step is nearer"
    if k is None:
        if gathered:
            yield f"MultiSteps waits: it has {_counted(gathered, 'gradient')} of its next update"
    elif k > 1:
        yield f"MultiSteps waits: it has {gathered} of {k} gradients; {_until(k - gathered)}"


def _of_sums(name: str, argument: str, what: str) -> Any:
    def tell(s: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
        k, gathered = arguments.get(argument), int(s.count)
        if k is None and gathered or k is not None and k > 1:
            of, until = ("", "") if k is None else (f" of {k}", f"; {_until(int(k) - gathered)}")
            yield f"{name} waits: it has {gathered}{of} {what}{until}"

    return tell


# Of each state the field that counts, and the sentences about it.
_TELL = {
    ApplyIfFiniteState: ("notfinite_count", _of_guard),
    ConditionallyTransformState: (
        "step", _of_condition("conditionally_transform", "the updates pass through as they are")
    ),
    ConditionallyMaskState: ("step", _of_condition("conditionally_mask", "the updates are 0")),
    SkipSpikesState: ("total_skipped", _of_spikes),
    MultiStepsState: ("mini_step", _of_accumulation),
    AccumulateState: ("count", _of_sums("accumulate", "every", "gradients")),
    ApplyEvery: ("count", _of_sums("apply_every", "k", "updates")),
}  # fmt: skip


def _in_words(name: str, x: float) -> str:
    """A number that a function which skips returned; those of `skip_not_finite` and `skip_large_updates` in words."""
    if name == "num_not_finite":
        return f"{_counted(int(x), 'element')} not finite"
    return f"{'squared norm' if name == 'norm_squared' else name} {x:.4g}"


def _until(n: int) -> str:
    """What comes, where the n-th call from now makes the update."""
    if n == 1:
        return "the next call makes the update"
    return f"the call after the next {n - 1} makes the update" if n > 2 else "the call after the next makes the update"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


_LOOKS = {
    "embedding": "an embedding", "head": "a head", "router": "a router",
    "bias": "a stack of biases", "norm": "a stack of scales",
}  # fmt: skip
_ADVICE = "give it to Adam, with matrices_by_role or label_by_role"
_ADVICE_IN_GROUP = "make the groups with label_by_role, which sees all leaves and gives it to another group"
_COMPLETE = frozenset({"cocob", "normalize_by_update_norm"})  # rules that turn the sign, or may
_NO_DIRECTION = frozenset("keep_params_nonnegative set_to_zero freeze monitor snapshot with_metrics".split())
_CLIPS = re.compile(r"clip|adaptive_grad_clip|unitwise")


def cautions(rows: Sequence[Any], walked: Walk, shapes: Any) -> Iterator[str]:
    """Sentences about the rows of `explain`, the parts that they come from, and the roles that their names tell."""
    mine = [[part for part in walked.parts if i in part.leaves] for i in range(len(rows))]
    live = [(row, ps) for row, ps in zip(rows, mine, strict=True) if not row.frozen]
    same = [row.path for row, _ in live if row.why.startswith("no step")]
    added = "the gradient of {} is added to it as it is, and goes up: no step changes it; to hold it fixed use freeze"
    yield from _of(same, added)
    moved = [(row, ps) for row, ps in live if row.path not in same]
    yield from _rates(moved)
    for clip, direction in sorted({late for _, ps in moved if (late := late_clip(ps))}):
        yield f"{clip} comes after {direction}: it limits the step; put it first to limit the gradient"
    yield from _of_groups(moved)
    yield from _of_stacks(rows, moved, shapes)
    by_path = {row.path: i for i, row in enumerate(rows)}
    trained = {by_path[row.path]: ps for row, ps in moved}
    yield from _of_roles(rows, trained, walked, shapes)
    for name, slip in walked.slips:
        if slip.reported_by != "init" and (text := slip.text(trained)):
            yield f"{name}: {text}. {slip.remedy}"


def _of_roles(rows: Sequence[Any], trained: Mapping[int, Sequence[Listed]], walked: Walk, shapes: Any) -> Iterator[str]:
    """What is no matrix, or may be none, in a matrix method, and what is not known of its leaves."""
    methods = {i: part for i, ps in trained.items() for part in reversed(ps) if i in part.takes}
    for i, part in methods.items():
        if (look := _LOOKS.get(part.takes[i])) and (part.sees_all or i not in walked.overridden):
            advice = _ADVICE if part.sees_all else _ADVICE_IN_GROUP
            yield f"{part.name} takes {rows[i].path} for a matrix, and it looks like {look}; {advice}"
    readings = [route.read(shapes) for route in walked.routes]
    # An override of the labels that keeps a leaf from the method is enough.
    asked = sorted(i for i in trained if i in methods or i not in walked.overridden)
    yield from dict.fromkeys(leaves[i].note for leaves in readings for i in asked if leaves[i].note)
    if methods:
        yield from _of_the_head(methods.keys(), trained.keys(), readings or [ByRole().read(shapes)])


def _of_the_head(taken: Set[int], trained: Set[int], readings: Sequence[Sequence[Reading]]) -> Iterator[str]:
    """That the head may be among what matrix methods take. Where a matrix goes elsewhere, the user knew which it is."""
    roles = [(i, leaves[i]) for i in trained for leaves in readings]
    flat = {i for i, leaf in roles if len(leaf.shape) == 2 and isinstance(leaf.role, Matrix)}
    if all(map(is_headless, readings)) and flat <= taken:
        yield NO_HEAD


def _of_groups(moved: Sequence[Any]) -> Iterator[str]:
    """Clips by a norm, with more behind them, that see some of the trained leaves only, as inside a group."""
    for part in {id(p): p for _, ps in moved for p in ps if clips_by_norm(p.rule) and not p.sees_all}.values():
        rows = {row.path: ps for row, ps in moved if any(p is part for p in ps)}
        alone = all(sum(p.groups == part.groups for p in ps) == 1 for ps in rows.values())
        if len(rows) < len(moved) and not (part.groups and alone):
            of = f"the group {'/'.join(part.groups)!r}" if part.groups else few(list(rows))
            yield f"{part.name} in {of}: {CLIPS_ALONE}"


def _of_stacks(rows: Sequence[Any], moved: Sequence[Any], shapes: Any) -> Iterator[str]:
    """Rules that take one number of an array, and arrays that look like stacks of layers."""
    layers = jax.tree.leaves(ByRole().layers(shapes))
    stacked = {row.path for row, n in zip(rows, layers, strict=True) if n and row.shape[0] > 1}
    paths_of_label: dict[str, list[str]] = {}
    for row, ps in moved:
        for label in dict.fromkeys(p.label for p in ps if p.rule and p.rule.settings.get(LAYERS, 0) is None):
            paths_of_label.setdefault(label, []).extend([row.path] if row.path in stacked else [])
    for label, paths in paths_of_label.items():
        takes = f"{label.removeprefix('gdjax.')} takes each of {{}} for one array, and it looks like a stack of layers"
        yield from _of(paths, f"{takes}; give {LAYERS}, for instance matrices_by_role()")


def _rates(moved: Sequence[Any]) -> Iterator[str]:
    rates = lambda ps: sum(part.rule is not None and flips(part.rule) for part in ps)
    two = "two learning rates or more for {}: each multiplies by -1; keep one, and multiply by further ones with scale"
    yield from _of([row.path for row, ps in moved if rates(ps) > 1], two)
    up = [row.path for row, ps in moved if rates(ps) < 2 and str(row.rate).rpartition("schedule: ")[2].startswith("-")]
    yield from _of(up, "the rate of {} is negative: its updates go up the gradient")
    none = [row.path for row, ps in moved if row.rate is None and ps and all(map(_needs_rate, ps))]
    yield from _of(none, "no learning rate for {}: end with scale_by_learning_rate, which multiplies by -1")


def _needs_rate(part: Listed) -> bool:
    """Whether a part is a rule that a learning rate must follow, such as `scale_by_adam`."""
    name = part.label.removeprefix("gdjax.")
    ours = part.rule is not None and name != part.label
    return ours and short(name) == part.name and part.name not in _COMPLETE


def late_clip(parts: Sequence[Listed]) -> tuple[str, str] | None:
    """A clip and the direction before it: the last rule that keeps a state for each leaf.

    None where a direction may follow the clip too, unless a rate precedes it: what comes first then corrects the
    gradient, as the variance reduction of MARS does, and the clip is of that.
    """
    for i, part in enumerate(parts):
        before = [p for p in parts[:i] if p.rule is not None and _keeps_state(p)]
        a_step = any(p.rule is not None and flips(p.rule) for p in parts[:i])
        if _CLIPS.match(part.name) and before and (a_step or not any(map(_may_be_direction, parts[i + 1 :]))):
            return part.name, before[-1].name
    return None


def _keeps_state(part: Listed) -> bool:
    keeps = part.rule is not None and bool(part.rule.slots or part.rule.whole)
    return keeps and not part.wraps and part.name != "zero_nans"


def _may_be_direction(part: Listed) -> bool:
    return _keeps_state(part) or part.rule is None and part.name not in _NO_DIRECTION


def _of(paths: Sequence[str], sentence: str) -> Iterator[str]:
    if paths:
        yield sentence.format(few(paths))
