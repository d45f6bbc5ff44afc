"""The parts of an optimizer: its own, those of foreign optimizers, and states in Optax's classes.

Closures hide the parts of a transform of Optax: only its state, the names in it and perhaps the call that made it can
be seen. In this file alone a field's name may say that it is the state of an inner transform, and a place in a tree
that an array belongs to a parameter.

Transforms of both libraries work inside each other's wrappers. Only the classes of their states differ:
`ScaleByAdamState` here and there have the same fields and are two classes. That matters to a program that asks
`isinstance(state, optax.ScaleByAdamState)`, or maps over states of both libraries at once. `state_to_optax` and
`state_from_optax` change the classes and nothing else.
"""

import contextlib
import functools
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import DictKey, GetAttrKey, SequenceKey, tree_leaves_with_path

from gdjax.core import base, checks, misuse
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.closures import value_of
from gdjax.core.part import HIDDEN, Axes, Inside, Kept, Pair, Part, Path, Position, SlotKind, lookup, numbers_of, whole
from gdjax.core.types import ArrayTree, OptState, Params, Transform, Updates
from gdjax.core.values import Call

__all__ = ["from_optax", "state_from_optax", "state_to_optax", "to_optax"]


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

    def stands_for(self, hyperparams: Sequence[tuple[Any, Any]]) -> str:
        """The name of the transform if no hyperparameter found inside it can be read; else ""."""
        whole = isinstance(self.state, list | dict) or self.tx is not None and type(self.state) is tuple
        return self.name if whole and not self.calls and all(x is HIDDEN for _, x in hyperparams) else ""

    def inside(self) -> list[Inside]:
        """The states inside its own: fields with Optax's names for states; each entry of a tuple or a dict."""
        state, inner = self.state, wrapped_by(self.calls)
        fields = getattr(state, "_fields", ())
        if self.state is None and inner is not None:
            return [Inside(inner, ())]
        if "inner_states" in fields:
            groups = next((c.arguments["transforms"] for c in self.calls if "transforms" in c.arguments), {})
            return [_group(key, groups.get(key), x) for key, x in state.inner_states.items()]
        states = [f for f in fields if f.endswith("_state")]  # the optimizer's comes first
        named = any(inner is call.arguments.get(name) for call in self.calls for name in ("tx", "inner"))
        if inner is not None and _fits(inner, state, named and not states):
            return [Inside(inner, ())]
        if states:
            return [Inside(inner, (GetAttrKey(states[0]),))]
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
            stands = lambda x: isinstance(x, type(placeholder()))
            places = [p for p, x in jax.tree_util.tree_flatten_with_path(like, is_leaf=stands)[0] if stands(x)]
        for path, _ in jax.tree_util.tree_leaves_with_path(self.state) if not places and len(leaves) > 1 else ():
            tails = (n for n in range(len(path)) if path[n:] in leaves)
            places += [path[:n] for n in tails][:1]
        yield from (Kept(path, kind=_kind(self.state, path)) for path in places)


# The kind of a field by Optax's name for it, and the states in which the field keeps something else: nu enters a
# maximum, the gradient is subtracted from mu, the difference of both is a variance, nu may be negative.
_KINDS: Mapping[str, SlotKind] = {"mu": "moment", "trace": "moment", "m": "moment", "ema": "moment", "nu": "square"}
_OTHERWISE = {
    ("ScaleByAmsgradState", "nu"), ("ScaleByBeliefState", "mu"), ("ScaleByRStdDevState", "mu"), ("SophiaState", "nu"),
    ("ScaleByRStdDevState", "nu"), ("ScaleByRStdDevWithCountState", "mu"), ("ScaleByRStdDevWithCountState", "nu"),
}  # fmt: skip


def _kind(state: OptState, path: Path) -> SlotKind:
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


class StateArray(NamedTuple):
    """An array of a state."""

    field: Path  # the path of its field, which may have many leaves
    leaf: int | None  # the place of its parameter; None if it belongs to the whole tree
    axes: Axes | None  # the axes of the parameter that its own follow; None where unknown
    array: Any
    of_several: bool = False  # whether it belongs to several parameters
    kind: SlotKind = "exact"
    bounds: Path | None = None  # of squares: the field of moments of the same parameters that their roots bound


def holding(
    init: Callable[..., Any], update: Callable[..., Any], *inside: Inside, like: str = "", at_once: bool = True,
    also: Iterable[str] = (), growth: Any = None, **inner: Transform,
) -> GradientTransformation:  # fmt: skip
    """The transform of two functions, with the answers of a `Pair`.

    Args:
      init, update: the functions.
      *inside: the inner transforms.
      like: "mu nu": the fields of the state with an array for each parameter, whose last axes are the parameter's.
      **inner: from a field of the state to the inner transform whose state it is.
      at_once: whether the first update contains theirs; see `Inside`.
      also: extra arguments that `update` reads and its signature does not name.
      growth: how the update grows with a matrix; of a wrapper "same" if it changes some updates itself.
    """
    named = [Inside(tx, (GetAttrKey(name),), at_once=at_once) for name, tx in inner.items()]
    part = Pair((init, update), [*inside, *named], like, frozenset(also), growth=growth)
    return GradientTransformation(part.init, part.update)


