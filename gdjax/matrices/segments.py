"""A traced rule of one matrix, cut at its turns, and evaluated part by part over a stack."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Var

from gdjax.core import homes, meshes
from gdjax.matrices.in_turns import WHERE, Turn, turns_p
from gdjax.matrices.traced import Evaluation, has_inside
from gdjax.numerics import Array
from gdjax.xla import at_home, places
from gdjax.xla.write_order import LARGE


class Meeting(NamedTuple):
    """One `in_turns` of a rule."""

    turn: Turn
    when: Any  # None where the matrices have their turns one after the other
    olds: list[Any]
    factors: list[Any]
    constants: list[Any]
    news: list[Var]


class Segments:
    """The values of a rule over a stack: (number, ...) where they depend on the matrices, else as they are.

    Args:
      closed: the rule of one matrix.
      of_matrices: its inputs that belong to one matrix.
      stacks: the values that are known for all matrices, some of these inputs or what is made of them.
      scalars: the values of the other inputs.
      outputs: those that are wanted, each with the known value whose memory it may take, or None.
      number: of the matrices.
    """

    def __init__(
        self, closed: ClosedJaxpr, of_matrices: Sequence[Var], stacks: Mapping[Var, Array], scalars: Evaluation,
        outputs: Sequence[tuple[Any, Var | None]], number: int,
    ):  # fmt: skip
        self.closed, self.outputs = closed, [v for v, _ in outputs]
        self.values: dict[Var, Any] = dict(stacks)
        self.shared, self.number = scalars, number
        self.of_matrices = set(of_matrices)
        for e in closed.jaxpr.eqns:
            if e.primitive is turns_p or any(v in self.of_matrices for v in e.invars if isinstance(v, Var)):
                self.of_matrices.update(e.outvars)
        self.meetings = [_meeting(e) for e in closed.jaxpr.eqns if e.primitive is turns_p]
        if any(has_inside(e, turns_p) for e in closed.jaxpr.eqns if e.primitive is not turns_p):
            raise TypeError(f"gdjax.in_turns: {WHERE}")
        self.place = {v: x for v, x in outputs if isinstance(v, Var) and x is not None}
        for meeting in reversed(self.meetings):  # what turns make an output of may be written where that will be
            for new, old in zip(meeting.news, meeting.olds, strict=True):
                if new in self.place and isinstance(old, Var):
                    self.place.setdefault(old, self.place[new])

    def known_before(self, meeting: int) -> list[Var]:
        """The outputs and the operands of meetings that need none of the meetings from this one on.

        Those of later meetings too: what is computed after a meeting has overwritten a slot needs a copy of it.
        """
        late = {v for m in self.meetings[meeting:] for v in m.news}
        wanted = [*self.outputs, *(v for m in self.meetings[meeting:] for v in (*m.olds, *m.factors))]
        new = [v for v in dict.fromkeys(x for x in wanted if isinstance(x, Var)) if v in self.of_matrices]
        return [v for v in new if v not in self.values and not self._made_of([v]) & late]

    def _made_of(self, wanted: Sequence[Var]) -> set[Var]:
        """These values and all that they are computed from, up to those that are known."""
        needed = set(wanted)
        for e in reversed(self.closed.jaxpr.eqns):
            if any(v in needed and v not in self.values for v in e.outvars):
                needed.update(v for v in e.invars if isinstance(v, Var))
        return needed

    def scalar(self, value: Any) -> Any:
        """A value that no matrix is part of."""
        return self.shared.value(value)

    def stack(self, value: Any) -> Array:
        """A value for all matrices, also one that is the same for each."""
        if isinstance(value, Var) and value in self.of_matrices:
            return self.values[value]
        one = self.scalar(value)
        return jnp.broadcast_to(one, (self.number, *one.shape))

    def evaluate(self, meeting: int) -> None:
        """What is known before a meeting, or after the last one."""
        wanted = self.known_before(meeting)
        if not wanted:
            return
        read = self._made_of(wanted)
        inputs = [v for v in self.values if v in read]

        def f(*xs: Array) -> list[Array]:
            values = Evaluation(self.closed, self.shared.known | dict(zip(inputs, xs, strict=False)))
            return [values.value(v) for v in wanted]

        # A stack whose memory a result may take is handed in even where f does not read it.
        stacks = list(dict.fromkeys([*inputs, *(self.place[v] for v in wanted if v in self.place)]))
        over = [stacks.index(self.place[v]) if v in self.place else None for v in wanted]
        made = over_stack(f, [self.values[v] for v in stacks], over)
        self.values.update(zip(wanted, made, strict=True))


def _meeting(e: Any) -> Meeting:
    turn = Turn(**e.params)
    operands = list(e.invars)
    when = operands.pop(0) if turn.period is None else None
    olds, rest = operands[: turn.olds], operands[turn.olds :]
    return Meeting(turn, when, olds, rest[: turn.factors], rest[turn.factors :], list(e.outvars))


def one_of(stack: Array) -> Any:
    """What stands for one matrix of a stack in a trace; in `shard_map` it varies as the stack does."""
    return stack[0] if meshes.varying_axes(stack) else jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype)


def over_stack(f: Callable[..., Sequence[Array]], stacks: Sequence[Array], over: Sequence[int | None]) -> list[Array]:
    """f of one matrix, for all of a stack.

    On a CPU large matrices go one by one through a loop, whose body is compiled once and writes over the stacks that it
    reads. Elsewhere, and of small ones, all are computed at once.

    Args:
      over: for each result the stack whose memory it takes; None for memory of its own.
    """
    number = len(stacks[0])
    if homes.mesh() is not None:
        return list(at_home.computed(jax.vmap(f), *stacks))
    if number == 1:
        return [y[None] for y in f(*(x[0] for x in stacks))]
    shapes = jax.eval_shape(f, *map(one_of, stacks))
    fits = [
        i if i is not None and (stacks[i].shape[1:], stacks[i].dtype) == (y.shape, y.dtype) else None
        for i, y in zip(over, shapes, strict=True)
    ]

    def at_once(*stacks: Array) -> list[Array]:
        return list(jax.vmap(f)(*stacks))

    def one_by_one(*stacks: Array) -> list[Array]:
        starts = [
            jnp.zeros((number, *y.shape), y.dtype) if i is None else stacks[i]
            for i, y in zip(fits, shapes, strict=True)
        ]

        def step(i: Any, written: list[Array]) -> list[Array]:
            there = list(stacks)
            for j, x in zip(fits, written, strict=True):
                if j is not None:
                    there[j] = x
            ys = f(*places.taken(there, i))
            put = jax.lax.dynamic_update_index_in_dim
            return [put(x, y, i, 0) for x, y in zip(written, ys, strict=True)]

        return meshes.fori_loop(number, step, starts)

    large = max(math.prod(x.shape[1:]) for x in stacks) >= LARGE and not meshes.may_be_divided(stacks[0])
    if large:
        return jax.lax.platform_dependent(*stacks, cpu=one_by_one, default=at_once)
    return at_once(*stacks)
