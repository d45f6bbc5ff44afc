"""NaN that is added where a loop ends, in place of a bound that makes it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.lift.one_leaf import OneLeaf
from gdjax.numerics import bounded
from gdjax.xla import late_nan

ODD = np.asarray([1.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-30, 0.0], "float32")


def bounds(tx: Any, dtype: str = "float32") -> int:
    """How many bounds the program has that make an infinity NaN; each has two exclusive ors."""
    params = jax.ShapeDtypeStruct((8,), dtype)
    text = jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params), params).as_text()
    return text.count("stablehlo.xor") // 2


@gdjax.leafwise(gdjax.TraceState, trace=gdjax.Moment())
def added_up(g, s, p, t):
    g = bounded(g)
    return g / (1 + jnp.sum(jnp.square(g))), s._replace(trace=s.trace + g)


@gdjax.leafwise(gdjax.TraceState, trace=gdjax.Moment())
def within_a_function(g, s, p, t):
    g = jax.jit(lambda g: bounded(g) * 2)(g)
    return g, s._replace(trace=g)


@gdjax.leafwise(gdjax.TraceState, trace=gdjax.Moment())
def of_two(g, s, p, t):
    g = bounded(g + p)
    return g, s._replace(trace=s.trace + g)


CASES = {
    "adam": (gdjax.adam(0.1), 0),
    "adagrad": (gdjax.adagrad(0.1), 0),
    "rmsprop, centred": (gdjax.rmsprop(0.1, centered=True, momentum=0.9), 0),
    "clipped": (gdjax.chain(gdjax.clip(1e38), gdjax.adamw(0.1)), 0),
    "a sum": (added_up(), 1),
    "a function": (within_a_function(), 1),
    "two arrays": (of_two(), 1),
    "what is computed anew": (gdjax.contrib.schedule_free_adamw(1e-3), 1),
    "what a meeting bounds too": (gdjax.contrib.prodigy(), 2),
}


@pytest.mark.parametrize("name", CASES)
def test_the_bound_is_a_clip_where_that_is_the_same(name):
    tx, count = CASES[name]
    assert (bounds(tx) > 0) == (count > 0)
    assert bounds(tx, "bfloat16") > 0


@pytest.mark.parametrize("name", [name for name, (_, count) in CASES.items() if not count] + ["two arrays", "a sum"])
def test_the_numbers_are_those_of_the_rule_as_it_is_written(name, monkeypatch):
    tx = CASES[name][0]

    def stepped(gradient):
        params, state = jnp.ones(len(ODD)), tx.init(jnp.ones(len(ODD)))
        for g in (gradient, np.ones_like(gradient)):
            updates, state = tx.update(jnp.asarray(g), state, params)
        return updates, state

    late = jax.tree.leaves(stepped(ODD))
    monkeypatch.setattr("gdjax.lift.trace.with_late_nan", lambda closed, graph, plan: (closed, {}))
    monkeypatch.setattr("gdjax.lift.all_leaves.kernel_of", OneLeaf)
    jax.clear_caches()
    assert bounds(tx)
    for x, y in zip(late, jax.tree.leaves(stepped(ODD)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
    if name in ("adam", "adagrad", "rmsprop, centred"):  # the others see no infinity, or make more of it
        np.testing.assert_array_equal(np.isnan(late[0]), ~np.isfinite(ODD))


def test_nan_is_added_for_each_array_that_is_not_finite():
    x, g = jnp.arange(3.0), jnp.asarray([jnp.inf, 1.0, 1.0])
    np.testing.assert_array_equal(late_nan.nan_where_not_finite(x, g, g[::-1]), [np.nan, 1.0, np.nan])


def test_derivatives_pass_as_they_do_where_the_bound_is_written_out():
    tx = gdjax.scale_by_rms()
    g = jnp.asarray([0.5, -2.0])
    moved = lambda g: jnp.sum(tx.update(g, tx.init(g))[1].nu)  # noqa: E731
    np.testing.assert_allclose(jax.grad(moved)(g), 2 * 0.1 * g, rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(moved)(jnp.full(2, 1e30)), jnp.zeros(2))
