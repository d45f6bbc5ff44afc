"""BFGS and SSBroyden: the papers' formulas in NumPy, SciPy, bounds, pairs of bad curvature, and misuse."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

import gdjax
from gdjax.linalg import vectors
from gdjax.optimizers.bfgs import ScaleByBFGSState, bfgs, scale_by_bfgs, scale_by_ssbroyden, ssbroyden
from tests.linesearch.problems import PROBLEMS, cast, precision, run
from tests.support import quick_compilation, slow

METHODS = {"bfgs": bfgs, "ssbfgs": lambda *a, **k: bfgs(*a, self_scaling=True, **k), "ssbroyden": ssbroyden}
DIRECTIONS = {
    "bfgs": scale_by_bfgs,
    "ssbfgs": lambda *a, **k: scale_by_bfgs(*a, self_scaling=True, **k),
    "ssbroyden": scale_by_ssbroyden,
}
methods = pytest.mark.parametrize("name", METHODS)
two_methods = pytest.mark.parametrize("name", ["bfgs", "ssbroyden", *slow(["ssbfgs"])])  # the third is in between


def renewed(name: str, H: np.ndarray, s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The next H as the papers write it, but for the least tau: with H^-1, one case after the other."""
    n, ys, w = len(s), y @ s, H @ y
    b, h = s @ np.linalg.solve(H, s) / ys, y @ w / ys
    if name != "ssbroyden":
        tau = 1 if name == "bfgs" else max(min(1, 1 / b), 0.2)
        V = np.eye(n) - np.outer(y, s) / ys
        return V.T @ (H / tau) @ V + np.outer(s, s) / ys
    a = h * b - 1
    c = np.sqrt(a / (a + 1))
    rho_minus = min(1, h * (1 - c))
    theta = max((rho_minus - 1) / a, min(1 / rho_minus, (1 - b) / b))
    sigma = 1 + a * theta
    if theta <= 0:
        tau = min(min(1, 1 / b) * sigma ** (1 / (1 - n)), sigma)
    else:
        tau = min(1, 1 / b) * min(sigma ** (1 / (1 - n)), 1 / theta)
    tau = max(tau, 0.2)  # the paper has no such bound
    phi, v = (1 - theta) / (1 + a * theta), np.sqrt(y @ w) * (s / ys - w / (y @ w))
    return (H - np.outer(w, w) / (y @ w) + phi * np.outer(v, v)) / tau + np.outer(s, s) / ys


def tree(x: np.ndarray) -> Any:
    return {"a": jnp.asarray(x[:4].reshape(2, 2)), "b": jnp.asarray(x[4:])}


@pytest.mark.parametrize("scaled", [True, False])
@methods
def test_equals_the_formulas(name: str, scaled: bool):
    """Over 25 steps of other lengths along u, on a function whose curvatures are very different."""
    A = np.diag([1.0, 30.0, 4.0, 0.2, 0.01, 2.0]) + 0.05
    lengths = np.random.default_rng(0).uniform(0.05, 0.9, 25)
    x, H, seen = np.array([1.0, -0.5, 2.0, 1.0, -3.0, 0.3]), np.eye(6), []
    with precision("float64"):
        tx = DIRECTIONS[name](scaled)
        update, state = jax.jit(tx.update), tx.init(tree(x))
        for k, length in enumerate(lengths):
            g = A @ x + 0.3 * x**3
            if k:
                s, y = x - seen[-1][0], g - seen[-1][1]
                if k == 1:
                    first = max(np.linalg.norm(s), 1) / np.linalg.norm(seen[0][1])
                    H = H * (s @ y / (y @ y) if scaled else first)
                H = renewed(name, H, s, y)
            wanted = H @ g / (1 if k else np.linalg.norm(g))
            u, state = update(tree(g), state, tree(x))
            np.testing.assert_allclose(ravel_pytree(u)[0], wanted, rtol=1e-9, atol=1e-12 * np.abs(wanted).max())
            seen.append((x, g))
            x = x - length * wanted
        np.testing.assert_allclose(state.inverse_hessian, H, rtol=1e-8, atol=1e-10 * np.abs(H).max())
    assert (int(state.count), int(state.pairs)) == (25, 24)
    np.testing.assert_array_equal(state.params["b"], seen[-1][0][4:])


