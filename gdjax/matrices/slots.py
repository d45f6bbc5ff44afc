"""The stacks of a state: blocks of matrices by their shapes, and the slots that follow them.

All blocks of one shape are one stack, (number, rows, columns), whatever leaf they come from. Its name is the shape,
"768x3072". So a step has one program for each shape, not for each leaf, and the state is a few large arrays.
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
from gdjax.core import arrays, checks, meshes
from gdjax.core.base import MaskedNode
from gdjax.core.part import SlotKind
from gdjax.core.parts import placeholder
from gdjax.core.types import ArrayTree, Params, PerLeaf, base_of, is_skipped
from gdjax.leaf_roles.plan import Leaf, plan_of, routing
from gdjax.lift.all_leaves import factors_of_each
from gdjax.lift.slots import Key, Whole, start
from gdjax.linalg import blocks
from gdjax.linalg.matrices import Matrix
from gdjax.numerics import Array
from gdjax.xla import write_order

__all__ = ["Along", "Basis", "Block", "Side"]

Stacks = dict[str, Any]  # by the name of a shape
Shape = tuple[str, int, int]  # the name, rows and columns of the blocks of a stack
Sides = Literal["both", "short", "rows", "columns"]
SIDES: tuple[str, ...] = get_args(Sides)


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
        found: dict[Shape, list[Member]] = {}
        for i, (cut, is_complex) in enumerate(zip(self.cuts, self.complexes, strict=True)):
            for j, (number, rows, columns) in enumerate(cut.sizes if cut else []):
                turned = rows > columns and self.layout.turns_tall_ones
                m, n = (columns, rows) if turned else (rows, columns)
                name = f"{m}x{n}" + (" complex" if is_complex else "")
                found.setdefault((name, m, n), []).append(Member(i, j, number, turned))
        return dict(sorted(found.items()))

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The number of blocks in each stack."""
        return {name: sum(x.number for x in members) for (name, *_), members in self.members.items()}

    def stack(self, shape: Shape, xs: Sequence[Array | None]) -> Array:
        """The stack of blocks of that shape, from arrays for each leaf; zeros for a missing array."""
        real = numerics.widest_real([xs[x.leaf] for x in self.members[shape]])
        dtype = numerics.complex_dtype(real) if shape[0].endswith("complex") else real
        found = []
        for leaf, part, number, turned in self.members[shape]:
            if (x := xs[leaf]) is None or (cut := self.cuts[leaf]) is None:
                found.append(jnp.zeros((number, *shape[1:]), dtype))
            else:
                own = cut.blocks(x)[part].astype(dtype)
                found.append(own.mT if turned else own)
        return jnp.concatenate(found) if len(found) > 1 else found[0]

    def leaves(self, stacks: Stacks) -> list[Array | None]:
        """The arrays of the leaves with these blocks; None for a leaf without blocks."""
        parts: dict[tuple[int, int], Array] = {}
        for (name, *_), members in self.members.items():
            xs = write_order.parts(stacks[name], [x.number for x in members]) if len(members) > 1 else [stacks[name]]
            for member, x in zip(members, xs, strict=True):
                parts[member.leaf, member.part] = x.mT if member.turned else x
        of = lambda i, cut: cut.whole([parts[i, j] for j in range(len(cut.sizes))])
        return [of(i, cut) if cut else None for i, cut in enumerate(self.cuts)]

    def only_there(
        self, xs: Sequence[Array | None], new: dict[str, Stacks], old: Mapping[str, Stacks]
    ) -> dict[str, Stacks]:
        """The new fields, with old values for the blocks of leaves whose array is missing."""
        for (name, *_), members in self.members.items():
            there = np.concatenate([np.full(x.number, xs[x.leaf] is not None) for x in members])
            lead = meshes.dealt(len(there))
            own = np.pad(there, (0, math.prod(lead) - len(there))).reshape(lead)
            for field in () if there.all() else new:
                kept = lambda x, y: jnp.where(own.reshape(*lead, *[1] * (x.ndim - len(lead))), x, y)  # noqa: B023
                new[field][name] = jax.tree.map(kept, new[field][name], old[field][name])
        return new


