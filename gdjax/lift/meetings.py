"""Where leaves meet: functions that a rule calls for what one array does not show.

A rule sees one array, as a function under `jax.vmap` does. What it needs from all arrays of the tree it asks for by a
call in its middle, as that function calls `jax.lax.psum`:

    n = sqrt(total(sum_sq(g)))        the norm of all gradients
    return g / n, s

In the trace of a rule such a call is one equation. `cut` takes these out: their results become inputs of the rule. So
the lift computes first what each leaf brings to the first meeting, then what comes of it, and so on; the rest of the
rule is one pass as ever (`lift/one_leaf`). A rule that is called by itself has one leaf.

Leaves may bring whole arrays, each as many as it likes, and get others (`matrices/together`). New slots that do not
wait for that are written with what a leaf brings, by the same function: the rest of the rule finds them.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from gdjax import numerics
from gdjax.core import callers, meshes
from gdjax.tree import euclidean, sums
from gdjax.xla.reads import original

Array = jax.Array

meet_p = Primitive("gdjax_meet")
meet_p.multiple_results = True


def total(x: Array) -> Array:
    """The sum of x, one number of each array, over the arrays of the tree: to be called in a rule.

    Called elsewhere it is x, as of a tree of one array.

    Raises:
      ValueError: x is no scalar.
      TypeError: (in update) it is called in a condition, a loop or a jitted function of the rule.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> @gdjax.leafwise()
      ... def unit(g, s, p, t):
      ...     return g / jnp.sqrt(gdjax.total(jnp.sum(g**2))), s
      >>> grads = {"b": jnp.array([4.0]), "w": jnp.array([3.0])}
      >>> u, _ = unit().update(grads, unit().init(grads))
      >>> print(u["b"].round(3), u["w"].round(3))
      [0.8] [0.6]
    """
    return _of_numbers("total", sums.total, x)


def largest(x: Array) -> Array:
    """The largest x, one number of each array, among the arrays of the tree: to be called in a rule; NaN where one is.

    Called elsewhere it is x, as of a tree of one array.

    Raises:
      ValueError: x is no scalar.
      TypeError: (in update) it is called in a condition, a loop or a jitted function of the rule.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> @gdjax.leafwise()
      ... def within_one(g, s, p, t):
      ...     return g / gdjax.largest(jnp.max(jnp.abs(g))), s
      >>> grads = {"b": jnp.array([4.0]), "w": jnp.array([-2.0])}
      >>> u, _ = within_one().update(grads, within_one().init(grads))
      >>> print(u["b"], u["w"])
      [1.] [-0.5]
    """
    return _of_numbers("largest", lambda xs: numerics.largest(sums.concatenated(xs)), x)


def total_norm(x: Array, group: Hashable = None) -> Array:
    """The norm of x over the arrays of the tree, without overflow: `gdjax.global_norm`, to be called in a rule.

    Called elsewhere it is the norm of x alone.

    Args:
      group: the arrays of one group have a norm of their own.

    Raises:
      TypeError: (in update) it is called in a condition, a loop or a jitted function of the rule.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> @gdjax.leafwise()
      ... def unit(g, s, p, t):
      ...     return g / gdjax.total_norm(g), s
      >>> grads = {"b": jnp.array([4e30]), "w": jnp.array([3e30])}
      >>> u, _ = unit().update(grads, unit().init(grads))
      >>> print(u["b"].round(3), u["w"].round(3))
      [0.8] [0.6]
    """
    x = jnp.asarray(x)
    return _reduced("total_norm", euclidean.global_norm, original(x), group).astype(jnp.real(x).dtype)


def _of_numbers(name: str, f: Callable[[list[Array]], Array], x: Any) -> Array:
    x = jnp.asarray(x)
    if x.ndim:
        raise ValueError(f"gdjax.{name} takes one number of each array, got shape {x.shape}: sum it up first")
    return _reduced(name, f, x)


def _reduced(name: str, f: Callable[[list[Array]], Array], x: Array, group: Hashable = None) -> Array:
    """One number of the arrays of all leaves."""

    def of_leaves(leaves: list[Brought], common: list[Array]) -> list[list[Array]]:
        return [[f([leaf.arrays[0] for leaf in leaves])]] * len(leaves)

    return meet(name, of_leaves, [x], group=group, alike=True)[0]


class Place(NamedTuple):
    """A call at which leaves meet."""

    rule: int  # among those of the pass
    name: str  # of the function
    line: str  # of the call
    group: Hashable  # the leaves of each meet by themselves


class Brought(NamedTuple):
    """What a leaf brings to a meeting."""

    arrays: list[Array]
    own: Any  # what else it tells of itself


Met = Callable[[list[Brought], list[Array]], list[list[Array]]]  # from this and what is common to the results by leaf


class Meeting(NamedTuple):
    """A meeting in the trace of the rules for one leaf."""

    place: Place
    f: Met
    own: Any  # see `Brought`
    common: int  # how many of the operands, the last ones, are common to all leaves
    alike: bool  # whether the results are the same for all leaves of a group; of whole arrays they are then a norm
    operands: list[Any]
    results: list[Any]


class Calls:
    """The meetings that rules call while they are traced, in their order."""

    def __init__(self, axes: frozenset[str]):
        self.rule, self.places = 0, list[Place]()
        self.axes = axes  # of a `shard_map`, over which any leaf varies: what comes of a meeting varies over all


_calls: contextvars.ContextVar[Calls | None] = contextvars.ContextVar("gdjax_meetings", default=None)


@contextlib.contextmanager
def noted(calls: Calls) -> Iterator[None]:
    token = _calls.set(calls)
    try:
        yield
    finally:
        _calls.reset(token)


def meet(
    name: str, f: Met, xs: Sequence[Array], common: Sequence[Array] = (), own: Any = None,
    like: Sequence[Array] | None = None, group: Hashable = None, alike: bool = False,
) -> list[Array]:  # fmt: skip
    """What comes of the meeting of all leaves for this one.

    Args:
      f: from what each leaf brings to the results of each. It closes over no arrays of the rule.
      xs: what this leaf brings.
      common: what is the same for all leaves, and taken from one.
      own: what the leaf tells of itself beside arrays.
      like: arrays of the types of the results; without it f is traced for them.
      group: leaves meet those of their group.
      alike: whether the results are the same for all of them.
    """
    operands, one = [*xs, *common], None
    if (calls := _calls.get()) is not None:
        calls.places.append(Place(calls.rule, name, callers.line(__file__), group))
        operands, like = meshes.varying(operands, calls.axes), meshes.varying(like, calls.axes)
    params = {"f": f, "own": own, "common": len(common)}
    if calls is None or like is None:
        one = jax.make_jaxpr(lambda *xs: _of_one(*xs, one=None, **params))(*operands)
    types = one.out_avals if like is None and one is not None else map(meshes.type_of, like or ())
    return meet_p.bind(*operands, **params, one=one, types=tuple(types), alike=alike)


def _of_one(*xs: Array, f: Met, own: Any, common: int, one: ClosedJaxpr | None, **_: Any) -> list[Array]:
    if one is not None:
        return jaxpr_as_fun(one)(*xs)
    number = len(xs) - common
    return f([Brought(list(xs[:number]), own)], list(xs[number:]))[0]


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    return jax.jvp(lambda *xs: _of_one(*xs, **params), tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


def _batched(xs: Sequence[Any], axes: Sequence[int | None], **params: Any) -> Any:
    ys = jax.vmap(lambda *xs: _of_one(*xs, **params), [a if a is None else int(a) for a in axes])(*xs)
    return ys, [0] * len(ys)


# Of a rule that is called by itself.
meet_p.def_impl(_of_one)
meet_p.def_abstract_eval(lambda *xs, types, **_: types)
mlir.register_lowering(meet_p, mlir.lower_fun(_of_one, multiple_results=True))
ad.primitive_jvps[meet_p] = _jvp
batching.primitive_batchers[meet_p] = _batched


# `(key, meeting, brought, common)` to the results by leaf; the key tells a meeting from others of the same update.
Answer = Callable[[Hashable, Meeting, list[Brought], list[Array]], list[list[Array]]]
_answer: contextvars.ContextVar[tuple[Answer, Iterator[int]] | None] = contextvars.ContextVar(
    "gdjax_answer", default=None
)


@contextlib.contextmanager
def answered(answer: Answer) -> Iterator[None]:
    """Here some leaves are not there: what comes of a meeting is not what its function makes of those that are.

    For one update, while it is traced.
    """
    token = _answer.set((answer, itertools.count()))
    try:
        yield
    finally:
        _answer.reset(token)


class Leaf(Protocol):
    """A leaf of a pass, as meetings see it."""

    where: str  # in errors
    labels: dict[int, str]  # of the rules that apply to it, by their place in the pass
    met: list[Array]  # what has come of its meetings so far

    @property
    def meetings(self) -> Sequence[Meeting]:
        """Those that its rules call."""
        ...

    def brought(self, meeting: int) -> list[Array]:
        """The operands of one."""
        ...

    def blamed(self) -> contextlib.AbstractContextManager[None]:
        """Adds to an error which rule raised it, and for which leaf."""
        ...


def hold(leaves: Sequence[Leaf]) -> None:
    """Holds all meetings, one after the other: adds what comes of each to what the leaves have met.

    Raises:
      TypeError: a rule calls for other meetings on one leaf than on another.
    """
    answer = _answer.get()
    number = 0 if answer is None else next(answer[1])
    of_rules: dict[int, list[tuple[Leaf, list[int]]]] = {}
    for leaf in leaves:
        meetings = leaf.meetings
        for n, rule in enumerate(leaf.labels):
            mine = [i for i, m in enumerate(meetings) if m.place.rule == n]
            of_rules.setdefault(rule, []).append((leaf, mine))
    for rule, there in sorted(of_rules.items()):
        _check_equal(rule, there)
        for call, at_once in enumerate(zip(*(mine for _, mine in there), strict=True)):
            groups: dict[Hashable, list[tuple[Leaf, int]]] = {}
            for (leaf, _), i in zip(there, at_once, strict=True):
                groups.setdefault(leaf.meetings[i].place.group, []).append((leaf, i))
            for name, group in groups.items():
                _meet(group, None if answer is None else answer[0], (number, rule, call, name))


def _meet(there: Sequence[tuple[Leaf, int]], answer: Answer | None, key: Hashable) -> None:
    meetings = [leaf.meetings[i] for leaf, i in there]
    lists = [leaf.brought(i) for leaf, i in there]
    ends = [len(xs) - m.common for m, xs in zip(meetings, lists, strict=True)]
    brought = [Brought(xs[:end], m.own) for m, xs, end in zip(meetings, lists, ends, strict=True)]
    common = [xs[end:] for xs, end in zip(lists, ends, strict=True)]
    widest = max(common, key=lambda xs: sum(x.dtype.itemsize for x in xs))  # in trees of several dtypes
    with there[0][0].blamed():
        results = meetings[0].f(brought, widest) if answer is None else answer(key, meetings[0], brought, widest)
    for (leaf, _), m, ys in zip(there, meetings, results, strict=True):
        for y, v in zip(ys, m.results, strict=True):
            leaf.met.append(y if y.dtype == v.aval.dtype else y.astype(v.aval.dtype))


def _check_equal(rule: int, there: Sequence[tuple[Leaf, list[int]]]) -> None:
    """Raises unless the leaves are at the same calls of a rule."""

    def calls(leaf: Leaf, mine: list[int]) -> str:
        found = [leaf.meetings[i].place for i in mine]
        return ", ".join(f"gdjax.{place.name} at {place.line}" for place in found) or "nothing"

    first = calls(*there[0])
    other = next((x for x in there if calls(*x) != first), None)
    if other is not None:
        leaf, label = there[0][0], there[0][0].labels[rule]
        raise TypeError(
            f"{label}: the rule calls {first} for {leaf.where}, and {calls(*other)} for {other[0].where}: all arrays "
            "of the tree must meet at the same calls"
        )
