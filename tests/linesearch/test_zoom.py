"""The zoom line search: the conditions it promises, the book's algorithm, what happens when it fails, and misuse."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linesearch.zoom import ScaleByZoomLinesearchState, scale_by_zoom_linesearch
from tests.linesearch.problems import PROBLEMS, cast, precision, run

C1, C2 = 1e-4, 0.9


def search(f: Callable[[Any], Any], p: Any, u: Any, state: Any = None, **options: Any) -> Any:
    """The state after one search from p along u."""
    tx = scale_by_zoom_linesearch(**{"max_linesearch_steps": 20, **options})
    value, grad = jax.value_and_grad(f)(p)
    grad = jax.tree.map(jnp.conj, grad)
    scaled, new = tx.update(u, tx.init(p) if state is None else state, p, value=value, grad=grad, value_fn=f)
    eta = jnp.where(new.info.decrease_error < jnp.inf, new.learning_rate, 0)
    jax.tree.map(lambda s, x: np.testing.assert_array_equal(s, eta.astype(x.dtype) * x), scaled, u)
    return new


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(x).reshape(-1) for x in jax.tree.leaves(tree)])


@pytest.mark.parametrize("problem", PROBLEMS)
def test_accepted_steps_meet_the_wolfe_conditions(problem: str):
    f, start = PROBLEMS[problem]
    tx = gdjax.chain(gdjax.sgd(1.0), scale_by_zoom_linesearch(30, approx_dec_rtol=None))
    with precision("float64"):
        params, states, values, grads, updates = run(tx, f, cast(start, "float64"), 30)
        value_and_grad = jax.jit(jax.value_and_grad(f))
        etas = states[1].learning_rate
        assert (etas > 0).all() and len(np.unique(etas)) >= 3
        for k in range(30):
            p, g, u = ([x[k] for x in jax.tree.leaves(tree)] for tree in (params, grads, updates))
            after = jax.tree.structure(start).unflatten([x + y for x, y in zip(p, u, strict=True)])
            value, grad = value_and_grad(after)
            slope, new_slope = flat(g) @ flat(u), flat(grad) @ flat(u)  # both eta times phi'
            assert slope < 0 and value <= values[k] + C1 * slope and abs(new_slope) <= C2 * abs(slope)
            # What the state keeps is the value and gradient there.
            np.testing.assert_allclose(states[1].value[k], value, rtol=1e-13)
            np.testing.assert_allclose(flat([x[k] for x in jax.tree.leaves(states[1].grad)]), flat(grad), rtol=1e-9)
        assert (states[1].info.decrease_error == 0).all() and (states[1].info.curvature_error == 0).all()


def book(phi: Callable[[float], tuple[float, float]], c1: float, c2: float) -> tuple[float, int]:
    """Algorithms 3.5 and 3.6 of Nocedal & Wright as printed, with the interpolation of section 3.5 (cubic through the
    last bound given up, else quadratic, else bisection): the step size and the number of evaluations."""
    calls = 0

    def at(a: float) -> tuple[float, float]:
        nonlocal calls
        calls += 1
        return phi(a)

    f0, d0 = phi(0.0)

    def zoom(lo: tuple, hi: tuple, rec: Any) -> float:
        while True:
            (a, fa, da), (b, fb, _) = lo, hi
            left, width = min(a, b), abs(b - a)
            x = None
            if rec is not None:
                c, fc = rec
                A = np.array([[(b - a) ** 3, (b - a) ** 2], [(c - a) ** 3, (c - a) ** 2]])
                k3, k2 = np.linalg.solve(A, [fb - fa - da * (b - a), fc - fa - da * (c - a)])
                root = k2 * k2 - 3 * k3 * da
                if root >= 0:
                    x = a + (-k2 + np.sqrt(root)) / (3 * k3)
                    x = x if left + 0.2 * width < x < left + 0.8 * width else None
            if x is None:
                x = a - da * (b - a) ** 2 / (2 * (fb - fa - da * (b - a)))
                x = x if left + 0.1 * width < x < left + 0.9 * width else (a + b) / 2
            fx, dx = at(x)
            if fx > f0 + c1 * x * d0 or fx >= fa:
                rec, hi = hi[:2], (x, fx, dx)
            else:
                if abs(dx) <= -c2 * d0:
                    return x
                rec = lo[:2]
                if dx * (b - a) >= 0:
                    rec, hi = hi[:2], lo
                lo = (x, fx, dx)

    last, a = (0.0, f0, d0), 1.0
    for i in range(30):
        f, d = at(a)
        if f > f0 + c1 * a * d0 or (f >= last[1] and i > 0):
            return zoom(last, (a, f, d), None), calls
        if abs(d) <= -c2 * d0:
            return a, calls
        if d >= 0:
            return zoom((a, f, d), last, None), calls
        last, a = (a, f, d), 2 * a
    raise AssertionError("the book's search did not end")


def test_equals_the_book():
    def polynomial(x: Any, xp: Any) -> Any:
        return 0.3 * x**4 - 1.1 * x**3 + 0.5 * x**2 - 2 * x + xp.sin(3 * x)

    @jax.jit
    def ours(scale: Any, c2: Any) -> Any:
        options = {"curv_rtol": c2, "approx_dec_rtol": None, "stepsize_precision": 0.0}
        tx = scale_by_zoom_linesearch(60, initial_guess_strategy="one", **options)
        f, x = functools.partial(polynomial, xp=jnp), jnp.asarray(-1.0)
        return tx.update(scale, tx.init(x), x, value=f(x), grad=jax.grad(f)(x), value_fn=f)[1]

    counts = set()
    for scale, c2 in itertools.product([2e-3, 0.05, 1.0, 7.0, 30.0, 400.0], [0.9, 0.1, 0.01]):

        def phi(a: float, scale: float = scale) -> tuple[float, float]:
            x = -1 + scale * a
            return polynomial(x, np), scale * (1.2 * x**3 - 3.3 * x**2 + x - 2 + 3 * np.cos(3 * x))

        with precision("float64"):
            state = ours(jnp.asarray(scale), c2)
        eta, calls = book(phi, C1, c2)
        np.testing.assert_allclose(state.learning_rate, eta, rtol=1e-9)
        assert state.info.num_linesearch_steps == calls
        counts.add(calls)
    assert len(counts) > 5


@pytest.mark.full
def test_approximate_condition_goes_where_rounding_hides_the_decrease():
    def f(x: jax.Array) -> jax.Array:
        return 1e4 + jnp.sum(x**2)  # a step from 1e-3 changes the value by 1e-6, float32 resolves 1e-3

    x = jnp.full(2, 1e-3)
    exact, approximate = (search(f, x, -x, approx_dec_rtol=r, initial_guess_strategy="one") for r in (None, 1e-6))
    assert approximate.info.num_linesearch_steps == 1 and approximate.learning_rate == 1
    assert exact.info.decrease_error > 0
    with precision("float64"):  # where nothing is hidden, both conditions agree
        x = jnp.asarray([1e-3, 1e-3])
        assert search(f, x, -x, approx_dec_rtol=None, initial_guess_strategy="one").learning_rate == 1


def quadratic(x: jax.Array) -> jax.Array:
    return jnp.sum(x**2)


X = jnp.array([1.0, -2.0])


def test_direction_of_ascent_takes_no_step():
    state = search(quadratic, X, X, max_linesearch_steps=10)
    assert state.info.decrease_error == jnp.inf and state.value == quadratic(X)
    np.testing.assert_array_equal(state.grad, 2 * X)
    assert state.info.num_linesearch_steps == 10 and state.learning_rate == 2.0**-9
    again = search(quadratic, X, -X, state)
    assert again.learning_rate == 2.0**-3 and again.info.num_linesearch_steps == 7  # it goes on from there


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_bad_values_far_away_are_left(bad: float):
    def f(x: jax.Array) -> jax.Array:
        return jnp.where(jnp.max(jnp.abs(x)) > 3, bad, quadratic(x))

    state = search(f, X, -100 * X)
    assert state.info.decrease_error == 0 and state.value < quadratic(X)
    np.testing.assert_allclose(state.value, quadratic(X - 100 * state.learning_rate * X), rtol=1e-4)
    np.testing.assert_allclose(state.grad, 2 * (X - 100 * state.learning_rate * X), atol=1e-4)


@pytest.mark.parametrize("strategy", ["one", "keep"])
def test_no_finite_step_is_no_step(strategy: str):
    def f(x: jax.Array) -> jax.Array:
        return jnp.where(jnp.all(x == X), quadratic(x), jnp.nan)

    state = search(f, X, -X, initial_guess_strategy=strategy)
    assert state.learning_rate == 0 and state.value == quadratic(X)
    np.testing.assert_array_equal(state.grad, 2 * X)
    assert state.info.decrease_error == jnp.inf == state.info.curvature_error
    # The next search begins again.
    again = search(quadratic, X, -2 * X, state, initial_guess_strategy=strategy)
    assert again.learning_rate == 0.5


def test_gradient_that_is_not_finite_is_no_step():
    def f(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sqrt(jnp.abs(x)))  # the first guess is 0, where the slope is infinite

    state = search(f, jnp.ones(2), -jnp.ones(2), approx_dec_rtol=None)
    assert 0 < state.learning_rate < 1 and jnp.isfinite(state.grad).all() and state.info.decrease_error == 0


def test_value_infinite_at_the_start_is_left():
    tx = scale_by_zoom_linesearch(20)
    _, state = tx.update(-X, tx.init(X), X, value=jnp.inf, grad=2 * X, value_fn=quadratic)
    assert jnp.isfinite(state.value) and state.learning_rate > 0


def test_unbounded_below_stays_finite():
    state = search(lambda x: -x, jnp.zeros(()), jnp.ones(()), max_linesearch_steps=200)
    assert jnp.isfinite(state.learning_rate) and state.learning_rate > 1e30 and state.value == -state.learning_rate


@pytest.mark.parametrize("factor", [1e-5, 1.0])
def test_a_factor_that_does_not_increase_is_let_in(factor: float):
    """Optax's tests of dtypes have 1e-5; such a search takes a step downhill, if not a long one."""
    state = search(quadratic, X, -1e-3 * X, increase_factor=factor, max_linesearch_steps=5)
    assert state.learning_rate > 0 and state.value < quadratic(X)


