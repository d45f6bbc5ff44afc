"""`matrixwise`: a rule of one matrix becomes a transform of all matrices of a tree, over the stacks that it keeps."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.base import GradientTransformation
from gdjax.lift import rule_checks
from gdjax.lift.leafwise import Reduced, leafwise
from gdjax.lift.rule_checks import named
from gdjax.lift.stages import Tree
from gdjax.matrices import turns
from gdjax.matrices.factored import Blocks
from gdjax.matrices.of_gradients import blocks_and
from gdjax.matrices.segments import Segments, one_of
from gdjax.matrices.slots import LIFTED, Along, Block, Slot, blocks_for, in_stacks
from gdjax.numerics import Array, bounded


def matrixwise(
    State: Any,  # noqa: N803
    *,
    domains: Mapping[str, str] | None = None,
    **slots: Slot,
) -> Callable[[Callable[..., tuple[Array, Any]]], Callable[..., GradientTransformation]]:
    """Makes a rule for one matrix a factory of transforms of all matrices of a tree.

    The rule is a function `(G, s, p, t, ...) -> (U, s)` of the gradient of one matrix, (rows, columns), the fields of
    the state for it, None in the place of the parameter, the step, and hyperparameters. It computes in float32 at
    least. Matrices of one shape are one stack of the state, by its name: `state.L["768x3072"]`. So a step has one
    program for each shape, and `in_turns` says what is done for some of the matrices in each step.

    Args:
      State: a NamedTuple class with a field `count`; every other field is a slot.
      domains: as for `leafwise`.
      **slots: what each field is: a `Block` like the matrix, a `Side` along its rows or columns, or `Along` these.

    Returns:
      A decorator. The factory that it makes has the arguments of the rule, and by name
      block_size: matrices are cut evenly into blocks with sides of at most that; the rule sees blocks.
      sides: which sides have factors: "both"; "short"; "rows"; "columns". The slots of others are None in the rule.
      max_precond_dim: a side longer than that has no factor.
      roles: how each leaf is a matrix, if not all have two axes: by role (None, or a dict from pattern to role), a
        tree, or a function from the parameters to one.
      and the names of dtypes and starts that slots have and the rule has not.
      With `sides` "both" or "short" a tall matrix lies in its stack on its side: the rule sees it transposed.

    Raises:
      ValueError: (in init) a leaf that is no matrix, an unknown `sides`, a size below 1.

    Example:
      >>> import collections, gdjax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "count L")
      >>> @gdjax.matrixwise(State, L=gdjax.Side(0))
      ... def whitened(G, s, p, t, decay=0.9):
      ...     L = decay * s.L + (1 - decay) * G @ G.T
      ...     return gdjax.inverse_root(L, 2) @ G, s._replace(L=L)
      >>> whitened(sides="rows").init({"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}).L["2x3"].shape
      (2, 2, 2)
    """

    def decorate(rule: Callable[..., Any]) -> Callable[..., GradientTransformation]:
        own = named(rule, 4)
        dtypes = {x.dtype for x in slots.values() if isinstance(x, Block)}
        fills = {x.fill for x in slots.values() if isinstance(x, Along) and isinstance(x.fill, str)}
        others = dict.fromkeys(sorted(dtypes - {""})) | dict.fromkeys(sorted(fills), 0.0) | LIFTED
        extra = {name: x for name, x in others.items() if name not in {p.name for p in own}}

        def given(g: Array, s: Any, p: Any, t: Any, u: Any = None, **_: Any) -> Any:
            return u, s

        def stage(gs: list[Array], s: Any, ps: Any, t: Any, *, tree: Tree, **arguments: Any) -> dict[str, Any]:
            return of_matrices(rule, State, gs, s, t, tree, arguments)

        by_name = inspect.Parameter.KEYWORD_ONLY
        places = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("g", "s", "p", "t")]
        lifted = [inspect.Parameter(name, by_name, default=x) for name, x in extra.items()]
        functools.update_wrapper(given, rule)
        given.__dict__.pop("__wrapped__")  # whose arguments are not those of `given`
        u = inspect.Parameter("u", by_name, default=Reduced)
        _sign(given, [*places, *own, *lifted, u])
        _sign(stage, [*places, *own, *(inspect.Parameter(name, by_name) for name in ("tree", *LIFTED))])
        return leafwise(State, reduce=stage, staged=" ".join(extra), domains=domains, **in_stacks(**slots))(given)

    return decorate


def _sign(f: Any, parameters: Sequence[inspect.Parameter]) -> None:
    """Gives f a signature, those that are taken by name last."""
    f.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.kind))


def of_matrices(
    rule: Any, State: Any, gs: list[Array], s: Any, t: Array, tree: Tree, arguments: dict[str, Any]  # noqa: N803
) -> dict[str, Any]:  # fmt: skip
    """The directions "u" of all leaves and the fields of the state, for a stage.

    Args:
      arguments: those of the rule, and those in `LIFTED`.
    """
    slots = {name: x for name, x in s._asdict().items() if name != "count"}
    first = next(iter(slots.values()))
    found, xs = blocks_and(tree, gs, first, lambda like: blocks_for(tree.label, like, arguments))
    hyper = {k: x for k, x in arguments.items() if k not in LIFTED}
    arrays = {k: x for k, x in hyper.items() if isinstance(x, jax.Array)}
    constants = {k: x for k, x in hyper.items() if k not in arrays}
    run = functools.partial(_of_stacks, tree.label, rule, State, found, constants)
    return meshes.partitioned(run, {"u": gs, **slots}, xs, slots, s.count, t, arrays)


def _of_stacks(
    label: str, rule: Any, State: Any, found: Blocks, constants: Mapping[str, Any],  # noqa: N803
    xs: Any, slots: Any, count: Array, t: Array, arrays: Mapping[str, Array],
) -> dict[str, Any]:  # fmt: skip
    of = {}
    for name, g in found.together(xs).items():
        mine = {f: x[name] for f, x in slots.items()}
        of[name] = _Rule(f"{label}: matrices {name}", rule, State, bounded(g, "summed"), mine, t, arrays, constants)
    numbers = _spread(of)
    for j in range(max((len(x.segments.meetings) for x in of.values()), default=0)):
        for name, x in of.items():
            x.segments.evaluate(j)
            x.meet(j, count, numbers.get((name, j)))
    for x in of.values():
        x.segments.evaluate(len(x.segments.meetings))
    us = {name: x.results()[0] for name, x in of.items()}
    new = {f: {name: of[name].results()[1].get(f, slots[f][name]) for name in of} for f in slots}
    kept = found.only_there(xs, new, slots)
    return {"u": [u for u, x in zip(found.apart(us), xs, strict=True) if x is not None], **kept}


class _Rule:
    """The rule of one matrix for the matrices of one shape."""

    def __init__(
        self, where: str, rule: Any, State: Any, g: Array, slots: Any, t: Array, arrays: Any, constants: Any  # noqa: N803
    ):  # fmt: skip
        self.g, self.fields = g, [f for f, x in slots.items() if hasattr(x, "shape")]
        nothing = {f: None for f, x in slots.items() if not hasattr(x, "shape")}
        names, stacks = sorted(arrays), [g, *(slots[f] for f in self.fields)]

        def of_one(g: Array, *rest: Any) -> list[Array]:
            olds, t, numbers = rest[: len(self.fields)], rest[len(self.fields)], rest[len(self.fields) + 1 :]
            wide = [x.astype(numerics.at_least_float32(x.dtype)) for x in olds]
            s = State(**{f: None for f in State._fields} | nothing | dict(zip(self.fields, wide, strict=True)))
            result = rule(g, s, None, t, **constants, **dict(zip(names, numbers, strict=True)))
            try:
                u, new = rule_checks.returned(State, result, g, dict(zip(self.fields, olds, strict=True)))
            except (TypeError, ValueError) as e:
                raise type(e)(f"{where}: {e}") from None
            return [u, *(jnp.asarray(getattr(new, f)).astype(x.dtype) for f, x in zip(self.fields, olds, strict=True))]

        closed = jax.make_jaxpr(of_one)(*map(one_of, stacks), t, *(arrays[k] for k in names))
        self.segments = Segments(closed, stacks, [t, *(arrays[k] for k in names)], list(range(len(stacks))))

    def meet(self, j: int, count: Array, numbers: Sequence[int] | None) -> None:
        """The turns of the j-th `in_turns` of the rule, if it has so many."""
        known = self.segments
        if j < len(known.meetings):
            m = known.meetings[j]
            every = m.turn.period if m.every is None else known.scalar(m.every)
            due = None if m.due is None else known.scalar(m.due)
            olds, factors = (list(map(known.stack, xs)) for xs in (m.olds, m.factors))
            constants = [known.scalar(v) for v in m.constants]
            news = turns.turned(m.turn.jaxpr, olds, factors, constants, count, every, due, numbers)
            known.values.update(zip(m.news, news, strict=True))

    def results(self) -> tuple[Array, dict[str, Array]]:
        u, *news = map(self.segments.stack, self.segments.closed.jaxpr.outvars)
        return u, dict(zip(self.fields, news, strict=True))


def _spread(of: Mapping[str, _Rule]) -> dict[tuple[str, int], list[int]]:
    """How many matrices have their turn in each step of a period, by stack and `in_turns`; the longest come first.

    All that have one period share its steps, so that these have about as much to do.
    """
    costs: dict[int, dict[tuple[str, int], tuple[int, float, int]]] = {}
    for j in range(max((len(x.segments.meetings) for x in of.values()), default=0)):
        for name, x in of.items():
            turn = x.segments.meetings[j].turn if j < len(x.segments.meetings) else None
            if turn is not None and turn.period is not None:
                n = x.segments.meetings[j].factors[0].aval.shape[-1]
                costs.setdefault(turn.period, {})[name, j] = n, float(n**2 * sum(x.g.shape[1:])), len(x.g)
    found = {}
    for period, stacks in costs.items():
        ordered = sorted(stacks.items(), key=lambda item: -item[1][0])
        found |= turns.spread({key: (cost, number) for key, (_, cost, number) in ordered}, period)
    return found
