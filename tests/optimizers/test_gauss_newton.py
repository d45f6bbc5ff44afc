"""Gauss-Newton: both algorithms in NumPy, units, SciPy on classic problems, agreement of the solvers, and misuse."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

import gdjax
from gdjax.linalg import least_squares
from gdjax.optimizers.gauss_newton import GaussNewtonState, gauss_newton
from tests.linesearch.problems import cast, precision

SOLVERS = "parameters", "residuals", "cg"
solvers = pytest.mark.parametrize("solver", SOLVERS)


def rosenbrock(x: Any) -> Any:
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def powell(x: Any) -> Any:
    """Singular at its minimum 0."""
    return jnp.stack([x[0] + 10 * x[1], 5**0.5 * (x[2] - x[3]), (x[1] - 2 * x[2]) ** 2, 10**0.5 * (x[0] - x[3]) ** 2])


def beale(x: Any) -> Any:
    return jnp.stack([c - x[0] * (1 - x[1] ** k) for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))])


def meyer(x: Any) -> Any:
    """More, Garbow & Hillstrom's number 10, as in NIST's MGH10: parameters of very different sizes, residuals left."""
    t = 45.0 + 5 * jnp.arange(1, 17, dtype=x.dtype)
    y = jnp.array(
        [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872.0]
    )
    return x[0] * jnp.exp(x[1] / (t + x[2])) - y.astype(x.dtype)


def misra(x: Any) -> Any:
    """NIST's Misra1a; the certified parameters and sum of squares are in the test."""
    t = jnp.array([77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0])
    y = jnp.array([10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78])
    return x[0] * (1 - jnp.exp(-x[1] * t.astype(x.dtype))) - y.astype(x.dtype)


def decay(x: Any) -> Any:
    t = jnp.linspace(0, 4, 20, dtype=x.dtype)
    y = 2 * jnp.exp(-0.5 * t) + jnp.exp(-3 * t) + 0.02 * jnp.sin(17 * t)
    return x[0] * jnp.exp(-x[1] * t) + x[2] * jnp.exp(-x[3] * t) - y


class Problem(NamedTuple):
    residuals: Callable[[Any], Any]
    start: list[float]
    steps: int  # of plain damping; a fifth to a half more than it takes; SciPy's calls: 21, 513 (to 0), 9, 130, 28, 7
    rtol: float = 1e-7  # of the sum of squares


PROBLEMS = {
    "rosenbrock": Problem(rosenbrock, [-1.2, 1.0], 18),
    "powell": Problem(powell, [3.0, -1.0, 0.0, 1.0], 25),
    "beale": Problem(beale, [1.0, 1.0], 12),
    "meyer": Problem(meyer, [0.02, 4000.0, 250.0], 220),
    "misra": Problem(misra, [500.0, 1e-4], 50),
    "decay": Problem(decay, [1.0, 0.3, 2.0, 2.0], 20),
}


def run(tx: Any, residuals: Any, params: Any, steps: int, **functions: Any) -> Any:
    """Params and state after each step."""

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = tx.update(params, state, params, residual_fn=residuals, **functions)
        params = gdjax.apply_updates(params, updates)
        return (params, state), (params, state)

    return jax.jit(lambda p, s: jax.lax.scan(step, (p, s), length=steps)[1])(params, tx.init(params))


def second_order(H: Any, v: np.ndarray, solve: Any, J: np.ndarray) -> tuple[Any, bool]:
    """Transtrum & Sethna's a, half of their acceleration, and whether it is short enough."""
    curve = np.asarray(H) @ v @ v
    a = solve(-J.T @ curve / 2)
    return a, bool(2 * np.linalg.norm(a) <= 0.75 * np.linalg.norm(v))


def in_numpy(
    residuals: Any, x: np.ndarray, steps: int, tau: float, most: int, geodesic: list[bool] | None = None
) -> list[tuple[np.ndarray, float]]:
    """Algorithm 3.16 of Madsen, Nielsen & Tingleff, several tries a step, with the bounds on lambda.

    With a list it is accelerated, and appends whether a was short.
    """
    r_of, J_of, H_of = (jax.jit(f) for f in (residuals, jax.jacfwd(residuals), jax.jacfwd(jax.jacfwd(residuals))))
    lam, eps, seen = 0.0, np.finfo(float).eps, []
    for _ in range(steps):
        r, J = np.asarray(r_of(x)), np.asarray(J_of(x))
        g, nu = J.T @ r, 2.0
        scale = np.sum((J @ g) ** 2) / np.sum(g**2)
        lam = np.clip(lam or tau * scale, eps * scale, scale / eps)
        for _ in range(most):
            solve = lambda b, J=J, lam=lam: np.linalg.solve(J.T @ J + lam * np.eye(J.shape[1]), b)
            v = solve(-g)
            a, short = (0, True) if geodesic is None else second_order(H_of(x), v, solve, J)
            if geodesic is not None:
                geodesic.append(short)
            s = v + a
            new = np.asarray(r_of(x + s))
            gain = (r @ r - new @ new) / 2 / (v @ (lam * v - g) / 2)
            if gain > 0 and short:
                x, lam = x + s, np.clip(lam * max(1 / 3, 1 - (2 * gain - 1) ** 3), eps * scale, scale / eps)
                break
            lam, nu = min(lam * nu, scale / eps), 2 * nu
        seen.append((x, lam))
    return seen


