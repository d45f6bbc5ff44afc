"""Transforms applied one after the other."""

import functools
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jax.tree_util import DictKey, tree_leaves_with_path

from gdjax.core import base, callers, checks, misuse
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.part import Inside, Part, Position, Step
from gdjax.core.types import OptState, Params, Transform, Updates
from gdjax.core.values import is_ours
from gdjax.lift import order
from gdjax.lift.rule import Leafwise, run, state_of, steps_of

__all__ = ["chain", "named_chain"]


@dataclass(frozen=True, eq=False)
class Chain(Part):
    """Transforms in a row; `pack` and `unpack` are how their states are kept: as a tuple, or under names."""

    label: str
    parts: tuple[Any, ...]
    pack: Callable[[list[Any]], Any] = tuple
    unpack: Callable[[Any], list[Any]] = list

    def labelled(self, label: str) -> "Chain":
        """The parts of an optimizer report errors under its name, those of a plain chain under their own names."""
        if label in ("gdjax.chain", "gdjax.named_chain"):
            return self
        return Chain(label, tuple(_labelled(tx, label) for tx in self.parts), self.pack, self.unpack)

    def around(self, new: Callable[[int, Any], Any]) -> "Chain":
        return Chain(self.label, tuple(new(i, tx) for i, tx in enumerate(self.parts)), self.pack, self.unpack)

    def init(self, params: Params) -> OptState:
        states = [part.init(params) for part in self.parts]
        order.check(self.label, self.parts, states, params)
        rate = next((i for i, tx in enumerate(self.parts[:-1]) if _descends(tx)), None)
        if rate is not None:
            order.check_decay_after_rate(self.label, rate, self.parts, params)
        return self.pack(states)

    def update(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        updates, states = run(list(self.steps(state)), updates, params, extra_args)
        return updates, self.joined(states)

    def steps(self, state: OptState) -> Iterator[Step]:
        """The transforms with their states, those of chains and wrappers inside this one in their place."""
        for tx, s in zip(self.parts, self._states(state), strict=True):
            yield from steps_of(tx, s)

    def joined(self, states: Iterator[Any]) -> Any:
        """The state from those of the steps."""
        return self.pack([state_of(tx, states) for tx in self.parts])

    def inside(self) -> Iterator[Inside]:
        paths = {i: path for path, i in tree_leaves_with_path(self.pack(list(range(len(self.parts)))))}
        for i, tx in enumerate(self.parts):
            (key,) = paths[i]
            yield Inside(tx, (key,), (key.key if isinstance(key, DictKey) else Position(i),))

    def check(self, state: OptState) -> None:
        self._states(state)

    def _states(self, state: OptState) -> list[Any]:
        if state is None:
            raise ValueError(f"{self.label}: {checks.NO_STATE}")
        named = isinstance(like := self.pack([None] * len(self.parts)), dict)
        try:
            # A list of a dict is its keys, of an array its rows.
            if not named and (isinstance(state, Mapping) or hasattr(state, "shape")):
                raise TypeError("expected a tuple")
            states = self.unpack(state)
        except (TypeError, KeyError) as e:
            names = like if named else map(str, range(len(self.parts)))  # as Flax names the entries of a tuple
            raise ValueError(
                f"{self.label}: state is {type(state).__name__}, not what init made for {len(self.parts)} transforms "
                f"({e}); {checks.whence(state, names)}"
            ) from e
        checks.entries(self.label, states, len(self.parts))
        return states


def _labelled(tx: Transform, label: str) -> Any:
    """A rule with a state for the whole tree may run a transform in it: like a wrapper it keeps its name."""
    part = base.part_of(tx)
    again = part if part is None or isinstance(part, Leafwise) and part.whole else part.labelled(label)
    return tx if again is part else again


def of_leaf_rules(tx: Transform) -> bool:
    """Whether a transform is a leaf rule, or a chain of such alone: a pass over the leaves or a few."""
    part = base.part_of(tx)
    return all(map(of_leaf_rules, part.parts)) if isinstance(part, Chain) else isinstance(part, Leafwise)


_IDENTITY = base.identity()


def leaf_rules(tx: Transform) -> Iterator[Leafwise | None]:
    """The leaf rules of a transform, through chains; None for a part that does not show its own."""
    part = base.part_of(tx)
    if isinstance(part, Chain):
        for inner in part.parts:
            yield from leaf_rules(inner)
    elif not (type(tx) is type(_IDENTITY) and tx == _IDENTITY):
        yield part if isinstance(part, Leafwise) else None


def flips(rule: Leafwise) -> bool:
    """Whether a rule says that it turns an ascent into a descent."""
    return rule.hyper.get("flip_sign") is True


def _descends(tx: Transform) -> bool:
    """Whether a learning rate, or a scale by a negative number, is in a transform or in one inside it."""
    part = base.part_of(tx)
    if isinstance(part, Leafwise):
        step = part.hyper.get("step_size")
        return flips(part) or isinstance(step, int | float) and step < 0
    return part is not None and any(_descends(x.tx) for x in part.inside() if x.tx is not None)


def _warn_of_two_rates(label: str, parts: tuple[Any, ...]) -> None:
    """Warns where two of the parts turn the sign and nothing else can: the chain ascends.

    It does not warn where something else may turn the sign once more: a part of someone else, or a scale by a schedule,
    a traced or a negative number. Nor does it warn of a masked rate, which concerns some leaves only.
    """
    rules = [list(leaf_rules(tx)) for tx in parts]
    turns = [i for i, of_part in enumerate(rules) if sum(rule is not None and flips(rule) for rule in of_part) == 1]
    if len(turns) < 2 or len(turns) % 2 or not all(map(_sign_is_known, itertools.chain(*rules))):
        return
    shown = ", ".join(f"argument {i} ({base.part_of(parts[i]).label.removeprefix('gdjax.')})" for i in turns)
    callers.warn(
        f"{label}: {len(turns)} learning rates, of {shown}, each multiply by -1: the updates go up the gradient; "
        "keep one of them, and multiply by further rates with scale"
    )


def _sign_is_known(rule: Leafwise | None) -> bool:
    if rule is None or not is_ours(rule.rule) or flips(rule) and type(rule) is not Leafwise:
        return False
    steps = [rule.hyper[name] for name in ("step_size", "step_size_fn") if name in rule.hyper]
    return all(isinstance(step, int | float) and step >= 0 for step in steps)


@transform
def chain(*transforms: Transform) -> Any:
    """Applies transforms one after the other: the updates of each go into the next.

    Neighbouring leaf rules, through nested chains too, run as one function per leaf, and 16-bit numbers stay float32
    from the first of them to the last.

    Args:
      *transforms: anything with `init` and `update`. A chain of none returns the updates as they are.

    Returns:
      A transform whose state is the plain tuple of the states.

    Two learning rates in one chain, as in `chain(adam(1e-3), sgd(0.1))`, are a warning: each multiplies by -1. So is,
    in `init`, an average of the parameters (`params_ema`, `swa`, `schedule_free`, `lookahead`, or any whose state has
    an `eval_params`) with a transform of this library after it that changes the updates: it averages other parameters
    than yours. There is no warning where masks, or functions that make them, give the two different leaves. And so is
    an `add_decayed_weights` that comes after a learning rate: it makes the parameters grow.

    Raises:
      TypeError: an argument is not a transform; the message gives its index.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.5))
      >>> params = {"a": jnp.array([1.0]), "b": jnp.array([1.0])}
      >>> state = tx.init(params)
      >>> grads = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
      >>> u, state = tx.update(grads, state, params)
      >>> {name: round(float(x[0]), 3) for name, x in gdjax.apply_updates(params, u).items()}
      {'a': 0.7, 'b': 0.6}
    """
    parts = tuple(base.check_transform("gdjax.chain", i, tx) for i, tx in enumerate(transforms))
    _warn_of_two_rates("gdjax.chain", parts)
    return Chain("gdjax.chain", parts)


@transform
def named_chain(*transforms: tuple[str, GradientTransformation]) -> Any:
    """`chain` of `(name, transform)` pairs; its state is a dict from name to state.

    Checkpoints of a named chain survive the insertion of a transform, which those of a tuple do not.

    Args:
      *transforms: pairs `(name, transform)`, each name once, in the order in which they run.

    Raises:
      ValueError: a name occurs twice.
      TypeError: an argument is not a pair of a name and a transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.named_chain(("clip", gdjax.clip(1.0)), ("adam", gdjax.scale_by_adam()))
      >>> state = tx.init(jnp.zeros(2))
      >>> print(list(state), state["adam"].mu)
      ['clip', 'adam'] [0. 0.]
    """
    label = "gdjax.named_chain"
    for i, pair in enumerate(transforms):
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            several = not misuse.is_transform(pair) and isinstance(pair, tuple | list | Mapping)
            unpack = f"*transforms{'.items()' if isinstance(pair, Mapping) else ''}"
            hint = f"; of several pairs make arguments: named_chain({unpack})" if several else ""
            raise TypeError(f"{label}: argument {i} is {pair!r}, not a (name, transform) pair{hint}")
    names = [name for name, _ in transforms]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{label}: names {repeated} occur more than once")
    parts = tuple(base.check_transform(label, i, tx) for i, (_, tx) in enumerate(transforms))
    _warn_of_two_rates(label, parts)
    return Chain(label, parts, functools.partial(_named, names), functools.partial(_entries, names))


def _named(names: list[str], states: list[Any]) -> dict[str, Any]:
    return OrderedDict(zip(names, states, strict=True))


def _entries(names: list[str], state: Mapping[str, Any]) -> list[Any]:
    return [state[name] for name in names]
