"""Errors of trees, states and extra arguments: each check by itself names the leaf and both sides."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.core import checks

FLOAT0 = np.zeros(2, jax.dtypes.float0)


class State(NamedTuple):
    count: Any
    mu: Any


class Older(NamedTuple):
    mu: Any


def says(message: str) -> Any:
    return pytest.raises((TypeError, ValueError), match=f"^f: {re.escape(message)}")


def test_an_integer_that_shapes_the_program():
    assert checks.structural("f", "k", 1, 1) == 1
    found = checks.structural("f", "k", np.int64(3), 0)
    assert found == 3 and type(found) is int
    for wrong in (True, 1.0, "1"):
        with says(f"k must be an int, got {wrong!r}"):
            checks.structural("f", "k", wrong, 0)
    with says("k must be at least 1, got 0"):
        checks.structural("f", "k", 0, 1)
    with says("k shapes the program and cannot be traced; with inject_hyperparams name it in static_args"):
        checks.structural("f", "k", jnp.int32(3), 0)


def test_leaves_that_can_be_trained_or_hidden():
    for x in (1.0, jnp.ones(2), jnp.arange(3), np.array(True), FLOAT0, jax.ShapeDtypeStruct((2,), jnp.bfloat16)):
        checks.leaf("f", "x", x)
    with says("x is 'relu' (str), not an array: keep only the arrays of a model"):
        checks.leaf("f", "x", "relu")
    with says("x is the function len, not an array"):
        checks.leaf("f", "x", len)
    with says("x is a PRNG key (key<fry>), not a parameter: mask it"):
        checks.leaf("f", "x", jax.random.key(0))
    for narrow in (jnp.float8_e4m3fn, jnp.int4):
        with says(f"x has dtype {jnp.dtype(narrow)}: keep the parameters in bfloat16 or wider"):
            checks.leaf("f", "x", jax.ShapeDtypeStruct((2,), narrow))
    checks.number("f", "x", jax.ShapeDtypeStruct((2,), jnp.float8_e4m3fn))  # a number it is


def test_a_gradient_fits_its_parameter():
    def check(g: Any, p: Any) -> None:
        checks.gradient("f", lambda: "w", g, p)

    check(jnp.ones(2), None)
    check(jnp.ones(2, jnp.bfloat16), jnp.ones(2))
    check(jnp.ones(2), jnp.ones(2, jnp.complex64))
    with says("w: gradient has dtype int32; mask or freeze what is not differentiable"):
        check(jnp.arange(2), jnp.ones(2))
    with says("w: gradient shape (2,) does not match parameter shape (2, 1)"):
        check(jnp.ones(2), jnp.ones((2, 1)))
    with says("w has dtype int32, and takes no gradient: mask or freeze it"):
        check(jnp.ones(2), jnp.arange(2))
    with says("w: complex gradient (complex64) for a real parameter (float32)"):
        check(jnp.ones(2, jnp.complex64), jnp.ones(2))


def test_the_trees_of_parameters_and_gradients():
    checks.leaves("f", "params", {"a": 1.0})
    with says("params is None; pass the tree of parameters"):
        checks.leaves("f", "params", None)
    with says("params['a'][1] is 'x' (str)"):
        checks.leaves("f", "params", {"a": [1.0, "x"]})
    checks.gradients("f", {"a": jnp.ones(2), "b": FLOAT0}, {"a": jnp.ones(2), "b": jnp.arange(2)})
    with says("params['a']: gradient shape (2,) does not match parameter shape (3,)"):
        checks.gradients("f", {"a": jnp.ones(2)}, {"a": jnp.ones(3)})


def test_slots_are_shaped_like_the_updates():
    checks.slots("f", {"a": jnp.ones(2), "b": FLOAT0}, mu={"a": jnp.zeros(2), "b": jnp.zeros(9)})
    with says("params['a']: state.mu has shape (3,), the gradient (2,); init(params) anew"):
        checks.slots("f", {"a": jnp.ones(2)}, mu={"a": jnp.zeros(3)})
    with says("w: state.mu is a dict of 1 entry, but the gradient an array of shape (2,): another model's state?"):
        checks.slot("f", "w", "mu", {"a": jnp.zeros(2)}, (2,))


def test_masks_are_of_booleans():
    checks.mask("f", "mask", {"a": True, "b": np.False_, "c": ()})
    with says("mask"):
        checks.mask("f", "mask", {"a": 1})


def test_the_state_of_another_optimizer():
    checks.state("f", State(0, 1), State)
    with says("state is None; call init(params) first"):
        checks.state("f", None, State)
    with says("state has fields ('mu',), expected State with fields ('count', 'mu'); of an older version, without cou"):
        checks.state("f", Older(1), State)
    with pytest.raises(ValueError, match="restored from a checkpoint, give the restorer init"):
        checks.state("f", {"count": 0, "mu": 1}, State)
    checks.entries("f", (1, 2), 2)
    with says("state has 1 entries for 2 transforms"):
        checks.entries("f", (1,), 2)


def test_parameters_that_are_needed():
    checks.params("f", 1.0)
    with says("this transform needs params: call update(updates, state, params)"):
        checks.params("f", None)


def test_what_a_schedule_returns():
    assert checks.scalar("f", "rate", 2).dtype == jnp.int32 and checks.scheduled("f", "rate", [1.0]).shape == (1,)
    with says("the schedule of rate returned None, not a number"):
        checks.scalar("f", "rate", None)
    with pytest.raises(TypeError, match="if it makes schedules, call it first"):
        checks.scalar("f", "rate", len)
    with says("the schedule of rate returned shape (1,), expected a scalar"):
        checks.scalar("f", "rate", [1.0])


def test_extra_arguments_are_scalars():
    assert checks.extra("f", "value", 2.5) == 2.5
    with says("value must be a scalar, got None; call update(..., params, value=...)"):
        checks.extra("f", "value", None)
    with says("value must be a scalar, got shape (2,)"):
        checks.extra("f", "value", jnp.ones(2))
    checks.unscheduled("f", {"a": 1.0})
    with says("a must be a number or a scalar array, got <built-in"):
        checks.unscheduled("f", {"a": len})
