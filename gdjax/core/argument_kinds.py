"""What an argument that is no number may be; each check raises a TypeError or ValueError that names the argument."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import callers, checks, types
from gdjax.core.types import Codec


def dtype(label: str, name: str, value: Any) -> None:
    try:
        if isinstance(value, jax.Array | np.ndarray):
            raise TypeError
        dtype = jnp.dtype(value)
    except TypeError:
        raise TypeError(f"{label}: {name} must be a dtype, got {value!r}") from None
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"{label}: {name} must be a floating dtype, got {dtype}")


def dtype_or_codec(label: str, name: str, value: object) -> None:
    if isinstance(value, Codec):
        return
    dtype(label, name, value)
    if value is not None and jnp.dtype(value).itemsize == 1:  # type: ignore[arg-type]
        raise ValueError(
            f"{label}: {name}={jnp.dtype(value)} needs a scale, or moments overflow to NaN or are lost: give a codec, "  # type: ignore[arg-type]
            "or quantize the state: quantize_state(tx, moments='fp8')"
        )


def _kind(words: str, fits: Callable[[Any], bool]) -> Callable[[str, str, Any], None]:
    """A check that raises a TypeError unless a value fits."""

    def check(label: str, name: str, value: object) -> None:
        if not fits(value):
            raise TypeError(f"{label}: {name} must be {words}, got {value!r}")

    return check


def _is_int(x: object) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


flag = _kind("True or False", lambda x: isinstance(x, bool | np.bool))
function = _kind("a function", lambda x: callable(x) and not isinstance(x, type))
mapping = _kind("a dict", lambda x: isinstance(x, Mapping))
string = _kind("a str", lambda x: isinstance(x, str))
axes = _kind("an int or a tuple of ints", lambda x: all(map(_is_int, x if isinstance(x, tuple | list) else [x])))
dimensions = _kind(
    "dimension numbers, a tree of them, or a function that returns one",
    lambda x: not isinstance(x, bool | int | float | str | type),
)


def schedule_or_none(label: str, name: str, value: object) -> None:
    """As Optax does it lets None in, for an optimizer of which only the state is wanted."""
    if value is None:
        callers.warn(f"{label}: {name} is None: update will raise an error")
    else:
        function(label, name, value)


def share(label: str, name: str, value: object) -> None:
    """A share that shapes the program."""
    if isinstance(value, bool) or not isinstance(value, checks.NUMBER):
        raise TypeError(f"{label}: {name} shapes the program and must be a number, got {value!r}")
    if not 0 < value <= 1:
        raise ValueError(f"{label}: {name} must be in (0, 1], got {value!r}")


def groups(label: str, name: str, value: object) -> None:
    if not (isinstance(value, Mapping) or checks.is_function(value)):
        raise TypeError(f"{label}: {name} must be a dict from pattern to label or a function, got {value!r}")
    if isinstance(value, Mapping):
        types.check_patterns(f"{label}: {name}", value)


def layer_axes(label: str, name: str, value: object) -> None:
    if isinstance(value, str | re.Pattern | Mapping):
        types.check_patterns(f"{label}: {name}", value if isinstance(value, Mapping) else [value])
    elif _is_int(value):
        checks.structural(label, name, value, 0)
    elif not checks.is_function(value):
        raise TypeError(
            f"{label}: {name} must be an int, a pattern, a dict from patterns to ints or a function, got {value!r}"
        )


def key(label: str, name: str, value: Any) -> None:
    if value is None:  # `required_key` knows whether there is another
        return
    dtype = getattr(value, "dtype", None if isinstance(value, bool) or not isinstance(value, int) else np.dtype(int))
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and np.shape(value) == ():
        return
    if dtype is None or not (dtype == np.uint32 or np.shape(value) == () and jnp.issubdtype(dtype, np.integer)):
        raise TypeError(f"{label}: {name} must be a PRNG key or an int, got {value!r}")


def choice(choices: Sequence[Any], label: str, name: str, value: object) -> None:
    if isinstance(value, jax.Array | np.ndarray) or value not in choices:
        raise ValueError(f"{label}: {name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def bounds(label: str, name: str, value: object) -> None:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{label}: {name} must be a pair (lower, upper), got {value!r}")
    if all(isinstance(x, checks.NUMBER) for x in value) and not value[0] <= value[1]:
        raise ValueError(f"{label}: {name} are {value[0]} and {value[1]}: nothing lies between")


def mask(label: str, name: str, value: object) -> None:
    if value is None or isinstance(value, type):
        raise TypeError(f"{label}: {name} must be a tree of booleans or a function that returns one, got {value!r}")
    if not checks.is_function(value):
        checks.mask(label, name, value)


def roles(label: str, name: str, value: object) -> None:
    dimensions(label, name, value)
    if isinstance(value, Mapping):
        types.check_patterns(f"{label}: {name}", value)
