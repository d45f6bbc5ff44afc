"""The backtracking line search: Armijo's condition, the loop in NumPy, failures and misuse."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linesearch.backtracking import scale_by_backtracking_linesearch
from tests.linesearch.problems import cast, precision, rosenbrock, run

X = jnp.array([1.0, -2.0])


def quadratic(x: jax.Array) -> jax.Array:
    return jnp.sum(x**2)


def search(f: Callable[[Any], Any], p: Any, u: Any, state: Any = None, steps: Any = 20, **options: Any) -> Any:
    tx = scale_by_backtracking_linesearch(steps, **options)
    value, grad = jax.value_and_grad(f)(p)
    grad = jax.tree.map(jnp.conj, grad)
    scaled, new = tx.update(u, tx.init(p) if state is None else state, p, value=value, grad=grad, value_fn=f)
    eta = jnp.where((new.info.decrease_error > 0) & (new.value == value), 0, new.learning_rate)  # none was taken
    jax.tree.map(lambda s, x: np.testing.assert_array_equal(s, eta.astype(x.dtype) * x), scaled, u)
    return new


@pytest.mark.parametrize(("atol", "rtol", "increase"), [(0.0, 0.0, 1.5), (0.1, 0.05, np.inf), (0.0, 0.0, 1.0)])
def test_equals_the_loop_in_numpy(atol: float, rtol: float, increase: float):
    c, d, top, n = 0.3, 0.7, 0.8, 15
    tx = scale_by_backtracking_linesearch(40, c, d, increase, top, atol, rtol, store_grad=True)
    start = {"x": np.array([-1.2]), "y": np.array([1.0])}
    with precision("float64"):
        _, states, _, _, updates = run(gdjax.chain(gdjax.sgd(1.0), tx), rosenbrock, cast(start, "float64"), n)

    def f(x: np.ndarray) -> float:
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    def slope(x: np.ndarray) -> np.ndarray:
        return np.array([-400 * x[0] * (x[1] - x[0] ** 2) - 2 * (1 - x[0]), 200 * (x[1] - x[0] ** 2)])

    x, eta = np.array([-1.2, 1.0]), 1.0
    for k in range(n):
        g, eta, tries = slope(x), min(increase * eta, top), 1
        while f(x - eta * g) > f(x) - c * eta * g @ g + rtol * abs(f(x)) + atol:
            eta, tries = d * eta, tries + 1
        x = x - eta * g
        state = jax.tree.map(lambda s, k=k: np.asarray(s[k]), states[1])
        np.testing.assert_allclose(state.learning_rate, eta, rtol=1e-12)
        np.testing.assert_allclose(state.value, f(x), rtol=1e-7)
        np.testing.assert_allclose([*state.grad["x"], *state.grad["y"]], slope(x), rtol=1e-6)
        np.testing.assert_allclose([updates["x"][k, 0], updates["y"][k, 0]], -eta * g, rtol=1e-6)
        assert state.info.num_linesearch_steps == tries and state.info.decrease_error <= rtol * abs(f(x)) + atol


def test_tolerance_is_relative_to_the_size_of_a_negative_value():
    # f = -100 at the start and a step that raises it to -99: within 2 % of it.
    def f(x: jax.Array) -> jax.Array:
        return -100 + x

    assert search(f, jnp.zeros(()), jnp.ones(()), steps=3, rtol=0.02, slope_rtol=0.0).info.num_linesearch_steps == 1
    assert search(f, jnp.zeros(()), jnp.ones(()), steps=3, rtol=0.0, slope_rtol=0.0).info.decrease_error > 0


def test_direction_of_ascent_takes_no_step():
    state = search(quadratic, X, X, steps=5, decrease_factor=0.5)
    assert state.info.num_linesearch_steps == 6 and 0 < state.info.decrease_error < jnp.inf
    assert state.value == quadratic(X) and state.learning_rate == 2.0**-5  # from which the next search goes on


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_no_finite_step_is_no_step_and_the_next_search_goes_on_with_shorter_ones(bad: float):
    def f(x: jax.Array) -> jax.Array:
        return jnp.where(jnp.all(x == X), quadratic(x), bad)

    state = search(f, X, -X, steps=4, store_grad=True)
    last = np.float32(0.8) ** 4
    np.testing.assert_allclose(state.learning_rate, last, rtol=1e-6)
    assert state.value == quadratic(X) and state.info.decrease_error == jnp.inf
    np.testing.assert_array_equal(state.grad, 2 * X)
    for increase, wanted in ((1.5, 1.5 * last), (jnp.inf, 1.0)):
        again = search(quadratic, X, -0.5 * X, state, store_grad=True, increase_factor=increase)
        np.testing.assert_allclose(again.learning_rate, wanted, rtol=1e-6)


def test_a_barrier_that_one_search_does_not_reach_is_reached_by_the_next():
    f = lambda x: -jnp.sum(jnp.log(1 - x**2))  # NaN outside of (-1, 1)
    tx = gdjax.chain(gdjax.sgd(1.0), scale_by_backtracking_linesearch(15))
    found = gdjax.minimize(f, jnp.array([0.999]), tx, steps=50, grad_tol=1e-3)
    assert found.converged and abs(float(found.params[0])) < 1e-3


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_bad_values_far_away_are_left(bad: float):
    state = search(lambda x: jnp.where(jnp.max(jnp.abs(x)) > 3, bad, quadratic(x)), X, -100 * X, steps=40)
    assert state.info.decrease_error == 0 and state.value < quadratic(X)


@pytest.mark.parametrize("store_grad", [False, True])
def test_state_is_a_fixed_point(store_grad: bool):
    tx = scale_by_backtracking_linesearch(jnp.asarray(20), store_grad=store_grad)
    init = tx.init(X)
    out = jax.eval_shape(lambda s: tx.update(-X, s, X, value=1.0, grad=2 * X, value_fn=quadratic)[1], init)
    assert jax.tree.structure(init) == jax.tree.structure(out) and (init.grad is None) != store_grad
    for a, b in zip(jax.tree.leaves(init), jax.tree.leaves(out), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)


@pytest.mark.full
def test_vmap_equals_jit():
    tx = scale_by_backtracking_linesearch(20, store_grad=True)

    def step(x: jax.Array) -> Any:
        value, grad = jax.value_and_grad(quadratic)(x)
        return tx.update(-3 * grad, tx.init(x), x, value=value, grad=grad, value_fn=quadratic)

    xs = jnp.array([[0.1, 2.0], [30.0, -4.0]])
    jitted, batched = jax.jit(step), jax.vmap(step)(xs)
    for i, x in enumerate(xs):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a, b[i], rtol=1e-6), jitted(x), batched)


def test_complex_parameters_equal_their_parts():
    def f(z: jax.Array) -> jax.Array:
        return jnp.sum((z.real - 1) ** 4 + 3 * (z.imag + z.real) ** 2)

    z = jnp.array([2 - 1j, 0.3 + 4j], jnp.complex64)
    g = jnp.conj(jax.grad(f)(z))
    state = search(f, z, -g, slope_rtol=0.5, store_grad=True)
    x, parts = jnp.stack([z.real, z.imag]), jnp.stack([g.real, g.imag])
    real = search(lambda x: f(jax.lax.complex(x[0], x[1])), x, -parts, slope_rtol=0.5, store_grad=True)
    assert state.info.num_linesearch_steps == real.info.num_linesearch_steps > 1
    np.testing.assert_allclose(jnp.conj(state.grad), jax.lax.complex(*real.grad), rtol=1e-5)


def test_extra_arguments_go_to_the_function_that_names_them():
    tx = scale_by_backtracking_linesearch(20)
    f = lambda p, target: quadratic(p - target)
    _, state = tx.update(-(X - 1), tx.init(X), X, value=f(X, 1.0), grad=2 * (X - 1), value_fn=f, target=1.0, obj_fn=0)
    assert state.value == 0


def test_verbose_tells_of_failures_only(capsys: pytest.CaptureFixture[str]):
    search(quadratic, X, -0.5 * X, verbose=True)
    jax.effects_barrier()
    assert capsys.readouterr().out == ""
    search(quadratic, X, X, steps=3, verbose=True)
    jax.effects_barrier()
    text = capsys.readouterr().out
    assert text.startswith("gdjax.scale_by_backtracking_linesearch: no step size lowers the objective enough")
    assert "no direction of descent" in text and "no step is made" in text


NAME = r"gdjax\.scale_by_backtracking_linesearch: "


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_backtracking_steps": 0}, "max_backtracking_steps must be at least 1, got 0"),
        ({"decrease_factor": 0.0}, "decrease_factor must be between 0 and 1, got 0.0"),
        ({"increase_factor": -1.0}, "increase_factor must be above 0, got -1.0"),
        ({"slope_rtol": -1e-4}, "slope_rtol must be at least 0, got -0.0001"),
        ({"atol": -1.0}, "atol must be at least 0, got -1.0"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=NAME + message):
        scale_by_backtracking_linesearch(**{"max_backtracking_steps": 5, **kwargs})


def test_missing_arguments():
    tx = scale_by_backtracking_linesearch(5)
    with pytest.raises(ValueError, match=NAME + r"update needs value=, grad= and value_fn= \(missing: value_fn=\)"):
        tx.update(X, tx.init(X), X, value=1.0, grad=X)