def stands_for_a_tree(params: Params) -> bool:
    """Whether this is the placeholder with which `map_params` calls `init` instead of parameters.

    The state of a placeholder has one leaf in place of the stacks, which belong to no single parameter.
    """
    return isinstance(params, type(placeholder()))


# The arguments of the lift, which the rule does not get.
LIFTED = {"block_size": None, "sides": "both", "max_precond_dim": None, "roles": None}


class Stack(NamedTuple):
    """Facts about a stack for the start of a slot."""

    ps: list[Any]  # the parameters whose matrices it holds
    number: int
    sides: tuple[int, int]
    has: tuple[bool, bool]  # whether the rows, and the columns, have factors
    given: Mapping[str, Any]  # the arguments of the factory

    def zeros(self, dtype: Any, *shape: int) -> Array:
        return meshes.zeros_along(self.ps[0], (), dtype, (*meshes.dealt(self.number), *shape))

    def identities(self, dtype: Any, n: int) -> Array:
        return self.zeros(dtype, n, n) + jnp.eye(n, dtype=dtype).reshape(*[1] * len(meshes.dealt(0)), n, n)

    def real(self) -> Any:
        return jax.dtypes.canonicalize_dtype(numerics.widest_real(self.ps))

    def own(self) -> Any:
        return numerics.complex_dtype(self.real()) if jnp.iscomplexobj(self.ps[0]) else self.real()


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A field of the state in stacks.

    Args:
      only: an argument and the value without which there is no slot.
    """

    only: tuple[str, Any] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the factory that the slot reads, with their defaults."""
        return {}

    @property
    def keeps(self) -> SlotKind:
        """The kind of its arrays, as in `gdjax.Moment`."""
        return "exact"

    def start(self, stack: Stack) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Block(Slot):
    """A slot like the matrices, (rows, columns), of zeros, in float32 at least.

    Args:
      real: whether it is real where the matrices are complex, as squares are.
      dtype: the name of an argument that, if it is not None, is the dtype.
      only: an argument and the value without which there is no slot.
    """

    real: bool = False
    dtype: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        return {self.dtype: None} if self.dtype else {}

    @property
    def keeps(self) -> SlotKind:
        return "square" if self.real else "matrix"

    def start(self, stack: Stack) -> Any:
        dtype, own = stack.given.get(self.dtype), stack.real() if self.real else stack.own()
        if dtype is not None:
            own = numerics.complex_dtype(dtype) if jnp.issubdtype(own, jnp.complexfloating) else dtype
        return stack.zeros(own, *stack.sides)


@dataclass(frozen=True)
class Side(Slot):
    """A slot that is square along the rows, side 0, or the columns, side 1; None in the rule where it has no factor.

    What starts at 0 is a Kronecker factor, which `quantize_state(factors=...)` may keep coarsely.

    Args:
      side: 0 or 1.
      identity: whether it starts at I, and not at 0.
      only: as in `Block`.
    """

    side: int
    identity: bool = False

    @property
    def keeps(self) -> SlotKind:
        return "exact" if self.identity else "factor"

    def start(self, stack: Stack) -> Any:
        if not stack.has[self.side]:
            return MaskedNode()
        n, own = stack.sides[self.side], stack.own()
        return stack.identities(own, n) if self.identity else stack.zeros(own, n, n)


@dataclass(frozen=True)
class Basis(Side):
    """A `Side` of orthonormal columns, which starts at I; `quantize_state` may keep it coarsely."""

    identity: bool = True

    @property
    def keeps(self) -> SlotKind:
        return "basis"


