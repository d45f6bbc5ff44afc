"""The blocks that a state was made for, and the gradients of their leaves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from gdjax.core.skipped import is_skipped, left_out
from gdjax.lift.stages import Tree
from gdjax.matrices.factored import Blocks
from gdjax.numerics import Array


def blocks_and(
    tree: Tree, lists: Sequence[Sequence[Array]], kept: Mapping[str, int | None], of: Callable[[Any], Blocks]
) -> tuple[Blocks, list[list[Array | None]]]:
    """The blocks that the state was made for, and the lists with an entry for each leaf of theirs.

    Args:
      lists: arrays for each leaf that has a gradient; None takes the place of the others.
      kept: how many blocks each stack of the state has; None for one that has no arrays, {} for a state without.
      of: the blocks of a tree of parameters.
    """
    updates = tree.of(lists[0])
    missing = left_out(updates)
    like = jax.tree_util.tree_map_with_path(lambda path, g: missing.get(path, g), updates, is_leaf=is_skipped)
    order = {path: i for i, path in enumerate(tree.chosen(tree.paths))}
    places, found = [order.get(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)], of(like)
    numbers = found.numbers
    kept = {name: numbers.get(name, 0) if n is None else n for name, n in kept.items()} or numbers
    if numbers != kept:
        raise ValueError(
            f"{tree.label}: the state has {_listed(kept)}, the gradients are {_listed(numbers)}; init(params) "
            "anew after changing the parameters, and pass params to update where some have no gradient"
        )
    own = [None if cut is None else i for i, cut in zip(places, found.cuts, strict=True)]
    return found, [[None if i is None else xs[i] for i in own] for xs in lists]


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{n} blocks of {name}" for name, n in numbers.items()) or "no blocks"