@pytest.mark.full
def test_ssbroyden_meets_every_case_of_theta_and_tau():
    """Pairs that no step of the method has made: the three terms of theta, and both of tau on either side of 0."""
    rng, cases, bounded = np.random.default_rng(1), set(), 0
    for _ in range(200):
        Q = rng.normal(size=(4, 4))
        H = Q @ Q.T + 0.1 * np.eye(4)
        g = rng.normal(size=4)
        s = -H @ g * 10 ** rng.uniform(-1.5, 1.5)
        y = s * 10 ** rng.uniform(-2, 2) + rng.normal(size=4) * 0.5
        if s @ y < 1e-2 * np.linalg.norm(s) * np.linalg.norm(y):
            continue
        ys, b, h = y @ s, s @ np.linalg.solve(H, s) / (y @ s), y @ H @ y / (y @ s)
        a = b * h - 1
        rho = min(1, h * (1 - np.sqrt(a / (a + 1))))
        three = (rho - 1) / a, 1 / rho, (1 - b) / b
        theta = max(three[0], min(three[1:]))
        sigma, n, plus = 1 + a * theta, 4, min(1, 1 / b)
        two = (plus * sigma ** (1 / (1 - n)), sigma if theta <= 0 else plus / theta)
        cases.add((three.index(theta), theta > 0, two.index(min(two))))
        bounded += min(two) < 0.2
        with precision("float64"):
            tx = scale_by_ssbroyden(False)
            state = tx.init(jnp.zeros(4))._replace(
                count=jnp.int32(3), pairs=jnp.int32(2), updates=jnp.asarray(g), inverse_hessian=jnp.asarray(H),
                slope=jnp.asarray(g @ H @ g),
            )  # fmt: skip
            _, new = tx.update(jnp.asarray(g + y), state, jnp.asarray(s))
        np.testing.assert_allclose(new.inverse_hessian, renewed("ssbroyden", H, s, y), rtol=1e-7, atol=1e-9 / ys)
    assert {case[0] for case in cases} == {0, 1, 2} and len(cases) >= 5 and bounded > 5


@pytest.mark.full
def test_bfgs_finds_the_inverse_of_a_quadratic():
    """n exact line searches on a quadratic of n numbers end at its minimum, and H is the inverse of its Hessian."""
    rng = np.random.default_rng(0)
    Q = rng.normal(size=(5, 5))
    A, x = Q @ Q.T + np.eye(5), rng.normal(size=5)
    with precision("float64"):
        tx = scale_by_bfgs()
        state = tx.init(jnp.asarray(x))
        for _ in range(6):
            g = A @ x
            u, state = tx.update(jnp.asarray(g), state, jnp.asarray(x))
            x = x - np.asarray(u) * (g @ u / (u @ A @ u) if np.abs(g).max() > 1e-12 else 0)
    np.testing.assert_allclose(state.inverse_hessian, np.linalg.inv(A), rtol=1e-6, atol=1e-8)


@methods
def test_h_stays_positive_definite_at_points_that_nothing_has_chosen(name: str):
    """Where s is not along u, tau is taken from a bound: the last pair still holds, H y = s."""
    A = np.diag([1.0, 3.0, -4.0, -2.0, 0.5])
    points = np.random.default_rng(0).normal(size=(12, 5))
    with precision("float64"):
        tx, good = DIRECTIONS[name](), 0
        state = tx.init(jnp.zeros(5))
        for k, x in enumerate(points):
            g = A @ x + 0.1 * x**3
            u, state = tx.update(jnp.asarray(g), state, jnp.asarray(x))
            H = np.asarray(state.inverse_hessian)
            np.testing.assert_allclose(H, H.T, rtol=1e-10, atol=1e-12)
            assert np.linalg.eigvalsh(H).min() > 0 and u @ g > 0
            if k:
                s, y = x - points[k - 1], g - A @ points[k - 1] - 0.1 * points[k - 1] ** 3
                good += int(s @ y > 0)
                assert int(state.pairs) == good
                if s @ y > 0:
                    np.testing.assert_allclose(H @ y, s, rtol=1e-7, atol=1e-9)
    assert 2 < good < 9