def more_in_numpy(residuals: Any, x: np.ndarray, steps: int, share: float, most: int) -> list[tuple[np.ndarray, float]]:
    """Moré's trust region, with lambda by Newton's steps from the least, so that |s| is within a tenth of R."""
    r_of, J_of = jax.jit(residuals), jax.jit(jax.jacfwd(residuals))
    R, D, eps, seen = 0.0, np.zeros(len(x)), np.finfo(float).eps, []
    for _ in range(steps):
        r, J = np.asarray(r_of(x)), np.asarray(J_of(x))
        D = np.maximum(D, np.sqrt(np.sum(J**2, 0)))
        d = np.where(D > 0, D, 1)
        B = J / d
        g, H = B.T @ r, B.T @ B
        low = 1000 * eps * np.sum((B @ g) ** 2) / np.sum(g**2)
        R = R or share * np.linalg.norm(D * x)
        for _ in range(most):
            lam = low
            for _ in range(6):
                s = np.linalg.solve(H + lam * np.eye(len(x)), -g)
                length, tried = np.linalg.norm(s), lam
                if length <= 1.1 * R and (length >= 0.9 * R or lam <= low):
                    break
                slope = s @ np.linalg.solve(H + lam * np.eye(len(x)), -s) / length
                lam = np.clip(lam + (1 - length / R) * length / slope, low, max(low, np.linalg.norm(g) / R))
            new = np.asarray(r_of(x + s / d))
            change = (new @ new - r @ r) / 2
            gain = change / (g @ s + np.sum((B @ s) ** 2) / 2)
            if gain <= 0.25:
                R = min(R, length) * np.clip(g @ s / (g @ s - change) / 2, 0.1, 0.5)
            elif gain >= 0.75 or tried <= low:
                R = 2 * length
            if gain > 0:
                x = x + s / d
                break
        seen.append((x, R))
    return seen


@pytest.mark.full
def test_equals_the_trust_region():
    """A first radius so large that steps are refused, and one so small that it grows."""
    with precision("float64"):
        for f, start in ((rosenbrock, [-1.2, 1.0]), (beale, [1.0, 1.0]), (meyer, [0.02, 4000.0, 250.0])):
            for share, most in ((100.0, 8), (100.0, 1), (1e-3, 8)):
                tx = gauss_newton(radius=share, max_tries=most, solver="parameters")
                xs, states = run(tx, f, jnp.array(start), 5)
                wanted, radii = map(np.array, zip(*more_in_numpy(f, np.array(start), 5, share, most), strict=True))
                np.testing.assert_allclose(xs, wanted, rtol=1e-6)
                good = np.sum(np.asarray(jax.vmap(f)(xs)) ** 2, 1) > 1e-12  # below that the gain is rounding
                np.testing.assert_allclose(states.limit[good], radii[good], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "solver"), [("decay", "parameters"), ("meyer", "auto"), ("rosenbrock", "residuals"), ("powell", "cg")]
)
def test_units_change_nothing(name: str, solver: str):
    """Each parameter in another unit, from 1e-6 to 1e6 of the first: the same residuals in every step."""
    f, start, *_ = PROBLEMS[name]
    with precision("float64"):
        tx, start = gauss_newton(solver=solver, cg_tol=1e-10), jnp.array(start)

        @jax.jit
        def seen(units: Any) -> Any:
            xs, _ = run(tx, lambda x: f(x * units), start / units, 5)
            return jax.vmap(f)(xs * units[None])

        wanted = seen(jnp.ones_like(start))
        for k in range(-6, 7):
            found = seen(10.0 ** (k * jnp.linspace(-1, 1, len(start))))
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-9 * float(abs(wanted[0]).max()))


def test_units_change_plain_damping():
    """Else the test above could not fail."""
    with precision("float64"):
        xs, _ = run(gauss_newton(1e-3), rosenbrock, jnp.array([-1.2, 1.0]), 5)
        scaled, _ = run(gauss_newton(1e-3), lambda x: rosenbrock(x * 1e3), jnp.array([-1.2e-3, 1.0e-3]), 5)
        np.testing.assert_allclose(scaled * 1e3, xs, rtol=1e-6)  # one unit for both
        units = jnp.array([1e3, 1.0])
        scaled, _ = run(gauss_newton(1e-3), lambda x: rosenbrock(x * units), jnp.array([-1.2e-3, 1.0]), 5)
        assert abs(scaled * units[None] - xs).max() > 0.1


@solvers
def test_equals_the_algorithm(solver: str):
    """A first lambda so small that steps are refused, and one so large that it falls in every step."""
    with precision("float64"):
        for tau, most in ((1e-8, 8), (1e-8, 1), (10.0, 8)):
            tx, start = gauss_newton(tau, solver=solver, max_tries=most, cg_tol=1e-14), np.array([-1.2, 1.0])
            xs, states = run(tx, rosenbrock, jnp.asarray(start), 8)
            wanted, lams = map(np.array, zip(*in_numpy(rosenbrock, start, 8, tau, most), strict=True))
            np.testing.assert_allclose(xs, wanted, rtol=1e-6)
            np.testing.assert_allclose(states.limit, lams, rtol=1e-5)
            assert (np.diff(lams) > 0).any() == (tau < 1)
            assert ((wanted[1:] == wanted[:-1]).all(1)).any() == (most == 1)


