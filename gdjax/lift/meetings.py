"""Where leaves meet: functions that a rule calls for results over all arrays of the tree.

A rule sees one array, like a function under `jax.vmap`. In its middle it may call a function of the arrays of all
leaves, as that function may call `jax.lax.psum`:

    n = sqrt(total(sum_sq(g)))        the norm of all gradients
    return g / n, s

The lift first runs the rules of a leaf up to such a call. The call ends that run (`Suspended`) with the arrays that
the leaf brings to the meeting. The lift computes the results from the arrays of all leaves and runs the rules again
from their beginning: now the call returns, and they go on past it. The compiler merges the operations of both runs. A
rule that is called by itself has one leaf.

A leaf may bring any number of whole arrays, and get others (`matrices/together`).
"""

import contextlib
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.extend import core as extended

from gdjax import numerics
from gdjax.core import callers, meshes
from gdjax.core.contexts import PASS, within
from gdjax.core.types import Array
from gdjax.tree import norms
from gdjax.xla.reads import original

__all__ = ["largest", "total", "total_norm"]


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
    return _of_numbers("total", norms.total, x)


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
    return _of_numbers("largest", lambda xs: numerics.largest(norms.concatenated(xs)), x)


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
    return _reduced("total_norm", norms.global_norm, original(x), group).astype(jnp.real(x).dtype)


def _of_numbers(name: str, f: Callable[[list[Array]], Array], x: Any) -> Array:
    x = jnp.asarray(x)
    if x.ndim:
        raise ValueError(f"gdjax.{name} takes one number of each array, got shape {x.shape}: sum it up first")
    return _reduced(name, f, x)


def _reduced(name: str, f: Callable[[list[Array]], Array], x: Array, group: Hashable = None) -> Array:
    """One number for each group of leaves, from an array of each leaf."""

    def of_leaves(leaves: list[Contribution], common: list[Array]) -> list[list[Array]]:
        return [[f([leaf.arrays[0] for leaf in leaves])]] * len(leaves)

    (y,) = meet(name, of_leaves, [x], group=group, alike=True)
    if y.dtype != x.dtype:  # in trees of several dtypes
        y = y.astype(jax.eval_shape(lambda x: f([x]), x).dtype)
    return y


class Place(NamedTuple):
    """A call at which leaves meet."""

    rule: int  # among those of the pass
    name: str  # of the called function
    line: str  # of the call
    group: Hashable  # the leaves of one group meet


class Contribution(NamedTuple):
    """The contribution of a leaf to a meeting."""

    arrays: list[Array]
    facts: Any  # other facts about the leaf


Met = Callable[[list[Contribution], list[Array]], list[list[Array]]]  # and the common arrays, to results by leaf


class Meeting(NamedTuple):
    """A call at which leaves meet, made by one of them."""

    place: Place
    f: Met
    facts: Any  # see `Contribution`
    common: int  # how many of the operands, the last ones, are common to all leaves
    alike: bool  # whether the results are the same for all leaves of a group; from whole arrays they are then a norm


class Suspended(BaseException):
    """A rule has reached a meeting without results yet. No rule may catch it."""

    def __init__(self, meeting: Meeting, operands: list[Array]):
        self.meeting, self.operands = meeting, operands


@jax.tree_util.register_pytree_node_class
class AtMeeting(NamedTuple):
    """A leaf that waits at a meeting, with what it brings: returned in place of its update."""

    meeting: Meeting
    operands: list[Array]

    def tree_flatten(self) -> tuple[tuple[list[Array]], Meeting]:
        return (self.operands,), self.meeting

    @classmethod
    def tree_unflatten(cls, meeting: Meeting, children: tuple[list[Array]]) -> "AtMeeting":
        return cls(meeting, *children)


class Replay:
    """A run of the rules of one leaf, after some meetings have been held.

    Args:
      places: those that were held, in the order in which the rules call them.
      results: of each of them.
      axes: of a `shard_map`, over which any leaf varies: what comes of a meeting varies over all.
      turns: of a rule of one matrix, see `gdjax.matrices.in_turns`.
    """

    def __init__(
        self, places: Sequence[Place], results: Sequence[list[Array]], axes: frozenset[str], turns: Any = None
    ):
        self.rule, self.axes, self.trace, self.turns = 0, axes, _trace(), turns
        self.held = iter(list(zip(places, results, strict=True)))

    def results(self, meeting: Meeting, operands: Sequence[Array]) -> list[Array]:
        """The results of a meeting.

        Raises:
          Suspended: there are none yet.
        """
        place, name = meeting.place, meeting.place.name
        if self.turns is not None:
            raise TypeError(f"gdjax.{name}: a rule of one matrix sees no other; call it in a rule of gdjax.leafwise")
        known = next(self.held, None)
        if known is None:
            raise Suspended(meeting, meshes.varying(list(operands), self.axes))
        if known[0] != place:
            raise TypeError(
                f"gdjax.{name}, called at {place.line}: before, the rule called gdjax.{known[0].name} at "
                f"{known[0].line}; it is run once for each meeting, and must do the same up to it"
            )
        return meshes.varying(known[1], self.axes)


_state_of = getattr(extended, "get_opaque_trace_state", None) or getattr(jax, "core").get_opaque_trace_state  # noqa: B009


