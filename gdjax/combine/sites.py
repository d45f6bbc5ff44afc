"""The parts that an update goes through, and which leaves reach each."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from gdjax.combine.chain import Chain
from gdjax.combine.groups import grouped
from gdjax.combine.masking import MaskedLeafwise
from gdjax.core.base import identity, set_to_zero
from gdjax.core.growth import SAME
from gdjax.core.parts import Guess, calls_of, described, known
from gdjax.core.paths import paths_of
from gdjax.core.types import ArrayTree, Transform, is_skipped
from gdjax.lift.rule import Leafwise
from gdjax.lift.wrapper import Wrapped

Place = tuple[int, ...]  # of a part among the inner transforms of those around it
WRAPPER = -1  # the place of the rule of a wrapper
FROZEN = "frozen"  # the growth of what makes an update 0


class Site(NamedTuple):
    """A part that is not taken apart further, in the order in which an update goes through them."""

    place: Place
    name: str
    rule: Leafwise | None
    growth: Any
    wraps: bool
    paths: frozenset[str] | None  # the leaves that it sees; None where no tree is given
    groups: frozenset[tuple[Place, int]]  # the groups around it: of which part, and which one


def sites(tx: Transform, tree: ArrayTree = None, place: Place = (), groups: Any = frozenset()) -> Iterator[Site]:
    """The parts of a transform, and which leaves of a tree reach each."""
    part, calls = known(tx), calls_of(tx)
    if tree is not None and getattr(part, "is_transferred", False):
        raise ValueError(f"{part.label}: the optimizer is transferred already: pass it as it was tuned")
    name = part.label.removeprefix("gdjax.") if hasattr(part, "label") else calls[-1].name if calls else described(tx)
    paths = None if tree is None else frozenset(path for path, _ in paths_of(tree))
    if isinstance(part, Leafwise):
        if isinstance(part, MaskedLeafwise) and tree is not None:
            leaves = zip(paths_of(tree, is_skipped), part.sees(tree), strict=True)
            paths = frozenset(path for (path, x), is_seen in leaves if is_seen and not is_skipped(x))
        yield Site(place, name, part, part.growth, False, paths, groups)
        return
    inside = [] if isinstance(part, Guess) else list(part.inside())  # one written by hand may do anything
    factory: Any = calls[-1].factory if calls else None
    chained = isinstance(part, Chain) or len(inside) < 2
    fits = all(x.sees is not None and x.alike for x in inside)
    if not (inside and fits and (chained or factory is grouped)):
        growth = {identity: SAME, set_to_zero: FROZEN}.get(factory, getattr(part, "growth", None))
        yield Site(place, name, None, growth, False, paths, groups)
        return
    for i, x in enumerate(inside):
        around = groups if chained else groups | {(place, i)}
        yield from sites(x.tx, tree if tree is None else x.sees(tree), (*place, i), around)  # type: ignore[misc]
    if isinstance(part, Wrapped):
        yield Site((*place, WRAPPER), name, part.rule, part.rule.growth, True, paths, groups)