@dataclass(frozen=True)
class Along(Slot):
    """A slot of real numbers for the rows, (rows, 1), side 0, or the columns, (1, columns), side 1.

    Args:
      side: 0 or 1; None in the rule where that side has no factor.
      fill: where it starts: a number, or the name of an argument.
      only: as in `Block`.
    """

    side: int
    fill: str | float = 0.0

    @property
    def arguments(self) -> dict[str, Any]:
        return {self.fill: 0.0} if isinstance(self.fill, str) else {}

    def start(self, stack: Stack) -> Any:
        if not stack.has[self.side]:
            return MaskedNode()
        n = stack.sides[self.side]
        return stack.zeros(stack.real(), *((1, n) if self.side else (n, 1))) + start(self.fill, stack.given)


Slots = Slot | tuple[Slot, ...]  # one, or a list of them: the field is then a list of stacks


def as_declared(slot: Any) -> Any:
    """A slot of a rule of one matrix as a slot of the leaf rule behind it."""
    if isinstance(slot, Key):
        return Whole(
            lambda params, given: arrays.fresh_key(given[slot.seed] if isinstance(slot.seed, str) else slot.seed)
        )
    if not isinstance(slot, Slot | tuple):
        return slot
    kind = slot.keeps if isinstance(slot, Slot) else "exact"
    return Whole(functools.partial(_started, slot), of_several=True, kind=kind)


def arguments_of(slot: Any) -> dict[str, Any]:
    """The arguments of the factory that the start of a slot reads, with their defaults."""
    if isinstance(slot, Key):
        return {slot.seed: 0} if isinstance(slot.seed, str) else {}
    several = slot if isinstance(slot, tuple) else (slot,)
    return {name: x for one in several if isinstance(one, Slot) for name, x in one.arguments.items()}


def _started(slot: Slots, params: Params, given: Mapping[str, Any]) -> Any:
    if stands_for_a_tree(params):
        return jnp.zeros(())
    found, leaves, stacks = blocks_for(given["label"], params, given), jax.tree.leaves(params), {}
    numbers = {k: x for k, x in given.items() if isinstance(x, PerLeaf)}
    bases = {k: start(k, {k: base_of(x)}) for k, x in numbers.items()}
    each = factors_of_each(numbers, bases, params) if numbers else []
    each = [own for own, x in zip(each, jax.tree.leaves(params, is_leaf=is_skipped), strict=False) if not is_skipped(x)]
    for (name, rows, columns), members in found.members.items():
        has = found.layout.has(rows, columns)
        # Matrices of one shape mostly have one factor; else the geometric mean serves.
        logs = {k: np.mean([np.log(each[m.leaf].get(k, x)) for m in members]) for k, x in bases.items()}
        own = {**given, **{k: float(np.exp(log)) for k, log in logs.items()}}
        stack = Stack([leaves[x.leaf] for x in members], found.numbers[name], (rows, columns), has, own)
        of = lambda x, stack=stack: x.start(stack) if _wanted(x, given) else MaskedNode()
        stacks[name] = list(map(of, slot)) if isinstance(slot, tuple) else of(slot)
    return stacks


def _wanted(slot: Slot, given: Mapping[str, Any]) -> bool:
    return slot.only is None or given[slot.only[0]] == slot.only[1]


def blocks_for(label: str, tree: ArrayTree, given: Mapping[str, Any]) -> MatrixBlocks:
    """The blocks of a tree; `given` has the arguments that differ from `LIFTED`."""
    given = {**LIFTED, **given}
    layout = BlockLayout(given["block_size"], given["sides"], given["max_precond_dim"]).checked(label)
    roles = given["roles"]
    leaves = plan_of(label, tree, None if roles is None else routing(roles), Matrix()).leaves
    cuts = [Cut(leaf, layout.block_size) if leaf.is_matrix else None for leaf in leaves]
    return MatrixBlocks(cuts, [jnp.iscomplexobj(x) for x in jax.tree.leaves(tree)], layout)
