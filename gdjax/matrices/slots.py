"""The slots of a rule of one matrix, and their start, in the stack of all matrices of one shape."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import keys, meshes
from gdjax.core.base import MaskedNode
from gdjax.core.part import Kind
from gdjax.core.types import ArrayTree, Params
from gdjax.lift.slots import Key, start
from gdjax.lift.whole_tree import Whole
from gdjax.linalg.matrices import Matrix
from gdjax.matrices.factored import Blocks, Cut, Layout, stands_for_a_tree
from gdjax.matrices.plan import plan_of
from gdjax.matrices.roles import routing
from gdjax.numerics import Array

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
        return meshes.zeros_along(self.ps[0], (), dtype, (self.number, *shape))

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
    def keeps(self) -> Kind:
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
    def keeps(self) -> Kind:
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
    def keeps(self) -> Kind:
        return "exact" if self.identity else "factor"

    def start(self, stack: Stack) -> Any:
        if not stack.has[self.side]:
            return MaskedNode()
        n, own = stack.sides[self.side], stack.own()
        zeros = stack.zeros(own, n, n)
        return zeros + jnp.eye(n, dtype=own)[None] if self.identity else zeros


@dataclass(frozen=True)
class Basis(Side):
    """A `Side` of orthonormal columns, which starts at I; `quantize_state` may keep it coarsely."""

    identity: bool = True

    @property
    def keeps(self) -> Kind:
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
        return Whole(lambda params, given: keys.fresh(given[slot.seed] if isinstance(slot.seed, str) else slot.seed))
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
    for (name, rows, columns), members in found.members.items():
        has = found.layout.has(rows, columns)
        stack = Stack([leaves[x.leaf] for x in members], found.numbers[name], (rows, columns), has, given)
        of = lambda x, stack=stack: x.start(stack) if _wanted(x, given) else MaskedNode()  # noqa: E731
        stacks[name] = list(map(of, slot)) if isinstance(slot, tuple) else of(slot)
    return stacks


def _wanted(slot: Slot, given: Mapping[str, Any]) -> bool:
    return slot.only is None or given[slot.only[0]] == slot.only[1]


def blocks_for(label: str, tree: ArrayTree, given: Mapping[str, Any]) -> Blocks:
    """The blocks of a tree; `given` has the arguments that differ from `LIFTED`."""
    given = {**LIFTED, **given}
    layout = Layout(given["block_size"], given["sides"], given["max_precond_dim"]).checked(label)
    roles = given["roles"]
    leaves = plan_of(label, tree, None if roles is None else routing(roles), Matrix()).leaves
    cuts = [Cut(leaf, layout.block_size) if leaf.is_matrix else None for leaf in leaves]
    return Blocks(cuts, [jnp.iscomplexobj(x) for x in jax.tree.leaves(tree)], layout)
