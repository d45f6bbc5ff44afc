"""The matrices of a tree, cut into blocks, and the blocks of one shape as a stack: a view of the tree.

All blocks of one shape are one stack, (number, rows, columns), whatever leaf they come from. Its name is the shape,
"768x3072". So a step has one program for each shape, not for each leaf, and a state is a few large arrays.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.core import checks, meshes
from gdjax.core.types import ArrayTree
from gdjax.leaf_roles.plan import Leaf, plan_of, routing
from gdjax.linalg import blocks
from gdjax.linalg.matrices import Matrix
from gdjax.numerics import Array
from gdjax.xla import write_order

Stacks = dict[str, Any]  # by the name of a shape
Shape = tuple[str, int, int]  # the name, rows and columns of the blocks of a stack
Sides = Literal["both", "short", "rows", "columns"]
SIDES: tuple[str, ...] = get_args(Sides)

# The arguments of the lift, which the rule does not get.
LIFTED = {"block_size": None, "sides": "both", "max_precond_dim": None, "roles": None}


class BlockLayout(NamedTuple):
    """How matrices are cut, and which sides of a block have factors."""

    block_size: int | None = None  # the longest side of a block
    sides: str = "both"
    max_precond_dim: int | None = None  # the longest side that has a factor

    def checked(self, label: str) -> "BlockLayout":
        """The layout; raises where an argument is wrong."""
        for name in ("block_size", "max_precond_dim"):
            if (size := getattr(self, name)) is not None:
                checks.structural(label, name, size, 1)
        if self.sides not in SIDES:
            raise ValueError(f"{label}: sides must be one of {', '.join(SIDES)}, got {self.sides!r}")
        return self

    def has(self, rows: int, columns: int) -> tuple[bool, bool]:
        """Whether the rows, and the columns, of blocks of that size have a factor."""
        short = rows <= columns, rows > columns
        wanted = {"both": (True, True), "short": short, "rows": (True, False), "columns": (False, True)}[self.sides]
        left, right = (self.max_precond_dim is None or size <= self.max_precond_dim for size in (rows, columns))
        return wanted[0] and left, wanted[1] and right

    @property
    def turns_tall_ones(self) -> bool:
        """Whether blocks with more rows than columns are stacked transposed, since both sides are treated alike."""
        return self.sides in ("both", "short")


class Cut(NamedTuple):
    """How the matrices of a leaf are cut into blocks."""

    leaf: Leaf
    block_size: int | None

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """For each part of the leaf the number, rows and columns of its blocks."""
        most = self.block_size
        if most is None:
            return self.leaf.sizes
        cuts = [(n, blocks.cuts(r, most), blocks.cuts(c, most)) for n, r, c in self.leaf.sizes]
        return [(n * a * b, r, c) for n, (a, r), (b, c) in cuts]

    def blocks(self, x: Array) -> list[Array]:
        """For each part of the leaf its blocks, (number, rows, columns), in float32 at least."""
        matrices = self.leaf.split(x.astype(numerics.at_least_float32(x.dtype)))
        most = self.block_size
        if most is None or self.sizes == self.leaf.sizes:
            return matrices
        cut = jax.vmap(lambda matrix: blocks.block(matrix, most))
        return [cut(x).reshape(size) for x, size in zip(matrices, self.sizes, strict=True)]

    def whole(self, parts: list[Array]) -> Array:
        """The array with these `blocks`."""
        most = self.block_size
        if most is not None and self.sizes != self.leaf.sizes:
            one = lambda x, shape: blocks.unblock(x, shape, most)
            parts = [
                jax.vmap(functools.partial(one, shape=size[1:]))(x.reshape(size[0], len(x) // size[0], *x.shape[1:]))
                for x, size in zip(parts, self.leaf.sizes, strict=True)
            ]
        return self.leaf.joined(parts)


class Member(NamedTuple):
    """The blocks in a stack that come from one part of a leaf."""

    leaf: int
    part: int
    number: int
    turned: bool  # whether they lie in the stack transposed


@dataclass(frozen=True)
class MatrixBlocks:
    """The blocks of all leaves, and their stacks.

    Args:
      cuts: for each leaf; None for a leaf without blocks.
      complexes: for each leaf whether it is complex: blocks of complex numbers have stacks of their own.
      layout: how they are cut.
    """

    cuts: Sequence[Cut | None]
    complexes: Sequence[bool]
    layout: BlockLayout

    @functools.cached_property
    def members(self) -> dict[Shape, list[Member]]:
        """For each stack the sources of its blocks, in order."""
        members: dict[Shape, list[Member]] = {}
        for i, (cut, is_complex) in enumerate(zip(self.cuts, self.complexes, strict=True)):
            for j, (number, rows, columns) in enumerate(cut.sizes if cut else []):
                turned = rows > columns and self.layout.turns_tall_ones
                m, n = (columns, rows) if turned else (rows, columns)
                name = f"{m}x{n}" + (" complex" if is_complex else "")
                members.setdefault((name, m, n), []).append(Member(i, j, number, turned))
        return dict(sorted(members.items()))

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The number of blocks in each stack."""
        return {name: sum(x.number for x in members) for (name, *_), members in self.members.items()}

    def stack(self, shape: Shape, xs: Sequence[Array | None]) -> Array:
        """The stack of blocks of that shape, from arrays for each leaf; zeros for a missing array."""
        real = numerics.widest_real([xs[x.leaf] for x in self.members[shape]])
        dtype = numerics.complex_dtype(real) if shape[0].endswith("complex") else real
        parts = []
        for leaf, part, number, turned in self.members[shape]:
            if (x := xs[leaf]) is None or (cut := self.cuts[leaf]) is None:
                parts.append(jnp.zeros((number, *shape[1:]), dtype))
            else:
                block = cut.blocks(x)[part].astype(dtype)
                parts.append(block.mT if turned else block)
        return jnp.concatenate(parts) if len(parts) > 1 else parts[0]

    def leaves(self, stacks: Stacks) -> list[Array | None]:
        """The arrays of the leaves with these blocks; None for a leaf without blocks."""
        parts: dict[tuple[int, int], Array] = {}
        for (name, *_), members in self.members.items():
            xs = write_order.parts(stacks[name], [x.number for x in members]) if len(members) > 1 else [stacks[name]]
            for member, x in zip(members, xs, strict=True):
                parts[member.leaf, member.part] = x.mT if member.turned else x
        whole = lambda i, cut: cut.whole([parts[i, j] for j in range(len(cut.sizes))])
        return [whole(i, cut) if cut else None for i, cut in enumerate(self.cuts)]

    def only_there(
        self, xs: Sequence[Array | None], new: dict[str, Stacks], old: Mapping[str, Stacks]
    ) -> dict[str, Stacks]:
        """The new fields, with old values for the blocks of leaves whose array is missing."""
        for (name, *_), members in self.members.items():
            is_there = np.concatenate([np.full(x.number, xs[x.leaf] is not None) for x in members])
            lead = meshes.dealt(len(is_there))
            mask = np.pad(is_there, (0, math.prod(lead) - len(is_there))).reshape(lead)
            for field in () if is_there.all() else new:
                chosen = lambda x, y: jnp.where(mask.reshape(*lead, *[1] * (x.ndim - len(lead))), x, y)  # noqa: B023
                new[field][name] = jax.tree.map(chosen, new[field][name], old[field][name])
        return new


def blocks_for(label: str, tree: ArrayTree, arguments: Mapping[str, Any]) -> MatrixBlocks:
    """The blocks of a tree; `given` has the arguments that differ from `LIFTED`."""
    arguments = {**LIFTED, **arguments}
    layout = BlockLayout(arguments["block_size"], arguments["sides"], arguments["max_precond_dim"]).checked(label)
    roles = arguments["roles"]
    leaves = plan_of(label, tree, None if roles is None else routing(roles), Matrix()).leaves
    cuts = [Cut(leaf, layout.block_size) if leaf.is_matrix else None for leaf in leaves]
    return MatrixBlocks(cuts, [jnp.iscomplexobj(x) for x in jax.tree.leaves(tree)], layout)
