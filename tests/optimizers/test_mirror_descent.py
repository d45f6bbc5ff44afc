"""Mirror descent on simplices: against its formula, JAXopt, the optimality conditions, and where numbers underflow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.oracles import jaxopt, precision

RNG = np.random.default_rng(0)
A = RNG.normal(size=(12, 6))
B = A @ np.array([0.5, 0.3, 0.2, 0.0, 0.0, 0.0]) - 0.3 * A[:, 4]


def least_squares(x: Any, target: Any) -> Any:
    return jnp.mean((jnp.asarray(A, x.dtype) @ x - target) ** 2)


def rows(x: np.ndarray, g: np.ndarray, rate: float, axis: int | None) -> np.ndarray:
    y = x * np.exp(-rate * g)
    return y / y.sum(axis, keepdims=True)


@pytest.mark.parametrize("axis", [-1, None])
def test_the_steps_are_the_formulas(axis):
    rate = lambda count: jnp.where(count == 0, 0.5, 0.125)
    with precision("float64"):
        tx = gdjax.mirror_descent(rate, axis=axis)
        x = {"a": RNG.random((3, 4)), "b": RNG.random(5), "c": np.float64(2.0)}
        sums = lambda v: v.sum(axis if v.ndim else None, keepdims=True)
        want = {k: v / sums(v) for k, v in x.items()}
        params = jax.tree.map(jnp.asarray, x)
        state, update = tx.init(params), jax.jit(tx.update)
        for i in range(3):
            g = {k: RNG.normal(size=v.shape) for k, v in x.items()}
            u, state = update(g, state, params)
            params = gdjax.apply_updates(params, u)
            of_leaf = lambda v: axis if v.ndim else None
            want = {k: rows(v, g[k], 0.125 if i else 0.5, of_leaf(v)) for k, v in want.items()}
            for k in x:
                np.testing.assert_allclose(params[k], want[k], rtol=1e-13)


def test_the_steps_are_jaxopts():
    theirs = jaxopt()
    kl = theirs.MirrorDescent.make_projection_grad(lambda y, _: jax.nn.softmax(y), jnp.log)
    solver = theirs.MirrorDescent(lambda x: least_squares(x, jnp.asarray(B, "float32")), kl, stepsize=0.25)
    x = jnp.full(6, 1 / 6)
    state, tx = solver.init_state(x, None), gdjax.mirror_descent(0.25)
    ours, ours_state = x, tx.init(x)
    for _ in range(5):
        x, state = solver.update(x, state, None)
        u, ours_state = tx.update(jax.grad(least_squares)(ours, jnp.asarray(B, "float32")), ours_state, ours)
        ours = gdjax.apply_updates(ours, u)
        np.testing.assert_allclose(ours, x, rtol=1e-5)


@pytest.mark.full
def test_a_solution_meets_the_conditions_of_a_minimum_and_has_its_derivative():
    """On the simplex the gradient is least, and equal, where x > 0; finite differences, and SciPy's solution."""
    optimize = pytest.importorskip("scipy.optimize")
    with precision("float64"):
        fit = lambda target: gdjax.solve(
            least_squares, jnp.full(6, 1 / 6), gdjax.mirror_descent(1.0), target, tol=1e-9, steps=20000
        )
        both = jax.jit(lambda t: (fit(t), jax.jacrev(lambda t: fit(t).params)(t)))
        found, jacobian = both(B)
        x, g = found.params, jax.grad(least_squares)(found.params, B)
        assert found.message == "converged" and 2 <= np.sum(x < 1e-6) <= 4
        np.testing.assert_allclose(g[x > 1e-6], g.min(), atol=1e-8)
        least = optimize.minimize(
            lambda x: np.mean((A @ x - B) ** 2), np.full(6, 1 / 6), bounds=[(0, 1)] * 6, tol=1e-12,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        )  # fmt: skip
        np.testing.assert_allclose(x, least.x, atol=1e-5)
        change, h = RNG.normal(size=12), 1e-4
        ends = [both(B + s * h * change)[0].params for s in (1, -1)]
        np.testing.assert_allclose(jacobian @ change, (ends[0] - ends[1]) / (2 * h), atol=1e-6)