def test_largest_step_size():
    state = search(quadratic, X, -1e-3 * X, max_learning_rate=5.0)
    assert state.learning_rate == 5 and state.info.num_linesearch_steps == 4  # 1, 2, 4, 5
    assert state.info.decrease_error == 0 < state.info.curvature_error


def test_zero_direction_makes_no_step_and_no_nan():
    state = search(quadratic, jnp.zeros(2), jnp.zeros(2), curv_rtol=jnp.inf)
    assert state.info.num_linesearch_steps == 1 and state.value == 0 and not state.grad.any()


def test_without_the_time_for_curvature_the_lowest_step_is_taken():
    state = search(quadratic, X, -1e-3 * X, max_linesearch_steps=3)
    assert state.learning_rate == 4 and state.info.decrease_error == 0 < state.info.curvature_error


def test_short_interval_ends_the_search():
    def f(x: jax.Array) -> jax.Array:
        return jnp.abs(x - 0.3)  # a kink: the slope is never small

    state = search(f, jnp.zeros(()), jnp.ones(()), max_linesearch_steps=100, curv_rtol=0.1)
    assert state.info.num_linesearch_steps < 40 and abs(state.learning_rate - 0.3) < 1e-4
    assert state.info.curvature_error > 0 == state.info.decrease_error


