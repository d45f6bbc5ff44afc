"""What comes too late: transforms after an average of the parameters that change the updates, decay after the rate."""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core import callers
from gdjax.core.guesses import calls_of, described
from gdjax.core.interop import is_optax, state_from_optax
from gdjax.core.skipped import is_skipped
from gdjax.core.types import ArrayTree, OptState, Params, Transform
from gdjax.lift import probe


class OrderWarning(UserWarning):
    """An average of the parameters is not the last to see the updates, or a decay comes after the learning rate."""


def averages(state: OptState) -> Iterator[Any]:
    """The states, anywhere in a state, that have parameters to evaluate: those with a method `eval_params(params)`."""
    for x in jax.tree.leaves(state, is_leaf=lambda x: _averages(x) or is_optax(x)):
        if _averages(x):
            yield x
        elif is_optax(x):  # it has no such method; its counterpart here may have one, or a state inside it
            if _counterpart_averages(type(x)):
                yield state_from_optax(x)
            else:
                yield from averages(tuple(x))


def check(label: str, parts: Sequence[Any], states: Sequence[Any], params: Params) -> None:
    """Warns where a transform averages the parameters and one after it changes the updates.

    Such an average is of parameters that nobody trains. The transforms after it are tried: one that returns the updates
    as they are, or changes only leaves that are not averaged, is no mistake.

    Args:
      label: of what puts `parts` in a row.
      parts, states: the transforms and what their `init` made.
      params: the parameters.
    """
    for i, state in enumerate(states[:-1]):
        if (found := list(averages(state))) and _are_arrays(params):
            for j in range(i + 1, len(parts)):
                if (late := _late(found, parts[j], params)) is not None:
                    warn(label, late, f" (argument {i})", f"{name_of(parts[j])} (argument {j})")
                    break


def check_growth(label: str, first: int, parts: Sequence[Any], late: Transform, params: Params) -> None:
    """Warns where parameters times a positive number are added to what a learning rate has multiplied by -1.

    Args:
      label: of what puts `parts` in a row.
      first: the place of the part that has the learning rate.
      late: those after it, in a row.
      params: the parameters.
    """
    if not _are_arrays(params):
        return
    try:
        grows = probe.grows(late, _shapes(params))
    except Exception:
        return  # it needs arguments that only the program has
    if grows:
        after = ", ".join(f"{name_of(tx)} (argument {i})" for i, tx in enumerate(parts) if i > first)
        callers.warn(
            f"{label}: {after} adds the parameters to updates that {name_of(parts[first])} (argument {first}) has "
            "multiplied by -1: the parameters grow; put the decay before the learning rate, or write with_weight_decay",
            OrderWarning,
        )


def check_around(label: str, average: OptState, alone: Callable[[], Any], params: Params) -> None:
    """The same for a wrapper: `average` is the state of what it wraps, `alone` makes the wrapper of nothing."""
    if (found := list(averages(average))) and _are_arrays(params):
        if (late := _late(found, alone(), params)) is not None:
            warn(label, late, "", label.removeprefix("gdjax."))


def warn(label: str, average: Any, place: str, changes: str) -> None:
    """Warns of an average whose updates are changed after it."""
    name = name_of_state(type(average))
    callers.warn(
        f"{label}: {changes} changes the updates after {name}{place} has seen them, which then averages other "
        f"parameters than those trained; put {name} around all that changes the updates: {name}(chain(...), ...)",
        OrderWarning,
    )


def _late(found: Sequence[Any], tx: Transform, params: Params) -> Any:
    """The first of some averages with a leaf whose update `tx` changes; None if there is none."""
    shapes = _shapes(params)
    moved = _changed(tx, shapes)
    return next((x for x in found if moved & _averaged(_shapes(x), shapes)), None) if moved else None


def _shapes(tree: ArrayTree) -> Any:
    """The tree of shapes and dtypes, wherever its arrays lie."""
    return jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), _dtype(p)), tree)


def name_of(tx: Transform) -> str:
    """The name of the call that made a transform."""
    calls = calls_of(tx)
    return calls[0].name if calls else described(tx)


def name_of_state(kind: type) -> str:
    """scale_by_adam for ScaleByAdamState."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind.__name__.removesuffix("State"))
    return words.lower()


def _averages(x: Any) -> bool:
    return callable(getattr(type(x), "eval_params", None))


@functools.cache
def _counterpart_averages(kind: Any) -> bool:
    """Whether the class that a state of Optax has here keeps an average."""
    return _averages(state_from_optax(kind(*[None] * len(getattr(kind, "_fields", ())))))


def _are_arrays(params: Params) -> bool:
    """Whether there are parameters, and all are arrays, numbers or shapes; no stand-in for the whole tree."""
    leaves = jax.tree.leaves(params)
    return bool(leaves) and all(hasattr(x, "dtype") or isinstance(x, int | float | complex) for x in leaves)


def _dtype(p: Any) -> Any:
    dtype = getattr(p, "dtype", None)
    return dtype if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended) else jnp.result_type(p)


def _averaged(state: OptState, shapes: Any) -> set[int]:
    """The places of the gradients whose parameters an average has others for; all where that cannot be told."""
    trained = [i for i, p in enumerate(jax.tree.leaves(shapes)) if jnp.issubdtype(p.dtype, jnp.inexact)]
    found = set(range(len(trained)))

    def compare(state: OptState, params: Params) -> None:
        olds, structure = jax.tree.flatten(params)
        news, other = jax.tree.flatten(state.eval_params(params), is_leaf=is_skipped)
        if structure == other:
            own = [old is not new and not is_skipped(new) for old, new in zip(olds, news, strict=True)]
            found.intersection_update([n for n, i in enumerate(trained) if own[i]] or found)

    try:
        jax.eval_shape(compare, state, shapes)
    except Exception:
        pass  # of someone else, who may ask for values
    return found


def _changed(tx: Transform, shapes: Any) -> set[int]:
    """The places of the gradients that `tx` changes; all where its update cannot be tried without extra arguments."""
    try:
        return {i for i, fate in enumerate(probe.fates(tx, shapes)) if fate != probe.SAME}
    except probe.Effects:
        return set()  # as far as is known: it may only print
    except Exception:
        return set(range(len(jax.tree.leaves(probe.gradients_like(shapes)))))
