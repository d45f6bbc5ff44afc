"""Arguments of a factory against its annotations: numbers, integers and choices, known, traced or scheduled."""

import inspect
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax import per_leaf
from gdjax.core import domains
from gdjax.core.number_domains import DECAY, FINITE, RATE, SQUARES, AtLeast, Check


def number(domain: Any, x: Any) -> None:
    domains.number(domain, "f", "x", x)


def factory(
    rate: Annotated[Any, RATE], steps: Annotated[int, AtLeast(1)] = 1, mode: Literal["a", "b"] | None = None,
    decay: Annotated[Any, DECAY] | None = None, dtype: Annotated[Any, Check("dtype")] = None, nesterov: bool = False,
) -> None: ...  # fmt: skip


SIGNATURE = inspect.signature(factory)


def test_numbers_arrays_and_schedules():
    for x in (0.5, 0, np.float32(0.5), np.array(0.5), jnp.float32(0.5), lambda count: 2.0):
        number(DECAY, x)
    for x in (1.0, -0.1, float("nan"), np.array(1.0), jnp.float32(1.0), 1 - 1e-12):
        with pytest.raises(ValueError, match=r"^f: x must be in \[0, 1\)"):
            number(DECAY, x)


def test_what_is_no_number():
    for x in (True, "0.5", None, float, 0.5j, np.complex64(1)):
        with pytest.raises(TypeError, match="^f: x must be a number, a scalar array or a schedule, got"):
            number(FINITE, x)
    for x in (jnp.ones(1), np.ones((2, 2))):
        with pytest.raises(ValueError, match="^f: x must be a scalar, got shape"):
            number(FINITE, x)
    for x in (jnp.array(True), jnp.complex64(1)):
        with pytest.raises(TypeError, match="^f: x must be a real number, got"):
            number(FINITE, x)


def test_a_traced_number_passes():
    jax.make_jaxpr(lambda x: number(DECAY, x))(2.0)  # 2 is outside


def test_a_decay_of_squares_of_1_is_a_warning():
    with pytest.warns(UserWarning, match="^gdjax: x is 1: no gradient enters that average"):
        number(SQUARES, 1.0)
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        number(SQUARES, 1.5)


def test_a_rate_times_its_factors():
    number(DECAY, per_leaf(0.5, {"a": 1.9}))
    with pytest.raises(ValueError, match=r"^f: x times a factor of per_leaf must be in \[0, 1\), got 1.0"):
        number(DECAY, per_leaf(0.5, {"a": 2.0}))
    with pytest.raises(ValueError, match="^f: x times a factor of per_leaf must be finite and at least 0"):
        number(RATE, per_leaf(lambda count: 1.0, {"a": -1.0}))
    number(DECAY, per_leaf(lambda count: 0.1, {"a": 5.0}))  # the product is not known


def test_integers():
    for x in (2, np.int32(2), jnp.int32(2), lambda count: 2):
        domains.integer("f", "x", x, 2)
    jax.make_jaxpr(lambda x: domains.integer("f", "x", x, 2))(1)
    for x in (1, jnp.int32(1)):
        with pytest.raises(ValueError, match="^f: x must be at least 2, got"):
            domains.integer("f", "x", x, 2)
    for x in (2.0, int, True):
        with pytest.raises(TypeError, match="^f: x must be an int, got"):
            domains.integer("f", "x", x, 2)
    with pytest.raises(TypeError, match=r"^f: x must be an integer scalar, got float32\[\]"):
        domains.integer("f", "x", jnp.float32(2), 2)


def test_a_deleted_array_is_not_read():
    x = jnp.float32(0.5)
    assert domains._known(x)
    x.delete()
    assert not domains._known(x)


def check(**arguments: Any) -> None:
    domains.check("gdjax.f", arguments, SIGNATURE)


def test_each_argument_is_checked_by_its_annotation():
    check(rate=0.0, steps=1, mode=None, decay=None, dtype=None, nesterov=True)
    check(rate=lambda count: 0.1, steps=jnp.int32(3), mode="b", decay=0.5, dtype="float32")
    for arguments, message in (
        ({"rate": -1.0}, r"rate must be finite and at least 0 \(gdjax.scale takes a negative factor\), got -1.0"),
        ({"rate": None}, "rate must be a number"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"mode": "c"}, "mode must be one of a, b, None, got 'c'"),
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"dtype": "int8"}, "dtype must be a floating dtype, got int8"),
        ({"nesterov": 1}, "nesterov must be True or False, got 1"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^gdjax.f: {message}"):
            check(**arguments)


def test_flags_and_choices_of_others_are_theirs():
    domains.check("f", {"nesterov": 1, "mode": "c"}, SIGNATURE)
    with pytest.raises(ValueError, match="^f: rate"):
        domains.check("f", {"rate": -1.0}, SIGNATURE)


def test_what_can_be_no_schedule():
    found = {name: domains.is_no_number(SIGNATURE, p) for name, p in SIGNATURE.parameters.items()}
    assert found == {"rate": False, "steps": False, "mode": True, "decay": False, "dtype": True, "nesterov": False}


def test_parameters_in_the_place_of_the_rate():
    for value, hint in (
        ({"w": jnp.ones(2)}, "a dict; parameters go to init.params."),
        ({"w": 0.1}, "a dict; for rates per leaf write per_leaf"),
        ([0.1], "a list; parameters go to init.params."),
    ):
        with pytest.raises(TypeError, match=f"^f: learning_rate must be .* or a schedule, got {hint}"):
            domains.number(RATE, "f", "learning_rate", value)
    with pytest.raises(TypeError, match=r"got \[0.1\]$"):
        number(RATE, [0.1])
