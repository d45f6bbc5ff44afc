"""The order warning: a transform after an average changes the updates, or a decay follows the learning rate.

It goes by what the transforms of this library declare: their `growth`, numbers, masks. Any other transform gives none.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.core import callers
from gdjax.core.growth import DECAY, RATES, SAME, UNCHANGED
from gdjax.core.part import Pair, Path
from gdjax.core.parts import Guess, calls_of, described, is_optax, known, state_from_optax
from gdjax.core.paths import paths_of
from gdjax.core.types import ArrayTree, OptState, Params, Transform, base_of, is_skipped
from gdjax.core.values import is_ours
from gdjax.lift.rule import Leafwise

# The growth of the transforms of two functions here that no `Part` describes.
_PAIRS = dict.fromkeys(["identity", "snapshot", "monitor"], UNCHANGED) | dict.fromkeys(
    ["set_to_zero", "keep_params_nonnegative"]
)


class OrderWarning(UserWarning):
    """A transform after an average of the parameters changes the updates, or a decay follows the learning rate."""


def averages(state: OptState) -> Iterator[Any]:
    """All states inside a state that have a method `eval_params(params)`."""
    return (x for _, x in _averages_at(state))


def check(label: str, parts: Sequence[Any], states: Sequence[Any], params: Params) -> None:
    """Warns where a transform averages the parameters and one after it changes the updates of the same leaves.

    Such an average is of parameters that nobody trains.

    Args:
      label: the name of the chain.
      parts, states: the transforms and what their `init` made.
      params: the parameters.
    """
    for i, state in enumerate(states[:-1] if _are_arrays(params) else ()):
        averaged = [(x, _paths_at(parts[i], path, params)) for path, x in _averages_at(state)]
        for j in range(i + 1, len(parts) if averaged else 0):
            changed = frozenset[str]().union(*(site.paths for site in _sites(parts[j], params) if site.changes))
            if late := [x for x, paths in averaged if paths & changed]:
                warn(label, late[0], f" (argument {i})", f"{name_of(parts[j])} (argument {j})")
                break


def check_decay_after_rate(label: str, rate: int, parts: Sequence[Any], params: Params) -> None:
    """Warns where parameters times a positive number are added to updates that a learning rate has negated.

    Args:
      label: the name of the chain.
      rate: the place of the part that has the learning rate.
      parts: the transforms.
      params: the parameters.
    """
    grown = frozenset[str]()
    for tx in parts[rate + 1 :] if _are_arrays(params) else ():
        for site in _sites(tx, params):
            if site.adds_parameters:
                grown |= site.paths
            elif not site.keeps_sign:
                grown -= site.paths
    if grown:
        after = ", ".join(f"{name_of(tx)} (argument {i})" for i, tx in enumerate(parts) if i > rate)
        callers.warn(
            f"{label}: {after} adds the parameters to updates that {name_of(parts[rate])} (argument {rate}) has "
            "multiplied by -1: the parameters grow; put the decay before the learning rate, or write with_weight_decay",
            OrderWarning,
        )


def check_around(label: str, rule: Leafwise, inner_state: OptState, params: Params) -> None:
    """`check` for the rule of a wrapper."""
    if _are_arrays(params) and _site(rule, params).changes:
        for average in [*averages(inner_state)][:1]:
            warn(label, average, "", label.removeprefix("gdjax."))


def warn(label: str, average: Any, place: str, changes: str) -> None:
    """Warns that updates are changed after an average."""
    name = name_of_state(type(average))
    callers.warn(
        f"{label}: {changes} changes the updates after {name}{place} has seen them, which then averages other "
        f"parameters than those trained; put {name} around all that changes the updates: {name}(chain(...), ...)",
        OrderWarning,
    )


class Site(NamedTuple):
    """A rule, or a transform that is not taken apart further."""

    paths: frozenset[str]  # of the leaves that it sees
    growth: Any = None  # see `gdjax.core.growth`
    hyper: Mapping[str, Any] = {}  # None for a number that may change between updates
    known: bool = True  # whether it is of this library
    stateless: bool = False  # whether it is a rule without a state

    def held(self) -> "Site":
        """The same with numbers that are arrays in a state."""
        return self._replace(hyper={k: None if isinstance(x, jax.Array) else x for k, x in self.hyper.items()})

    @property
    def changes(self) -> bool:
        """Whether it changes updates."""
        number, neutral = ("weight_decay", 0) if self.growth == DECAY else ("step_size", 1)
        x = self.hyper.get(number)
        return self.known and self.growth != UNCHANGED and not (isinstance(x, int | float) and x == neutral)

    @property
    def adds_parameters(self) -> bool:
        """Whether it adds the parameters times a positive number."""
        return self.known and self.growth == DECAY and _is_positive(self.hyper["weight_decay"])

    @property
    def keeps_sign(self) -> bool:
        """Whether updates come out with the sign with which they go in."""
        rates = [self.hyper[name] for name in RATES if name in self.hyper]
        same = self.growth in (SAME, DECAY, UNCHANGED) or self.stateless and "learning_rate" not in self.hyper
        return self.known and same and not self.hyper.get("flip_sign") and all(map(_is_positive, rates))


def _sites(tx: Transform, tree: ArrayTree) -> Iterator[Site]:
    """The sites of a transform, in the order of an update."""
    part, paths = known(tx), _paths(tree)
    inside = [] if isinstance(part, Leafwise | Guess) else list(part.inside())
    if isinstance(part, Leafwise):
        yield _site(part, tree)
    elif isinstance(part, Guess):
        calls = calls_of(tx)
        name = calls[-1].name if calls and is_ours(calls[-1].factory) else ""
        yield Site(paths, _PAIRS.get(name), known=name in _PAIRS)
    for x in inside:
        seen = np.zeros(1) if x.sees is None else x.sees(tree)  # of `flatten`
        for site in _sites(x.tx, seen):  # type: ignore[arg-type]
            site = site._replace(paths=paths) if x.sees is None else site
            yield site.held() if part.tells_all else site
    if part.ends:
        yield _site(part.rule, tree)  # type: ignore[attr-defined]
    elif isinstance(part, Pair) and (part.growth or not all(x.at_once for x in inside) or not inside):
        yield Site(paths, part.growth)


def _site(rule: Leafwise, tree: ArrayTree) -> Site:
    every = paths_of(tree, is_skipped)
    seen = rule.sees(tree) or [True] * len(every)
    paths = frozenset(path for (path, x), is_seen in zip(every, seen, strict=True) if is_seen and not is_skipped(x))
    return Site(paths, rule.growth, rule.hyper, is_ours(rule.rule), rule.stateless)


def _paths(tree: ArrayTree) -> frozenset[str]:
    return frozenset(path for path, _ in paths_of(tree))


def _paths_at(tx: Transform, path: Path, tree: ArrayTree) -> frozenset[str]:
    """The leaves that are seen where a state lies in that of a transform."""
    for x in known(tx).inside():
        if x.tx is not None and x.sees is not None and x.alike and path[: len(x.path)] == x.path:
            return _paths_at(x.tx, path[len(x.path) :], x.sees(tree))
    return _paths(tree)


def name_of(tx: Transform) -> str:
    """The name of the call that made a transform."""
    calls = calls_of(tx)
    return calls[0].name if calls else described(tx)


def name_of_state(kind: type) -> str:
    """scale_by_adam for ScaleByAdamState."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind.__name__.removesuffix("State"))
    return words.lower()