def test_objective_is_traced_once():
    traces = []

    def f(x: jax.Array) -> jax.Array:
        traces.append(1)
        return quadratic(x)

    tx = gdjax.chain(gdjax.sgd(1.0), scale_by_zoom_linesearch(20))
    step = jax.jit(lambda p, s: tx.update(2 * p, s, p, value=quadratic(p), grad=2 * p, value_fn=f))
    updates, state = step(X, tx.init(X))
    step(X + updates, state)
    assert len(traces) == 1 and step._cache_size() == 1


@pytest.mark.slow
@pytest.mark.optimized  # numbers of the state are roundings and nothing else
def test_vmap_and_eager_equal_jit():
    tx = scale_by_zoom_linesearch(20)

    def step(p: Any) -> Any:
        value, grad = jax.value_and_grad(quartic)(p)
        return tx.update(jax.tree.map(jnp.negative, grad), tx.init(p), p, value=value, grad=grad, value_fn=quartic)

    def quartic(p: Any) -> Any:
        return jnp.sum((p["a"] - 1) ** 4) + p["b"] ** 2

    ps = {"a": jnp.array([[0.0, 1.0], [4.0, -2.0], [0.9, 1.2]]), "b": jnp.array([0.1, 3.0, -50.0])}
    batched = jax.vmap(step)(ps)
    assert len(set(batched[1].info.num_linesearch_steps.tolist())) > 1
    for i, f in enumerate([jitted := jax.jit(step), step, jitted]):
        got = f(jax.tree.map(lambda x, i=i: x[i], ps))
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x, y[i], rtol=1e-5), got, batched)


