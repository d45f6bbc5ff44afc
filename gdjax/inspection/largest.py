"""An optimizer at the largest rate of its schedules."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gdjax.core import misuse
from gdjax.core.guesses import calls_of
from gdjax.core.parts import known
from gdjax.core.types import Schedule, Transform
from gdjax.core.values import Call
from gdjax.schedules.decay import constant_schedule

_RATES = "learning_rate", "adam_learning_rate", "step_size_fn"


def at_largest_rates(tx: Transform, steps: int) -> Any:
    """`tx` made again with the largest rate, in the first `steps` steps, in the place of each schedule of a rate.

    Wrappers whose first update is not that of the optimizer inside (`Inside.at_once`) are replaced by it. What is of
    another library stays.
    """
    calls = calls_of(tx)
    if not calls:
        return tx
    call: Call = calls[0]
    for inside in known(tx).inside():
        if inside.shown and not inside.at_once:
            return at_largest_rates(inside.tx, steps)
    arguments = {name: _changed(name, x, steps) for name, x in call.arguments.items()}
    if all(arguments[name] is x for name, x in call.arguments.items()):
        return tx
    bound = inspect.signature(call.factory).bind_partial()
    bound.arguments.update(arguments)
    return call.factory(*bound.args, **bound.kwargs)


def _changed(name: str, x: Any, steps: int) -> Any:
    """An argument, with what is inside it; the same object where nothing changes."""
    if misuse.is_transform(x):
        return at_largest_rates(x, steps)
    if name in _RATES and callable(x):
        largest = _largest(x, steps)
        return constant_schedule(largest) if name == "step_size_fn" else largest
    if isinstance(x, Mapping):
        new = {k: _changed("", y, steps) for k, y in x.items()}
        return x if all(new[k] is x[k] for k in x) else new
    if type(x) in (tuple, list):
        new = [_changed("", y, steps) for y in x]
        return x if all(a is b for a, b in zip(new, x, strict=True)) else type(x)(new)
    return x


def _largest(schedule: Schedule, steps: int) -> float:
    """The rate of the largest size among some 200 steps, evenly spread, the first and the last among them."""
    places = sorted({round(i * (steps - 1) / 199) for i in range(200)})
    return max((float(schedule(jnp.asarray(i, jnp.int32))) for i in places), key=abs)
