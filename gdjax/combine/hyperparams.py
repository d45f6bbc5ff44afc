"""Reading the hyperparameters in force."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from gdjax.combine.chain import Chain
from gdjax.core import base, misuse
from gdjax.core.closures import value_of
from gdjax.core.types import OptState, Transform
from gdjax.lift.leafwise import Leafwise
from gdjax.lift.wrapper import Wrapped

Found = tuple[tuple[str, ...], Any]  # the path to it, which ends in its name, and its value


class _Hidden:
    """Stands for the numbers of a transform that cannot be read."""


HIDDEN = _Hidden()


def get_hyperparams(tx: Transform, state: OptState) -> dict[str, Any]:
    """The numbers that the *next* update with `state` will use, schedules evaluated.

    To log the rate of a step, call this with the state that went into the step. The state that came out of it has the
    rate of the step after.

    Reads through this library's chains, masks, groups and injected hyperparameters, and finds those that Optax injects.
    A transform of Optax, or one written by hand, keeps its numbers in a closure, where nothing can read them: they are
    left out. `inject_hyperparams(optax.adam)(1e-3)` keeps them in the state instead.

    Returns:
      From name, "learning_rate" for instance, to scalar. Where a name occurs more than once, its keys are preceded by
      where it stands: "decoder/learning_rate" in the group "decoder", "0/learning_rate" in entry 0 of a chain.

    Raises:
      ValueError: nothing can be read, because all that might have numbers keeps them in a closure. It is a warning
        where something can, but no learning rate.
    """
    found, hidden = _all(tx, state)
    if hidden and not any(name.rpartition("/")[2] == "learning_rate" for name in found):
        message = (
            f"gdjax.get_hyperparams: {', '.join(hidden)} cannot be read: a transform of another library or written by "
            "hand keeps its numbers in a closure; make it with gdjax.inject_hyperparams(factory)(...)"
        )
        if not found:
            raise ValueError(message)
        warnings.warn(message, stacklevel=2)
    return found


def learning_rates(tx: Transform, state: OptState) -> dict[str, Any]:
    """The learning rates among them, as far as they can be read."""
    return {name: x for name, x in _all(tx, state)[0].items() if name.rpartition("/")[2] == "learning_rate"}


def _all(tx: Any, state: OptState) -> tuple[dict[str, Any], list[str]]:
    """The numbers by name, and what cannot be read."""
    walked = list(_walk(tx, state, ()))
    found = [(path, x) for path, x in walked if x is not HIDDEN]
    names = [path[-1] for path, _ in found]
    numbers = {path[-1] if names.count(path[-1]) == 1 else "/".join(path): x for path, x in found}
    return numbers, ["/".join(path) for path, x in walked if x is HIDDEN]


def _walk(tx: Any, state: OptState, where: tuple[str, ...]) -> Iterator[Found]:
    part = base.part_of(tx) if hasattr(tx, "update") else tx
    if isinstance(getattr(state, "hyperparams", None), dict):
        yield from (((*where, k), x) for k, x in state.hyperparams.items())
    elif isinstance(part, Chain):
        names = list(state) if isinstance(state, dict) else map(str, range(len(part.parts)))
        for name, inner, s in zip(names, part.parts, part._states(state), strict=True):
            yield from _walk(inner, s, (*where, name))
    elif isinstance(part, Leafwise):
        yield from (((*where, k), x) for k, x in part.hyperparams(state).items() if _is_number(x))
        for inner, field in zip(filter(misuse.is_transform, part.staged.values()), _inside(part.whole), strict=False):
            yield from _walk(inner, getattr(state, field), where)
    elif isinstance(part, Wrapped):
        *_, (_, own, _) = part.steps(state)
        inside, name = list(_walk(part.tx, part.inside(state), where)), part.label.removeprefix("gdjax.")
        yield from inside
        known = {path[-1] for path, _ in inside}  # these go by their names, and so do its own of the same name
        for (*_, k), x in _walk(part.own, own, ()):
            yield (*where, f"{name}/{k}" if k in known else k), x
    elif hasattr(state, "inner_states"):
        groups = _argument(tx, "transforms", {})
        for name, s in state.inner_states.items():
            yield from _walk(groups.get(name), s.inner_state, (*where, str(name)))
    elif field := next(_inside(getattr(state, "_fields", ())), None):
        inner = next((x for call in _calls(tx) for x in call.arguments.values() if misuse.is_transform(x)), None)
        yield from _walk(inner, getattr(state, field), where)
    elif (inner := _argument(tx, "tx", _argument(tx, "inner", None))) is not None:  # from_optax, flatten
        yield from _walk(inner, state, where)
    elif isinstance(state, tuple) and not hasattr(state, "_fields"):
        inside = [found for i, s in enumerate(state) for found in _walk(None, s, (*where, str(i)))]
        whole = tx is not None and all(x is HIDDEN for _, x in inside) and not _calls(tx)
        yield from [((*where, _described(tx, state)), HIDDEN)] if whole else inside
    elif calls := _calls(tx):
        for k, x in calls[0].arguments.items():
            if _is_number(x):
                yield (*where, k), x
            elif k == "learning_rate" and callable(x):  # a schedule, of a count that only its transform knows
                yield (*where, base.label_of(calls[0]).removeprefix("gdjax.")), HIDDEN
    else:
        yield (*where, _described(tx, state)), HIDDEN


def _inside(fields: Iterable[str]) -> Iterator[str]:
    """The fields of a wrapper's state that are states of wrapped transforms, by name."""
    return (f for f in fields if f.endswith("_state"))


def _described(tx: Any, state: OptState) -> str:
    if tx is None:
        return f"a transform with {type(state).__name__}"
    update = tx.update
    name = getattr(update, "__qualname__", type(tx).__name__).partition(".<locals>")[0]
    module = (getattr(update, "__module__", None) or "").partition(".")[0]
    return f"{module}.{name}" if module else name


def _calls(tx: Any) -> Any:
    """The calls that made a transform of this library, the outermost first."""
    return getattr(value_of(getattr(tx, "update", None)), "calls", ())


def _argument(tx: Any, name: str, default: Any) -> Any:
    return next((call.arguments[name] for call in _calls(tx) if name in call.arguments), default)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | np.number | jax.Array) and not isinstance(x, bool)
