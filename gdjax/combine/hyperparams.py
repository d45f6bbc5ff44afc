"""Reading the hyperparameters in force."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import base, callers
from gdjax.core.boxes import unboxed
from gdjax.core.guesses import Guess
from gdjax.core.part import HIDDEN, Position, whole
from gdjax.core.parts import known, within
from gdjax.core.types import OptState, Transform

Found = tuple[tuple[str, ...], Any]  # the path to it, which ends in its name, and its value


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
    found, hidden = _all(tx, state, _at(step)) if count is None else _curves(tx, state, count)
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
    """The learning rates among them, as far as they can be read, as arrays."""
    found, _ = _all(tx, state, whole)
    return {name: jnp.asarray(x) for name, x in found.items() if name.rpartition("/")[2] == RATE}


def last_rates(tx: Transform, state: OptState) -> list[tuple[tuple[str, ...], Any]]:
    """The learning rates of the last step, each with the names of the groups that it is in."""
    walked = [(path, x) for path, x in _walk(tx, state, (), _at("last")) if x is not HIDDEN and path[-1] == RATE]
    return [(tuple(k for k in path[:-1] if not isinstance(k, Position)), x) for path, x in walked]


RATE = "learning_rate"


def _at(step: str) -> At:
    return whole if step == "next" else lambda count: jnp.maximum(count - 1, 0)


def _curves(tx: Transform, state: OptState, count: Any) -> tuple[dict[str, Any], list[str]]:
    """The numbers at the counts of an array."""
    counts = jnp.asarray(count)
    if not jnp.issubdtype(counts.dtype, jnp.integer):
        raise TypeError(f"{LABEL}: count must be of whole numbers, got {count!r}")
    _, hidden = _all(tx, state, whole)
    numbers = lambda n: _all(tx, state, lambda _: n)[0]  # noqa: E731
    for _ in counts.shape:
        numbers = jax.vmap(numbers)
    return numbers(counts.astype(jnp.int32)), hidden


def _all(tx: Transform, state: OptState, at: At) -> tuple[dict[str, Any], list[str]]:
    """The numbers by name, and what cannot be read."""
    walked = list(_walk(tx, state, (), at))
    found = [(path, x) for path, x in walked if x is not HIDDEN]
    named = dict(zip(_names([path for path, _ in found]), [x for _, x in found], strict=True))
    return named, ["/".join(path) for path, x in walked if x is HIDDEN]


def _names(paths: list[tuple[str, ...]]) -> list[str]:
    """The shortest name for each path: its end, else without positions in chains, else the whole of it."""
    forms = [(path[-1], "/".join(k for k in path if not isinstance(k, Position)), "/".join(path)) for path in paths]
    columns = list(zip(*forms, strict=True))
    return [
        next((x for x, column in zip(form, columns, strict=True) if column.count(x) == 1), form[-1]) for form in forms
    ]


def _walk(tx: Any, state: OptState, where: tuple[str, ...], at: At) -> Iterator[Found]:
    part = known(tx, state)
    own = {k: x for k, x in part.hyperparams(state, at).items() if x is HIDDEN or _is_number(x)}
    inside: list[Found] = []
    for i, s in () if part.tells_all else within(part, state):
        inside += _walk(i.tx, s, (*where, *i.names), at) if i.shown else ()
    if isinstance(part, Guess) and (name := part.stands_for(inside)):
        inside, own = [], {name: HIDDEN}
    taken = {path[-1] for path, _ in inside} if part.ends else ()  # these go by their names, and so do its own
    named = [((*where, f"{part.label.removeprefix('gdjax.')}/{k}" if k in taken else k), x) for k, x in own.items()]
    yield from [*inside, *named] if part.ends else [*named, *inside]


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | np.number | jax.Array) and not isinstance(x, bool)