def flat_function(f: Any, start: Any) -> Any:
    x0, unravel = ravel_pytree(cast(start, "float64"))
    value_and_grad = jax.jit(jax.value_and_grad(lambda x: f(unravel(x))))
    return lambda x: tuple(map(np.asarray, value_and_grad(x))), np.asarray(x0)


@pytest.mark.full
@pytest.mark.parametrize("problem", PROBLEMS)
@two_methods
def test_ends_where_scipy_does(name: str, problem: str):
    f, start = PROBLEMS[problem]
    with precision("float64"):
        flat, x0 = flat_function(f, start)
        theirs = scipy.optimize.minimize(flat, x0, jac=True, method="BFGS", options={"gtol": 1e-8})
        result = gdjax.minimize(f, cast(start, "float64"), METHODS[name](), steps=60)
        np.testing.assert_allclose(ravel_pytree(result.params)[0], theirs.x, rtol=1e-6, atol=1e-7)
        ours = int(np.argmax(result.history["grad_norm"] < 1e-6))
        assert 0 < ours <= 1.3 * theirs.nit + 3


@pytest.mark.full
@pytest.mark.parametrize("name", ["bfgs", "lbfgs", "ssbroyden"])
def test_a_loss_of_any_unit_is_minimized(name: str):
    """float32: a loss times a power of two. `bfgs` makes the same steps to the last bit; squares alone underflow."""
    tx, start = getattr(gdjax, name)(), jnp.array([-1.2, 1.0, 0.5])

    @jax.jit
    def points(unit: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            x, state = carry
            loss = lambda x: unit * jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
            value, grad = jax.value_and_grad(loss)(x)
            u, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=loss)
            return (x + u, state), x

        return jax.lax.scan(step, (start, tx.init(start)), length=60)[1]

    wanted = points(jnp.float32(1))
    for exponent in (-100, -80, -60, -20, -3, 20, 66, 100):
        found = points(jnp.float32(2.0**exponent))
        np.testing.assert_allclose(found[-1], 1, atol=1e-4)
        if name == "bfgs":
            np.testing.assert_array_equal(found, wanted)
        elif exponent in (-60, 20):
            np.testing.assert_array_equal(found[:6], wanted[:6])


@pytest.mark.full
@two_methods
def test_a_first_gradient_of_1e9_does_not_send_it_far_away(name: str):
    """An H of I was 1e7 times too large across the first step: at 7.9 and 60 after 400 steps."""
    with precision("float64"):
        f = lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
        assert f(gdjax.minimize(f, jnp.array([-120.0, 100.0]), METHODS[name](), steps=150).params) < 1e-12


# --- Bounds ---


