"""The questions that a part of an optimizer answers about itself.

A transform is two functions. Behind those of this library is a `Part`: a rule, a wrapper, a chain, groups.
`base.part_of` finds it; `gdjax.core.parts` asks it and all parts inside. For a transform of another library
`gdjax.core.parts` guesses the answers.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, NamedTuple

from jax.tree_util import DictKey, GetAttrKey

from gdjax.core.misuse import is_transform
from gdjax.core.types import ArrayTree, OptState, Params, Updates
from gdjax.core.values import Call

Path = tuple[Any, ...]  # keys of `jax.tree_util`, from a tree to a subtree or leaf
Axes = tuple[int | None, ...]  # for each axis of an array the number of the parameter's axis that it follows
# What an array keeps: an average of gradients; a slow one, over fifty steps or more; one whose matrix is taken whole;
# one of squares; numbers that bear 16 bits and no less, which a maximum remembers or gradients are compared with;
# orthonormal columns; a Kronecker factor; or numbers that must stay exact: a sum that never fades, a copy of
# parameters, a count.
SlotKind = Literal["moment", "slow", "matrix", "square", "fine", "basis", "factor", "exact"]


HIDDEN: Any = object()  # in place of the hyperparameters of a transform that cannot be read


class Position(str):
    """The place of a transform in a chain without names, used as a name in the path of a hyperparameter."""

    __slots__ = ()


def whole(tree: ArrayTree) -> Any:
    """The tree as a transform sees it where no mask hides leaves: the tree itself."""
    return tree


class Inside(NamedTuple):
    """An inner transform, and the path of its state in the state of the outer one."""

    tx: Any  # a `Transform`; None where only its state is known
    path: Path
    names: tuple[str, ...] = ()  # the names of its hyperparameters begin with these: a place in a chain, a group
    sees: Callable[[Any], Any] | None = whole  # its view of a tree of parameters; None for another tree
    shown: bool = True  # whether its hyperparameters are some of the optimizer's
    alike: bool = True  # whether what it sees has the shapes of the parameters
    # Whether the first update of the whole contains its first update. Otherwise that is 0, goes up the gradient, is for
    # other parameters, or is a rounding error.
    at_once: bool = True


class Kept(NamedTuple):
    """A tree in a state with arrays for each parameter."""

    path: Path
    # From the shape of a parameter and its number of leading axes of layers to the axes of its arrays: a list where
    # these differ, None where they are unknown.
    axes: Callable[[tuple[int, ...], int], Axes | list[Axes]] | None = None
    of: Literal["each", "several", "unknown"] = "each"  # several: each array belongs to several parameters
    kind: SlotKind = "exact"
    layers: Callable[[ArrayTree], list[int]] | None = None  # for all parameters their numbers of such axes; None for 0
    bounds: Path | None = None  # of squares: the tree of moments that are at most some times their roots


class Step(NamedTuple):
    """One transform of a sequence, and its state; see `gdjax.lift.rule`."""

    part: Any  # a `Leafwise`, or any transform
    state: OptState
    inside: int | None = None  # for the rule of a wrapper: how many of the steps before it are the wrapped transform


class Operand(NamedTuple):
    """A number of a part that a compiled update takes as an operand; see `gdjax.core.closures.Form`."""

    number: float


class Part:
    """A part of an optimizer. A subclass defines `init`, `update` and the answers that differ from these.

    - `inside`: its inner transforms, and where their states lie in its own.
    - `hyperparams`: its own hyperparameters at a state.
    - `kept`: which trees of its state have arrays for each parameter, and which axes of the parameter they follow.
    - `steps`, `joined`: how it joins a pass over the leaves, see `gdjax.lift.rule`.
    - `asks`: the extra arguments of `update` that it reads itself.
    - `labelled`: the same part, with errors under the name of the optimizer around it.
    - `around`: the same around other inner transforms.
    - `content`: its fields, with the numbers marked that are `Operand`s.
    """

    label: str
    tells_all: bool = False  # whether its hyperparameters replace those of inner transforms
    ends: bool = False  # whether its rule runs after the inner transforms

    def inside(self) -> Iterable[Inside]:
        return ()

    def hyperparams(self, state: OptState, at: Callable[[Any], Any] = whole) -> dict[str, Any]:
        """From name to value, schedules evaluated at `at(count)`."""
        return {}

    def kept(self) -> Iterable[Kept]:
        """The trees in its state, in the parameters' structure, with arrays for each parameter."""
        return ()

    def steps(self, state: OptState) -> Iterable[Step] | None:
        """Its `Step`s in a pass; None if its `update` is to be called."""
        return None

    def joined(self, states: Iterator[Any]) -> Any:
        """Its new state, from those of its steps."""
        return next(states)

    def asks(self) -> Iterable[str] | None:
        """The extra arguments of `update` that it reads itself; None where they are unknown."""
        return ()

    def labelled(self, label: str) -> Any:
        return self

    def around(self, new: Callable[[int, Any], Any]) -> Any:
        """The same with `new(i, tx)` in the place of the i-th transform of `inside`.

        Raises:
          ValueError: that cannot be made.
        """
        raise ValueError(f"{self.label} cannot be made around another transform")

    def content(self) -> dict[str, Any] | None:
        """The arguments of its class that make the same part; None where only the call of its factory makes it."""
        return fields_of(self) if is_dataclass(self) else None

    def check(self, state: OptState) -> None:
        """Raises if a state is not one of this part's."""