def test_extra_arguments_go_to_the_function_that_names_them():
    def f(params: Any, scale: Any, *, shift: Any = 0.0) -> Any:
        return scale * jnp.sum((params - shift) ** 2)

    tx = scale_by_zoom_linesearch(20, initial_guess_strategy="one")
    known = {"value": 2 * quadratic(X - 1), "grad": 4 * (X - 1)}
    rest = {"scale": 2.0, "shift": 1.0, "params_of_another": 0}
    _, state = tx.update(-(X - 1), tx.init(X), X, **known, value_fn=f, **rest)
    assert state.value == 0 and state.learning_rate == 1
    _, state = tx.update(
        -(X - 1), tx.init(X), X, **known, value_fn=lambda p, **kw: f(p, kw["scale"], shift=1.0), **rest
    )
    assert state.value == 0


def test_complex_parameters_equal_their_parts():
    def f(z: jax.Array) -> jax.Array:
        return jnp.sum((z.real - 1) ** 4 + 3 * (z.imag + z.real) ** 2)

    z = jnp.array([2 - 1j, 0.3 + 4j], jnp.complex64)
    g = jnp.conj(jax.grad(f)(z))
    state = search(f, z, -g, curv_rtol=0.1)
    x = jnp.stack([z.real, z.imag])
    parts = search(lambda x: f(jax.lax.complex(x[0], x[1])), x, -jnp.stack([g.real, g.imag]), curv_rtol=0.1)
    np.testing.assert_allclose(state.learning_rate, parts.learning_rate, rtol=1e-5)
    np.testing.assert_allclose(jnp.conj(state.grad), jax.lax.complex(*parts.grad), rtol=1e-4)
    assert state.learning_rate.dtype == jnp.float32 and state.info.decrease_error == 0


def test_16_bit_parameters_search_in_float32():
    x = X.astype(jnp.bfloat16)
    state = search(lambda x: quadratic(x.astype(jnp.float32)), x, -x, curv_rtol=1e-3)
    assert state.learning_rate.dtype == state.value.dtype == jnp.float32 and state.grad.dtype == jnp.bfloat16
    assert state.value == 0


def test_integer_and_missing_leaves_stay():
    p = {"w": X, "n": jnp.arange(2), "none": None}
    tx = scale_by_zoom_linesearch(20, initial_guess_strategy="one")
    value, grad = jax.value_and_grad(lambda p: quadratic(p["w"]), allow_int=True)(p)
    updates = {**grad, "w": -X}
    scaled, state = tx.update(updates, tx.init(p), p, value=value, grad=grad, value_fn=lambda p: quadratic(p["w"]))
    assert state.value == 0 and scaled["n"].dtype == jax.dtypes.float0
    assert [x.dtype for x in jax.tree.leaves(state)] == [x.dtype for x in jax.tree.leaves(tx.init(p))]


def test_state_is_a_fixed_point():
    tx = scale_by_zoom_linesearch(jnp.asarray(20), 3.0)
    init = tx.init(X)
    out = jax.eval_shape(lambda s: tx.update(-X, s, X, value=1.0, grad=2 * X, value_fn=quadratic)[1], init)
    assert jax.tree.structure(init) == jax.tree.structure(out)
    for a, b in zip(jax.tree.leaves(init), jax.tree.leaves(out), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)


def test_transform_is_a_value():
    assert scale_by_zoom_linesearch(20) == scale_by_zoom_linesearch(20) != scale_by_zoom_linesearch(21)


def test_verbose_tells_of_failures_only(capsys: pytest.CaptureFixture[str]):
    def told(f: Any, u: Any, **options: Any) -> str:
        search(f, X, u, verbose=True, **options)
        jax.effects_barrier()
        return capsys.readouterr().out

    assert told(quadratic, -X) == ""
    text = told(quadratic, X, max_linesearch_steps=5)
    assert "no step is made: no point is below the start; the updates are no direction of descent" in text
    assert "gdjax.scale_by_zoom_linesearch: " in text and "decrease error" in text
    assert "no step meets the curvature condition" in told(quadratic, -1e-3 * X, max_learning_rate=5.0)
    assert "no step is made" in told(lambda x: jnp.where(jnp.all(x == X), quadratic(x), jnp.nan), -X)
    assert "the lowest point is taken" in told(quadratic, -X, max_linesearch_steps=1, slope_rtol=0.6, curv_rtol=0.1)


