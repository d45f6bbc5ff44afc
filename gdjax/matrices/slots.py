"""The slots of a rule of one matrix: those of `leafwise`, under the names of matrices.

In the state each is a tree of stacks: for each shape of blocks an array with the slots of all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.base import MaskedNode
from gdjax.core.part import SlotKind
from gdjax.core.parts import placeholder
from gdjax.core.types import Params, PerLeaf, base_of, is_skipped
from gdjax.lift import factors, layers
from gdjax.lift.slots import Factor, Moment, New, Stored, first, kind_of, start
from gdjax.matrices.blocks import Shape, Stacks, blocks_for

__all__ = ["Along", "Basis", "Block", "Side"]


@dataclass(frozen=True)
class Only:
    """A slot that is there where an argument has a value; elsewhere the rule sees None."""

    slot: Moment | Factor
    argument: str
    value: Any


def _only(slot: Moment | Factor, only: tuple[str, Any] | None) -> Any:
    return slot if only is None else Only(slot, *only)


def Block(real: bool = False, dtype: str = "", *, only: tuple[str, Any] | None = None) -> Any:
    """A slot like the matrices, (rows, columns), of zeros, in float32 at least: a `Moment`.

    Args:
      real: whether it is real where the matrices are complex, as squares are.
      dtype: the name of an argument that, if it is not None, is the dtype.
      only: an argument and the value without which there is no slot.
    """
    return _only(Moment(dtype, wide=True, real=real, kind="square" if real else "matrix"), only)


def Side(side: int, identity: bool = False, *, only: tuple[str, Any] | None = None) -> Any:
    """A slot that is square along the rows, side 0, or the columns, side 1: a `Factor`; None in the rule for no factor.

    What starts at 0 is a Kronecker factor, which `quantize_state(factors=...)` may keep coarsely.

    Args:
      side: 0 or 1.
      identity: whether it starts at I, and not at 0.
      only: as in `Block`.
    """
    return _square(side, identity, "exact" if identity else "factor", only)


def Basis(side: int, *, only: tuple[str, Any] | None = None) -> Any:
    """A `Side` of orthonormal columns, which starts at I; `quantize_state` may keep it coarsely."""
    return _square(side, True, "basis", only)


def _square(side: int, identity: bool, kind: SlotKind, only: tuple[str, Any] | None) -> Any:
    return _only(Factor((side, side), real=False, identity=identity, kind=kind), only)


def Along(side: int, fill: str | float = 0.0, *, only: tuple[str, Any] | None = None) -> Any:
    """A slot of real numbers for the rows, (rows, 1), side 0, or the columns, (1, columns), side 1: a `Factor`.

    Args:
      side: 0 or 1; None in the rule where that side has no factor.
      fill: where it starts: a number, or the name of an argument.
      only: as in `Block`.
    """
    return _only(Factor((New(1), 1) if side else (0, New(1)), fill), only)


def arguments_of(slot: Any) -> dict[str, Any]:
    """The arguments of the factory that the start of a slot reads, with their defaults."""
    if isinstance(slot, tuple):
        return {name: x for one in slot for name, x in arguments_of(one).items()}
    slot = slot.slot if isinstance(slot, Only | Stored) else slot
    named = {"dtype": None, "fill": 0.0, "seed": 0}
    return {name: x for f, x in named.items() if isinstance(name := getattr(slot, f, None), str) and name}


def kind_in_stacks(slot: Any) -> SlotKind:
    return kind_of(slot.slot if isinstance(slot, Only) else slot)


def first_stacks(
    label: str, slots: Mapping[str, Any], params: Params, arguments: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The first values of slots, by field and the name of a stack.

    For the placeholder with which `map_params` calls `init` there is one leaf in place of the stacks, which belong to
    no single parameter.
    """
    if isinstance(params, type(placeholder())):
        return {field: jnp.zeros(()) for field in slots}
    blocks, leaves = blocks_for(label, params, arguments), jax.tree.leaves(params)
    stacks: dict[str, Stacks] = {field: {} for field in slots}
    each = _numbers_of_each(params, arguments)
    for shape, members in blocks.members.items():
        of = [each[m.leaf] for m in members]
        # Matrices of one shape mostly have one factor; else the geometric mean serves.
        means = {name: float(np.exp(np.mean([np.log(x[name]) for x in of]))) for name in of[0]}
        ps = [leaves[m.leaf] for m in members]
        has = blocks.layout.has(*shape[1:])
        for field, slot in slots.items():
            stacks[field][shape[0]] = _first(
                label, slot, shape, blocks.numbers[shape[0]], ps, has, {**arguments, **means}
            )
    return stacks


def _numbers_of_each(params: Params, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each leaf the arguments that differ by leaf."""
    numbers = {k: x for k, x in arguments.items() if isinstance(x, PerLeaf)}
    bases = {k: start(k, {k: base_of(x)}) for k, x in numbers.items()}
    entries = jax.tree.leaves(params, is_leaf=is_skipped)
    each = factors.of_each(numbers, bases, params) if numbers else [{}] * len(entries)
    return [{**bases, **products} for products, x in zip(each, entries, strict=True) if not is_skipped(x)]


def _first(
    label: str, slot: Any, shape: Shape, number: int, ps: Sequence[Any], has: tuple[bool, bool],
    arguments: Mapping[str, Any],
) -> Any:  # fmt: skip
    """The first value of a slot for one stack; a list for several, `MaskedNode` for a side without a factor."""
    if isinstance(slot, tuple):
        return [_first(label, x, shape, number, ps, has, arguments) for x in slot]
    if isinstance(slot, Only):
        if arguments[slot.argument] != slot.value:
            return MaskedNode()
        slot = slot.slot
    if isinstance(slot, Factor) and not callable(slot.axes):
        sides = {axis for axis in slot.axes if isinstance(axis, int)}
        if len(sides) == 1 and not has[sides.pop()]:
            return MaskedNode()
    lead = meshes.dealt(number)
    real = jax.dtypes.canonicalize_dtype(numerics.widest_real(ps))
    like = jnp.zeros((*lead, *shape[1:]), numerics.complex_dtype(real) if jnp.iscomplexobj(ps[0]) else real)
    (made,) = first(label, [layers.along(slot, len(lead))], [((), like)], arguments, 0)
    return jax.tree.map(lambda x: meshes.along(x, ps[0], [None] * x.ndim), made)
