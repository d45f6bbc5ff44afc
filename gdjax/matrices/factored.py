"""The matrices of a tree cut into blocks, of which each side may have a Kronecker factor; and functions of all blocks.

All blocks of one shape, whichever leaf they come from, are one stack, (number, rows, columns), by the name of their
shape, "768x3072": so a step has as many programs as there are shapes, not leaves, and the state is not copied together.
What belongs to a side that has no factor is `MaskedNode` in the state, None in a function of blocks.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.core import checks
from gdjax.core.types import ArrayTree, Params
from gdjax.linalg import blocks
from gdjax.matrices.plan import Leaf, plan_of
from gdjax.numerics import Array
from gdjax.xla import places

Stacks = dict[str, Any]  # by the name of a shape
Sides = Literal["both", "short", "rows", "columns"]
SIDES: tuple[str, ...] = get_args(Sides)


class Layout(NamedTuple):
    """How matrices are cut, and which sides of a block have factors."""

    block_size: int | None = None  # the longest side of a block
    sides: str = "both"
    max_precond_dim: int | None = None  # the longest side that has a factor

    def checked(self, label: str) -> "Layout":
        """Raises where it is none."""
        for name in ("block_size", "max_precond_dim"):
            if (size := getattr(self, name)) is not None:
                checks.structural(label, name, size, 1)
        if self.sides not in SIDES:
            raise ValueError(f"{label}: sides must be one of {', '.join(SIDES)}, got {self.sides!r}")
        return self

    def has(self, rows: int, columns: int) -> tuple[bool, bool]:
        """Whether the rows and the columns of blocks of that size have factors."""
        short = rows <= columns, rows > columns
        wanted = {"both": (True, True), "short": short, "rows": (True, False), "columns": (False, True)}
        most = self.max_precond_dim
        left, right = wanted[self.sides]
        return left and (most is None or rows <= most), right and (most is None or columns <= most)


class Cut(NamedTuple):
    """A leaf and its blocks."""

    leaf: Leaf
    block_size: int | None

    def apart(self, x: Array) -> list[Array]:
        """x as stacks of blocks, one for each part of the leaf, in float32 at least."""
        stacks = self.leaf.split(x.astype(numerics.at_least_float32(x.dtype)))
        most = self.block_size
        if most is None or self.sizes == self.leaf.sizes:
            return stacks
        cut = jax.vmap(lambda matrix: blocks.block(matrix, most))
        return [cut(stack).reshape(size) for stack, size in zip(stacks, self.sizes, strict=True)]

    def joined(self, stacks: list[Array]) -> Array:
        """The array whose `apart` these are."""
        most = self.block_size
        if most is not None and self.sizes != self.leaf.sizes:
            whole = lambda y, shape: blocks.unblock(y, shape, most)  # noqa: E731
            stacks = [
                jax.vmap(functools.partial(whole, shape=size[1:]))(y.reshape(size[0], len(y) // size[0], *y.shape[1:]))
                for y, size in zip(stacks, self.leaf.sizes, strict=True)
            ]
        return self.leaf.joined(stacks)

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """The shapes of `apart`."""
        most = self.block_size
        if most is None:
            return self.leaf.sizes
        cuts = [(n, blocks.cuts(r, most), blocks.cuts(c, most)) for n, r, c in self.leaf.sizes]
        return [(n * a * b, r, c) for n, (a, r), (b, c) in cuts]


class Member(NamedTuple):
    """Blocks of a leaf in a stack."""

    leaf: int
    part: int  # of the leaf
    number: int
    turned: bool  # whether they lie in the stack transposed


class Blocks(NamedTuple):
    """The blocks of all leaves.

    Args:
      cuts: for each leaf; None for one that has no blocks.
      complexes: for each leaf whether it is complex: blocks of complex numbers have stacks of their own.
      layout: where both sides of a block are treated alike, tall ones lie transposed among the wide ones.
    """

    cuts: Sequence[Cut | None]
    complexes: Sequence[bool]
    layout: Layout

    @property
    def members(self) -> dict[tuple[str, int, int], list[Member]]:
        """What each stack is made of, by its name, rows and columns."""
        found: dict[tuple[str, int, int], list[Member]] = {}
        for i, (cut, is_complex) in enumerate(zip(self.cuts, self.complexes, strict=True)):
            for j, (number, rows, columns) in enumerate(cut.sizes if cut else []):
                turned = rows > columns and self.layout.sides in ("both", "short")
                m, n = (columns, rows) if turned else (rows, columns)
                name = f"{m}x{n}" + (" complex" if is_complex else "")
                found.setdefault((name, m, n), []).append(Member(i, j, number, turned))
        return dict(sorted(found.items()))

    @property
    def numbers(self) -> dict[str, int]:
        """The number of blocks in each stack."""
        return {name: _number(members) for (name, *_), members in self.members.items()}

    def together(self, xs: Sequence[Array | None]) -> Stacks:
        """The blocks of arrays, one for each leaf, as stacks; zeros for an array that is not there."""
        apart = [cut.apart(x) if cut and x is not None else None for cut, x in zip(self.cuts, xs, strict=True)]
        found = {}
        for (name, *size), members in self.members.items():
            real = numerics.widest_real([xs[x.leaf] for x in members])
            dtype = numerics.complex_dtype(real) if name.endswith("complex") else real
            parts = []
            for leaf, part, number, turned in members:
                blocks = apart[leaf]
                x = jnp.zeros((number, *size), dtype) if blocks is None else blocks[part].astype(dtype)
                parts.append(x.mT if turned and blocks is not None else x)
            found[name] = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
        return found

    def apart(self, stacks: Stacks) -> list[Array | None]:
        """The arrays of the leaves whose `together` these are; None for one without blocks."""
        parts: dict[tuple[int, int], Array] = {}
        for (name, *_), members in self.members.items():
            xs = places.parts(stacks[name], [x.number for x in members]) if len(members) > 1 else [stacks[name]]
            for member, x in zip(members, xs, strict=True):
                parts[member.leaf, member.part] = x.mT if member.turned else x
        of = lambda i, cut: cut.joined([parts[i, j] for j in range(len(cut.sizes))])  # noqa: E731
        return [of(i, cut) if cut else None for i, cut in enumerate(self.cuts)]

    def only_there(
        self, xs: Sequence[Array | None], new: dict[str, Stacks], old: Mapping[str, Stacks]
    ) -> dict[str, Stacks]:
        """The new fields, with the old values for the blocks of leaves whose array is not there."""
        for (name, *_), members in self.members.items():
            own = np.concatenate([np.full(x.number, xs[x.leaf] is not None) for x in members])
            for field in () if own.all() else new:
                kept = lambda x, y: jnp.where(own.reshape(-1, *[1] * (x.ndim - 1)), x, y)  # noqa: B023, E731
                new[field][name] = jax.tree.map(kept, new[field][name], old[field][name])
        return new


def _number(members: Sequence[Member]) -> int:
    return sum(x.number for x in members)


def blocks_of(label: str, tree: ArrayTree, numbers: Any, default: Any, layout: Layout) -> Blocks:
    """The blocks of a tree; see `plan_of`."""
    leaves = plan_of(label, tree, numbers, default).leaves
    cuts = [Cut(leaf, layout.block_size) if leaf.is_matrix else None for leaf in leaves]
    return Blocks(cuts, [jnp.iscomplexobj(x) for x in jax.tree.leaves(tree)], layout)


def stands_for_a_tree(params: Params) -> bool:
    """Whether this is a placeholder, with which `map_params` calls `init` instead of parameters.

    The state of a placeholder has one leaf in the place of the stacks, which belong to no one parameter.
    """
    return not jax.tree.leaves(params) and not isinstance(params, dict | list | tuple | None)