def _trace() -> Any:
    """Which function is being traced."""
    return _state_of(convention="nnx")


@contextlib.contextmanager
def replayed(replay: Replay) -> Iterator[Replay]:
    with within(PASS, replay=replay):
        yield replay


def replaying(name: str) -> Replay | None:
    """The run of rules in which this function of the name is called; None where a rule is called by itself.

    Raises:
      TypeError: it is called deeper than in the rule.
    """
    replay: Replay | None = PASS.get().replay
    if replay is not None and _trace() != replay.trace:
        raise TypeError(f"gdjax.{name}: call it in the rule itself, in no condition, loop or jitted function of it")
    return replay


def meet(
    name: str, f: Met, xs: Sequence[Array], common: Sequence[Array] = (), facts: Any = None, group: Hashable = None,
    alike: bool = False,
) -> list[Array]:  # fmt: skip
    """The results for this leaf of a meeting of all leaves.

    Args:
      f: from the contributions of the leaves to their results. It closes over no arrays of the rule.
      xs: the arrays that this leaf brings.
      common: arrays that are the same for all leaves, taken from one.
      facts: others about the leaf.
      group: only leaves of one group meet.
      alike: whether the results are the same for all of them.
    """
    replay = replaying(name)
    if replay is None:  # a rule that is called by itself
        return f([Contribution(list(xs), facts)], list(common))[0]
    place = Place(replay.rule, name, callers.line(__file__), group)
    return replay.results(Meeting(place, f, facts, len(common), alike), [*xs, *common])


# `(key, meeting, brought, common)` to the results by leaf; the key tells a meeting from others of the same update.
Answer = Callable[[Hashable, Meeting, list[Contribution], list[Array]], list[list[Array]]]


def answered(answer: Answer) -> contextlib.AbstractContextManager[None]:
    """Here some leaves are not there: what comes of a meeting is not what its function makes of those that are.

    For one update, while it is traced.
    """
    return within(PASS, answer=(answer, itertools.count()))


class Participant(Protocol):
    """The view that meetings have of a leaf."""

    where: str  # in errors
    labels: dict[int, str]  # the names of the rules that apply to it, by their place in the pass

    @property
    def suspended(self) -> AtMeeting | None:
        """Its contribution to the meeting at which its rules were suspended; None if they have run to their end."""
        ...

    def resume(self, place: Place, results: list[Array]) -> None:
        """Runs the rules again, with the results of that meeting."""
        ...

    def blamed(self) -> contextlib.AbstractContextManager[None]:
        """Adds to an error which rule raised it, and for which leaf."""
        ...


def hold(leaves: Sequence[Participant]) -> None:
    """Holds all meetings one after the other; the leaves resume with the results of each.

    Raises:
      TypeError: a rule calls for other meetings on one leaf than on another.
    """
    answer = PASS.get().answer
    number = 0 if answer is None else next(answer[1])
    calls: dict[int, int] = {}  # the number of meetings of each rule so far
    while suspended := [(leaf, leaf.suspended) for leaf in leaves if leaf.suspended is not None]:
        rule = min(x.meeting.place.rule for _, x in suspended)
        participants = [leaf for leaf in leaves if rule in leaf.labels]
        suspended = [(leaf, x) for leaf, x in suspended if x.meeting.place.rule == rule]
        _check_equal(rule, participants, suspended)
        groups: dict[Hashable, list[tuple[Participant, AtMeeting]]] = {}
        for leaf, x in suspended:
            groups.setdefault(x.meeting.place.group, []).append((leaf, x))
        calls[rule] = calls.get(rule, -1) + 1
        for name, group in groups.items():
            _meet(group, None if answer is None else answer[0], (number, rule, calls[rule], name))


def _meet(group: Sequence[tuple[Participant, AtMeeting]], answer: Answer | None, key: Hashable) -> None:
    meetings = [x.meeting for _, x in group]
    ends = [len(x.operands) - m.common for m, (_, x) in zip(meetings, group, strict=True)]
    brought = [Contribution(x.operands[:end], x.meeting.facts) for end, (_, x) in zip(ends, group, strict=True)]
    common = [x.operands[end:] for end, (_, x) in zip(ends, group, strict=True)]
    widest = max(common, key=lambda xs: sum(x.dtype.itemsize for x in xs))  # in trees of several dtypes
    with group[0][0].blamed():
        results = meetings[0].f(brought, widest) if answer is None else answer(key, meetings[0], brought, widest)
    for (leaf, _), m, ys in zip(group, meetings, results, strict=True):
        leaf.resume(m.place, list(ys))


def _check_equal(rule: int, leaves: Sequence[Participant], suspended: Sequence[tuple[Participant, AtMeeting]]) -> None:
    """Raises unless all leaves of a rule have reached the same call in it."""
    call = lambda x: f"gdjax.{x.meeting.place.name} at {x.meeting.place.line}"
    calls = {id(leaf): call(x) for leaf, x in suspended}
    calls_of = [(leaf, calls.get(id(leaf), "nothing")) for leaf in leaves]
    (first, mine), other = calls_of[0], next((x for x in calls_of if x[1] != calls_of[0][1]), None)
    if other is not None:
        raise TypeError(
            f"{first.labels[rule]}: the rule calls {mine} for {first.where}, and {other[1]} for {other[0].where}: all "
            "arrays of the tree must meet at the same calls"
        )
