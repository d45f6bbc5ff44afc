"""Guesses about transforms of other libraries, which do not answer as a `Part` does.

Closures hide the parts of a transform of Optax. Its state, the names in it and perhaps the call that made it are all
there is to see. Only in this file does a name of a field say that it is the state of an inner transform, and a place in
a tree that an array belongs to a parameter.
"""

import contextlib
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.tree_util import DictKey, GetAttrKey, SequenceKey

from gdjax.core import base, misuse
from gdjax.core.closures import value_of
from gdjax.core.part import HIDDEN, Inside, Kept, Kind, Pair, Part, Path, Position, lookup, numbers_of, whole
from gdjax.core.types import OptState, Transform
from gdjax.core.values import Call


class Guess(Part):
    """A transform that is no `Part`, as far as its state and the calls that made it show.

    Args:
      tx: the transform; None where only its state is known.
      state: its state; None where only the calls are asked.
    """

    def __init__(self, tx: Transform | None, state: OptState):
        self.tx, self.calls = tx, calls_of(tx)
        self.state: Any = state
        self.tells_all = isinstance(getattr(state, "hyperparams", None), dict)  # as of Optax's `inject_hyperparams`

    def hyperparams(self, state: OptState, at: Callable[[Any], Any] = whole) -> dict[str, Any]:
        if self.tells_all:
            return dict(state.hyperparams)
        if self.inside():
            return {}
        return numbers_of(self.calls) if self.calls else {self.name: HIDDEN}

    @property
    def name(self) -> str:
        """Its name in messages that it cannot be read."""
        return f"a transform with {type(self.state).__name__}" if self.tx is None else described(self.tx)

    def stands_for(self, found: Sequence[tuple[Any, Any]]) -> str:
        """The name of the transform if no hyperparameter found inside it can be read; else ""."""
        whole = isinstance(self.state, list | dict) or self.tx is not None and type(self.state) is tuple
        return self.name if whole and not self.calls and all(x is HIDDEN for _, x in found) else ""

    def inside(self) -> list[Inside]:
        """The states inside its own: fields with Optax's names for states; each entry of a tuple or a dict."""
        state, inner = self.state, wrapped_by(self.calls)
        fields = getattr(state, "_fields", ())
        if self.state is None and inner is not None:
            return [Inside(inner, ())]
        if "inner_states" in fields:
            groups = next((c.arguments["transforms"] for c in self.calls if "transforms" in c.arguments), {})
            return [_group(key, groups.get(key), x) for key, x in state.inner_states.items()]
        found = [f for f in fields if f.endswith("_state")]  # the optimizer's comes first
        named = any(inner is call.arguments.get(name) for call in self.calls for name in ("tx", "inner"))
        if inner is not None and _fits(inner, state, named and not found):
            return [Inside(inner, ())]
        if found:
            return [Inside(inner, (GetAttrKey(found[0]),))]
        if isinstance(state, tuple | list) and not hasattr(state, "_fields"):
            return [Inside(None, (SequenceKey(i),), (Position(i),)) for i in range(len(state))]
        return [Inside(None, (DictKey(k),), (str(k),)) for k in state] if isinstance(state, dict) else []

    def places(self, leaves: Collection[Path]) -> Iterator[Kept]:
        """The trees in its state that look like the parameters, whose paths `leaves` are; the first says it is a guess.

        `init` of a placeholder for the tree of parameters shows where in the state such trees are. If `init` does not
        take one, an array belongs to the leaf whose path its own path ends with.
        """
        yield Kept((), of="unknown")
        places = []
        # `map_params` passes no leaves, and is to show why `init` failed.
        with contextlib.suppress(*[Exception] if leaves else []), warnings.catch_warnings(action="ignore"):
            like = jax.eval_shape(self.tx.init, placeholder())  # type: ignore[union-attr]
            stands = lambda x: isinstance(x, type(placeholder()))  # noqa: E731
            places = [p for p, x in jax.tree_util.tree_flatten_with_path(like, is_leaf=stands)[0] if stands(x)]
        for path, _ in jax.tree_util.tree_leaves_with_path(self.state) if not places and len(leaves) > 1 else ():
            tails = (n for n in range(len(path)) if path[n:] in leaves)
            places += [path[:n] for n in tails][:1]
        yield from (Kept(path, kind=_kind(self.state, path)) for path in places)


