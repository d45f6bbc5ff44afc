"""The order warning: a transform after an average changes the updates, or a decay follows the learning rate."""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core import callers
from gdjax.core.parts import calls_of, described, is_optax, state_from_optax
from gdjax.core.types import ArrayTree, OptState, Params, Transform, is_skipped
from gdjax.lift import probe


class OrderWarning(UserWarning):
    """A transform after an average of the parameters changes the updates, or a decay follows the learning rate."""


def averages(state: OptState) -> Iterator[Any]:
    """All states inside a state that have a method `eval_params(params)`."""
    for x in jax.tree.leaves(state, is_leaf=lambda x: _averages(x) or is_optax(x)):
        if _averages(x):
            yield x
        elif is_optax(x):  # it has no such method, but its counterpart here or a state inside it may
            if _counterpart_averages(type(x)):
                yield state_from_optax(x)
            else:
                yield from averages(tuple(x))


def check(label: str, parts: Sequence[Any], states: Sequence[Any], params: Params) -> None:
    """Warns where a transform averages the parameters and one after it changes the updates.

    Such an average is of parameters that nobody trains. The later transforms are tried: no mistake is one that returns
    the updates unchanged, or changes only leaves that are not averaged.

    Args:
      label: the name of the chain.
      parts, states: the transforms and what their `init` made.
      params: the parameters.
    """
    for i, state in enumerate(states[:-1]):
        if (found := list(averages(state))) and _are_arrays(params):
            for j in range(i + 1, len(parts)):
                if (late := _late(found, parts[j], params)) is not None:
                    warn(label, late, f" (argument {i})", f"{name_of(parts[j])} (argument {j})")
                    break


def check_decay_after_rate(label: str, first: int, parts: Sequence[Any], late: Transform, params: Params) -> None:
    """Warns where parameters times a positive number are added to updates that a learning rate has negated.

    Args:
      label: the name of the chain.
      first: the place of the part that has the learning rate.
      late: the parts after it.
      params: the parameters.
    """
    if not _are_arrays(params):
        return
    try:
        grows = probe.state_grows(late, _shapes(params))
    except Exception:
        return  # it needs extra arguments
    if grows:
        after = ", ".join(f"{name_of(tx)} (argument {i})" for i, tx in enumerate(parts) if i > first)
        callers.warn(
            f"{label}: {after} adds the parameters to updates that {name_of(parts[first])} (argument {first}) has "
            "multiplied by -1: the parameters grow; put the decay before the learning rate, or write with_weight_decay",
            OrderWarning,
        )


def check_around(label: str, average: OptState, alone: Callable[[], Any], params: Params) -> None:
    """`check` for a wrapper: `average` is the state of the wrapped transform, `alone` wraps `identity`."""
    if (found := list(averages(average))) and _are_arrays(params):
        if (late := _late(found, alone(), params)) is not None:
            warn(label, late, "", label.removeprefix("gdjax."))


def warn(label: str, average: Any, place: str, changes: str) -> None:
    """Warns that updates are changed after an average."""
    name = name_of_state(type(average))
    callers.warn(
        f"{label}: {changes} changes the updates after {name}{place} has seen them, which then averages other "
        f"parameters than those trained; put {name} around all that changes the updates: {name}(chain(...), ...)",
        OrderWarning,
    )


def _late(found: Sequence[Any], tx: Transform, params: Params) -> Any:
    """The first average with a leaf whose update `tx` changes; None if there is none."""
    shapes = _shapes(params)
    moved = _changed(tx, shapes)
    return next((x for x in found if moved & _averaged(_shapes(x), shapes)), None) if moved else None


def _shapes(tree: ArrayTree) -> Any:
    """The tree of shapes and dtypes, without shardings."""
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
    """Whether our class for a state of Optax has an average."""
    return _averages(state_from_optax(kind(*[None] * len(getattr(kind, "_fields", ())))))


def _are_arrays(params: Params) -> bool:
    """Whether there are parameters, all of them arrays, numbers or shapes: no placeholder for the tree."""
    leaves = jax.tree.leaves(params)
    return bool(leaves) and all(hasattr(x, "dtype") or isinstance(x, int | float | complex) for x in leaves)


def _dtype(p: Any) -> Any:
    dtype = getattr(p, "dtype", None)
    return dtype if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended) else jnp.result_type(p)


def _averaged(state: OptState, shapes: Any) -> set[int]:
    """The places of gradients whose parameters have an average; all places if that is unknown."""
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
        pass  # of another library, and may need values
    return found


def _changed(tx: Transform, shapes: Any) -> set[int]:
    """The places of the gradients that `tx` changes; all if its update needs extra arguments."""
    try:
        return {i for i, kind in enumerate(probe.update_kinds(tx, shapes)) if kind != probe.SAME}
    except probe.Effects:
        return set()  # it may only print
    except Exception:
        return set(range(len(jax.tree.leaves(probe.gradients_like(shapes)))))