def quadratic(n: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    Q, c = rng.normal(size=(n, n)), 2 * rng.normal(size=n)
    A = Q @ Q.T / n + 0.01 * np.eye(n)
    return lambda x: 0.5 * x @ (jnp.asarray(A, x.dtype) @ x) - jnp.asarray(c, x.dtype) @ x


def within(f: Any, start: Any, bounds: Any, tx: Any, steps: int) -> Any:
    """The run, after a look at every point of it."""

    def look(step: int, p: Any, state: Any, metrics: Any) -> bool:
        assert (np.asarray(p) >= np.asarray(bounds[0])).all() and (np.asarray(p) <= np.asarray(bounds[1])).all()
        return False

    return gdjax.minimize(f, start, tx, steps=steps, callback=look)


@pytest.mark.full
@pytest.mark.parametrize("n", [2, pytest.param(6, marks=pytest.mark.slow), 30])
@two_methods
def test_the_minimum_of_a_quadratic_within_bounds(name: str, n: int):
    bounds, start = (-0.5, 0.7), np.zeros(n)
    with precision("float64"):
        f = quadratic(n)
        flat, _ = flat_function(f, start)
        theirs = scipy.optimize.minimize(
            flat, start, jac=True, method="L-BFGS-B", bounds=[bounds] * n, options={"ftol": 0, "gtol": 1e-10}
        )
        result = within(f, jnp.asarray(start), bounds, METHODS[name](bounds=bounds), 40)
        np.testing.assert_allclose(result.params, theirs.x, rtol=1e-6, atol=1e-7)
        active = np.isin(theirs.x, bounds)
        np.testing.assert_array_equal(np.asarray(result.params)[active], theirs.x[active])  # at the bound to the bit
        gap = np.asarray(result.history["loss"]) - theirs.fun
        assert np.argmax(gap < 1e-9) <= theirs.nit + 3 and (n == 2 or 1 < active.sum() < n)


@pytest.mark.full
@two_methods
def test_rosenbrock_within_bounds(name: str):
    """A path along a bound, and a minimum at two of them: of other bounds for each number, some of them none."""
    f = lambda x: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
    lower, upper, start = [-2.0, 0.1, -np.inf, -2.0], [0.8, np.inf, np.inf, 0.1], [0.5, 0.4, 0.3, 0.1]
    with precision("float64"):
        flat, x0 = flat_function(f, np.array(start))
        theirs = scipy.optimize.minimize(
            flat, x0, jac=True, method="L-BFGS-B", bounds=list(zip(lower, upper, strict=True)),
            options={"ftol": 0, "gtol": 1e-10},
        )  # fmt: skip
        bounds = jnp.asarray(lower), jnp.asarray(upper)
        result = within(f, jnp.asarray(start), bounds, METHODS[name](bounds=bounds), 90)
        np.testing.assert_allclose(result.params, theirs.x, rtol=1e-6, atol=1e-7)
        assert np.isin(theirs.x, upper).any()


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", *slow(["float16"])])
def test_rounding_does_not_leave_the_bounds(dtype: str):
    """Bounds that no number of few bits is near to, from points far from them."""
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.uniform(-20, 20, 200), dtype)
    bound = jnp.asarray(rng.uniform(-0.01, 0.01, 200), dtype)
    lower, upper = jnp.minimum(start, bound), jnp.maximum(start, bound)
    tx = bfgs(bounds=(lower, upper), linesearch=None)
    for sign in (1, -1):
        u, _ = tx.update(jnp.full(200, sign * 100, dtype), tx.init(start), start)
        new = gdjax.apply_updates(start, u)
        assert (new >= lower).all() and (new <= upper).all()


@pytest.mark.full
def test_numbers_without_bounds_and_trees_of_bounds():
    f = lambda p: jnp.sum((p["a"] - 3) ** 2) + (p["b"] + p["a"][0] * 2) ** 2
    start = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    for bounds in [
        ({"a": None, "b": -1.0}, {"a": jnp.array([2.0, np.inf]), "b": None}),
        ({"a": jnp.array(-5.0), "b": jnp.array(-1.0)}, {"a": np.array([2.0, 7.0]), "b": 9}),
    ]:
        result = gdjax.minimize(f, start, bfgs(bounds=bounds), steps=20)
        np.testing.assert_allclose(result.params["a"], [1, 3], rtol=1e-4)
        assert result.params["b"] == -1
    free = gdjax.minimize(f, start, bfgs(bounds=(None, None)), steps=12)
    np.testing.assert_allclose(free.params["a"], [3, 3], rtol=1e-3)


