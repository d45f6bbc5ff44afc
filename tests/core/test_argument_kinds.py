"""What arguments that are no numbers may be: each check by itself, at its edges."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax import bfloat16_with_error
from gdjax.core import argument_kinds as kinds


def accepts(check: Callable[..., None], *values: Any) -> None:
    for value in values:
        check("gdjax.f", "x", value)


def refuses(check: Callable[..., None], message: str, *values: Any) -> None:
    for value in values:
        with pytest.raises((TypeError, ValueError), match=f"^gdjax.f: x {message}"):
            check("gdjax.f", "x", value)


def test_dtypes():
    accepts(kinds.dtype, "bfloat16", jnp.float32, np.dtype("complex64"))
    refuses(kinds.dtype, "must be a floating dtype, got int8", "int8")
    refuses(kinds.dtype, "must be a dtype, got", "float31", jnp.ones(2))


def test_a_dtype_of_8_bits_needs_a_codec():
    accepts(kinds.dtype_or_codec, bfloat16_with_error, "bfloat16", "float32")
    with pytest.raises(ValueError, match="^gdjax.f: x=float8_e4m3fn needs a scale"):
        kinds.dtype_or_codec("gdjax.f", "x", "float8_e4m3fn")


def test_flags_functions_mappings_and_texts():
    accepts(kinds.flag, True, np.False_)
    refuses(kinds.flag, "must be True or False, got", 1, None, "True")
    accepts(kinds.function, len, lambda: 0)
    refuses(kinds.function, "must be a function, got", float, "len")
    accepts(kinds.mapping, {}, {"a": 1})
    refuses(kinds.mapping, "must be a dict, got", [("a", 1)])
    accepts(kinds.string, "")
    refuses(kinds.string, "must be a str, got", b"a", None)


def test_a_schedule_of_none_is_a_warning():
    accepts(kinds.schedule_or_none, lambda count: 0.1)
    refuses(kinds.schedule_or_none, "must be a function, got 0.1", 0.1)
    with pytest.warns(UserWarning, match="^gdjax.f: x is None: update will raise an error"):
        kinds.schedule_or_none("gdjax.f", "x", None)


def test_a_share_is_above_0_and_at_most_1():
    accepts(kinds.share, 1, 1.0, 1e-9, np.float32(0.5))
    refuses(kinds.share, r"must be in \(0, 1\], got", 0, 0.0, -0.5, 1.5, float("nan"))
    refuses(kinds.share, "shapes the program and must be a number, got", True, "1", jnp.ones(()))


def test_groups_and_axes_of_layers():
    accepts(kinds.groups, {"kernel": 1, re.compile("b"): 2}, lambda params: params)
    refuses(kinds.groups, "must be a dict from pattern to label or a function, got", "kernel", 3)
    accepts(kinds.layer_axes, 0, 2, "blocks", {"blocks": 1}, lambda params: params)
    refuses(kinds.layer_axes, "must be at least 0, got -1", -1)
    refuses(kinds.layer_axes, "must be an int, a pattern, a dict", 0.5, True, [1])
    with pytest.raises(ValueError, match=r"^gdjax.f: x: the pattern '\(' is no regular expression"):
        kinds.layer_axes("gdjax.f", "x", {"(": 1})


def test_axes():
    accepts(kinds.axes, 0, -1, (0, 1), [np.int64(2)], ())
    refuses(kinds.axes, "must be an int or a tuple of ints, got", 0.5, (0, 0.5), True, None)


def test_keys():
    raw = np.zeros(2, np.uint32)
    accepts(kinds.key, None, 0, jax.random.key(0), raw, np.int32(3), jnp.int32(3))
    refuses(kinds.key, "must be a PRNG key or an int, got", True, 0.5, "0", jax.random.split(jax.random.key(0)), [0])


def test_choices():
    with pytest.raises(ValueError, match="^gdjax.f: x must be one of a, None, got 'b'"):
        kinds.choice(("a", None), "gdjax.f", "x", "b")
    with pytest.raises(ValueError, match="got Array"):
        kinds.choice((1, 2), "gdjax.f", "x", jnp.ones(()))
    kinds.choice(("a", None), "gdjax.f", "x", None)


def test_bounds():
    accepts(kinds.bounds, (0, 1), [1.0, 1.0], (jnp.ones(2), 0.0))
    refuses(kinds.bounds, "are 1.0 and 0.5: nothing lies between", (1.0, 0.5))
    refuses(kinds.bounds, r"must be a pair \(lower, upper\), got", 0.5, (1.0,), "01")


def test_masks_and_roles():
    accepts(kinds.mask, True, {"a": True, "b": False}, lambda params: True)
    refuses(kinds.mask, "must be a tree of booleans or a function that returns one, got", None, bool)
    with pytest.raises(TypeError, match="^gdjax.f: x"):
        kinds.mask("gdjax.f", "x", {"a": 1.0})
    accepts(kinds.roles, {"head": "other"}, lambda params: params)
    refuses(kinds.roles, "must be dimension numbers, a tree of them", 3, "matrix", True)
