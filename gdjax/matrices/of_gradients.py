"""The blocks that a state was made for, and the gradients of their leaves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from gdjax.core.skipped import is_skipped, left_out
from gdjax.lift.stages import Tree
from gdjax.matrices.factored import Blocks
from gdjax.numerics import Array


def blocks_and(
    tree: Tree, arrays: Sequence[Array], kept: Mapping[str, Array], of: Callable[[Any], Blocks]
) -> tuple[Blocks, list[Array | None]]:
    """The blocks that the state was made for, and for each leaf of theirs the array, or None where it has no gradient.

    Args:
      arrays: for each leaf that has a gradient.
      kept: stacks of the state.
      of: the blocks of a tree of parameters.
    """
    updates, known = tree.of(arrays), {name: len(x) for name, x in kept.items()}
    missing = left_out(updates)
    like = jax.tree_util.tree_map_with_path(lambda path, g: missing.get(path, g), updates, is_leaf=is_skipped)
    there = dict(jax.tree_util.tree_leaves_with_path(updates))
    xs, found = [there.get(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)], of(like)
    if found.numbers != known:
        raise ValueError(
            f"{tree.label}: the state has {_listed(known)}, the gradients are {_listed(found.numbers)}; init(params) "
            "anew after changing the parameters, and pass params to update where some have no gradient"
        )
    return found, [x if cut else None for x, cut in zip(xs, found.cuts, strict=True)]


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{n} blocks of {name}" for name, n in numbers.items()) or "no blocks"