def fields_of(part: Any) -> dict[str, Any]:
    """The arguments that made a part."""
    return {f.name: getattr(part, f.name) for f in fields(part) if f.init}


@dataclass(frozen=True, eq=False)
class Pair(Part):
    """The functions `init` and `update` of a transform; see `parts.holding` for the arguments.

    Its hyperparameters are the arguments of its factory, unless it holds transforms.
    """

    functions: tuple[Callable[..., Any], Callable[..., Any]]
    holds: Sequence[Inside] = ()
    like: str = ""
    also: frozenset[str] = frozenset()  # extra arguments that it reads and its signature does not name
    calls: tuple[Call, ...] = ()  # the calls that made it, the outermost first
    growth: Any = None  # see `gdjax.core.growth.law_of`

    def init(self, params: Params) -> OptState:
        return self.functions[0](params)

    def update(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        return self.functions[1](updates, state, params, **extra_args)

    def inside(self) -> Iterable[Inside]:
        return self.holds

    def content(self) -> None:
        """Its functions hold its numbers."""

    def hyperparams(self, state: OptState, at: Callable[[Any], Any] = whole) -> dict[str, Any]:
        return {} if self.holds else numbers_of(self.calls)

    def around(self, new: Callable[[int, Any], Any]) -> Any:
        """What the outermost of its calls makes that was given the inner transforms."""
        for call in self.calls:
            rest = dict(enumerate(x.tx for x in self.holds))

            def other(x: Any, rest: dict[int, Any] = rest) -> Any:
                if is_transform(x):
                    place = next((i for i, inner in rest.items() if inner is x or inner == x), None)
                    return x if place is None else new(place, rest.pop(place))
                if type(x) in (tuple, list):
                    return type(x)(map(other, x))
                kind: Any = type(x)
                return kind((k, other(y)) for k, y in x.items()) if isinstance(x, Mapping) else x

            args, kwargs = other(tuple(call.args)), other(dict(call.kwargs))
            if not rest:
                return call.factory(*args, **kwargs)
        raise ValueError(f"{self.calls[0].name if self.calls else 'a transform'} cannot be made around another one")

    def kept(self) -> Iterable[Kept]:
        return [Kept((GetAttrKey(name),), all_axes) for name in self.like.split()]

    def asks(self) -> Iterable[str]:
        return keywords(self.functions[1])[0] | self.also


def keywords(update: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """The extra arguments that an `update` names after updates, state and params, and whether it takes any others."""
    parameters = [*inspect.signature(update).parameters.values()]
    named = [p.name for i, p in enumerate(parameters) if i > 2 and p.kind is p.POSITIONAL_OR_KEYWORD]
    named += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return frozenset(named), any(p.kind is p.VAR_KEYWORD for p in parameters)


def numbers_of(calls: Sequence[Call]) -> dict[str, Any]:
    """The arguments of the factory of a transform; and `HIDDEN` if its rate is a schedule of a hidden count."""
    arguments = dict(calls[0].arguments) if calls else {}
    return arguments | ({calls[0].name: HIDDEN} if callable(arguments.get("learning_rate")) else {})


def all_axes(shape: tuple[int, ...], layers: int = 0) -> Axes:
    """The axes of an array that is shaped like its parameter."""
    return tuple(range(len(shape)))


def lookup(state: OptState, path: Path) -> Any:
    """The value at a path in a state."""
    for key in path:
        if isinstance(key, GetAttrKey):
            state = getattr(state, key.name)
        else:
            state = state[key.key if isinstance(key, DictKey) else key.idx]
    return state