def test_a_number_that_a_bound_holds_takes_no_part():
    """With x[0] held at 0 the step of x[1] is the Newton step of x[1] alone, and leaves its bound when g turns."""
    H = jnp.array([[2.0, -0.9], [-0.9, 1.0]])
    tx = scale_by_bfgs(bounds=(0.0, None))
    state = tx.init(jnp.zeros(2))._replace(pairs=jnp.int32(1), inverse_hessian=H)
    x = jnp.array([0.0, 5.0])
    u, _ = tx.update(jnp.array([3.0, 1.0]), state, x)
    np.testing.assert_allclose(u, [0, 1.0])
    u, _ = tx.update(jnp.array([-3.0, 1.0]), state, x)
    np.testing.assert_allclose(u, H @ jnp.array([-3.0, 1.0]), rtol=1e-6)
    # So near to its bound that a hundredth of its own step would cross it, a number goes there.
    u, _ = tx.update(jnp.array([3.0, 1.0]), state, jnp.array([0.05, 5.0]))
    np.testing.assert_allclose(u, [0.05, 1.0])
    u, _ = tx.update(jnp.array([3.0, 1.0]), state, jnp.array([0.07, 5.0]))
    np.testing.assert_allclose(u[0], 0.07)
    assert u[1] < 0  # H couples the two


def test_a_step_that_clipping_would_turn_uphill_is_shortened():
    p, g = jnp.array([1.0, 0.0]), jnp.array([10.0, -1.0])
    d = jnp.array([4.0, 8.0])  # downhill by the first number alone, which the bound stops after a quarter of it
    lower, upper, free = jnp.array([0.0, -99.0]), jnp.array([9.0, 99.0]), jnp.zeros(2, bool)
    assert g @ d > 0
    u = vectors.within_bounds(p, g, d, free, lower, upper)
    np.testing.assert_allclose(u, [1.0, 4.0])  # clipped at once it is (1, 8), a sixteenth of the descent
    u = vectors.within_bounds(p, g, jnp.array([4.0, 30.0]), free, lower, upper)
    np.testing.assert_allclose(u, [1.0, 7.5])


def test_before_there_is_a_pair_a_bound_is_far_by_the_length_of_the_first_step():
    tx = scale_by_bfgs(bounds=(0.0, None))
    u, _ = tx.update(jnp.array([3000.0, 4000.0]), tx.init(jnp.ones(2)), jnp.array([5.0, 0.005]))
    np.testing.assert_allclose(u, [1.0, 0.005], rtol=1e-6)  # the second goes to its bound, the first as if alone


@pytest.mark.full
def test_without_a_line_search_learning_rates_of_at_most_1_stay_inside():
    f, bounds = quadratic(6), (-0.5, 0.7)
    result = within(f, jnp.zeros(6), bounds, bfgs(0.5, linesearch=None, bounds=bounds), 30)
    assert result.history["loss"][-1] < result.history["loss"][0]
    for make in (bfgs, ssbroyden):
        with pytest.raises(
            ValueError, match=rf"gdjax.{make.__name__}: with bounds the learning_rate must be at most 1, g"
        ):
            make(2.0, bounds=bounds)
        with pytest.raises(ValueError, match=r"max_learning_rate of linesearch must be at most 1, got inf"):
            make(linesearch=gdjax.scale_by_zoom_linesearch(9), bounds=bounds)
        make(2.0, linesearch=gdjax.scale_by_zoom_linesearch(9))
        make(1.0, linesearch=gdjax.scale_by_backtracking_linesearch(9), bounds=bounds)


# --- What a state keeps, and forgets ---


@pytest.mark.full
@methods
def test_a_nan_or_an_infinity_is_forgotten(name: str):
    f = lambda x: jnp.sum(x**2 * jnp.array([1.0, 4.0]))
    tx, x = DIRECTIONS[name](), jnp.array([1.0, 2.0])
    for bad in (jnp.nan, jnp.inf):
        state = tx.init(x)
        for k in range(6):
            g = jax.grad(f)(x) if k != 3 else jnp.array([bad, 1.0])
            u, state = tx.update(g, state, x)
            x = x - 0.3 * jnp.where(jnp.isfinite(u), u, 0.0)
        assert not jnp.isnan(u).any() and u @ g > 0 and state.pairs == 3  # of 5 steps; two had the bad gradient