@pytest.mark.parametrize("damping", [None, 1e-3], ids=["scaled", "plain"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_ends_where_scipy_does(name: str, damping: float | None):
    f, start, steps, rtol = PROBLEMS[name]
    with precision("float64"):
        x0 = jnp.array(start)
        theirs = scipy.optimize.least_squares(
            jax.jit(f), start, jax.jit(jax.jacfwd(f)), method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15, x_scale="jac",
            max_nfev=2000,
        )  # fmt: skip
        xs, _ = run(gauss_newton(damping), f, x0, steps)
        ours = 0.5 * float(jnp.sum(f(xs[-1]) ** 2))
        np.testing.assert_allclose(ours, theirs.cost, rtol=rtol, atol=1e-15)
        if theirs.cost > 1e-10:
            np.testing.assert_allclose(xs[-1], theirs.x, rtol=1e-5)


def test_certified_by_nist():
    with precision("float64"):
        xs, _ = run(gauss_newton(1e-3), misra, jnp.array([500.0, 1e-4]), 60)
        np.testing.assert_allclose(xs[-1], [2.3894212918e2, 5.5015643181e-4], rtol=1e-8)
        np.testing.assert_allclose(jnp.sum(misra(xs[-1]) ** 2), 1.2455138894e-1, rtol=1e-9)


def network(params: Any, t: Any) -> Any:
    h = jnp.tanh(params["a"]["w"] * t + params["a"]["b"])
    return params["out"] @ h - jnp.sin(3 * t)


def small_network(dtype: str) -> Any:
    rng = np.random.default_rng(0)
    return cast({"a": {"w": rng.normal(size=5), "b": rng.normal(size=5)}, "out": rng.normal(size=5)}, dtype)


@pytest.mark.parametrize("n", [9, 40])  # fewer residuals than parameters, and more
def test_solvers_agree(n: int):
    """With plain damping: within a trust region conjugate gradients end at another point of its edge."""
    with precision("float64"):
        params, t = small_network("float64"), jnp.linspace(-1, 1, n)
        residuals = lambda p: {"at": jax.vmap(network, (None, 0))(p, t)}
        each = lambda p: {"at": jax.vmap(jax.grad(network), (None, 0))(p, t)}
        ends = [run(gauss_newton(1e-3, solver=x, cg_tol=1e-13), residuals, params, 6) for x in (*SOLVERS, "auto")]
        ends += [run(gauss_newton(1e-3, solver=x), residuals, params, 6, jacobian_fn=each) for x in SOLVERS[:2]]
        for end in ends[1:]:
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-8), end, ends[0])


@solvers
def test_solvers_reach_one_minimum(solver: str):
    with precision("float64"):
        params, t = small_network("float64"), jnp.linspace(-1, 1, 40)
        residuals = lambda p: jax.vmap(network, (None, 0))(p, t)
        each = lambda p: jax.vmap(jax.grad(network), (None, 0))(p, t)
        given = {} if solver == "cg" else {"jacobian_fn": each}
        ends, _ = run(gauss_newton(solver=solver), residuals, params, 120, **given)
        after = jax.vmap(lambda p: jnp.mean(residuals(p) ** 2))(ends)
        assert (np.diff(after) <= 0).all() and float(after[-1]) < 1e-7


def test_plain_damping_follows_a_bent_valley_in_float32():
    """Meyer's problem with parameters of one size: J^T J has a condition number of 1e9, and lambda gets small."""
    residuals = lambda x: 1e-3 * meyer(x * np.float32([1e3 * np.exp(-13), 1e3, 100]))
    run = jax.jit(
        lambda x: gdjax.solve(
            lambda x: jnp.sum(residuals(x) ** 2) / 2, x, gauss_newton(10.0, geodesic=True, decrease_tol=0.0),
            steps=100, tol=1e-3, extra_fns={"residual_fn": residuals},
        )
    )(jnp.array([40.0, 50, 30]))  # fmt: skip
    np.testing.assert_allclose(run.params, [2.482, 6.1813, 3.4522], rtol=1e-3)


@pytest.mark.full
@pytest.mark.parametrize("damping", [None, 1e-3], ids=["scaled", "plain"])
def test_float32_fits_a_network(damping: float | None):
    params, t = small_network("float32"), jnp.linspace(-1, 1, 40)
    residuals = lambda p: jax.vmap(network, (None, 0))(p, t)
    ends, states = run(gauss_newton(damping), residuals, params, 60)
    after = jax.vmap(lambda p: jnp.mean(residuals(p) ** 2))(ends)
    assert float(after[-1]) < 1e-6 * float(jnp.mean(residuals(params) ** 2))
    assert (np.diff(after) <= 1e-9).all() and states.limit.dtype == jnp.float32


@solvers
@pytest.mark.parametrize("damping", [None, 1e-3], ids=["scaled", "plain"])
def test_columns_of_zeros_and_columns_that_depend_on_each_other(solver: str, damping: float | None):
    """The damped step is along the rows of J, in the metric of D: what moves no residual does not move."""
    A = np.random.default_rng(0).normal(size=(6, 3))
    A = np.concatenate([A, np.zeros((6, 1)), A @ [[1.0], [2.0], [0.0]]], 1)
    D = np.ones(5) if damping else np.where(np.linalg.norm(A, axis=0) > 0, np.linalg.norm(A, axis=0), 1)
    b = np.arange(6.0)
    with precision("float64"):
        tx = gauss_newton(damping, solver=solver, cg_tol=1e-12)
        xs, _ = run(tx, lambda x: A @ x - b, jnp.zeros(5), 25 if damping else 8)
    rtol = 1e-6 if damping else 2e-2  # lambda is a thousandth of eps, so that rounding of g is one of a step
    np.testing.assert_allclose(xs[-1], np.linalg.pinv(A / D) @ b / D, rtol=rtol, atol=1e-8)
    np.testing.assert_array_equal(xs[:, 3], 0)