def known(tx: Transform | None, state: OptState = None) -> Part:
    """The part of a transform, or a guess at it."""
    part = None if tx is None else base.part_of(tx)
    if part is None:
        return Guess(tx, state)
    return replace(part, calls=tuple(calls_of(tx))) if isinstance(part, Pair) else part


def within(part: Part, state: OptState) -> Iterator[tuple[Inside, OptState]]:
    """The inner transforms of a part, with their states."""
    part.check(state)
    for inside in part.inside():
        yield inside, lookup(state, inside.path)


def every(tx: Transform | None, state: OptState, at: Path = ()) -> Iterator[tuple[Part, OptState, Path]]:
    """All parts with a state of their own, that state and its path, from outside to inside."""
    part = known(tx, state)
    if all(inside.path for inside in part.inside()):  # the state of `flatten` is that of its inner transform
        yield part, state, at
    for inside, inner in within(part, state):
        yield from every(inside.tx, inner, (*at, *inside.path))


def kept(tx: Transform | None, state: OptState, leaves: Collection[Path] = (), at: Path = ()) -> Iterator[Kept]:
    """The trees in the state of any transform that have arrays for each parameter.

    `leaves` are the paths of the parameters, which a guess needs.
    """
    part = known(tx, state)
    guess = isinstance(part, Guess)
    for x in part.places(leaves) if guess else part.kept():
        yield x._replace(path=(*at, *x.path), bounds=None if x.bounds is None else (*at, *x.bounds))
    for inside, inner in () if guess else within(part, state):
        for x in kept(inside.tx, inner, leaves, (*at, *inside.path)) if inside.sees is not None else ():
            yield x if inside.alike else x._replace(axes=None)


def state_arrays(tx: Transform, state: OptState, params: Params) -> list[StateArray]:
    """The arrays of a state, in the order of `jax.tree.leaves`."""
    leaves = {path: (i, np.shape(p)) for i, (path, p) in enumerate(tree_leaves_with_path(params))}
    trees = {x.path: x for x in kept(tx, state, leaves)}
    several, arrays = Counter[Any](), []
    lead = functools.cache(lambda layers: [0] * len(leaves) if layers is None else layers(params))
    for path, x in tree_leaves_with_path(state):
        starts = [path[:n] for n in range(len(path), -1, -1)]
        tree = next((trees[start] for start in starts if start in trees), None)
        if tree is None or tree.of != "each":
            of = "" if tree is None else tree.of
            last = max((i for i, key in enumerate(path) if isinstance(key, GetAttrKey)), default=len(path) - 1)
            field = tree.path if tree is not None and of == "several" else path[: last + 1]
            axes = None if of == "unknown" else (None,) * np.ndim(x)
            kind = "exact" if tree is None else tree.kind
            arrays.append(StateArray(field, None, axes, x, of == "several", kind))
            continue
        rest = path[len(tree.path) :]  # codes and factors of a leaf stand below its path
        leaf, shape = next((leaves[rest[:n]] for n in range(len(rest) + 1) if rest[:n] in leaves), (None, ()))
        axes = None if tree.axes is None or leaf is None else tree.axes(shape, lead(tree.layers)[leaf])
        if isinstance(axes, list):
            axes = axes[several[tree.path, leaf]]
        several[tree.path, leaf] += 1
        follows = None if axes is None else _that_fit(axes, np.shape(x), shape)
        arrays.append(StateArray(tree.path, leaf, follows, x, kind=tree.kind, bounds=tree.bounds))
    return arrays


def _that_fit(axes: Axes, size: tuple[int, ...], shape: tuple[int, ...]) -> Axes:
    """The axes that an array of this size follows: its last axes are the declared ones, where their lengths fit.

    Codes of several numbers and scales of blocks have a divisor of the length, and follow the axis too.
    """
    lead = len(size) - len(axes)
    if lead < 0:
        return (None,) * len(size)
    fits = lambda n, a: n == shape[a] or n > 1 and shape[a] % n == 0
    follows = (a if a is not None and fits(n, a) else None for a, n in zip(axes, size[lead:], strict=True))
    return (*(None,) * lead, *follows)


