"""Anderson acceleration: against its definition, GMRES, JAXopt, and by counts of steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.oracles import jaxopt, precision

RNG = np.random.default_rng(0)
D = 8
Q = np.linalg.qr(RNG.normal(size=(D, D)))[0]
H = Q @ np.diag(np.geomspace(0.05, 1, D)) @ Q.T
B = RNG.normal(size=D)
SOLUTION = np.linalg.solve(H, B)


def quadratic(x: Any) -> Any:
    return x @ (jnp.asarray(H, x.dtype) @ x) / 2 - jnp.asarray(B, x.dtype) @ x


slope = jax.grad(quadratic)


def points(tx: Any, gradient: Any, x: Any, steps: int) -> np.ndarray:
    """The start and the points of some steps."""

    @jax.jit
    def step(x: Any, state: Any) -> Any:
        u, state = tx.update(gradient(x), state, x)
        return gdjax.apply_updates(x, u), state

    state, found = tx.init(x), [x]
    for _ in range(steps):
        x, state = step(x, state)
        found.append(x)
    return np.stack(found)


def mixtures(f: Any, x: np.ndarray, history: int, steps: int) -> np.ndarray:
    """Algorithm AA of Walker & Ni, with the weights from the equations for the least squares with their sum as 1."""
    xs = [x]
    for t in range(steps):
        last = xs[max(0, t - history) :]
        residuals = np.stack([f(x) - x for x in last], 1)
        n = len(last)
        K = np.block([[residuals.T @ residuals, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
        a = np.linalg.solve(K, np.eye(n + 1)[n])[:n]
        xs.append(a @ np.stack([f(x) for x in last]))
    return np.stack(xs)


@pytest.mark.parametrize("history", [1, 3])
def test_the_points_are_those_of_the_definition(history):
    with precision("float64"):
        gradient = lambda x: slope(x) - jnp.sin(x) / 4
        tx = gdjax.anderson(gdjax.sgd(0.5), history, ridge=0.0, max_growth=jnp.inf)
        found = points(tx, gradient, jnp.zeros(D), 8)
        f = lambda x: x - 0.5 * (H @ x - B - np.sin(x) / 4)
        np.testing.assert_allclose(found, mixtures(f, np.zeros(D), history, 8), rtol=1e-6, atol=1e-9)


@pytest.mark.full
def test_with_a_long_history_a_quadratic_ends_in_as_many_steps_as_it_has_dimensions():
    """As GMRES does: one more, for the plain step of the end."""
    with precision("float64"):
        found = points(gdjax.anderson(gdjax.sgd(1.0), D, ridge=0.0), slope, jnp.zeros(D), D + 1)
        plain = points(gdjax.sgd(1.0), slope, jnp.zeros(D), D + 1)
    assert np.abs(found[-1] - SOLUTION).max() < 1e-5 < 0.1 < np.abs(plain[-1] - SOLUTION).max()


@pytest.mark.full
def test_fewer_steps_than_plain_ones_and_no_more_than_jaxopt():
    settings = {"steps": 2000, "tol": 1e-4}
    plain = gdjax.solve(quadratic, jnp.zeros(D), gdjax.sgd(1.0), **settings)
    ours = gdjax.solve(quadratic, jnp.zeros(D), gdjax.anderson(gdjax.sgd(1.0)), **settings)
    assert plain.converged and ours.converged and 5 * ours.steps < plain.steps
    np.testing.assert_allclose(ours.params, SOLUTION, rtol=2e-3)
    theirs = jaxopt().AndersonAcceleration(lambda x: x - jax.grad(quadratic)(x), history_size=5, tol=1e-4)
    x, state = theirs.run(jnp.zeros(D))
    assert ours.steps <= state.iter_num
    np.testing.assert_allclose(x, SOLUTION, rtol=2e-3)


@pytest.mark.full
def test_a_lasso_by_proximal_steps_and_its_derivative():
    """`solve` knows the fixed point of what is inside."""
    with precision("float64"):
        inner = lambda w: gdjax.proximal_gradient(1.0, gdjax.prox.l1(w), accelerate=False)
        fit = lambda w, tx: gdjax.solve(quadratic, jnp.zeros(D), lambda: tx(w), tol=1e-9, steps=5000)
        slow, fast = (jax.jit(lambda w, tx=tx: fit(w, tx))(0.3) for tx in (inner, lambda w: gdjax.anderson(inner(w))))
        assert fast.converged and 2 * fast.steps < slow.steps and 1 <= (fast.params == 0).sum() <= D - 2
        np.testing.assert_allclose(fast.params, slow.params, atol=1e-7)
        derivative = jax.jit(jax.jacrev(lambda w: fit(w, lambda w: gdjax.anderson(inner(w))).params))(0.3)
        active = np.asarray(fast.params != 0)
        expected = np.zeros(D)
        expected[active] = -np.linalg.solve(H[np.ix_(active, active)], np.sign(fast.params[active]))
        np.testing.assert_allclose(derivative, expected, atol=1e-6)


def test_where_the_residual_grows_it_goes_back_to_the_plain_step():
    tx = gdjax.anderson(gdjax.sgd(1.0))
    x, state, found = jnp.zeros(2), tx.init(jnp.zeros(2)), []
    for g in ([1.0, 0.0], [0.5, 0.0], [5.0, 5.0], [0.25, 0.0]):
        u, state = tx.update(jnp.array(g), state, x)
        found.append(x)
        x = x + u
    first, second, bad, plain = found
    np.testing.assert_array_equal(second, [-1, 0])
    np.testing.assert_allclose(bad, [-2, 0], atol=1e-5)  # of the line through 1 and 1 / 2 the zero
    np.testing.assert_allclose(plain, second - jnp.array([0.5, 0.0]), atol=1e-6)
    np.testing.assert_allclose(x, plain - jnp.array([0.25, 0.0]), atol=1e-6)  # with an empty history
    assert state.count == 1


def test_a_nan_is_seen_and_forgotten():
    tx = gdjax.anderson(gdjax.sgd(0.5), 2)
    x, g = jnp.ones(2), jnp.array([1.0, 0.5])
    _, before = tx.update(g, tx.init(x), x)
    u, state = tx.update(jnp.array([jnp.nan, 1.0]), before, x)
    assert jnp.isnan(u[0])
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.full
@pytest.mark.parametrize("unit", [2.0**-90, 2.0**90])
def test_units_of_the_parameters_change_nothing(unit):
    """In float32 squares of 1e-27 are 0, and those of 1e27 infinite."""
    tx = gdjax.anderson(gdjax.sgd(1.0))
    scaled = points(tx, lambda x: unit * slope(x / unit), jnp.zeros(D), 6)
    np.testing.assert_allclose(scaled / unit, points(tx, slope, jnp.zeros(D), 6), rtol=1e-6)


@pytest.mark.full
def test_complex_numbers_are_pairs_of_real_ones():
    tx = gdjax.anderson(gdjax.sgd(0.5), 2)
    x, y = jnp.zeros(3, "complex64"), jnp.zeros((3, 2))
    a, b = tx.init(x), tx.init(y)
    for pair in RNG.normal(size=(4, 3, 2)).astype("float32"):
        u, a = tx.update(jax.lax.complex(*map(jnp.asarray, (pair[:, 0], pair[:, 1]))), a, x)
        v, b = tx.update(jnp.asarray(pair), b, y)
        x, y = x + u, y + v
        np.testing.assert_allclose(jnp.stack([u.real, u.imag], 1), v, rtol=1e-4, atol=1e-5)


def test_errors_name_what_is_wrong():
    wrong: Any = 3
    with pytest.raises(TypeError, match="gdjax.anderson: argument inner is 3|gdjax.anderson: argument 0"):
        gdjax.anderson(wrong)
    with pytest.raises(ValueError, match="gdjax.anderson: history must be"):
        gdjax.anderson(gdjax.sgd(0.1), 0)
    with pytest.raises(ValueError, match="gdjax.anderson: ridge must be"):
        gdjax.anderson(gdjax.sgd(0.1), ridge=-1.0)
    tx = gdjax.anderson(gdjax.sgd(0.1))
    with pytest.raises(ValueError, match=r"^gdjax.anderson: this transform needs params"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_a_mixture_that_is_not_finite_gives_way_to_the_plain_step():
    tx = gdjax.anderson(gdjax.sgd(1.0))
    far, g = jnp.array([3e38, 0.0]), jnp.array([1.0, 0.5])
    _, state = tx.update(g, tx.init(far), far)
    u, _ = tx.update(g / 2, state, -far)
    np.testing.assert_array_equal(u, -g / 2)


def test_updates_that_differ_by_rounding_are_the_same():
    """Of a linear loss every step is the plain one; the difference of two says nothing but its rounding."""
    tx = gdjax.anderson(gdjax.sgd(1.0), 2)
    x, state = jnp.zeros(2), tx.init(jnp.zeros(2))
    for i in range(4):
        g = jnp.array([1.0, 0.3]) * (1 + (i % 2) * 2.0**-23)
        u, state = tx.update(g, state, x)
        np.testing.assert_allclose(u, -g, rtol=1e-5)
        x = x + u