def test_h_begins_anew_where_rounding_has_made_it_indefinite():
    tx = scale_by_bfgs()
    state = tx.init(jnp.zeros(2))._replace(pairs=jnp.int32(7), inverse_hessian=jnp.array([[1.0, 0.0], [0.0, -1e-3]]))
    g = jnp.array([0.0, 2.0])
    u, state = tx.update(g, state, jnp.zeros(2))
    np.testing.assert_allclose(u, g / 2)
    np.testing.assert_array_equal(state.inverse_hessian, np.eye(2))
    assert state.pairs == 0


def test_tau_is_bounded_where_s_is_across_the_gradient():
    """<s, H^-1 s> is at least <s, y>^2 / <y, H y>, here just that, where <s, g>^2 / <g, H g> is 0."""
    tx = scale_by_bfgs(self_scaling=True)
    old = tx.init(jnp.zeros(2))._replace(count=jnp.int32(1), pairs=jnp.int32(1), slope=jnp.ones(()))
    old = old._replace(updates=jnp.array([0.0, 1.0]))
    _, state = tx.update(jnp.array([0.5, 1.0]), old, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(state.inverse_hessian, [[2.0, 0.0], [0.0, 2.0]], rtol=1e-6)  # tau is a half


def test_a_pair_too_large_for_the_dtype_leaves_h():
    tx = scale_by_bfgs()
    state = tx.init(jnp.zeros(2))
    for x, g in [(jnp.zeros(2), jnp.array([1e-25, 0.0])), (jnp.array([1e19, 0.0]), jnp.array([2e-25, 0.0]))]:
        u, state = tx.update(g, state, x)
    assert jnp.isfinite(state.inverse_hessian).all() and jnp.isfinite(u).all()
    huge = scale_by_bfgs()
    state = huge.init(jnp.zeros(2))._replace(count=jnp.int32(1), pairs=jnp.int32(1), updates=jnp.array([0.0, 1.0]))
    _, state = huge.update(jnp.array([1e-30, 1.0]), state, jnp.array([1e15, 0.0]))  # s s^T / <s, y> is 1e45
    np.testing.assert_array_equal(state.inverse_hessian, np.eye(2))
    assert state.pairs == 1


@pytest.mark.full
@methods
def test_zero_gradients_give_zero_updates_and_finite_derivatives(name: str):
    tx, x = DIRECTIONS[name](), jnp.ones(2)
    u, state = tx.update(jnp.zeros(2), tx.init(x), x)
    v, state = tx.update(jnp.zeros(2), state, x)
    assert not u.any() and not v.any() and state.pairs == 0
    jacobian = jax.jit(jax.jacobian(lambda g, state: tx.update(g, state, x)[0]))
    np.testing.assert_allclose(jacobian(jnp.zeros(2), tx.init(x)), np.eye(2))
    assert jnp.isfinite(jacobian(jnp.zeros(2), state)).all()


@pytest.mark.full
@methods
def test_one_number(name: str):
    result = gdjax.minimize(lambda x: (x - 3) ** 4 + x**2, jnp.zeros(()), METHODS[name](), steps=15)
    assert abs(4 * (result.params - 3) ** 3 + 2 * result.params) < 1e-3


@pytest.mark.full
def test_complex_parameters_equal_their_parts():
    target = jnp.array([1 + 2j, -3j, 0.5], jnp.complex64)

    def f(z: jax.Array) -> jax.Array:
        d = z - target
        return jnp.sum((d.real - d.imag) ** 4 + 3 * d.imag**2 + d.real**2)

    result = gdjax.minimize(f, jnp.zeros(3, jnp.complex64), ssbroyden(), steps=25)
    parts = gdjax.minimize(lambda x: f(jax.lax.complex(x[0], x[1])), jnp.zeros((2, 3)), ssbroyden(), steps=25)
    np.testing.assert_allclose(result.history["loss"][:8], parts.history["loss"][:8], rtol=1e-4)
    np.testing.assert_allclose(result.params, target, atol=1e-2)


@pytest.mark.full
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bit_parameters(dtype: Any):
    target = jnp.arange(4, dtype=dtype)
    tx = bfgs()
    result = gdjax.minimize(lambda p: jnp.sum((p - target) ** 2), jnp.ones(4, dtype), tx, steps=10)
    np.testing.assert_array_equal(result.params, target)
    assert [x.dtype for x in jax.tree.leaves(result.state)] == [x.dtype for x in jax.tree.leaves(tx.init(target))]
    assert result.state[0].inverse_hessian.dtype == jnp.float32


@pytest.mark.full
@two_methods
def test_integers_are_left_out_and_a_missing_gradient_moves_nothing(name: str):
    """H has no rows for integers. A leaf whose gradient is missing for a while keeps its rows, and does not move."""
    params = {"w": jnp.array([2.0, 1.0]), "n": jnp.arange(3), "none": None, "v": jnp.ones(1)}
    result = gdjax.minimize(lambda p: jnp.sum((p["w"] - 2) ** 2) + p["v"][0] ** 2, params, METHODS[name](), steps=8)
    np.testing.assert_allclose(result.params["w"], 2, rtol=1e-5)
    assert result.params["n"].dtype == jnp.int32 and result.params["none"] is None
    assert result.state[0].inverse_hessian.shape == (3, 3)

    tx, alone = DIRECTIONS[name](), DIRECTIONS[name]()
    x = {"v": jnp.ones(1), "w": jnp.array([2.0, 1.0])}
    state, lone = tx.init(x), alone.init({"w": x["w"]})
    for _ in range(3):
        g = x["w"] ** 3
        u, state = tx.update({"v": None, "w": g}, state, x)
        wanted, lone = alone.update({"w": g}, lone, {"w": x["w"]})
        assert u["v"] is None
        np.testing.assert_allclose(u["w"], wanted["w"], rtol=1e-6)
        x = {"v": x["v"], "w": x["w"] - 0.1 * u["w"]}
    u, _ = tx.update({"v": jnp.ones(1), "w": x["w"] ** 3}, state, x)
    assert u["v"] > 0


@pytest.mark.full
def test_vmap_equals_each_alone_and_a_donated_scan_runs():
    f, starts = PROBLEMS["beale"].f, (jnp.array([1.0, 2.0]), jnp.array([1.0, 0.5]))
    tx = ssbroyden()
    losses = jax.vmap(lambda *p: run(tx, f, p, 5)[2])(*starts)
    np.testing.assert_allclose(losses[1], run(tx, f, (starts[0][1], starts[1][1]), 5)[2], rtol=1e-5, atol=1e-6)

    state = tx.init(jnp.ones(3))
    assert len({x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)}) == len(jax.tree.leaves(state))
    step = jax.jit(lambda g, state, x: scale_by_ssbroyden().update(g, state, x), donate_argnums=1)
    for k in range(3):
        _, inner = step(jnp.ones(3) * k, state[0] if k == 0 else inner, jnp.ones(3) * k)  # noqa: F821
    assert inner.count == 3


