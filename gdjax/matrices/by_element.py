"""The part of a rule of one matrix that works element by element, such as a momentum: it is done on the leaves.

A slot like the parameter lies in the state as the parameter does. Were it put into a stack, updated there, and cut out
again, a step would copy it twice. What a rule makes of it and of the gradient element by element is therefore evaluated
for each leaf, in the leaf's own shape. Only the values that the rest of the rule reads are put into stacks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, Var

from gdjax.matrices.traced import CHEAP, DEAR
from gdjax.numerics import Array

_OTHER_SHAPES = frozenset("broadcast_in_dim expand_dims pad reshape reshard slice squeeze transpose".split())
_PLACED = frozenset("pcast platform_index pvary sharding_constraint".split())  # of a device, or of axes of a mesh
_BY_ELEMENT = (CHEAP | DEAR) - _OTHER_SHAPES - _PLACED


class ByElement:
    """What a traced rule makes of some of its inputs and of numbers, element by element.

    Args:
      closed: the rule of one matrix.
      inputs: the gradient and the slots like the parameter.
      others: its inputs that belong to one matrix too.
      kept: the outputs that are wanted on the leaves, where they are made element by element.
      rest: the other outputs.
    """

    def __init__(
        self, closed: ClosedJaxpr, inputs: Sequence[Var], others: Sequence[Var], kept: Sequence[Any],
        rest: Sequence[Any],
    ):  # fmt: skip
        self.inputs, self.equations = inputs, closed.jaxpr.eqns
        self.own = self._found(inputs, others)
        self.kept = [v for v in kept if isinstance(v, Var) and v in self.own]
        self.read = self._read([*rest, *(v for v in kept if v not in self.kept)])
        self.needed = list(self._before([*self.kept, *self.read], inputs))
        made = {v for e in self.needed for v in e.outvars}
        self.numbers = [v for v in dict.fromkeys(_variables(self.needed)) if v not in made and v not in inputs]

    def _found(self, inputs: Sequence[Var], others: Sequence[Var]) -> set[Var]:
        """All values that are made element by element."""
        found, of_matrices = set(inputs), {*inputs, *others}
        for e in self.equations:
            operands = list(_variables([e]))
            numbers = all(v in found or v not in of_matrices and _shape(v) == () for v in operands)
            if of_matrices.intersection(operands):
                of_matrices.update(e.outvars)
            arrays = found.intersection(operands) or e.primitive.name == "broadcast_in_dim"
            alike = all(_shape(v) == _shape(inputs[0]) for v in e.outvars)
            if numbers and arrays and alike and _is_by_element(e):
                found.update(e.outvars)
        return found

    def _read(self, outputs: Sequence[Any]) -> list[Var]:
        """The values of the leaves that outputs need; not those that are made of others among them."""
        needed = {v for v in outputs if isinstance(v, Var)}
        for e in reversed(self.equations):
            if any(v in needed and v not in self.own for v in e.outvars):
                needed.update(_variables([e]))
        order = [*self.inputs, *(v for e in self.equations for v in e.outvars)]
        found: list[Var] = []
        for v in order:
            if v in needed and v in self.own:
                reached = {v, *_variables(self._before([v], found))}
                if reached.intersection(self.inputs) - {*found}:
                    found.append(v)
        return found

    def _before(self, wanted: Sequence[Var], ends: Sequence[Var]) -> list[Any]:
        """The equations that make the wanted values of the ends."""
        needed, found = {v for v in wanted if v not in ends}, []
        for e in reversed(self.equations):
            if needed.intersection(e.outvars) and self.own.issuperset(e.outvars):
                found.append(e)
                needed.update(v for v in _variables([e]) if v not in ends)
        return found[::-1]

    def evaluated(self, xs: Sequence[Array], numbers: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """The kept outputs and the values that are read, for arrays of a leaf in the places of the inputs."""
        known = dict(zip((*self.inputs, *self.numbers), (*xs, *numbers), strict=True))
        known = _evaluated(self.needed, known, xs[0].shape)
        return [known[v] for v in self.kept], [known[v] for v in self.read]


def _variables(equations: Iterable[Any]) -> Iterator[Var]:
    return (v for e in equations for v in e.invars if isinstance(v, Var))


def _shape(v: Any) -> tuple[int, ...]:
    return v.aval.shape


def _inside(equation: Any) -> Any:
    """The function that an equation calls; None for others, and those with derivatives of their own."""
    called = equation.params.get("jaxpr") if equation.primitive.name in ("jit", "pjit") else None
    return called.jaxpr if called is not None and not called.consts else None


def _is_by_element(equation: Any) -> bool:
    if (inside := _inside(equation)) is not None:
        return all(map(_is_by_element, inside.eqns))
    number = all(_shape(v) == () for v in equation.invars)
    return equation.primitive.name in _BY_ELEMENT or equation.primitive.name == "broadcast_in_dim" and number


def _evaluated(equations: Sequence[Any], known: Mapping[Any, Any], shape: tuple[int, ...]) -> dict[Any, Any]:
    """The values of equations that work element by element, of arrays of this shape."""
    values = dict(known)
    for e in equations:
        xs = [v.val if isinstance(v, Literal) else values[v] for v in e.invars]
        if (inside := _inside(e)) is not None:
            found = _evaluated(inside.eqns, dict(zip(inside.invars, xs, strict=True)), shape)
            ys = [v.val if isinstance(v, Literal) else found[v] for v in inside.outvars]
        elif e.primitive.name == "broadcast_in_dim":
            ys = [jnp.broadcast_to(xs[0], shape)]
        else:
            ys = e.primitive.bind(*xs, **e.params)
            ys = ys if e.primitive.multiple_results else [ys]
        values.update(zip(e.outvars, ys, strict=True))
    return values