def first(x: Any) -> float | None:
    """A number, or a schedule at its first step; None where it is not known yet."""
    x = base_of(x)
    with jax.ensure_compile_time_eval():
        x = x(jnp.zeros((), jnp.int32)) if callable(x) else x
    return None if x is None or isinstance(x, Tracer) else float(x)


def _is_positive(x: Any) -> bool:
    value = first(x)
    return value is not None and value > 0


def _averages_at(state: OptState) -> Iterator[tuple[Path, Any]]:
    """All states with a method `eval_params(params)`, and their paths inside a state."""
    for path, x in jax.tree_util.tree_flatten_with_path(state, is_leaf=lambda x: _averages(x) or is_optax(x))[0]:
        if _averages(x):
            yield path, x
        elif is_optax(x):  # it has no such method, but its counterpart here or a state inside it may
            if _counterpart_averages(type(x)):
                yield path, state_from_optax(x)
            else:
                yield from ((path, inner) for _, inner in _averages_at(tuple(x)))


def _averages(x: Any) -> bool:
    return callable(getattr(type(x), "eval_params", None))


@functools.cache
def _counterpart_averages(kind: Any) -> bool:
    """Whether our class for a state of Optax has an average."""
    return _averages(state_from_optax(kind(*[None] * len(getattr(kind, "_fields", ())))))


def _are_arrays(params: Params) -> bool:
    """Whether there are parameters, all of them arrays, numbers or shapes: no placeholder for the tree."""
    leaves = jax.tree.leaves(params)
    return bool(leaves) and all(hasattr(x, "dtype") or isinstance(x, int | float | complex) for x in leaves)