@solvers
@pytest.mark.parametrize("damping", [None, 1e-3], ids=["scaled", "plain"])
def test_more_parameters_than_residuals(solver: str, damping: float | None):
    A, b = np.random.default_rng(0).normal(size=(3, 7)), np.array([1.0, -2.0, 0.5])
    D = np.ones(7) if damping else np.linalg.norm(A, axis=0)
    residuals = lambda x: jnp.asarray(A, x.dtype) @ x - jnp.asarray(b, x.dtype)
    xs, _ = run(gauss_newton(damping, solver=solver), residuals, jnp.zeros(7), 20 if damping else 8)
    np.testing.assert_allclose(A @ np.asarray(xs[-1], float), b, atol=1e-5)
    np.testing.assert_allclose(xs[-1], np.linalg.pinv(A / D) @ b / D, atol=1e-4)


@solvers
def test_at_a_minimum_nothing_moves(solver: str):
    tx, x = gauss_newton(solver=solver), jnp.zeros(3)

    @jax.jit
    def step(state: Any, a: Any, b: Any, c: Any) -> Any:
        return tx.update(x, state, x, residual_fn=lambda x: a * x + b * x**2 + c)

    for numbers in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):  # J is zeros in the last two
        u, state = step(tx.init(x), *numbers)
        np.testing.assert_array_equal(u, 0)
        assert float(state.limit) == 0
        u, _ = step(state, 1.0, 0.0, -1.0)
        assert (u > 0.9).all()


@solvers
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_residuals_that_are_not_finite_are_forgotten(solver: str, bad: float):
    tx, x = gauss_newton(solver=solver), jnp.array([3.0, 4.0])

    @jax.jit
    def step(state: Any, by: Any) -> Any:
        return tx.update(x, state, x, residual_fn=lambda x: (x - 1) * jnp.where(jnp.arange(2) == 0, by, 1))

    _, before = step(tx.init(x), 1.0)
    u, state = step(before, bad)
    assert np.isnan(u).all() and state.limit == before.limit
    np.testing.assert_array_equal(state.scale, before.scale)
    u, _ = step(state, 1.0)
    np.testing.assert_allclose(x + u, 1, atol=0.01)


@pytest.mark.full
def test_a_step_to_residuals_that_are_not_finite_is_refused():
    """The full step leaves the domain of the logarithm; a shorter one is taken, or none."""
    x, f = jnp.array([5.0]), lambda x: jnp.log(x) + 1  # the full step goes from 5 to -8
    zero = GaussNewtonState(jnp.zeros(()), ())
    u, state = gauss_newton(1e-6).update(x, zero, x, residual_fn=f)
    assert -5 < float(u[0]) < 0 and state.limit > 1e-6 * 0.04
    u, once = gauss_newton(1e-6, max_tries=1).update(x, zero, x, residual_fn=f)
    np.testing.assert_array_equal(u, 0)
    np.testing.assert_allclose(once.limit, 2e-6 * 0.04, rtol=1e-4)
    tx = gauss_newton(radius=10.0)
    u, state = tx.update(x, tx.init(x), x, residual_fn=f)
    assert -5 < float(u[0]) < 0 and state.limit < 10
    u, once = gauss_newton(radius=10.0, max_tries=1).update(x, tx.init(x), x, residual_fn=f)
    np.testing.assert_array_equal(u, 0)
    np.testing.assert_allclose(once.limit, 0.1 * (1 + np.log(5)), rtol=2e-4)  # lambda is 1000 eps of 1


@pytest.mark.full
def test_the_gradient_says_only_what_is_trained():
    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3), "c": jnp.array(0.5)}
    residuals = lambda x: x["a"] * x["c"] - x["b"].astype(jnp.float32)
    grads = jax.grad(lambda x: jnp.sum(residuals(x) ** 2), allow_int=True)(x)
    tx = gauss_newton(radius=10.0)
    step = jax.jit(lambda g, x: tx.update(g, tx.init(x), x, residual_fn=residuals)[0])
    u, twice = step(grads, x), step({**grads, "a": 2 * grads["a"]}, x)
    assert u["b"].dtype == jax.dtypes.float0
    np.testing.assert_array_equal(u["a"], twice["a"])
    fixed = {**grads, "c": np.zeros((), jax.dtypes.float0)}  # frozen
    u = tx.update(fixed, tx.init(x), x, residual_fn=residuals)[0]
    np.testing.assert_allclose((x["a"] + u["a"]) * 0.5, 3, rtol=1e-2)
    nothing = {k: np.zeros(jnp.shape(v), jax.dtypes.float0) for k, v in x.items()}
    assert tx.update(nothing, tx.init(x), x, residual_fn=residuals)[0] is nothing


