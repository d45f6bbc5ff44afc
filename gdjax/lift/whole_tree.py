"""Fields of a state that belong to the whole tree, and the tree behind lists of its leaves."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from gdjax.core import base, checks
from gdjax.core.part import Kind
from gdjax.core.skipped import is_skipped
from gdjax.core.types import ArrayTree, OptState, Params, Transform
from gdjax.lift.one_leaf import stored
from gdjax.lift.slots import Key
from gdjax.xla.write_order import bound_for

Array = jax.Array


@dataclass(frozen=True)
class Whole:
    """A field of the state that belongs to the whole tree.

    It starts as `init(params, arguments)`, from the tree of parameters and the arguments of the factory, which include
    `label`, the name in errors. A rule of one array sees None in its place, unless it is `seen`.

    Args:
      reads: the arguments that only the start needs, "table size": the rule gets None for them. If one is a
        transform, the field is its state.
      of_several: each of its arrays belongs to several parameters, as stacks of matrices do.
      kind: as in `Moment`.
      check: raises for wrong arguments when the factory is called.
    """

    init: Callable[[Any, Mapping[str, Any]], Any]
    reads: str = ""
    of_several: bool = False
    seen: bool = False
    kind: Kind = "exact"
    check: Callable[[Mapping[str, Any]], object] | None = None


@dataclass(frozen=True)
class Planned:
    """A slot that starts as `init(params, arguments)`: a list with an entry for each leaf of the parameters.

    For slots whose start needs the whole tree, such as dimension numbers given as a tree. `MaskedNode` where a leaf
    has no slot. `reads` as in `Whole`.
    """

    init: Callable[[Any, Mapping[str, Any]], list[Any]]
    reads: str = ""


def read_by(slots: Mapping[str, Any]) -> list[str]:
    """The arguments that only the starts of slots read."""
    seeds = [x.seed for x in slots.values() if isinstance(x, Key) and isinstance(x.seed, str)]
    return seeds + [name for x in slots.values() if isinstance(x, Planned | Whole) for name in x.reads.split()]


class Tree(NamedTuple):
    """The tree behind lists of its leaves with gradients, and the other arguments of `update`."""

    label: str
    structure: Any
    paths: Sequence[Any]
    entries: Sequence[Any]  # of all leaves, also without a gradient
    trained: Sequence[bool]
    params: Params
    extra_args: dict[str, Any]

    def extra(self, names: Sequence[str]) -> dict[str, Array]:
        """These arguments of `update`, which are numbers."""
        if missing := ", ".join(f"{name}=..." for name in names if name not in self.extra_args):
            text = f"this transform needs {missing}: call update(updates, state, params, {missing})"
            raise ValueError(f"{self.label}: {text}")
        return {name: checks.extra(self.label, name, self.extra_args[name]) for name in names}

    def unflattened(self, xs: Sequence[Any]) -> Any:
        """The tree of updates, with the entries of a list in place of the gradients."""
        return self.structure.unflatten(self.filled(xs, self.entries))

    def filled(self, xs: Iterable[Any], others: Sequence[Any]) -> list[Any]:
        """A list for all leaves: an entry of xs for each leaf with a gradient, of `others` for any other."""
        each = iter(xs)
        return [next(each) if own else other for other, own in zip(others, self.trained, strict=True)]

    def listed(self, name: str, tree: ArrayTree) -> list[Any]:
        """The entries of a tree, called `name` in errors, for the leaves with gradients."""
        like = self.structure.unflatten(self.entries)
        full = checks.flatten_like(self.label, ("updates", name), self.structure, like, tree)
        return self.chosen(full)

    def of_each(self, xs: Sequence[Any]) -> list[Any]:
        """The entries of a list for leaves with gradients; the list has none for a leaf that is None or masked."""
        each = iter(xs)
        return self.chosen([None if is_skipped(entry) else next(each) for entry in self.entries])

    def chosen(self, full: Sequence[Any]) -> list[Any]:
        return [x for x, own in zip(full, self.trained, strict=True) if own]

    def updated(
        self, tx: Transform, xs: Sequence[Any], state: OptState, params: Params = None
    ) -> tuple[list[Any], Any]:
        """The `update` of a transform for a list: updates, and a state in the form of the old one."""
        with bound_for(None):
            new, new_state = base.call_update(tx, self.unflattened(xs), state, params, self.extra_args)
        olds, structure = jax.tree.flatten(state)
        kept = structure.unflatten(map(stored, jax.tree.leaves(new_state), olds))
        return self.listed("updates of the inner transform", new), kept
