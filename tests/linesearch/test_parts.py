"""Line searches under masks and in groups: they search over their part of the parameters, the others stay."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.linesearch.problems import run

START = {"a": jnp.array([-1.2, 2.0]), "b": jnp.array([1.0])}
LABELS = {"a": "searched", "b": "plain"}
SEARCHES = {
    "lbfgs": gdjax.lbfgs,
    "bfgs": gdjax.bfgs,
    "backtracking": lambda: gdjax.chain(gdjax.sgd(1.0), gdjax.scale_by_backtracking_linesearch(15, store_grad=True)),
    "zoom": lambda: gdjax.chain(gdjax.sgd(1.0), gdjax.scale_by_zoom_linesearch(20)),
}
searches = pytest.mark.parametrize("name", SEARCHES)


def loss(p: Any, scale: Any = 1.0) -> Any:
    return scale * (jnp.sum((p["a"] - 1) ** 4) + 3 * jnp.sum((p["a"] - p["b"]) ** 2) + jnp.sum(p["b"] ** 2))


def step(tx: Any, p: Any, state: Any, **extra: Any) -> Any:
    value, g = jax.value_and_grad(loss)(p, **extra)
    return tx.update(g, state, p, value=value, grad=g, value_fn=loss, **extra)


@pytest.mark.slow
@searches
def test_a_group_is_searched_as_if_the_others_were_constants(name: str):
    make = SEARCHES[name]
    tx = gdjax.partition({"searched": make(), "plain": gdjax.sgd(0.01)}, LABELS)
    alone, of_a = make(), lambda a: loss({"a": a, "b": START["b"]})
    u, state = jax.jit(lambda p: step(tx, p, tx.init(p)))(START)
    value, g = jax.value_and_grad(of_a)(START["a"])
    wanted, _ = alone.update(g, alone.init(START["a"]), START["a"], value=value, grad=g, value_fn=of_a)
    np.testing.assert_allclose(u["a"], wanted, rtol=1e-6)
    np.testing.assert_allclose(u["b"], -0.01 * jax.grad(loss)(START)["b"], rtol=1e-6)
    assert loss({"a": START["a"] + u["a"], "b": START["b"]}) < loss(START)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(START))


@pytest.mark.full
@searches
def test_under_a_mask(name: str):
    tx = gdjax.chain(
        gdjax.masked(SEARCHES[name](), {"a": True, "b": False}), gdjax.freeze({"a": False, "b": True})
    )  # fmt: skip
    params, _, values, _, _ = run(tx, loss, START, 20)
    assert (np.diff(values) <= 1e-6 * values[:-1]).all() and values[-1] < 0.8 * values[0]
    np.testing.assert_array_equal(params["b"], np.broadcast_to(START["b"], (20, 1)))


@pytest.mark.full
def test_the_function_still_gets_the_extra_arguments_that_it_names():
    tx = gdjax.masked(SEARCHES["zoom"](), {"a": True, "b": False})
    _, state = step(tx, START, tx.init(START), scale=jnp.array(2.0))
    _, other = step(tx, START, tx.init(START))
    assert gdjax.tree.get(state, "value") != gdjax.tree.get(other, "value")
    value_fn = lambda p: loss(p)
    g = jax.grad(loss)(START)
    tx.update(g, tx.init(START), START, value=loss(START), grad=g, value_fn=value_fn, unknown=3)


@pytest.mark.full
@searches
def test_minimize_and_the_value_of_the_state(name: str):
    """The search left the gradient of its part: the whole one is evaluated."""
    tx = gdjax.partition({"searched": SEARCHES[name](), "plain": gdjax.sgd(0.02)}, LABELS)
    result = gdjax.minimize(loss, START, tx, steps=60)
    assert result.history["loss"][-1] < 0.3 * result.history["loss"][0]
    value, g = gdjax.value_and_grad_from_state(loss)(result.params, state=result.state)
    np.testing.assert_allclose(value, loss(result.params), rtol=1e-6)
    np.testing.assert_allclose(g["b"], jax.grad(loss)(result.params)["b"], rtol=1e-6)


@pytest.mark.full
def test_two_searches_in_groups():
    tx = gdjax.partition({"a": gdjax.lbfgs(), "b": SEARCHES["backtracking"]()}, {"a": "a", "b": "b"})
    result = gdjax.minimize(loss, START, tx, steps=60)
    best = gdjax.minimize(loss, START, gdjax.lbfgs(), steps=60)
    np.testing.assert_allclose(loss(result.params), loss(best.params), rtol=1e-3)