def test_minimize_judges_by_the_simplex_of_each_row():
    """The gradient is 1 and 2 everywhere; the least number of each row, or of the whole, wins."""
    costs = jnp.array([[1.0, 2.0], [2.0, 1.0]])
    loss, settings = lambda x: jnp.sum(costs * x), {"steps": 50, "grad_tol": 1e-4}
    found = gdjax.minimize(loss, jnp.full((2, 2), 0.5), gdjax.mirror_descent(5.0), **settings)
    assert len(found.history["loss"]) < 10
    np.testing.assert_allclose(found.params, [[1, 0], [0, 1]], atol=1e-4)
    whole = gdjax.minimize(loss, jnp.full((2, 2), 0.25), gdjax.mirror_descent(5.0, axis=None), **settings)
    assert len(whole.history["loss"]) < 10
    np.testing.assert_allclose(whole.params, [[0.5, 0], [0, 0.5]], atol=1e-4)


def test_a_number_that_underflows_comes_back():
    """JAXopt's log of 0 is for ever."""
    tx, x = gdjax.mirror_descent(1.0), jnp.full(2, 0.5)
    state = tx.init(x)
    for g, want in (([200.0, 0.0], [0, 1]), ([0.0, 400.0], [1, 0]), ([200.0, 0.0], [0.5, 0.5])):
        u, state = tx.update(jnp.array(g), state, x)
        x = gdjax.apply_updates(x, u)
        np.testing.assert_allclose(x, want, atol=1e-6)


def test_steps_too_small_for_16_bits_add_up():
    tx, x = gdjax.mirror_descent(1e-3), jnp.full(2, 0.5, jnp.bfloat16)
    state, update = tx.init(x), jax.jit(tx.update)
    for _ in range(500):
        u, state = update(jnp.array([1.0, 0.0], jnp.bfloat16), state, x)
        x = gdjax.apply_updates(x, u)
    np.testing.assert_allclose(x.astype(float), jax.nn.softmax(jnp.array([-0.5, 0.0])), atol=2e-3)


def test_a_constant_added_to_the_gradient_changes_nothing():
    """Not after a thousand steps either, where it would have the digits of log x."""
    tx, x, g = gdjax.mirror_descent(1.0), jnp.full(2, 0.5), jnp.array([2.0**-9, 0.0])
    step = lambda i, state: tx.update(g + 2.0**10, state, x)[1]
    state = jax.lax.fori_loop(0, 1000, step, tx.init(x))
    np.testing.assert_allclose(state.logits[0] - state.logits[1], -1000 * 2.0**-9, rtol=1e-3)


def test_starts_that_are_no_distribution():
    """The update leads to one; a number not above 0 stays 0, and where all are x is uniform."""
    x = jnp.array([[3.0, 1.0, 0.0], [2.0, -5.0, 2.0], [0.0, 0.0, -1.0]])
    tx = gdjax.mirror_descent(1.0)
    u, state = tx.update(jnp.zeros((3, 3)), tx.init(x), x)
    x = gdjax.apply_updates(x, u)
    np.testing.assert_allclose(x, [[0.75, 0.25, 0], [0.5, 0, 0.5], [1 / 3] * 3], rtol=1e-6)
    u, _ = tx.update(jnp.full((3, 3), -1e30).at[:2, :2].set(0.0), state, x)
    assert (gdjax.apply_updates(x, u)[:1, 2] == 0).all()


def test_huge_gradients_leave_numbers_and_infinite_ones_nan():
    tx, x = gdjax.mirror_descent(10.0), jnp.full(3, 1 / 3)
    state = tx.init(x)
    update = jax.jit(tx.update)
    for g in (*[[3e38, -3e38, 0.0]] * 9, [-3e38, 3e38, 3e38], [1.0, 2.0, 3.0]):
        u, state = update(jnp.array(g), state, x)
        x = gdjax.apply_updates(x, u)
        assert jnp.isfinite(state.logits).all() and abs(float(x.sum()) - 1) < 1e-6
    u, _ = tx.update(jnp.array([jnp.inf, 0.0, 0.0]), state, x)
    assert jnp.isnan(u[0])


def test_errors_name_the_leaf():
    tx, x = gdjax.mirror_descent(0.1), {"w": jnp.ones(2, "complex64")}
    with pytest.raises(TypeError, match=r"gdjax.mirror_descent: .*\['w'\].*complex64"):
        tx.update(x, tx.init(x), x)
    with pytest.raises(ValueError, match="gdjax.mirror_descent.*params"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    wrong: Any = 0
    with pytest.raises(ValueError, match="gdjax.mirror_descent: axis must be"):
        gdjax.mirror_descent(0.1, axis=wrong)