def test_failures_are_quiet_by_default(capsys: pytest.CaptureFixture[str]):
    search(quadratic, X, X)
    jax.effects_barrier()
    assert capsys.readouterr().out == ""


NAME = r"gdjax\.scale_by_zoom_linesearch: "


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((0,), {}, ValueError, "max_linesearch_steps must be at least 1, got 0"),
        ((2.5,), {}, TypeError, "max_linesearch_steps must be an int, got 2.5"),
        ((jnp.asarray(2.5),), {}, TypeError, r"max_linesearch_steps must be an integer scalar, got float32\[\]"),
        ((20, -1.0), {}, ValueError, "max_learning_rate must be .* 0, got -1.0"),
        ((20,), {"increase_factor": 0.0}, ValueError, "increase_factor must be above 0, got 0.0"),
        ((20,), {"tol": float("nan")}, ValueError, "tol must be at least 0, got nan"),
        ((20,), {"slope_rtol": "a"}, TypeError, "slope_rtol must be a number, .* got 'a'"),
        ((20,), {"curv_rtol": jnp.ones(2)}, ValueError, r"curv_rtol must be a scalar, got shape \(2,\)"),
        ((20,), {"tol": lambda t: t}, TypeError, "a line search keeps no count for a schedule"),
        ((20,), {"approx_dec_rtol": -1}, ValueError, "approx_dec_rtol must be at least 0, got -1"),
        ((20,), {"initial_guess_strategy": "two"}, ValueError, "must be one of one, keep, got 'two'"),
    ],
)
def test_bad_arguments(args: Any, kwargs: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=NAME + ".*" + message):
        scale_by_zoom_linesearch(*args, **kwargs)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"value": None, "value_fn": None},
            ValueError,
            r"needs value=, grad= and value_fn= \(missing: value=, value_fn=\)",
        ),
        ({"value_fn": 3}, TypeError, "value_fn must be a function of the parameters"),
        ({"params": None}, ValueError, "this transform needs params"),
        ({"value": jnp.ones(1)}, TypeError, r"value must be a real scalar, got float32\[1\]"),
        ({"value_fn": lambda p: p["w"]}, TypeError, r"the result of value_fn must be a real scalar, got float32\[2\]"),
        ({"grad": {"w": jnp.ones(3)}}, ValueError, r"grad\['w'\]: gradient shape \(3,\) .* shape \(2,\)"),
        ({"updates": {"v": X}}, ValueError, r"updates\['w'\] is missing"),
        ({"state": ()}, ValueError, "expected ScaleByZoomLinesearchState"),
    ],
)
def test_bad_updates(changes: dict[str, Any], error: type[Exception], message: str):
    tx = scale_by_zoom_linesearch(20)
    p = {"w": X}
    args = {
        "updates": p,
        "state": tx.init(p),
        "params": p,
        "value": 1.0,
        "grad": p,
        "value_fn": lambda p: quadratic(p["w"]),
    }
    with pytest.raises(error, match=NAME + ".*" + message):
        tx.update(**{**args, **changes})


@pytest.mark.full
@pytest.mark.parametrize(("rtol", "found"), [(1e-6, True), (None, False)])
def test_goes_on_where_rounding_hides_the_decrease(rtol: float | None, found: bool):
    """The minimum is at 1000. All values carry an error of 2e-13 of f: those before 20 are above the start."""
    with precision("float64"):
        error = lambda x: jax.lax.stop_gradient(jnp.where(x > 0, 2e-13, 0.0))
        f = lambda x: 1 + 1e-14 * (x**2 / 2000 - x) + error(x)
        new = search(f, jnp.zeros(()), jnp.ones(()), approx_dec_rtol=rtol)
        assert (new.value < 1) == found and (new.info.curvature_error == 0) == found
        short = search(f, jnp.zeros(()), jnp.ones(()), approx_dec_rtol=rtol, max_linesearch_steps=3)
        assert short.value == 1 and short.info.decrease_error == jnp.inf  # such a rise is passed, not taken
        bounded = search(f, jnp.zeros(()), jnp.ones(()), approx_dec_rtol=rtol, max_learning_rate=1.0)
        assert bounded.value == 1  # nor at the largest step size, where the slope still points down


def test_state_has_the_fields_of_optax():
    assert ScaleByZoomLinesearchState._fields == ("learning_rate", "value", "grad", "info")
