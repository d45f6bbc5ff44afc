"""`value_and_grad_from_state`: what a line search left is used once, and evaluated anew where it left nothing."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.linesearch.backtracking import scale_by_backtracking_linesearch
from gdjax.linesearch.line import value_and_grad_from_state
from gdjax.linesearch.zoom import scale_by_zoom_linesearch

X = jnp.array([1.0, -2.0, 3.0])


def f(x: jax.Array, scale: Any = 1.0) -> jax.Array:
    return scale * jnp.sum(x**4)


@pytest.mark.parametrize(
    "search", [scale_by_zoom_linesearch(20), scale_by_backtracking_linesearch(40, store_grad=True)]
)
def test_the_stored_numbers_are_those_of_the_next_step(search: Any):
    tx = gdjax.chain(gdjax.sgd(1.0), search)
    params, state = X, tx.init(X)
    value_and_grad = value_and_grad_from_state(f)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=f)
        return gdjax.apply_updates(params, updates), state, value, grad

    for _ in range(5):
        expected = jax.value_and_grad(f)(params)
        params, state, *got = step(params, state)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), tuple(got), expected)
    assert step._cache_size() == 1


def test_stored_numbers_are_taken_as_they_are():
    state = scale_by_zoom_linesearch(20).init(X)._replace(value=jnp.asarray(7.0), grad=jnp.ones(3))
    value, grad = value_and_grad_from_state(f)(X, state=({"a": (state,)}, None))
    assert value == 7 and (grad == 1).all()


@pytest.mark.parametrize("value", [jnp.inf, -jnp.inf, jnp.nan])
def test_a_value_that_is_not_finite_is_evaluated_anew(value: float):
    state = scale_by_zoom_linesearch(20).init(X)._replace(value=jnp.asarray(value), grad=jnp.ones(3))
    got = value_and_grad_from_state(f)(X, 2.0, state=state)
    jax.tree.map(np.testing.assert_array_equal, got, jax.value_and_grad(f)(X, 2.0))
    jax.tree.map(np.testing.assert_array_equal, value_and_grad_from_state(f)(X, scale=2.0, state=state), got)


def test_without_a_stored_gradient_both_are_evaluated():
    state = scale_by_backtracking_linesearch(20).init(X)._replace(value=jnp.asarray(7.0))
    got = value_and_grad_from_state(f)(X, state=state)
    jax.tree.map(np.testing.assert_array_equal, got, jax.value_and_grad(f)(X))


def test_reads_the_state_of_optax():
    state = optax.scale_by_zoom_linesearch(20).init(X)
    jax.tree.map(np.testing.assert_array_equal, value_and_grad_from_state(f)(X, state=state), jax.value_and_grad(f)(X))


def test_16_bit_parameters():
    x = X.astype(jnp.bfloat16)
    value, grad = value_and_grad_from_state(f)(x, state=scale_by_zoom_linesearch(20).init(x))
    assert value == 98 and grad.dtype == jnp.bfloat16


@pytest.mark.parametrize("n", [0, 2])
def test_needs_one_line_search(n: int):
    state = (scale_by_zoom_linesearch(20).init(X),) * n
    with pytest.raises(ValueError, match=f"state has {n} parts with a value and a grad; expected one"):
        value_and_grad_from_state(f)(X, state=state)


def test_is_a_value():
    made = value_and_grad_from_state(jnp.sum)
    assert made == value_and_grad_from_state(jnp.sum) != value_and_grad_from_state(jnp.max)
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize("store_grad", [True, False])
def test_what_the_function_returns_beside_its_value(store_grad: bool):
    """It is evaluated at the parameters, value and gradient are read, as far as the search has stored them."""
    f = lambda x, k: (k * jnp.sum(x**2), {"norm": jnp.sqrt(jnp.sum(x**2))})
    search = gdjax.scale_by_backtracking_linesearch(15, store_grad=store_grad)
    tx, x = gdjax.chain(gdjax.sgd(0.1), search), jnp.array([3.0, 4.0])
    value_and_grad = jax.jit(gdjax.value_and_grad_from_state(f, has_aux=True))
    (value, aux), g = value_and_grad(x, 2.0, state=tx.init(x))
    np.testing.assert_allclose([value, aux["norm"], *g], [50, 5, 12, 16], rtol=1e-6)
    u, state = tx.update(g, tx.init(x), x, value=value, grad=g, value_fn=lambda x: f(x, 2.0)[0])
    told = gdjax.tree.set(state, value=jnp.array(7.0))  # to see that it is read
    (value, aux), g = value_and_grad(x + u, 2.0, state=told)
    assert value == 7 if store_grad else value < 50
    np.testing.assert_allclose([aux["norm"], *g], [3, 7.2, 9.6], rtol=1e-6)