# The kind of a field by Optax's name for it, and the states in which the field keeps something else: nu enters a
# maximum, the gradient is subtracted from mu, the difference of both is a variance, nu may be negative.
_KINDS: Mapping[str, Kind] = {"mu": "moment", "trace": "moment", "m": "moment", "ema": "moment", "nu": "square"}
_OTHERWISE = {
    ("ScaleByAmsgradState", "nu"), ("ScaleByBeliefState", "mu"), ("ScaleByRStdDevState", "mu"), ("SophiaState", "nu"),
    ("ScaleByRStdDevState", "nu"), ("ScaleByRStdDevWithCountState", "mu"), ("ScaleByRStdDevWithCountState", "nu"),
}  # fmt: skip


def _kind(state: OptState, path: Path) -> Kind:
    """The kind of the field in which a path ends."""
    last = max((i for i, key in enumerate(path) if isinstance(key, GetAttrKey)), default=None)
    if last is None:
        return "exact"
    name, of = path[last].name, type(lookup(state, path[:last])).__name__
    return "exact" if (of, name) in _OTHERWISE else _KINDS.get(name, "exact")


def _fits(tx: Transform, state: OptState, unless_known: bool = True) -> bool:
    """Whether this may be the state of a transform; `unless_known` where nothing says what that looks like."""
    part = base.part_of(tx)
    if part is None or isinstance(part, Pair) and not part.holds:
        return unless_known
    try:
        part.check(state)
        return all(_fits(x.tx, lookup(state, x.path)) for x in part.inside())
    except (AttributeError, LookupError, TypeError, ValueError):
        return False


def _group(key: Any, tx: Transform | None, state: OptState) -> Inside:
    """A group of Optax's `partition`; its state is one of `masked`."""
    inner = (GetAttrKey("inner_state"),) if hasattr(state, "inner_state") else ()
    return Inside(tx, (GetAttrKey("inner_states"), DictKey(key), *inner), (str(key),))


def calls_of(tx: Any) -> Sequence[Call]:
    """The calls that made a transform of this library, the outermost first."""
    return getattr(value_of(getattr(tx, "update", None)), "calls", ())


def wrapped_by(calls: Iterable[Call]) -> Any:
    """The first transform among the arguments of the calls; None where the calls made no wrapper."""
    return next((x for call in calls for x in call.arguments.values() if misuse.is_transform(x)), None)


def holds_states(field: str) -> bool:
    """Whether a field holds states of inner transforms, by its name: used where only a state is known."""
    return field.endswith(("state", "states"))


def is_state_of(kind: type, state: object) -> bool:
    """Whether a state is of this class, or of Optax's class of the same name."""
    return isinstance(state, kind) or type(state).__name__ == kind.__name__


def described(tx: Transform) -> str:
    """The name of a transform of another library: "optax.scale_by_adam"."""
    update = tx.update
    name = getattr(update, "__qualname__", type(tx).__name__).partition(".<locals>")[0]
    module = (getattr(update, "__module__", None) or "").partition(".")[0]
    return f"{module}.{name}" if module else name


class _Params(NamedTuple):
    """A placeholder for a tree of parameters, without leaves: `init` of it shows where a state has such trees."""


def placeholder() -> Any:
    """A placeholder for a tree of parameters; Optax's own if Optax is loaded, as its `masked` knows no other."""
    return getattr(sys.modules.get("optax.tree_utils._state_utils"), "_ParamsPlaceholder", _Params)()
