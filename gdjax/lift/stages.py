"""Stages of a rule: functions of all the leaves, in every step or every k-th, before the rule or after it.

A stage is a function `(gs, s, ps, t, ...) -> dict`. It gets lists, one entry for each leaf that has a gradient, where a
rule has one array: the gradients, the slots as fields of `s`, and the parameters, in their own dtypes (see
`numerics.widen`). It also gets the hyperparameters and extra arguments of `update` that it names, and a `Tree` if it
names `tree`. Its dict may have

- fields of the state: a list for a slot, a number for a `Shared` field, anything for a `Whole` one. They are the new
  values, which the rule, and the stages after this one, find in `s`;
- anything else: it goes to the rule by name, which declares it as `name=Reduced`. If it is a list, each leaf gets its
  entry; a number goes to all leaves.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from gdjax.core import base, checks
from gdjax.core.part import Kind
from gdjax.core.skipped import is_skipped
from gdjax.core.types import ArrayTree, OptState, Params, Transform
from gdjax.xla.write_order import bound_for

Array = jax.Array
# The default of an argument of a rule that stages provide, and no user.
Reduced = type("Reduced", (), {"__repr__": lambda self: "Reduced"})()
PLACED = 4  # the arguments of a stage that have a place: gs, s, ps, t


@dataclass(frozen=True)
class Stage:
    """When a stage of a rule runs.

    Args:
      f: the stage.
      fields: the fields of the state that it returns, as "left right"; needed where it does not run before every step.
      every: a number k, or the name of a hyperparameter. The stage runs in the steps 1, k + 1, 2 k + 1, ... In the
        others its fields stay as they are, at no cost.
      staggered: the leaves are spread over the k steps by their cost, so that no step is long. A leaf has the values of
        `init` until its turn, in one of the first k steps. The leaves must not depend on each other.
      late: the stage runs after the rule, and finds the new slots in `s`; the rule sees its results in the next step.

    Example:
      >>> import collections, gdjax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "count n")
      >>> norm = gdjax.Stage(lambda gs, s, ps, t: {"n": gdjax.global_norm(gs)}, "n", every=10)
      >>> @gdjax.leafwise(State, n=gdjax.Shared(), reduce=norm)
      ... def unit(g, s, p, t):  # over the norm of the step 1, 11, 21, ...
      ...     return g / s.n, s
      >>> print(unit().update(jnp.array([3.0, 4.0]), unit().init(jnp.zeros(2)))[1].n)
      5.0
    """

    f: Callable[..., Mapping[str, Any]]
    fields: str = ""
    every: int | str = 1
    staggered: bool = False
    late: bool = False

    def __post_init__(self) -> None:
        if not self.fields and (self.every != 1 or self.staggered or self.late):
            raise ValueError("gdjax.Stage: every, staggered and late need the names of the fields that f returns")

    def named(self) -> list[str]:
        return self.fields.split()


@dataclass(frozen=True)
class Whole:
    """A field of the state that belongs to the whole tree.

    It starts as `init(params, arguments)`, of the tree of parameters and the arguments of the factory; among them is
    `label`, the name in errors. Only stages see it, and a rule finds None in its place, unless it is `seen`. `argument`
    is the one that is a transform, if the field is the state of that; `of_several`: each of its arrays belongs to
    several parameters, as stacks of matrices do; `kind`: what these keep, as in `Moment`.
    """

    init: Callable[[Any, Mapping[str, Any]], Any]
    argument: str = ""
    of_several: bool = False
    seen: bool = False
    kind: Kind = "exact"


@dataclass(frozen=True)
class Planned:
    """A slot that starts as `init(params, arguments)`: a list with an entry for each leaf of the parameters.

    For slots that need the whole tree to be initialised, such as those by dimension numbers that are a tree.
    `MaskedNode` where a leaf has no slot.
    """

    init: Callable[[Any, Mapping[str, Any]], list[Any]]


class Tree(NamedTuple):
    """The tree behind the lists of a stage, and what else `update` was given."""

    label: str
    structure: Any
    paths: Sequence[Any]
    entries: Sequence[Any]  # of all leaves, those without a gradient too
    trained: Sequence[bool]
    params: Params
    extra_args: dict[str, Any]

    def extra(self, names: Sequence[str]) -> dict[str, Array]:
        """These arguments of `update`, which are numbers."""
        self.check_given(name for name in names if name not in self.extra_args)
        return {name: checks.extra(self.label, name, self.extra_args[name]) for name in names}

    def check_given(self, missing: Iterable[str]) -> None:
        """Raises where arguments of `update` are missing."""
        if named := ", ".join(f"{name}=..." for name in missing):
            told = f"this transform needs {named}: call update(updates, state, params, {named})"
            raise ValueError(f"{self.label}: {told}")

    def of(self, xs: Sequence[Any]) -> Any:
        """The tree of updates, in which the entries of a list replace the gradients."""
        return self.structure.unflatten(self.filled(xs, self.entries))

    def filled(self, xs: Iterable[Any], others: Sequence[Any]) -> list[Any]:
        """The list of all leaves: `others`, and an entry of xs for each leaf that has a gradient."""
        each = iter(xs)
        return [next(each) if own else other for other, own in zip(others, self.trained, strict=True)]

    def listed(self, name: str, tree: ArrayTree) -> list[Any]:
        """The entries of a tree, called `name` in errors, for the leaves that have gradients."""
        like = self.structure.unflatten(self.entries)
        full = checks.flatten_like(self.label, ("updates", name), self.structure, like, tree)
        return self.chosen(full)

    def of_each(self, xs: Sequence[Any]) -> list[Any]:
        """Those entries of a list whose leaves have gradients; the list has none for a leaf that is None or masked."""
        each = iter(xs)
        return self.chosen([None if is_skipped(entry) else next(each) for entry in self.entries])

    def chosen(self, full: Sequence[Any]) -> list[Any]:
        return [x for x, own in zip(full, self.trained, strict=True) if own]

    def updated(
        self, tx: Transform, xs: Sequence[Any], state: OptState, params: Params = None
    ) -> tuple[list[Any], Any]:
        """What the `update` of a transform makes of a list: updates, and a state in the classes of the old one."""
        with bound_for(None):
            new, new_state = base.call_update(tx, self.of(xs), state, params, self.extra_args)
        kept = jax.tree.structure(state).unflatten(jax.tree.leaves(new_state))
        return self.listed("updates of the inner transform", new), kept


def stages_of(reduce: Any) -> tuple[Stage, ...]:
    """The stages that `leafwise` is given: a function for every step, a `Stage`, or several of either."""
    several = reduce if isinstance(reduce, tuple) else () if reduce is None else (reduce,)
    return tuple(x if isinstance(x, Stage) else Stage(x) for x in several)