@methods
def test_state_is_a_fixed_point(name: str):
    tx, params = (
        DIRECTIONS[name](),
        {"a": jnp.ones(2), "b": jnp.ones((1, 2), jnp.bfloat16), "c": jnp.ones(1, "complex64")},
    )
    init = tx.init(params)
    out = jax.eval_shape(lambda s: tx.update(params, s, params)[1], init)
    assert jax.tree.structure(init) == jax.tree.structure(out) and isinstance(init, ScaleByBFGSState)
    assert init.inverse_hessian.shape == (6, 6)
    for a, b in zip(jax.tree.leaves(init), jax.tree.leaves(out), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)


@pytest.mark.full
@pytest.mark.parametrize("bounds", [None, *slow([(0.0, 1.0)])])
def test_a_step_is_one_product_and_one_pass_in_place(bounds: Any):
    tx, x = scale_by_ssbroyden(bounds=bounds), jnp.ones(64)
    state = tx.init(x)
    text = str(jax.make_jaxpr(tx.update)(x, state, x))
    assert text.count("f32[64,2] = dot_general") == 1 and "f32[64,64] = dot_general" not in text
    with quick_compilation(False):
        compiled = jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=1).lower(x, state, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 64 * 4


def test_it_can_be_shown_and_divided_over_devices():
    params = {"w": jnp.zeros((16, 4)), "b": jnp.zeros(64)}
    table = str(gdjax.tabulate(gdjax.ssbroyden(), params))
    assert "inverse_hessian" in table or "64" in table
    assert "ssbroyden" in str(gdjax.explain(gdjax.ssbroyden(), params))
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("data",))
    spec = gdjax.state_sharding(scale_by_bfgs(), params, mesh).inverse_hessian.spec
    assert spec == jax.sharding.PartitionSpec("data", None)


