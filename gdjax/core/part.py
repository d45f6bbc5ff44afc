"""What a part of an optimizer says of itself: the questions that whoever takes an optimizer apart asks.

A transform is two functions. What made them is a `Part`, if it is of this library: a rule, a wrapper, a chain, groups.
`base.part_of` finds it, and `gdjax.core.parts` asks it, and all parts inside. Of a transform of someone else
`gdjax.core.guesses` makes up the answers.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jax.tree_util import DictKey, GetAttrKey

from gdjax.core.types import ArrayTree, OptState, Params, Updates
from gdjax.core.values import Call

Path = tuple[Any, ...]  # the keys of `jax.tree_util` from a tree to what is in it
Axes = tuple[int | None, ...]  # for each axis of an array the number of the parameter's axis that it follows
# What an array keeps: an average of gradients; a slow one, over fifty or more; one whose matrix is taken whole; one
# of squares; orthonormal columns; a Kronecker factor; or what must stay as it is, such as sums that never fade, what
# others are subtracted from, copies of parameters, counts.
Kind = Literal["moment", "slow", "matrix", "square", "basis", "factor", "exact"]


HIDDEN: Any = object()  # stands for the numbers of a transform that cannot be read


class Position(str):
    """The place of a transform in a chain without names, as one of the names around a hyperparameter."""

    __slots__ = ()


def whole(tree: ArrayTree) -> Any:
    """What a transform sees of a tree that no mask hides leaves of: all."""
    return tree


class Inside(NamedTuple):
    """A transform inside another, and where its state lies in the state of that."""

    tx: Any  # a `Transform`; None where only its state is known
    path: Path
    names: tuple[str, ...] = ()  # what tells its hyperparameters from those beside it: a place in a chain, a group
    sees: Callable[[Any], Any] | None = whole  # what it gets of a tree of parameters; None where that is another tree
    told: bool = True  # whether its hyperparameters are some of the optimizer's
    alike: bool = True  # whether what it sees has the shapes of the parameters
    # Whether the first update of the whole is made of its own. Others are 0, go up the gradient, are of other
    # parameters, or are what rounding leaves.
    at_once: bool = True


class Kept(NamedTuple):
    """A tree in a state that has something for each parameter."""

    path: Path
    # From the shape of a parameter, and how many leading axes of it are layers, to the axes of its arrays, a list where
    # they differ; None where nothing tells them.
    axes: Callable[[tuple[int, ...], int], Axes | list[Axes]] | None = None
    of: Literal["each", "several", "unknown"] = "each"  # several: each array belongs to some parameters together
    kind: Kind = "exact"
    layers: Callable[[ArrayTree], list[int]] | None = None  # of all parameters that number; None where it is 0


class Step(NamedTuple):
    """A transform of a row, and its state; see `gdjax.lift.steps`."""

    part: Any  # a `Leafwise`, or any transform
    state: OptState
    inside: int | None = None  # for the rule of a wrapper: how many of the steps before it are the wrapped transform


class Part:
    """A part of an optimizer. Whoever writes one defines `init`, `update` and the answers that are not these.

    - `inside`: which transforms are in it, and where their states lie in its own.
    - `hyperparams`: its own hyperparameters, with this state.
    - `kept`: where in its state something for each parameter lies, and which axes of the parameter that follows.
    - `steps`, `joined`: how it takes part in a pass over the leaves, see `gdjax.lift.steps`.
    - `asks`: which extra arguments of `update` it reads itself.
    - `labelled`: the part that reports errors under a name, where it takes that of the optimizer it is in.
    """

    label: str
    tells_all: bool = False  # whether its hyperparameters stand for those of what is inside
    ends: bool = False  # whether its rule comes after what is inside

    def inside(self) -> Iterable[Inside]:
        return ()

    def hyperparams(self, state: OptState, at: Callable[[Any], Any] = whole) -> dict[str, Any]:
        """From name to value; `at` makes another count of the state's, at which schedules are evaluated."""
        return {}

    def kept(self) -> Iterable[Kept]:
        """The trees in its state that have something for each parameter, in the parameters' structure."""
        return ()

    def steps(self, state: OptState) -> Iterable[Step] | None:
        """The `Step`s that it is in a pass; None where it is called as it is."""
        return None

    def joined(self, states: Iterator[Any]) -> Any:
        """Its state, from the new states of its steps."""
        return next(states)

    def asks(self) -> Iterable[str] | None:
        """The extra arguments of `update` that it reads itself; None where nothing tells them."""
        return ()

    def labelled(self, label: str) -> Any:
        return self

    def check(self, state: OptState) -> None:
        """Raises where a state is none of this part's, so that nothing in it can be found."""


@dataclass(frozen=True, eq=False)
class Pair(Part):
    """The functions `init` and `update` of a transform; made by `parts.holding`, which tells the arguments.

    Its hyperparameters are the numbers it was called with, unless it holds a transform that has some.
    """

    functions: tuple[Callable[..., Any], Callable[..., Any]]
    holds: Sequence[Inside] = ()
    like: str = ""
    also: frozenset[str] = frozenset()  # extra arguments that it reads beside those in its signature
    calls: tuple[Call, ...] = ()  # that made it, the outermost first

    def init(self, params: Params) -> OptState:
        return self.functions[0](params)

    def update(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        return self.functions[1](updates, state, params, **extra_args)

    def inside(self) -> Iterable[Inside]:
        return self.holds

    def hyperparams(self, state: OptState, at: Callable[[Any], Any] = whole) -> dict[str, Any]:
        return {} if self.holds else numbers_of(self.calls)

    def kept(self) -> Iterable[Kept]:
        return [Kept((GetAttrKey(name),), all_axes) for name in self.like.split()]

    def asks(self) -> Iterable[str]:
        return keywords(self.functions[1])[0] | self.also


def keywords(update: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """The extra arguments that an `update` names, after updates, state and params; whether it takes any others."""
    parameters = [*inspect.signature(update).parameters.values()]
    named = [p.name for i, p in enumerate(parameters) if i > 2 and p.kind is p.POSITIONAL_OR_KEYWORD]
    named += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return frozenset(named), any(p.kind is p.VAR_KEYWORD for p in parameters)


def numbers_of(calls: Sequence[Call]) -> dict[str, Any]:
    """What a transform with an update of its own was called with; `HIDDEN` for a schedule of a count it alone knows."""
    found = dict(calls[0].arguments) if calls else {}
    return found | ({calls[0].name: HIDDEN} if callable(found.get("learning_rate")) else {})


def all_axes(shape: tuple[int, ...], layers: int = 0) -> Axes:
    """The axes of an array shaped like its parameter."""
    return tuple(range(len(shape)))


def lookup(state: OptState, path: Path) -> Any:
    """What lies at a path in a state."""
    for key in path:
        if isinstance(key, GetAttrKey):
            state = getattr(state, key.name)
        else:
            state = state[key.key if isinstance(key, DictKey) else key.idx]
    return state
