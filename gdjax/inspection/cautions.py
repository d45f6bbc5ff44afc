"""What about an optimizer is probably a mistake."""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import jax

from gdjax.combine.chain import flips
from gdjax.combine.groups import CLIPS_ALONE, clips_by_norm
from gdjax.core.structures import few
from gdjax.inspection.walk import Listed, Walk, short
from gdjax.lift.layers import LAYERS
from gdjax.linalg.matrices import Matrix
from gdjax.matrices.reading import Read
from gdjax.matrices.roles import NO_HEAD, ByRole, is_headless

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
    for clip, direction in sorted({found for _, ps in moved if (found := late_clip(ps))}):
        yield f"{clip} comes after {direction}: it limits the step; put it first to limit the gradient"
    yield from _of_groups(moved)
    yield from _of_stacks(rows, moved, shapes)
    by_path = {row.path: i for i, row in enumerate(rows)}
    trained = {by_path[row.path]: ps for row, ps in moved}
    yield from _of_roles(rows, trained, walked, shapes)
    for name, slip in walked.slips:
        if slip.told_by != "init" and (text := slip.text(trained)):
            yield f"{name}: {text}. {slip.remedy}"


def _of_roles(rows: Sequence[Any], trained: Mapping[int, Sequence[Listed]], walked: Walk, shapes: Any) -> Iterator[str]:
    """What is no matrix, or may be none, in a matrix method, and what is not known of its leaves."""
    methods = {i: part for i, ps in trained.items() for part in reversed(ps) if i in part.takes}
    for i, part in methods.items():
        if (look := _LOOKS.get(part.takes[i])) and (part.sees_all or i not in walked.overridden):
            advice = _ADVICE if part.sees_all else _ADVICE_IN_GROUP
            yield f"{part.name} takes {rows[i].path} for a matrix, and it looks like {look}; {advice}"
    found = [route.read(shapes) for route in walked.routes]
    # An override of the labels that keeps a leaf from the method is enough.
    asked = sorted(i for i in trained if i in methods or i not in walked.overridden)
    yield from dict.fromkeys(leaves[i].unknown for leaves in found for i in asked if leaves[i].unknown)
    if methods:
        yield from _of_the_head(methods.keys(), trained.keys(), found or [ByRole().read(shapes)])


def _of_the_head(taken: Set[int], trained: Set[int], found: Sequence[Sequence[Read]]) -> Iterator[str]:
    """That the head may be among what matrix methods take. Where a matrix goes elsewhere, the user knew which it is."""
    flat = {i for i in trained for leaves in found if len(leaves[i].shape) == 2 and isinstance(leaves[i].role, Matrix)}
    if all(map(is_headless, found)) and flat <= taken:
        yield NO_HEAD


def _of_groups(moved: Sequence[Any]) -> Iterator[str]:
    """Clips by a norm, with more behind them, that see some of the trained leaves only, as inside a group."""
    for part in {id(p): p for _, ps in moved for p in ps if clips_by_norm(p.rule) and not p.sees_all}.values():
        own = {row.path: ps for row, ps in moved if any(p is part for p in ps)}
        alone = all(sum(p.groups == part.groups for p in ps) == 1 for ps in own.values())
        if len(own) < len(moved) and not (part.groups and alone):
            of = f"the group {'/'.join(part.groups)!r}" if part.groups else few(list(own))
            yield f"{part.name} in {of}: {CLIPS_ALONE}"


def _of_stacks(rows: Sequence[Any], moved: Sequence[Any], shapes: Any) -> Iterator[str]:
    """Rules that take one number of an array, and arrays that look like stacks of layers."""
    layers = jax.tree.leaves(ByRole().layers(shapes))
    stacked = {row.path for row, n in zip(rows, layers, strict=True) if n and row.shape[0] > 1}
    found: dict[str, list[str]] = {}
    for row, ps in moved:
        for label in dict.fromkeys(p.label for p in ps if p.rule and p.rule.settings.get(LAYERS, 0) is None):
            found.setdefault(label, []).extend([row.path] if row.path in stacked else [])
    for label, paths in found.items():
        told = f"{label.removeprefix('gdjax.')} takes each of {{}} for one array, and it looks like a stack of layers"
        yield from _of(paths, f"{told}; give {LAYERS}, for instance matrices_by_role()")


def _rates(moved: Sequence[Any]) -> Iterator[str]:
    rates = lambda ps: sum(part.rule is not None and flips(part.rule) for part in ps)  # noqa: E731
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