def test_parameters_without_numbers():
    tx, params = gdjax.gauss_newton(), {"a": jnp.ones(0), "b": jnp.ones((0, 3))}
    updates, _ = tx.update(params, tx.init(params), params, residual_fn=lambda p: jnp.ones(2))
    assert jax.tree.map(jnp.shape, updates) == {"a": (0,), "b": (0, 3)}


def test_complex_parameters_are_pairs_of_real_ones():
    A = np.random.default_rng(0).normal(size=(4, 2)) + 1j * np.random.default_rng(1).normal(size=(4, 2))
    A, b = jnp.asarray(A, jnp.complex64), jnp.arange(4.0)

    def residuals(z: Any) -> Any:
        r = A @ z - b.astype(z.dtype)
        return r.real, r.imag

    zs, _ = run(gauss_newton(), residuals, jnp.zeros(2, jnp.complex64), 20)
    np.testing.assert_allclose(zs[-1], np.linalg.lstsq(A, b, rcond=None)[0], rtol=1e-3)


@pytest.mark.full
def test_lanes_of_vmap_are_runs_by_themselves():
    tx, starts = gauss_newton(), jnp.array([[-1.2, 1.0], [3.0, 0.9], [0.0, -2.0]])
    together, _ = jax.vmap(lambda x: run(tx, rosenbrock, x, 12))(starts)
    alone = jnp.stack([run(tx, rosenbrock, x, 12)[0] for x in starts])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@solvers
def test_geodesic_steps_with_plain_damping(solver: str):
    """Some are refused for their bend alone."""
    with precision("float64"):
        for f, start in ((rosenbrock, [-1.2, 1.0]), (beale, [1.0, 0.2])):
            tx = gauss_newton(1e-6, solver=solver, cg_tol=1e-14, geodesic=True)
            xs, states = run(tx, f, jnp.array(start), 5)
            wanted, lams = map(np.array, zip(*in_numpy(f, np.array(start), 5, 1e-6, 8, short := []), strict=True))
            np.testing.assert_allclose(xs, wanted, rtol=1e-6)
            np.testing.assert_allclose(states.limit, lams, rtol=1e-5)
            assert True in short and False in short


@pytest.mark.full
@solvers
def test_geodesic_steps_in_a_trust_region(solver: str):
    """Full Gauss-Newton steps in other units: the same a, and D measures it."""
    x, d = np.array([1.2, 0.8]), np.array([1e-3, 1e3])
    with precision("float64"):
        f = lambda z: jnp.stack([z[0] + 0.2 * z[0] * z[1] - 1, z[1] - 0.1 * z[0] ** 2])
        J, r = np.asarray(jax.jacfwd(f)(x)), np.asarray(f(x))
        solve = lambda b: np.linalg.solve(J.T @ J, b)
        v = solve(-J.T @ r)
        a, _ = second_order(jax.jacfwd(jax.jacfwd(f))(x), v, solve, J)
        assert np.linalg.norm(a) > 0.02 * np.linalg.norm(v)
        for geodesic in (False, True):
            tx = gauss_newton(geodesic=geodesic, radius=100.0, solver=solver, cg_tol=1e-14)
            found, _ = run(tx, lambda y: f(y * d), jnp.asarray(x / d), 1)
            np.testing.assert_allclose(found[0] * d - x, v + a if geodesic else v, rtol=1e-6)


def test_geodesic_steps_follow_a_narrow_valley():
    """From this start the tenth step is where the twentieth of straight ones is."""
    with precision("float64"):
        f = lambda x: jnp.stack([x[0], 1000 * (x[1] - jnp.sin(x[0]))])
        losses = []
        for geodesic in (False, True):
            xs, _ = run(gauss_newton(1e-3, geodesic=geodesic), f, jnp.array([6.0, jnp.sin(6.0)]), 20)
            losses.append(jax.vmap(lambda x: jnp.sum(f(x) ** 2))(xs))
        assert losses[1][10] < losses[0][-1]


class Batches(NamedTuple):
    """Residuals tanh(A x) - b of points drawn anew for each step."""

    A: np.ndarray  # (steps, m, n)
    b: np.ndarray  # (steps, m)

    def in_numpy(self, x: np.ndarray, lam: Any, mu: float, most: float) -> Any:
        """Algorithm 1 of SPRING, with the rate 1: the solution is near mu times the last, before its norm was cut."""
        last, seen = np.zeros(len(x)), []
        for k, (A, b) in enumerate(zip(self.A, self.b, strict=True)):
            J = (1 - np.tanh(A @ x) ** 2)[:, None] * A
            e = b - np.tanh(A @ x)
            last = J.T @ np.linalg.solve(J @ J.T + lam(k) * np.eye(len(b)), e - mu * J @ last) + mu * last
            x = x + last * min(1, most / np.linalg.norm(last))
            seen.append((x, last))
        return tuple(map(np.array, zip(*seen, strict=True)))

    def run(self, tx: Any, x: Any, elsewhere: float = np.nan) -> Any:
        """Residuals are asked for at the parameters alone: elsewhere they are no numbers."""

        def step(carry: Any, batch: Any) -> Any:
            x, state = carry
            A, b = batch
            here = lambda y: jnp.where((y == x).all(), jnp.tanh(A @ y) - b, elsewhere)
            u, state = tx.update(x, state, x, residual_fn=here)
            return (x + u, state), (x + u, state)

        batches = jnp.asarray(self.A, x.dtype), jnp.asarray(self.b, x.dtype)
        return jax.jit(lambda x, s: jax.lax.scan(step, (x, s), batches)[1])(x, tx.init(x))


