"""`matrixwise`: a rule of one matrix becomes a transform of all matrices of a tree, over the stacks that it keeps."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.base import GradientTransformation, MaskedNode
from gdjax.core.types import Params
from gdjax.lift.leafwise import Reduced, leafwise
from gdjax.lift.rule_checks import named
from gdjax.lift.slots import start
from gdjax.lift.stages import Tree, Whole
from gdjax.linalg.matrices import Matrix
from gdjax.matrices import factored, turns
from gdjax.matrices.factored import Blocks, blocks_of, stands_for_a_tree
from gdjax.matrices.of_gradients import blocks_and
from gdjax.matrices.segments import Segments
from gdjax.numerics import Array, bounded

LIFTED = "mu_dtype layout roles label"  # what the lift, and not the rule, takes of the arguments


@dataclass(frozen=True)
class Block:
    """A slot like the matrices, (rows, columns), of zeros; `real` for squares. `dtype` names a hyperparameter."""

    real: bool = False
    dtype: str = ""
    only: tuple[str, Any] = ()  # type: ignore[assignment]  # an argument and its value, without which there is no slot

    what = property(lambda self: "squares" if self.real else "blocks")


@dataclass(frozen=True)
class Side:
    """A slot that is square along the rows, side 0, or the columns, side 1; None where that side has no factor."""

    side: int
    identity: bool = False  # where it starts: at I, else at 0
    only: tuple[str, Any] = ()  # type: ignore[assignment]  # as in `Block`

    what = property(lambda self: "Q" * self.identity + "LR"[self.side])


@dataclass(frozen=True)
class Along:
    """A slot of numbers for rows, (rows, 1), side 0, or columns, (1, columns), side 1; None where it has no factor."""

    side: int
    fill: str | float = 0.0  # where it starts, or the name of an argument

    what = property(lambda self: "d" + "LR"[self.side])


Slot = Block | Side | Along


def matrixwise(State: Any, **slots: Slot) -> Callable[[Callable[..., Any]], Callable[..., GradientTransformation]]:  # noqa: N803
    def decorate(rule: Callable[..., Any]) -> Callable[..., GradientTransformation]:
        own = [p for p in named(rule, 4)]
        fills = {x.fill for x in slots.values() if isinstance(x, Along) and isinstance(x.fill, str)}
        extra = [*LIFTED.split(), *sorted(fills - {p.name for p in own})]
        lifted = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in extra]

        def given(g: Array, s: Any, p: Any, t: Any, u: Any = None, **_: Any) -> Any:
            return u, s

        def stage(
            gs: list[Array], s: Any, ps: Any, t: Any, *, tree: Tree, layout: Any, roles: Any, **hyper: Any
        ) -> Any:
            return of_matrices(rule, State, gs, s, t, tree, layout, roles, hyper)

        places = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("g", "s", "p", "t")]
        u = inspect.Parameter("u", inspect.Parameter.KEYWORD_ONLY, default=Reduced)
        functools.update_wrapper(given, rule)
        del given.__wrapped__
        given.__signature__ = inspect.Signature([*places, *own, *lifted, u])  # type: ignore[attr-defined]
        more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("tree", "layout", "roles")]
        stage.__signature__ = inspect.Signature([*places, *own, *more])  # type: ignore[attr-defined]
        whole = in_stacks(**slots)
        return leafwise(State, reduce=stage, staged=" ".join(extra), **whole)(given)

    return decorate


def in_stacks(**slots: Slot) -> dict[str, Whole]:
    """The slots, as those of a state whose stages call `of_matrices`."""
    return {name: Whole(functools.partial(_started, slot)) for name, slot in slots.items()}


def _started(slot: Slot, params: Params, given: Mapping[str, Any]) -> Any:
    if stands_for_a_tree(params):
        return jnp.zeros(())
    found = blocks_of(given["label"], params, given["roles"], Matrix(), given["layout"])
    if (only := getattr(slot, "only", ())) and given[only[0]] != only[1]:
        return {name: MaskedNode() for name in found.numbers}
    fill = start(slot.fill, given) if isinstance(slot, Along) else 1.0
    return factored.started(params, found, slot.what, given.get(getattr(slot, "dtype", "")), fill)


def of_matrices(
    rule: Any, State: Any, gs: list[Array], s: Any, t: Array, tree: Tree, layout: Any, roles: Any, hyper: dict[str, Any]  # noqa: N803
) -> dict[str, Any]:  # fmt: skip
    slots = {name: x for name, x in s._asdict().items() if name != "count"}
    first = next(iter(slots.values()))
    found, xs = blocks_and(tree, gs, first, lambda like: blocks_of(tree.label, like, roles, Matrix(), layout))
    arrays = {k: x for k, x in hyper.items() if isinstance(x, jax.Array)}
    constants = {k: x for k, x in hyper.items() if k not in arrays}
    run = functools.partial(_of_stacks, rule, State, found, constants)
    like = {"u": gs, **slots}
    return meshes.partitioned(run, like, xs, slots, s.count, t, arrays)


def _of_stacks(
    rule: Any, State: Any, found: Blocks, constants: Mapping[str, Any], xs: Any, slots: Any, count: Array, t: Array,  # noqa: N803
    arrays: Mapping[str, Array],
) -> dict[str, Any]:  # fmt: skip
    of = {}
    for name, g in found.together(xs).items():
        mine = {f: x[name] for f, x in slots.items()}
        of[name] = _Rule(rule, State, bounded(g, "summed"), mine, t, arrays, constants)
    for j in range(max((len(x.segments.meetings) for x in of.values()), default=0)):
        for x in of.values():
            x.segments.evaluate(j)
        _meet(of, j, count)
    for x in of.values():
        x.segments.evaluate(len(x.segments.meetings))
    us = {name: x.results()[0] for name, x in of.items()}
    new = {f: {name: of[name].results()[1].get(f, slots[f][name]) for name in of} for f in slots}
    kept = found.only_there(xs, new, slots)
    return {"u": [u for u, x in zip(found.apart(us), xs, strict=True) if x is not None], **kept}


class _Rule:
    """The rule of one matrix for the matrices of one shape."""

    def __init__(self, rule: Any, State: Any, g: Array, slots: Any, t: Array, arrays: Any, constants: Any):  # noqa: N803
        self.g, self.fields = g, [f for f, x in slots.items() if hasattr(x, "shape")]
        nothing = {f: None for f, x in slots.items() if not hasattr(x, "shape")}
        names, stacks = sorted(arrays), [g, *(slots[f] for f in self.fields)]

        def of_one(g: Array, *rest: Any) -> list[Array]:
            olds, t, numbers = rest[: len(self.fields)], rest[len(self.fields)], rest[len(self.fields) + 1 :]
            wide = [x.astype(numerics.at_least_float32(x.dtype)) for x in olds]
            s = State(**{f: None for f in State._fields} | nothing | dict(zip(self.fields, wide, strict=True)))
            u, new = rule(g, s, None, t, **constants, **dict(zip(names, numbers, strict=True)))
            news = [getattr(new, f).astype(x.dtype) for f, x in zip(self.fields, olds, strict=True)]
            return [u.astype(g.dtype), *news]

        ones = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in stacks]
        closed = jax.make_jaxpr(of_one)(*ones, t, *(arrays[k] for k in names))
        self.segments = Segments(closed, stacks, [t, *(arrays[k] for k in names)], list(range(len(stacks))))

    def results(self) -> tuple[Array, dict[str, Array]]:
        values = self.segments.values
        u, *news = [values[v] for v in self.segments.closed.jaxpr.outvars]
        return u, dict(zip(self.fields, news, strict=True))


def _meet(of: Mapping[str, _Rule], j: int, count: Array) -> None:
    """The turns of the j-th `in_turns` of the rule."""
    for name, x in of.items():
        if j >= len(x.segments.meetings):
            continue
        m, seg = x.segments.meetings[j], x.segments
        numbers = _spread(of)[name, j] if m.turn.period is not None else None
        every = m.turn.period if m.turn.period is not None else seg.scalar(m.every)
        due = None if m.due is None else seg.scalar(m.due)
        values = lambda vs: [seg.values[v] for v in vs]  # noqa: B023, E731
        consts = [seg.scalar(v) for v in m.constants]
        news = turns.turned(m.turn.jaxpr, values(m.olds), values(m.factors), consts, count, every, due, numbers)
        seg.values.update(zip(m.news, news, strict=True))


def _spread(of: Mapping[str, _Rule]) -> dict[tuple[str, int], list[int]]:
    """How many matrices have their turn in each step, by stack and `in_turns`; the dearest are spread first."""
    costs = {}
    for j in range(max(len(x.segments.meetings) for x in of.values())):
        for name, x in of.items():
            if j < len(x.segments.meetings) and x.segments.meetings[j].turn.period is not None:
                m = x.segments.meetings[j]
                n, sides = m.factors[0].aval.shape[-1], x.g.shape[1:]
                costs[name, j] = n, float(n**2 * (sum(sides))), len(x.g), m.turn.period
    ordered = sorted(costs.items(), key=lambda c: -c[1][0])
    periods = {c[3] for c in costs.values()}
    found = {}
    for k in periods:
        found |= turns.spread({key: (cost, number) for key, (_, cost, number, p) in ordered if p == k}, k)
    return found
