"""Reading the hyperparameters in force."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.combine.chain import Chain
from gdjax.combine.inject import injected
from gdjax.core import base, callers, misuse
from gdjax.core.boxes import unboxed
from gdjax.core.closures import value_of
from gdjax.core.types import OptState, Transform
from gdjax.lift.leafwise import Leafwise
from gdjax.lift.order import described
from gdjax.lift.wrapper import Wrapped

Found = tuple[tuple[str, ...], Any]  # the path to it, which ends in its name, and its value


class _Hidden:
    """Stands for the numbers of a transform that cannot be read."""


class Position(str):
    """The place of a transform in a chain without names, as part of a path."""

    __slots__ = ()


HIDDEN = _Hidden()
LABEL = "gdjax.get_hyperparams"
At = Callable[[Any], Any]  # from the count of a state to that at which its schedules are evaluated


def get_hyperparams(
    tx: Transform, state: OptState, *, step: Literal["next", "last"] = "next", count: Any = None
) -> dict[str, Any]:
    """The hyperparameters of a step, schedules evaluated: of the *next* update with `state`, if nothing else is asked.

        get_hyperparams(tx, state)                                        # of the update that `state` will go into
        get_hyperparams(tx, state, step="last")                           # of the update that `state` came out of
        get_hyperparams(tx, tx.init(params), count=jnp.arange(1000))      # the curves of the schedules, to plot

    Reads through this library's chains, masks, groups and injected hyperparameters, and finds those that Optax injects.
    A transform of Optax, or one written by hand, keeps its numbers in a closure, where nothing can read them: they are
    left out. `inject_hyperparams(optax.adam)(1e-3)` keeps them in the state instead.

    Args:
      tx: any transform.
      state: that `init` or `update` returned, or the `opt_state` of `nnx.Optimizer`.
      step: "next" or "last". Inside `MultiSteps`, `apply_if_finite` and the like a step is one of the inner optimizer:
        in a call that only accumulates, or is skipped, the last step is the one before. Before the first step "last"
        gives the numbers of the first.
      count: evaluate the schedules here instead: the updates made before the step, 0 for the first. An array gives
        arrays of its shape.

    What Optax injects is that of the last step in either case, and so is a schedule with a state of its own.

    Returns:
      From name, "learning_rate" for instance, to scalar, or to array where `count` is one. Where a name occurs more
      than once, its keys are preceded by where it stands: "decoder/learning_rate" in the group "decoder";
      "0/learning_rate" in entry 0 of a chain, if no other name tells it apart.

    Raises:
      ValueError: nothing can be read, because all that might have numbers keeps them in a closure. It is a warning
        where something can, but no learning rate. Or `step` is neither word, or "last" together with a count.
      TypeError: `count` is not of whole numbers.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.sgd(gdjax.linear_schedule(1.0, 0.0, transition_steps=4), momentum=0.9)
      >>> state = tx.init(jnp.zeros(2))
      >>> {name: round(float(x), 3) for name, x in gdjax.get_hyperparams(tx, state).items()}
      {'decay': 0.9, 'learning_rate': 1.0}
      >>> print(gdjax.get_hyperparams(tx, state, count=jnp.arange(5))["learning_rate"])
      [1.   0.75 0.5  0.25 0.  ]
    """
    if callable(tx):  # a factory, perhaps
        base.check_transform(LABEL, "tx", tx)
    if step not in ("next", "last") or count is not None and step == "last":
        raise ValueError(f'{LABEL}: step must be "next" or "last", the latter without count; got {step!r}, {count!r}')
    state = unboxed(state)
    if count is None:
        found, hidden = _all(tx, state, _at(step))
    else:
        found, hidden = _curves(tx, state, count)
    if hidden and not any(name.rpartition("/")[2] == "learning_rate" for name in found):
        message = (
            f"{LABEL}: {', '.join(hidden)} cannot be read: a transform of another library or written by "
            "hand keeps its numbers in a closure; make it with gdjax.inject_hyperparams(factory)(...)"
        )
        if not found:
            raise ValueError(message)
        callers.warn(message)
    return found


def learning_rates(tx: Transform, state: OptState) -> dict[str, Any]:
    """The learning rates among them, as far as they can be read."""
    return {name: x for name, x in _all(tx, state, _at("next"))[0].items() if name.rpartition("/")[2] == RATE}


def last_rates(tx: Transform, state: OptState) -> list[tuple[tuple[str, ...], Any]]:
    """The learning rates of the last step, each with the names of the groups that it is in."""
    walked = [(path, x) for path, x in _walk(tx, state, (), _at("last")) if x is not HIDDEN and path[-1] == RATE]
    return [(tuple(k for k in path[:-1] if not isinstance(k, Position)), x) for path, x in walked]


RATE = "learning_rate"


def _at(step: str) -> At:
    return _same if step == "next" else lambda count: jnp.maximum(count - 1, 0)


def _same(count: Any) -> Any:
    return count


def _curves(tx: Transform, state: OptState, count: Any) -> tuple[dict[str, Any], list[str]]:
    """The numbers at the counts of an array."""
    counts = jnp.asarray(count)
    if not jnp.issubdtype(counts.dtype, jnp.integer):
        raise TypeError(f"{LABEL}: count must be of whole numbers, got {count!r}")
    _, hidden = _all(tx, state, _same)
    numbers = lambda n: _all(tx, state, lambda _: n)[0]  # noqa: E731
    for _ in counts.shape:
        numbers = jax.vmap(numbers)
    return numbers(counts.astype(jnp.int32)), hidden


def _all(tx: Transform, state: OptState, at: At) -> tuple[dict[str, Any], list[str]]:
    """The numbers by name, and what cannot be read."""
    walked = list(_walk(tx, state, (), at))
    found = [(path, x) for path, x in walked if x is not HIDDEN]
    return dict(zip(_names([path for path, _ in found]), [x for _, x in found], strict=True)), [
        "/".join(path) for path, x in walked if x is HIDDEN
    ]


def _names(paths: list[tuple[str, ...]]) -> list[str]:
    """The shortest name for each path: its end, else without positions in chains, else the whole of it."""
    forms = [(path[-1], "/".join(k for k in path if not isinstance(k, Position)), "/".join(path)) for path in paths]
    columns = list(zip(*forms, strict=True))
    return [
        next((x for x, column in zip(form, columns, strict=True) if column.count(x) == 1), form[-1]) for form in forms
    ]


def _walk(tx: Any, state: OptState, where: tuple[str, ...], at: At) -> Iterator[Found]:
    part = base.part_of(tx) if hasattr(tx, "update") else tx
    if isinstance(getattr(state, "hyperparams", None), dict):
        yield from (((*where, k), x) for k, x in injected(tx, state, at).items())
    elif isinstance(part, Chain):
        names = list(state) if isinstance(state, dict) else map(Position, range(len(part.parts)))
        for name, inner, s in zip(names, part.parts, part._states(state), strict=True):
            yield from _walk(inner, s, (*where, name), at)
    elif isinstance(part, Leafwise):
        yield from (((*where, k), x) for k, x in part.hyperparams(state, at).items() if _is_number(x))
        for inner, field in zip(filter(misuse.is_transform, part.staged.values()), _inside(part.whole), strict=False):
            yield from _walk(inner, getattr(state, field), where, at)
    elif isinstance(part, Wrapped):
        *_, (_, own, _) = part.steps(state)
        inside, name = list(_walk(part.tx, part.inside(state), where, at)), part.label.removeprefix("gdjax.")
        yield from inside
        known = {path[-1] for path, _ in inside}  # these go by their names, and so do its own of the same name
        for (*_, k), x in _walk(part.own, own, (), at):
            yield (*where, f"{name}/{k}" if k in known else k), x
    elif hasattr(state, "inner_states"):
        groups = _argument(tx, "transforms", {})
        for name, s in state.inner_states.items():
            yield from _walk(groups.get(name), s.inner_state, (*where, str(name)), at)
    elif field := next(_inside(getattr(state, "_fields", ())), None):
        yield from _walk(wrapped_by(calls_of(tx)), getattr(state, field), where, at)
    elif (inner := _argument(tx, "tx", _argument(tx, "inner", None))) is not None:  # from_optax, flatten
        yield from _walk(inner, state, where, at)
    elif isinstance(state, tuple) and not hasattr(state, "_fields"):
        inside = [found for i, s in enumerate(state) for found in _walk(None, s, (*where, Position(i)), at)]
        whole = tx is not None and all(x is HIDDEN for _, x in inside) and not calls_of(tx)
        yield from [((*where, _described(tx, state)), HIDDEN)] if whole else inside
    elif calls := calls_of(tx):
        for k, x in calls[0].arguments.items():
            if _is_number(x):
                yield (*where, k), x
            elif k == RATE and callable(x):  # a schedule, of a count that only its transform knows
                yield (*where, base.label_of(calls[0]).removeprefix("gdjax.")), HIDDEN
    else:
        yield (*where, _described(tx, state)), HIDDEN


def _inside(fields: Iterable[str]) -> Iterator[str]:
    """The fields of a wrapper's state that are states of wrapped transforms, by name."""
    return (f for f in fields if f.endswith("_state"))


def _described(tx: Any, state: OptState) -> str:
    return f"a transform with {type(state).__name__}" if tx is None else described(tx)


def calls_of(tx: Any) -> Any:
    """The calls that made a transform of this library, the outermost first."""
    return getattr(value_of(getattr(tx, "update", None)), "calls", ())


def wrapped_by(calls: Iterable[Any]) -> Any:
    """The transform that a wrapper was given, the first of several; None where the calls made no wrapper."""
    return next((x for call in calls for x in call.arguments.values() if misuse.is_transform(x)), None)


def _argument(tx: Transform, name: str, default: Any) -> Any:
    return next((call.arguments[name] for call in calls_of(tx) if name in call.arguments), default)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | np.number | jax.Array) and not isinstance(x, bool)