def batches(steps: int, m: int, n: int) -> Batches:
    rng = np.random.default_rng(1)
    return Batches(rng.normal(size=(steps, m, n)), 0.5 * rng.normal(size=(steps, m)))


@solvers
def test_steps_that_are_always_taken(solver: str):
    """More parameters than residuals, a schedule of lambda, and a norm that cuts some steps."""
    data, lam = batches(8, 4, 6), lambda count: 0.5 / (1.0 + jnp.asarray(count, float))
    with precision("float64"):
        tx = gauss_newton(lam, max_tries=0, momentum=0.9, max_norm=1.5, solver=solver, cg_tol=1e-13)
        xs, states = data.run(tx, jnp.ones(6))
        wanted, lasts = data.in_numpy(np.ones(6), lam, 0.9, 1.5)
        np.testing.assert_allclose(xs, wanted, rtol=1e-8)
        np.testing.assert_allclose(states.step, lasts, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(states.limit, [lam(k) for k in range(8)], rtol=1e-12)
        np.testing.assert_array_equal(states.count, 1 + np.arange(8))
        cut = np.linalg.norm(lasts, axis=1) > 1.5
        assert cut.any() and not cut.all()


def test_settings_of_one_solve_alone():
    """minSR is no momentum, and mu = 0 is the same; a step in one batch of all points is LSQR's."""
    data = batches(3, 5, 3)
    with precision("float64"):
        xs, states = data.run(gauss_newton(0.1, max_tries=0), jnp.ones(3))
        none, _ = data.run(gauss_newton(0.1, max_tries=0, momentum=0.0), jnp.ones(3))
    wanted, _ = data.in_numpy(np.ones(3), lambda k: 0.1, 0.0, np.inf)
    np.testing.assert_allclose(xs, wanted, rtol=1e-9)
    np.testing.assert_allclose(none, wanted, rtol=1e-9)
    assert states.step == states.scale == () and not states.steady.any()


@solvers
def test_geodesic_steps_that_are_always_taken(solver: str):
    """With a where it is short, and without where it is long."""
    x = np.zeros(2)
    f = lambda z, bend: jnp.stack([z[0] - 1 + bend * z[1] ** 2, z[1] - 0.5 + z[0] * z[1], z[0] / 2])
    with precision("float64"):
        tx = gauss_newton(0.1, max_tries=0, geodesic=True, solver=solver, cg_tol=1e-14)
        step = jax.jit(lambda x, bend: tx.update(x, tx.init(x), x, residual_fn=lambda z: f(z, bend))[0])
        for bend, wanted in ((0.5, True), (3.0, False)):
            of = lambda z, bend=bend: f(z, bend)
            J, r = np.asarray(jax.jacfwd(of)(x)), np.asarray(of(x))
            solve = lambda b, J=J: np.linalg.solve(J.T @ J + 0.1 * np.eye(2), b)
            v = solve(-J.T @ r)
            a, short = second_order(jax.jacfwd(jax.jacfwd(of))(x), v, solve, J)
            assert short == wanted
            np.testing.assert_allclose(step(jnp.asarray(x), bend), v + a if short else v, rtol=1e-8)


def test_a_step_that_is_always_taken_forgets_what_is_not_finite():
    tx, x = gauss_newton(1e-3, max_tries=0, momentum=0.9), jnp.array([3.0, 4.0])
    step = jax.jit(lambda state, by: tx.update(x, state, x, residual_fn=lambda x: (x - 1) * by))
    _, before = step(tx.init(x), jnp.ones(2))
    u, after = step(before, jnp.array([1.0, np.inf]))
    assert np.isnan(u).all() and after.count == 2
    np.testing.assert_array_equal(after.step, before.step)
    np.testing.assert_array_equal(after.limit, before.limit)
    dependent = lambda x: jnp.stack([x[0] + x[1] - 1, x[0] + x[1] - 1, x[2] - 1])
    tiny, y = gauss_newton(1e-37, max_tries=0, momentum=0.9, solver="parameters"), jnp.array([3.0, 4.0, 2.0])
    start = tiny.init(y)._replace(step=jnp.array([0.0, 0.0, 0.125]))
    u, after = tiny.update(y, start, y, residual_fn=dependent)
    np.testing.assert_allclose([u[0] + u[1], u[2]], [-6, -1], rtol=1e-5)  # lambda is eps of the curvature
    # That is too little beside much larger columns along which there is no gradient.
    steep = lambda x: jnp.stack([1e4 * (x[0] + x[1] - 7), 1e4 * (x[0] + x[1] - 7), x[2] - 1])
    u, after = tiny.update(y, start, y, residual_fn=steep)
    assert np.isnan(u).all()
    np.testing.assert_array_equal(after.step, start.step)
    u, after = step(tx.init(x), jnp.zeros(2))  # J = 0
    np.testing.assert_array_equal(u, 0)
    u, _ = step(before, jnp.zeros(2))  # nothing but momentum
    np.testing.assert_allclose(u, 0.9 * before.step, rtol=1e-6)


def test_minimize_gives_it_residuals_of_the_batch():
    t = jnp.linspace(0, 2, 10)
    data = [(t, 3 * jnp.exp(-t))]

    def residuals(p: Any, batch: Any) -> Any:
        t, y = batch
        return p["size"] * jnp.exp(-p["rate"] * t) - y

    def loss(p: Any, batch: Any) -> Any:
        return jnp.mean(residuals(p, batch) ** 2)

    jacobian = lambda p, batch: jax.jacrev(residuals)(p, batch)
    start = {"size": jnp.ones(()), "rate": jnp.zeros(())}
    for functions in ({"residual_fn": residuals}, {"residual_fn": residuals, "jacobian_fn": jacobian}):
        result = gdjax.minimize(loss, start, gauss_newton(), steps=12, data=data, extra_fns=functions)
        np.testing.assert_allclose([result.params["size"], result.params["rate"]], [3, 1], rtol=1e-4)
    with pytest.raises(TypeError, match=r"extra_fns\['residual_fn'\] must be a function"):
        gdjax.minimize(loss, start, gauss_newton(), steps=1, data=data, extra_fns={"residual_fn": 1})
    with pytest.raises(ValueError, match="extra_fns has 'value_fn', which is made from loss_fn"):
        gdjax.minimize(loss, start, gauss_newton(), steps=1, data=data, extra_fns={"value_fn": loss})


def test_decomposes_the_smaller_matrix():
    """And with conjugate gradients none, nor does it keep a Jacobian."""

    def shapes(n: int, m: int, solver: Any) -> set[Any]:
        x, tx = jnp.zeros(n), gauss_newton(solver=solver)
        residuals = lambda x: jnp.resize(x, m) - 1
        step = jax.make_jaxpr(lambda x: tx.update(x, tx.init(x), x, residual_fn=residuals))(x)
        return {match for match in ("cholesky",) if match in str(step)} | {
            f"{k},{k}" for k in (n, m) if f"f32[{k},{k}]" in str(step)
        }

    assert shapes(7, 31, "auto") == {"cholesky", "7,7"}
    assert shapes(31, 7, "auto") == {"cholesky", "7,7"}
    assert "31,31" in shapes(31, 7, "parameters")
    assert shapes(61, 37, "cg") == set()


def freudenstein_roth(x: Any) -> Any:
    """More, Garbow & Hillstrom's number 2: from this start to a minimum with large residuals."""
    return jnp.stack([x[0] - 13 + ((5 - x[1]) * x[1] - 2) * x[1], x[0] - 29 + ((x[1] + 1) * x[1] - 14) * x[1]])


def jennrich_sampson(x: Any) -> Any:
    i = jnp.arange(1, 11, dtype=x.dtype)
    return 2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


@pytest.mark.full
@pytest.mark.parametrize("damping", [None, 1e-3], ids=["scaled", "plain"])
def test_a_run_ends_at_a_minimum_with_large_residuals(damping: float | None):
    with precision("float64"):
        for f, start, least in (
            (freudenstein_roth, [0.5, -2.0], 48.98425367924), (jennrich_sampson, [0.3, 0.4], 124.3621823556),
        ):  # fmt: skip
            loss, given = lambda x, f=f: jnp.sum(f(x) ** 2), {"residual_fn": f}
            result = gdjax.minimize(loss, jnp.array(start), gauss_newton(damping), steps=60, extra_fns=given)
            assert result.converged and result.steps < 40 and "within decrease_tol of gauss_newton" in result.message
            np.testing.assert_allclose(result.history["loss"][-1], least, rtol=1e-11)
    tx = gauss_newton(decrease_tol=0.0)
    assert gdjax.minimize(loss, jnp.array(start), tx, steps=40, extra_fns=given).steps == 40
    on_a_batch = {"residual_fn": lambda x, b: f(x)}
    result = gdjax.minimize(
        lambda x, b: loss(x), jnp.array(start), gauss_newton(), steps=40, data=[0], extra_fns=on_a_batch
    )
    assert result.steps == 40  # the next one may have other points


def test_a_short_limit_is_no_minimum():
    """From a distance of 1e-9 on steps grow, though the first ones hardly lower f."""
    with precision("float64"):
        loss, given = lambda x: jnp.sum(rosenbrock(x) ** 2), {"residual_fn": rosenbrock}
        tx = gauss_newton(radius=1e-14)
        result = gdjax.minimize(loss, jnp.array([-1.2, 1.0]), tx, steps=200, extra_fns=given)
        assert result.history["loss"][-1] < 1e-20


def test_the_search_for_lambda_ends_within_its_limit_for_an_ill_conditioned_jacobian():
    """Singular values over twelve decades: it took six trials, and then a lambda far too large."""
    rng = np.random.default_rng(0)
    with precision("float64"):
        U, V = (np.linalg.qr(rng.normal(size=(30, 30)))[0] for _ in range(2))
        J, r = jnp.asarray(U * np.logspace(0, -12, 30) @ V), jnp.asarray(rng.normal(size=30))
        linear = least_squares.dense(J, r, "residuals")
        for radius in (1e-2, 1.0, 1e2, 1e4):
            s, ends, damping = jax.jit(linear.within)(jnp.asarray(radius))
            np.testing.assert_allclose(jnp.linalg.norm(s), radius, rtol=0.11)
            assert ends
            np.testing.assert_allclose(jax.jit(linear.solver(damping))(r, linear.g), s, rtol=1e-6)


def test_the_lambda_of_a_truncated_step():
    """One that ends along the gradient, and the whole step, whose lambda is the least."""
    with precision("float64"):
        J, r = jnp.array([[3.0, 1.0], [0.0, 0.5], [1.0, 2.0]]), jnp.array([1.0, -2.0, 0.5])
        linear = least_squares.by_products(lambda v: J @ v, lambda v: J.T @ v, r, 10, jnp.asarray(1e-14))
        s, ends, damping = linear.within(jnp.asarray(1e-2))
        length = jnp.linalg.norm(linear.g)
        np.testing.assert_allclose(s, -1e-2 * linear.g / length, rtol=1e-12)
        np.testing.assert_allclose(damping, length / 1e-2 - linear.curvature, rtol=1e-10)
        assert ends
        _, ends, damping = linear.within(jnp.asarray(10.0))
        assert not ends and damping < 1e-10


def test_products_are_exact_on_every_device():
    x = jnp.ones(3)
    for make in (gauss_newton, gdjax.scale_by_bfgs, gdjax.scale_by_ssbroyden):
        for solver in SOLVERS if make is gauss_newton else (None,):
            tx = make(solver=solver) if solver else make()
            given = {"residual_fn": lambda x: jnp.sin(x) * x - 1} if solver else {}
            step = lambda x, tx=tx, given=given: tx.update(x, tx.init(x), x, **given)[0]
            text = str(jax.make_jaxpr(step)(x))
            dots = text.split("dot_general[")[1:]
            assert dots and all("precision=(Precision.HIGHEST, Precision.HIGHEST)" in dot[:400] for dot in dots)


def ravelled(tree: Any) -> Any:
    return ravel_pytree(tree)[0]


MISUSES = {
    "no residuals": ({}, ValueError, r"update needs residual_fn=\.\.\., the residuals as a function of the parameters"),
    "residuals, not a function": ({"residual_fn": jnp.ones(3)}, TypeError, "residual_fn must be a function of the"),
    "a Jacobian, not a function": (
        {"residual_fn": ravelled, "jacobian_fn": 1}, TypeError, "jacobian_fn must be a function of the",
    ),
    "a loss": (
        {"residual_fn": lambda p: jnp.sum(ravelled(p) ** 2)}, ValueError, "residual_fn returned one scalar; return the",
    ),
    "none": ({"residual_fn": lambda p: []}, ValueError, "residual_fn returned no residuals"),
    "integers": (
        {"residual_fn": lambda p: {"r": jnp.ones(2, int)}}, TypeError,
        r"the result of residual_fn\['r'\] has dtype int32, not a real floating one$",
    ),
    "complex": (
        {"residual_fn": lambda p: ravelled(p).astype(jnp.complex64)}, TypeError,
        "has dtype complex64, not a real floating one; return the real and the imaginary part",
    ),
    "a Jacobian of another shape": (
        {"residual_fn": ravelled, "jacobian_fn": lambda p: p}, ValueError,
        r"returned a derivative of shape \(2,\) for residuals of shape \(5,\) and a .* \(2,\); expected \(5, 2\)",
    ),
    "a Jacobian of other parameters": (
        {"residual_fn": ravelled, "jacobian_fn": lambda p: jax.jacrev(ravelled)(p)["a"]}, ValueError, "gauss_newton: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSES)
def test_misuse(name: str):
    given, error, message = MISUSES[name]
    tx, params = gauss_newton(), {"a": jnp.ones(2), "b": jnp.ones(3)}
    with pytest.raises(error, match=message):
        tx.update(params, tx.init(params), params, **given)


def test_a_jacobian_is_of_real_parameters():
    z, tx = jnp.ones(2, jnp.complex64), gauss_newton()
    with pytest.raises(TypeError, match="jacobian_fn is for real parameters; without it they may be complex"):
        tx.update(z, tx.init(z), z, residual_fn=lambda z: z.real, jacobian_fn=lambda z: z)


def test_misuse_at_construction():
    for make, message in (
        (lambda: gauss_newton(0.0), "damping must be finite and above 0"),
        (lambda: gauss_newton(radius=0.0), "radius must be finite and above 0"),
        (lambda: gauss_newton(lambda t: 1.0), "damping must be a number: there is no count for a schedule"),
        (lambda: gauss_newton(max_tries=0), r"max_tries=0 needs damping=\.\.\., which then is lambda itself"),
        (lambda: gauss_newton(1.0, momentum=0.9), "momentum is for steps that are always taken: set max_tries=0 too"),
        (lambda: gauss_newton(1.0, max_norm=0.9), "max_norm is for steps that are always taken: set max_tries=0 too"),
        (lambda: gauss_newton(1.0, max_tries=0, momentum=1.5), r"momentum must be in \[0, 1\]"),
        (lambda: gauss_newton(1.0, max_tries=0, max_norm=0.0), "max_norm must be finite and above 0"),
        (
            lambda: gauss_newton(gdjax.per_leaf(1.0, {"a": 2.0}), max_tries=0),
            "damping must be one number for the whole tree",
        ),
        (lambda: gauss_newton(solver="qr"), "solver must be one of auto, parameters, residuals, cg, got 'qr'"),
        (lambda: gauss_newton(max_tries=-1), "max_tries must be at least 0"),
        (lambda: gauss_newton(cg_steps=1.5), "cg_steps must be an int"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            make()
