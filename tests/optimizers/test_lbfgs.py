"""L-BFGS: dense BFGS in NumPy, SciPy, pairs of bad curvature, `minimize`, and misuse. Optax: tests/linesearch/."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

import gdjax
from gdjax.linesearch.backtracking import scale_by_backtracking_linesearch
from gdjax.linesearch.zoom import scale_by_zoom_linesearch
from gdjax.optimizers.lbfgs import ScaleByLBFGSState, lbfgs, scale_by_lbfgs
from tests.linesearch.problems import PROBLEMS, cast, precision, run
from tests.support import relaxed


def dense(points: list[np.ndarray], grads: list[np.ndarray], m: int, scaled: bool, damp: bool = False) -> np.ndarray:
    """H g at the last point by the BFGS formula for matrices, with the last m pairs that curve up."""
    n = len(points[0])

    def matrix(pairs: list[Any], g: np.ndarray) -> np.ndarray:
        held = [pair for pair in pairs[-m:] if pair is not None]
        gamma = held[-1][0] @ held[-1][1] / (held[-1][1] @ held[-1][1]) if held else min(1, 1 / np.linalg.norm(g))
        H = (gamma if scaled else 1) * np.eye(n)
        for s, y in held:
            V = np.eye(n) - np.outer(y, s) / (s @ y)
            H = V.T @ H @ V + np.outer(s, s) / (s @ y)
        return H

    pairs: list[Any] = []
    for k in range(1, len(points)):
        s, y = points[k] - points[k - 1], grads[k] - grads[k - 1]
        if damp:
            Bs = np.linalg.solve(matrix(pairs, grads[k - 1]), s)
            if s @ y < 0.2 * s @ Bs:
                theta = 0.8 * s @ Bs / (s @ Bs - s @ y)
                y = theta * y + (1 - theta) * Bs
        pairs.append((s, y) if s @ y > 1e-15 * np.linalg.norm(s) * np.linalg.norm(y) else None)
    return matrix(pairs, grads[-1]) @ grads[-1]


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("curvature", ["skip", "damp"])
def test_equals_dense_bfgs(curvature: str, scaled: bool):
    """On gradients of a function that curves up and down, at points that nothing has chosen."""
    m, steps = 3, 10
    points = list(np.random.default_rng(0).normal(size=(steps, 5)))
    A = np.diag([1.0, 3.0, -4.0, -2.0, 0.5])
    grads = [A @ x + 0.1 * x**3 for x in points]
    assert 2 < sum((q - p) @ (h - g) < 0 for p, q, g, h in zip(points, points[1:], grads, grads[1:], strict=False)) < 8

    def tree(x: np.ndarray) -> Any:
        return {"a": jnp.asarray(x[:4].reshape(2, 2)), "b": jnp.asarray(x[4])}

    tx = scale_by_lbfgs(m, scaled, curvature=curvature)
    with precision("float64"):
        update, state = jax.jit(tx.update), tx.init(tree(points[0]))
        for k in range(steps):
            direction, state = update(tree(grads[k]), state, tree(points[k]))
            expected = dense(points[: k + 1], grads[: k + 1], m, scaled, curvature == "damp")
            np.testing.assert_allclose(ravel_pytree(direction)[0], expected, rtol=1e-7, atol=1e-9)
            assert expected @ grads[k] > 0  # H is positive definite
    weights = np.asarray(state.weights_memory)
    assert state.count == steps and (weights >= 0).all() and (weights > 0).all() == (curvature == "damp")
    np.testing.assert_array_equal(state.params["b"], points[-1][4])


def flat_function(problem: str) -> Any:
    f, start = PROBLEMS[problem]
    x0, unravel = ravel_pytree(cast(start, "float64"))
    return jax.jit(jax.value_and_grad(lambda x: f(unravel(x)))), x0


@pytest.mark.full
@pytest.mark.parametrize("problem", PROBLEMS)
def test_ends_where_scipy_does(problem: str):
    with precision("float64"):
        f, x0 = flat_function(problem)
        theirs = scipy.optimize.minimize(
            lambda x: tuple(map(np.asarray, f(x))), x0, jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-9}
        )
        result = gdjax.minimize(PROBLEMS[problem].f, cast(PROBLEMS[problem].start, "float64"), lbfgs(), steps=60)
        np.testing.assert_allclose(ravel_pytree(result.params)[0], theirs.x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result.history["loss"][-1], theirs.fun, rtol=1e-9, atol=1e-12)
        # And about as fast.
        ours = int(np.argmax(result.history["grad_norm"] < 1e-6))
        assert 0 < ours < 1.5 * theirs.nit + 5


@pytest.mark.full
def test_a_step_of_zero_does_not_end_the_descent():
    """Optax takes gamma = 0 from it, and makes every later update 0."""
    tx, f = scale_by_lbfgs(), lambda x: jnp.sum(x**4)
    with relaxed():
        other = optax.scale_by_lbfgs()
        ours, theirs = tx.init(jnp.ones(2)), other.init(jnp.ones(2))
        for scale in (1.0, 2.0, 3.0):  # gradients of three mini-batches, at the same point
            g = scale * jax.grad(f)(jnp.ones(2))
            u, ours = tx.update(g, ours, jnp.ones(2))
            v, theirs = other.update(g, theirs, jnp.ones(2))
    assert not v.any()
    np.testing.assert_allclose(u, g / jnp.linalg.norm(g), rtol=1e-6)


def test_negative_curvature_keeps_a_direction_of_descent():
    f = lambda x: jnp.sum(jnp.cos(x))
    points = jnp.array([[0.3, 0.2], [0.9, 0.5]])  # around the maximum
    directions = {}
    with relaxed():
        makes = [scale_by_lbfgs(), scale_by_lbfgs(curvature="damp"), optax.scale_by_lbfgs()]
        for name, tx in zip(["skip", "damp", "optax"], makes, strict=True):
            state = tx.init(points[0])
            for x in points:
                u, state = tx.update(jax.grad(f)(x), state, x)
            directions[name] = float(u @ jax.grad(f)(points[1]))
    assert directions["skip"] > 0 and directions["damp"] > 0 > directions["optax"]


def test_a_bad_optax_state_is_mended():
    with relaxed():
        other = optax.scale_by_lbfgs()
        state = other.init(jnp.zeros(2))
        for x, g in (([0.3, 0.2], [-0.3, -0.2]), ([0.9, 0.5], [-0.8, -0.5])):
            _, state = other.update(jnp.array(g), state, jnp.array(x))
    assert (state.weights_memory < 0).any()
    g = jnp.array([-0.9, -0.6])
    u, _ = scale_by_lbfgs().update(g, state, jnp.array([1.0, 0.6]))
    assert u @ g > 0


def test_nan_gradient_is_forgotten():
    tx, f = scale_by_lbfgs(3), lambda x: jnp.sum(x**2 * jnp.array([1.0, 4.0]))
    x = jnp.array([1.0, 2.0])
    state = tx.init(x)
    for k in range(4):
        g = jax.grad(f)(x) if k != 1 else jnp.full(2, jnp.nan)
        u, state = tx.update(g, state, x)
        x = x - 0.1 * jnp.where(jnp.isfinite(u), u, 0.0)
    assert jnp.isfinite(u).all() and u @ g > 0


@pytest.mark.full
def test_zero_gradients_give_zero_updates_and_finite_derivatives():
    tx, x = scale_by_lbfgs(), jnp.ones(2)
    u, state = tx.update(jnp.zeros(2), tx.init(x), x)
    v, state = tx.update(jnp.zeros(2), state, x)
    assert not u.any() and not v.any()
    slopes = jax.jit(jax.jacobian(lambda g: tx.update(g, tx.init(x), x)[0]))(jnp.zeros(2))
    np.testing.assert_allclose(slopes, np.eye(2))
    slopes = jax.jit(jax.jacobian(lambda g: tx.update(g, state, x)[0]))(jnp.zeros(2))
    assert jnp.isfinite(slopes).all()


@pytest.mark.full
def test_complex_parameters_equal_their_parts():
    target = jnp.array([1 + 2j, -3j, 0.5], jnp.complex64)

    def f(z: jax.Array) -> jax.Array:
        d = z - target
        return jnp.sum((d.real - d.imag) ** 4 + 3 * d.imag**2 + d.real**2)

    result = gdjax.minimize(f, jnp.zeros(3, jnp.complex64), lbfgs(), steps=25)
    parts = gdjax.minimize(lambda x: f(jax.lax.complex(x[0], x[1])), jnp.zeros((2, 3)), lbfgs(), steps=25)
    np.testing.assert_allclose(result.history["loss"][:8], parts.history["loss"][:8], rtol=1e-4)
    np.testing.assert_allclose(result.params, target, atol=1e-2)
    assert result.history["loss"][-1] < 1e-6


@pytest.mark.full
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bit_parameters(dtype: Any):
    target = jnp.arange(4, dtype=dtype)
    tx = lbfgs()
    result = gdjax.minimize(lambda p: jnp.sum((p - target) ** 2), jnp.ones(4, dtype), tx, steps=10)
    np.testing.assert_array_equal(result.params, target)
    assert [x.dtype for x in jax.tree.leaves(result.state)] == [x.dtype for x in jax.tree.leaves(tx.init(target))]


def test_integer_and_missing_leaves_stay():
    params = {"w": jnp.ones(2), "n": jnp.arange(3), "none": None}
    result = gdjax.minimize(lambda p: jnp.sum((p["w"] - 2) ** 2), params, lbfgs(), steps=8)
    np.testing.assert_allclose(result.params["w"], 2, rtol=1e-5)
    assert result.params["n"].dtype == jnp.int32 and result.params["none"] is None


@pytest.mark.full
def test_vmap_equals_each_alone():
    f = PROBLEMS["beale"].f
    starts = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.5])
    tx = lbfgs()
    losses = jax.vmap(lambda *p: run(tx, f, p, 5)[2])(*starts)
    np.testing.assert_allclose(losses[1], run(tx, f, (starts[0][1], starts[1][1]), 5)[2], rtol=1e-5)


def test_mini_batches_search_on_their_own_loss():
    """A batch is a parabola, whose minimum the first search of `minimize` finds on that batch and no other."""
    batches = [jnp.asarray(x) for x in (1.0, 5.0, -2.0)]
    tx = gdjax.chain(gdjax.sgd(0.5), scale_by_zoom_linesearch(20, initial_guess_strategy="one", curv_rtol=1e-3))
    visited: list[float] = []
    gdjax.minimize(
        lambda p, b: (p - b) ** 2, jnp.zeros(()), tx, data=batches, steps=3,
        callback=lambda i, p, s, m: visited.append(float(p)),
    )  # fmt: skip
    np.testing.assert_allclose(visited, batches, rtol=1e-5)


@pytest.mark.parametrize("make", [optax.lbfgs, optax.polyak_sgd])
def test_optax_optimizers_search_within_minimize(make: Any):
    with relaxed():
        result = gdjax.minimize(lambda p: jnp.sum((p - 3) ** 2), jnp.zeros(3), make(), steps=25)
    np.testing.assert_allclose(result.params, 3, rtol=1e-4)


def test_value_fn_passes_through_wrappers_that_branch():
    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        def search(extra: Any) -> Any:
            return tx.update(updates, state, params, **extra)

        return jax.lax.cond(extra["value"] > 1e-6, search, lambda extra: (jnp.zeros_like(updates), state), extra)

    tx = lbfgs()
    wrapped = gdjax.GradientTransformation(tx.init, update)
    result = gdjax.minimize(lambda p: (jnp.sum((p - 3) ** 2), {"n": 1}), jnp.zeros(3), wrapped, steps=9, has_aux=True)
    np.testing.assert_allclose(result.params, 3, rtol=1e-3)


def test_without_a_line_search_only_the_parameters_are_needed():
    tx = lbfgs(0.5, linesearch=None)
    x = jnp.array([3.0, 4.0])
    updates, _ = tx.update(x, tx.init(x), x)
    np.testing.assert_allclose(updates, -0.5 * x / 5, rtol=1e-6)
    scheduled = lbfgs(lambda t: 0.5, linesearch=None)
    np.testing.assert_allclose(scheduled.update(x, scheduled.init(x), x)[0], updates, rtol=1e-6)


def test_trace_does_not_grow_with_the_memory():
    def equations(m: int) -> int:
        tx, x = scale_by_lbfgs(m), jnp.ones(3)
        return str(jax.make_jaxpr(tx.update)(x, tx.init(x), x)).count("\n")

    assert equations(3) == equations(30)


def test_state_is_a_fixed_point_with_the_fields_of_optax():
    tx, params = scale_by_lbfgs(3), {"a": jnp.ones(2), "b": jnp.ones((1, 2), jnp.bfloat16)}
    init = tx.init(params)
    out = jax.eval_shape(lambda s: tx.update(params, s, params)[1], init)
    assert jax.tree.structure(init) == jax.tree.structure(out)
    for a, b in zip(jax.tree.leaves(init), jax.tree.leaves(out), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
    assert ScaleByLBFGSState._fields == type(optax.scale_by_lbfgs(3).init(params))._fields
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a.shape, b.shape),
        tuple(init),
        tuple(optax.scale_by_lbfgs(3).init(params)),
    )


def test_transforms_are_values():
    assert lbfgs() == lbfgs() != lbfgs(curvature="damp")
    assert pickle.loads(pickle.dumps(lbfgs())) == lbfgs()
    assert lbfgs(linesearch=scale_by_backtracking_linesearch(3)) != lbfgs()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: scale_by_lbfgs(0), ValueError, "scale_by_lbfgs: memory_size must be at least 1, got 0"),
        (lambda: scale_by_lbfgs(2.0), TypeError, "scale_by_lbfgs: memory_size must be an int, got 2.0"),
        (lambda: scale_by_lbfgs(curvature="no"), ValueError, "curvature must be one of .*skip.*damp.*, got 'no'"),
        (lambda: lbfgs(linesearch=0.1), TypeError, "lbfgs: argument linesearch is 0.1, which has no init and update"),
        (lambda: updated({}), ValueError, "scale_by_lbfgs: this transform needs params"),
        (
            lambda: updated({"params": {"w": jnp.ones(3)}}),
            ValueError,
            r"updates\['w'\]: gradient shape \(2,\) .* \(3,\)",
        ),
        (lambda: updated({"params": {"v": jnp.ones(2)}}), ValueError, r"updates\['v'\] is missing"),
        (lambda: scale_by_lbfgs().init({"w": "x"}), TypeError, r"params\['w'\] is 'x'"),
    ],
)
def test_misuse(call: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=r"gdjax\..*" + message):
        call()


def updated(arguments: dict[str, Any]) -> Any:
    tx, p = scale_by_lbfgs(), {"w": jnp.ones(2)}
    return tx.update(p, tx.init(p), **arguments)


@pytest.mark.full
def test_pairs_stand_in_the_slots_where_optax_keeps_them():
    ours, theirs = gdjax.scale_by_lbfgs(3), optax.scale_by_lbfgs(3)
    curvature = jnp.array([1.0, 2.0, 4.0])
    x = jnp.array([1.0, -1.0, 0.5])
    states = [ours.init(x), theirs.init(x)]
    for _ in range(6):
        g = curvature * x
        updates, states[0] = ours.update(g, states[0], x)
        _, states[1] = theirs.update(g, states[1], x)
        for field in ("diff_params_memory", "diff_updates_memory", "weights_memory"):
            np.testing.assert_allclose(*(getattr(s, field) for s in states), rtol=1e-5, atol=1e-6)
        x = x - 0.1 * updates


# --- Bounds ---


def bounded_quadratic(n: int, degenerate: bool) -> tuple[Any, Any]:
    """A convex quadratic whose minimum within [-1, 1] has about 2 n / 5 numbers at a bound, and that minimum.

    `degenerate`: the gradient there is 0, so that a bound holds nothing.
    """
    rng = np.random.default_rng(n)
    Q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    A, x, held = Q @ np.diag(np.logspace(-2, 1, n)) @ Q.T, rng.uniform(-1, 1, n), rng.random(n) < 0.4
    x[held] = np.sign(x[held])
    c = A @ x + np.where(held & (not degenerate), np.sign(x) * rng.random(n), 0)
    A, c = jnp.asarray(A), jnp.asarray(c)
    return (lambda x: 0.5 * x @ (A @ x) - c @ x), x


@pytest.mark.full
@pytest.mark.parametrize(
    ("n", "degenerate"), [(5, False), (100, False), (100, True), pytest.param(1000, False, marks=pytest.mark.slow)]
)
def test_the_minimum_within_bounds(n: int, degenerate: bool):
    def look(step: int, p: Any, state: Any, metrics: Any) -> bool:
        return bool((np.abs(np.asarray(p["x"])) > 1).any())

    with precision("float64"):
        f, wanted = bounded_quadratic(n, degenerate)
        tx = lbfgs(bounds=(-1.0, 1.0))
        result = gdjax.minimize(
            lambda p: f(p["x"]), {"x": jnp.zeros(n)}, tx, steps=600, grad_tol=1e-7, callback=look
        )  # fmt: skip
        assert result.message.startswith("projected gradient norm within grad_tol")
        np.testing.assert_allclose(result.params["x"], wanted, atol=2e-5)
        if not degenerate:
            held = np.abs(wanted) == 1
            np.testing.assert_array_equal(result.params["x"][held], wanted[held])


@pytest.mark.full
def test_rosenbrock_within_bounds_as_fast_as_scipy():
    f = lambda x: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
    lower, upper, start = [-2.0, 0.1, -np.inf, -2.0], [0.8, np.inf, np.inf, 0.1], [0.5, 0.4, 0.3, 0.1]
    with precision("float64"):
        value_and_grad = jax.jit(jax.value_and_grad(f))
        theirs = scipy.optimize.minimize(
            lambda x: tuple(map(np.asarray, value_and_grad(x))), np.array(start), jac=True, method="L-BFGS-B",
            bounds=list(zip(lower, upper, strict=True)), options={"ftol": 0, "gtol": 1e-10},
        )  # fmt: skip
        result = gdjax.minimize(f, jnp.asarray(start), lbfgs(bounds=(jnp.asarray(lower), jnp.asarray(upper))), steps=60)
        np.testing.assert_allclose(result.params, theirs.x, rtol=1e-6, atol=1e-7)
        ours = int(np.argmax(result.history["loss"] <= theirs.fun + 1e-9))
        assert 0 < ours <= theirs.nit + 5


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_does_not_leave_the_bounds(dtype: str):
    rng = np.random.default_rng(0)
    start, bound = (jnp.asarray(rng.uniform(-r, r, 200), dtype) for r in (20, 0.01))
    lower, upper = jnp.minimum(start, bound), jnp.maximum(start, bound)
    tx = lbfgs(bounds=(lower, upper), linesearch=None)
    for sign in (1, -1):
        u, _ = tx.update(jnp.full(200, sign * 100, dtype), tx.init(start), start)
        new = gdjax.apply_updates(start, u)
        assert u.any() and u.dtype == start.dtype and (new >= lower).all() and (new <= upper).all()


def test_a_number_that_a_bound_holds_takes_no_part():
    """With x[0] held at 0, u[1] is that of H (0, g[1]); when g turns x[0] moves, and u is H g."""
    tx = scale_by_lbfgs(bounds=(0.0, None))
    points, grads = [np.array([1.0, 5.0]), np.array([0.0, 4.5])], [np.array([2.0, 1.0]), np.array([0.8, 0.9])]
    _, state = tx.update(jnp.asarray(grads[0]), tx.init(jnp.ones(2)), jnp.asarray(points[0]))
    s, y = points[1] - points[0], grads[1] - grads[0]
    V = np.eye(2) - np.outer(y, s) / (s @ y)
    H = V.T @ V * (s @ y) / (y @ y) + np.outer(s, s) / (s @ y)
    u, _ = tx.update(jnp.asarray(grads[1]), state, jnp.asarray(points[1]))
    np.testing.assert_allclose(u, [0, H[1, 1] * 0.9], rtol=1e-5)
    g = np.array([-0.8, 0.9])
    s, y = points[1] - points[0], g - grads[0]
    V = np.eye(2) - np.outer(y, s) / (s @ y)
    H = V.T @ V * (s @ y) / (y @ y) + np.outer(s, s) / (s @ y)
    u, _ = tx.update(jnp.asarray(g), state, jnp.asarray(points[1]))
    np.testing.assert_allclose(u, H @ g, rtol=1e-5)
    assert u[0] < 0


def test_misuse_of_bounds():
    with pytest.raises(ValueError, match=r"gdjax.lbfgs: with bounds the learning_rate must be at most 1, got 2"):
        lbfgs(2.0, bounds=(0, None))
    with pytest.raises(ValueError, match=r"max_learning_rate of linesearch must be at most 1, got inf"):
        lbfgs(linesearch=scale_by_zoom_linesearch(9), bounds=(0, None))
    with pytest.raises(ValueError, match=r"scale_by_lbfgs: bounds\[0\] shape \(3,\)"):
        scale_by_lbfgs(bounds=(jnp.ones(3), None)).init(jnp.ones(2))