def test_transforms_are_values():
    assert bfgs() == bfgs() != bfgs(self_scaling=True)
    assert bfgs(bounds=(0.0, 1.0)) == bfgs(bounds=(0.0, 1.0)) != bfgs(bounds=(0.0, 2.0))
    assert pickle.loads(pickle.dumps(ssbroyden(bounds=(0, None)))) == ssbroyden(bounds=(0, None))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bfgs(linesearch=0.1), TypeError, "bfgs: argument linesearch is 0.1, which has no init and update"),
        (lambda: scale_by_bfgs(bounds=1.0), TypeError, r"bfgs: bounds must be a pair \(lower, upper\), got 1.0"),
        (lambda: ssbroyden(bounds=(2, 1)), ValueError, r"ssbroyden: bounds are 2 and 1: nothing lies between"),
        (lambda: updated({}), ValueError, "scale_by_bfgs: this transform needs params"),
        (lambda: updated({"params": {"w": jnp.ones(3)}}), ValueError, r"updates\['w'\]: gradient shape \(2,\) .* \(3,"),
        (lambda: updated({"params": {"v": jnp.ones(2)}}), ValueError, r"updates\['v'\] is missing"),
        (lambda: scale_by_bfgs().init({"w": "x"}), TypeError, r"params\['w'\] is 'x'"),
        (
            lambda: scale_by_bfgs(bounds=(jnp.ones(3), None)).init({"w": jnp.ones(2)}),
            ValueError,
            r"scale_by_bfgs: .*bounds\[0\]",
        ),
        (
            lambda: scale_by_bfgs(bounds=({"w": jnp.ones(3)}, None)).init({"w": jnp.ones(2)}),
            ValueError,
            r"scale_by_bfgs: bounds\[0\]\['w'\] shape \(3,\) does not match params\['w'\] shape \(2,\)",
        ),
        (
            lambda: scale_by_bfgs(bounds=(0, None)).init({"w": jnp.ones(2, "complex64")}),
            TypeError,
            r"scale_by_bfgs: params\['w'\]: bounds does not support complex numbers",
        ),
        (
            lambda: scale_by_bfgs().update(jnp.ones(2), scale_by_bfgs().init(jnp.ones(3)), jnp.ones(2)),
            ValueError,
            r"scale_by_bfgs: .*has shape \(3,\), the gradient \(2,\)",
        ),
    ],
)
def test_misuse(call: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=r"gdjax\..*" + message):
        call()


def updated(arguments: dict[str, Any]) -> Any:
    tx, p = scale_by_bfgs(), {"w": jnp.ones(2)}
    return tx.update(p, tx.init(p), **arguments)
