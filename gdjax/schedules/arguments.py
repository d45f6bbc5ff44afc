"""Checks of the arguments of the schedules' factories."""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.core import callers
from gdjax.core.checks import NUMBER

ANY = -math.inf  # the `least` of a number of steps of which Optax takes any below 1 for "off"


def check_steps(factory: str, name: str, steps: Any, *, least: float = 0) -> int | float:
    """`steps` as an int, or as a float where it has a fraction, with a warning; 1e-6 of the number counts as rounding.

    Raises:
      TypeError: it is traced or no number.
      ValueError: it is negative where `least` is 0 or 1, or 0 where it is 1, or not finite.
    """
    if isinstance(steps, Tracer):
        raise TypeError(
            f"gdjax.{factory}: {name} must be a Python int, got a traced value; make it static with `static_argnames` "
            "of jax.jit or `static_args` of inject_hyperparams"
        )
    try:
        if isinstance(steps, bool):  # most likely the next argument, in the wrong place
            raise TypeError
        count = operator.index(steps)
    except TypeError:
        if not _is_float(steps):
            raise TypeError(f"gdjax.{factory}: {name} must be an int, got {steps!r}") from None
        if not math.isfinite(steps):
            raise ValueError(f"gdjax.{factory}: {name} must be finite, got {steps}") from None
        count, nearest = float(steps), round(float(steps))
        if abs(count - nearest) <= 1e-6 * max(1.0, abs(count)):  # 1e3, and 0.1 * 100, which is 10.000000000000002
            count = nearest
    if count < min(least, 0) or least == 1 and count == 0:
        raise ValueError(f"gdjax.{factory}: {name} must {'be positive' if least else 'not be negative'}, got {count}")
    if isinstance(count, float) and count > 0:
        callers.warn(f"gdjax.{factory}: {name} is {count}, and no whole number of steps; are the arguments in order?")
    return count


def check_begin(factory: str, begin: object) -> int | float:
    """`transition_begin`; a negative one is 0, with a warning, as in Optax."""
    count = check_steps(factory, "transition_begin", begin, least=ANY)
    if count < 0:
        callers.warn(f"gdjax.{factory}: transition_begin is {count}, and is taken for 0")
    return max(count, 0)


def warn_of_constant(factory: str, name: str, x: object, value: str) -> None:
    """Warns that an argument turns the change of a schedule off, as it does in Optax."""
    callers.warn(f"gdjax.{factory}: {name} is {x}: nothing changes, and the value stays {value}")


def is_zero(x: object) -> bool:
    """Whether a hyperparameter is known to be 0."""
    return isinstance(x, (*NUMBER, np.ndarray)) and np.shape(x) == () and bool(x == 0)


def _is_float(x: Any) -> bool:
    if isinstance(x, float):
        return True
    scalar = isinstance(x, np.number | np.ndarray | jax.Array) and np.shape(x) == ()
    return scalar and jnp.issubdtype(x.dtype, np.floating)


def check_numbers(factory: str, *, positive: Sequence[str] = (), finite: bool = True, **hyper: object) -> None:
    """Checks that each of `hyper` is a real scalar, and a known one finite (or no NaN), and above 0 if in `positive`.

    Raises:
      TypeError: one is no real number.
      ValueError: one is an array with axes, not finite, or not positive.
    """
    for name, x in hyper.items():
        where = f"gdjax.{factory}: {name}"
        if not isinstance(x, (*NUMBER, np.ndarray, jax.Array)) or not _is_real(x):
            raise TypeError(f"{where} must be a real number, got {x!r}")
        if np.shape(x) != ():
            raise ValueError(f"{where} must be a scalar, got shape {np.shape(x)}")
        known = isinstance(x, (*NUMBER, np.ndarray))
        if name in positive and known and not np.finfo(np.float32).tiny <= x <= np.finfo(np.float32).max:
            raise ValueError(f"{where} must be positive and finite, got {x}")
        if known and (math.isnan(x) or finite and math.isinf(x)):
            raise ValueError(f"{where} must be {'finite' if finite else 'a number'}, got {x}")


def _is_real(x: Any) -> bool:
    if isinstance(x, int | float):
        return not isinstance(x, bool)  # most likely another argument, in the wrong place
    dtype = x.dtype
    return jnp.issubdtype(dtype, np.floating) or jnp.issubdtype(dtype, np.integer)


def check_choice(factory: str, name: str, choice: object, choices: Iterable[str]) -> None:
    """Raises ValueError unless `choice` is one of `choices`."""
    if choice not in list(choices):
        *others, last = map(repr, choices)
        raise ValueError(f"gdjax.{factory}: {name} must be {', '.join(others)} or {last}, got {choice!r}")