def to_optax(tx: Transform) -> Any:
    """`tx` as an `optax.GradientTransformationExtraArgs` whose states are of Optax's classes.

    Its numbers are those of `tx`. A state stays as it is if Optax has no such class.

    Raises:
      ImportError: Optax is not installed.

    Example:
      >>> import gdjax, optax
      >>> tx = gdjax.to_optax(gdjax.adam(1e-3))
      >>> isinstance(tx.init(0.0)[0], optax.ScaleByAdamState)
      True
    """
    label = "gdjax.to_optax"
    inner, optax = base.check_transform(label, 0, tx), _import_optax(label)

    def init(params: Params) -> OptState:
        return state_to_optax(inner.init(params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        updates, state = base.call_update(inner, updates, state, params, extra_args)  # takes states of either library
        return updates, state_to_optax(state)

    made = base.made_by(base.checked_call(to_optax, (tx,), {}), holding(init, update, Inside(inner, ())))
    return optax.GradientTransformationExtraArgs(*map(value_of, made))  # plain values pickle in Optax's class too


@transform
def from_optax(tx: Transform) -> GradientTransformation:
    """A transform of Optax, or anything with `init` and `update`, as one of this library: a value.

    It takes any extra arguments and hands them on if `tx` takes some. A gradient that does not fit its parameter is an
    error that names it. Two are equal if their parts `init` and `update` are, and pickle if those do. The states are
    those of `tx`; `state_from_optax` gives them this library's classes.

    Example:
      >>> import gdjax, jax.numpy as jnp, optax
      >>> tx = gdjax.chain(gdjax.clip(1.0), gdjax.from_optax(optax.sgd(0.5)))
      >>> u, _ = tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))
      >>> print(u)
      [-0.5]
    """
    label = "gdjax.from_optax"
    inner = base.check_transform(label, 0, tx)

    def init(params: Params) -> OptState:
        checks.leaves(label, "params", params)
        return inner.init(params)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        checks.gradients(label, updates, params)
        return base.call_update(inner, updates, state, params, extra_args)

    return holding(init, update, Inside(inner, ()))


def state_to_optax(state: OptState) -> Any:
    """The state, or any tree with states in it, with Optax's classes in place of this library's.

    Raises:
      ImportError: Optax is not installed.

    Example:
      >>> import gdjax, jax.numpy as jnp, optax
      >>> state = gdjax.adam(1e-3).init(jnp.zeros(2))
      >>> theirs = gdjax.state_to_optax(state)  # goes into optax.adam(1e-3).update
      >>> type(theirs[0]) is optax.ScaleByAdamState
      True
    """
    _import_optax("gdjax.state_to_optax")
    return _of("optax", "gdjax", state)


def state_from_optax(state: OptState) -> Any:
    """The state, or any tree with states in it, with this library's classes in place of Optax's.

    Example:
      >>> import gdjax, jax.numpy as jnp, optax
      >>> state = optax.adam(1e-3).init(jnp.zeros(2))  # of a checkpoint, for instance
      >>> ours = gdjax.state_from_optax(state)  # goes into gdjax.adam(1e-3).update
      >>> type(ours[0]) is gdjax.ScaleByAdamState
      True
    """
    return _of("gdjax", "optax", state)


def is_optax(x: object) -> bool:
    """Whether an object's class is Optax's."""
    return isinstance(x, tuple) and _package(type(x)) == "optax"


def _import_optax(label: str) -> Any:
    try:
        import optax
        import optax.contrib
        import optax.experimental
    except ImportError as e:
        raise ImportError(f"{label} needs Optax: pip install optax") from e
    return optax


def _classes(package: str) -> dict[Any, type]:
    """The NamedTuple classes in the loaded modules of a package, by name and fields."""
    modules = [m for name, m in list(sys.modules.items()) if m is not None and name.partition(".")[0] == package]
    classes = [x for m in modules for x in list(vars(m).values()) if isinstance(x, type) and issubclass(x, tuple)]
    return {_name(x): x for x in classes if hasattr(x, "_fields") and _package(x) == package}


def _name(x: type) -> tuple[str, Any]:
    return x.__name__, getattr(x, "_fields", None)


def _package(x: type) -> str:
    return x.__module__.partition(".")[0]


def _of(package: str, other: str, tree: ArrayTree) -> Any:
    """The tree, with each NamedTuple of another package in the class of `package` with its name and fields."""
    classes = _classes(package)

    def counterpart(x: ArrayTree) -> Any:
        is_other = isinstance(x, tuple) and _package(type(x)) == other
        return classes.get(_name(type(x))) if is_other else None

    def convert(tree: ArrayTree) -> Any:
        return jax.tree.map(renamed, tree, is_leaf=lambda x: counterpart(x) is not None)

    def renamed(x: ArrayTree) -> Any:
        new = counterpart(x)
        return x if new is None else new(*map(convert, x))

    return convert(tree)
