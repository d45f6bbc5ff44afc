"""ISTA, FISTA and the proximal wrapper: against coordinate descent, JAXopt, the formulas, and by counts of steps."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import prox
from tests.oracles import jaxopt, precision

RNG = np.random.default_rng(0)
A = RNG.normal(size=(30, 12)) * np.linspace(0.3, 2.0, 12)
B = A @ (RNG.normal(size=12) * (np.arange(12) % 3 == 0)) + 0.1 * RNG.normal(size=30)
WEIGHT = 4.0
LIPSCHITZ = float(np.linalg.norm(A, 2) ** 2)


def least_squares(x: Any, a: Any = A, b: Any = B) -> Any:
    return jnp.sum((jnp.asarray(a, x.dtype) @ x - jnp.asarray(b, x.dtype)) ** 2) / 2


def lasso(a: Any = A, b: Any = B, weight: float = WEIGHT) -> Any:
    """The lasso by coordinate descent, in float64."""
    x = np.zeros(a.shape[1])
    for _ in range(3000):
        for j in range(x.size):
            r = b - a @ x + a[:, j] * x[j]
            x[j] = np.sign(a[:, j] @ r) * max(abs(a[:, j] @ r) - weight, 0) / (a[:, j] @ a[:, j])
    return x


SOLUTION = lasso()


def trained(tx: Any, loss: Any, x: Any, steps: int, until: Any = None) -> Any:
    """The parameters to evaluate after some steps, and the state; with `until`, the number of steps until it holds."""

    @jax.jit
    def step(x: Any, state: Any) -> Any:
        value, grad = jax.value_and_grad(loss)(x)
        u, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=loss)
        return gdjax.apply_updates(x, u), state

    state = tx.init(x)
    for i in range(steps):
        x, state = step(x, state)
        if until is not None and until(gdjax.eval_params(tx, state, x)):
            return i + 1
    return steps if until is not None else (np.asarray(gdjax.eval_params(tx, state, x)), state)


METHODS = {
    "ista": {"learning_rate": 1 / LIPSCHITZ, "accelerate": False}, "fista": {"learning_rate": 1 / LIPSCHITZ},
    "no restart": {"learning_rate": 1 / LIPSCHITZ, "restart": False}, "searched": {},
    "searched ista": {"accelerate": False}, "schedule": {"learning_rate": lambda count: jnp.asarray(1 / LIPSCHITZ)},
    "falling": {"increase_factor": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_the_lasso_is_coordinate_descents(method):
    with precision("float64"):
        tx = gdjax.proximal_gradient(prox=prox.l1(WEIGHT), **METHODS[method])
        x, _ = trained(tx, least_squares, jnp.zeros(12), 2500)
    np.testing.assert_allclose(x, SOLUTION, atol=1e-9)
    assert 3 <= np.sum(SOLUTION == 0) <= 9 and np.array_equal(x == 0, SOLUTION == 0)


def test_the_lasso_is_jaxopts():
    peer = jaxopt()
    with warnings.catch_warnings(action="ignore"), precision("float64"):
        solver = peer.ProximalGradient(least_squares, peer.prox.prox_lasso, tol=1e-10, maxiter=5000)
        theirs = solver.run(jnp.zeros(12), WEIGHT).params
    with precision("float64"):
        ours, _ = trained(gdjax.proximal_gradient(prox=prox.l1(WEIGHT)), least_squares, jnp.zeros(12), 1000)
    np.testing.assert_allclose(ours, theirs, atol=1e-8)


def fista(x: Any, s: float, steps: int, restart: bool) -> Any:
    """Beck & Teboulle's method in NumPy, with O'Donoghue & Candes' restart."""
    y, t = x, 1.0
    for _ in range(steps):
        z = y - s * (A.T @ (A @ y - B))
        new = np.sign(z) * np.maximum(np.abs(z) - s * WEIGHT, 0)
        t = 1.0 if restart and (y - new) @ (new - x) > 0 else t
        ahead = (1 + np.sqrt(1 + 4 * t**2)) / 2
        y, x, t = new + (t - 1) / ahead * (new - x), new, ahead
        yield x, y, t


@pytest.mark.parametrize("restart", [True, False])
def test_each_step_is_the_papers(restart):
    start = RNG.normal(size=12)
    with precision("float64"):
        tx = gdjax.proximal_gradient(0.5 / LIPSCHITZ, prox.l1(WEIGHT), restart=restart)
        x = jnp.asarray(start)
        state, step = tx.init(x), jax.jit(tx.update)
        for expected, y, t in fista(start, 0.5 / LIPSCHITZ, 60, restart):
            u, state = step(jax.grad(least_squares)(x), state, x)
            x = gdjax.apply_updates(x, u)
            np.testing.assert_allclose(x, y, atol=1e-12)
            np.testing.assert_allclose(state.x, expected, atol=1e-12)
            np.testing.assert_allclose(state.t, t)


def quadratic(scale: Any, x: Any) -> Any:
    return jnp.sum(jnp.asarray(scale, x.dtype) * (x - 1) ** 2) / 2


def steps_of(loss: Any, start: Any, **kwargs: Any) -> int:
    with precision("float64"):
        near = lambda x: bool(loss(x) < 1e-8)
        return trained(gdjax.proximal_gradient(**kwargs), loss, jnp.asarray(start), 6000, near)


@pytest.mark.full
def test_acceleration_and_restart_save_steps():
    ill = functools.partial(quadratic, np.geomspace(1e-3, 1, 8))
    ista = steps_of(ill, np.zeros(8), learning_rate=1.0, accelerate=False)
    plain = steps_of(ill, np.zeros(8), learning_rate=1.0, restart=False)
    restarted = steps_of(ill, np.zeros(8), learning_rate=1.0)
    assert restarted * 2 < plain and plain * 2 < ista


@pytest.mark.parametrize("accelerate", [True, False])
@pytest.mark.parametrize("size", [1e-7, 1e-3, 1.0, 1e3, 1e7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_search_begins_far_too_large_and_far_too_small(size, accelerate, dtype):
    """The first step size is 1, the right one 1 / size."""
    with precision(dtype):
        loss = lambda x: size * jnp.sum((x - 2) ** 2 * jnp.array([1.0, 0.3, 0.1], x.dtype)) / 2
        tx = gdjax.proximal_gradient(prox=prox.l1(0.05 * size), accelerate=accelerate)
        x, state = trained(tx, loss, jnp.zeros(3, dtype), 300)
    np.testing.assert_allclose(x, [1.95, 2 - 0.05 / 0.3, 1.5], rtol=1e-6 if dtype == "float32" else 1e-12)
    assert 0.5 / size < float(state.learning_rate) < 30 / size


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("accelerate", [True, False])
def test_the_search_keeps_its_step_size_at_the_minimum(accelerate, offset):
    """In float32, where the values differ by rounding alone: a thousand steps neither shrink it nor let it grow."""
    a, b = jnp.asarray(A, "float32"), jnp.asarray(B, "float32")
    loss = lambda x: jnp.sum((a @ x - b) ** 2) / 2 + offset
    tx = gdjax.proximal_gradient(prox=prox.l1(WEIGHT), accelerate=accelerate)
    x, state = trained(tx, loss, jnp.zeros(12), 1500)
    np.testing.assert_allclose(x, SOLUTION, atol=3e-6 if offset == 0 else 1e-5)
    assert 0.1 / LIPSCHITZ < float(state.learning_rate) < 1e3 / LIPSCHITZ


def test_a_search_that_finds_nothing_goes_back_to_x():
    tx = gdjax.proximal_gradient(prox=prox.none(), max_backtracking_steps=3)
    x = jnp.ones(2)
    state = tx.init(x)
    u, new = tx.update(x, state, x, value=jnp.float32(1.0), value_fn=lambda x: jnp.float32(jnp.inf) + x[0])
    assert not np.any(u) and np.array_equal(new.x, x) and new.learning_rate == 1.25 / 8
    u, new = tx.update(jnp.full(2, jnp.nan), new, x, value=jnp.float32(1.0), value_fn=jnp.sum)
    assert np.array_equal(new.x, x) and np.all(np.isnan(u)) and new.learning_rate > 0


def test_projected_gradient_onto_the_simplex():
    goal = np.array([0.9, 0.6, -0.5, 0.0])
    loss = lambda x: jnp.sum((x - jnp.asarray(goal, x.dtype)) ** 2) / 2
    simplex = prox.from_projection(gdjax.projections.projection_simplex)
    for tx in (
        gdjax.proximal_gradient(prox=simplex),
        gdjax.proximal(gdjax.sgd(0.5), simplex),
        gdjax.proximal(gdjax.sgd(0.1, momentum=0.5), simplex),
    ):
        x, _ = trained(tx, loss, jnp.full(4, 0.25), 100)
        np.testing.assert_allclose(x, [0.65, 0.35, 0, 0], atol=1e-5)


def test_minimize_gives_a_sparse_solution():
    tx = gdjax.proximal_gradient(prox=prox.l1(WEIGHT))
    run = gdjax.minimize(least_squares, jnp.zeros(12), tx, steps=300)
    x = gdjax.eval_params(tx, run.state, run.params)
    np.testing.assert_allclose(x, SOLUTION, atol=1e-5)
    assert np.array_equal(x == 0, SOLUTION == 0)


def loop(tx: Any, loss: Any, x: Any, steps: int = 200) -> Any:
    def step(carry: Any, _: Any) -> Any:
        x, state = carry
        value, grad = jax.value_and_grad(loss)(x)
        u, state = tx.update(grad, state, x, value=value, value_fn=loss)
        return (gdjax.apply_updates(x, u), state), None

    (x, state), _ = jax.lax.scan(step, (x, tx.init(x)), length=steps)
    return gdjax.eval_params(tx, state, x)


@pytest.mark.full
def test_scan_and_vmap_over_weights():
    weights = jnp.array([1.0, WEIGHT, 20.0])
    solve = lambda w: loop(gdjax.proximal_gradient(prox=prox.l1(w)), least_squares, jnp.zeros(12), 300)
    for x, w in zip(jax.jit(jax.vmap(solve))(weights), weights, strict=True):
        np.testing.assert_allclose(x, lasso(weight=float(w)), atol=2e-5)


@pytest.mark.full
def test_derivative_through_steps_of_a_given_size():
    def solution(w: Any) -> Any:
        tx = gdjax.proximal_gradient(1 / LIPSCHITZ, prox.l1(w), restart=False)
        return loop(tx, least_squares, jnp.zeros(12), 1200)

    with precision("float64"):
        slope, h = jax.jacrev(solution)(WEIGHT), 1e-4
    np.testing.assert_allclose(slope, (lasso(weight=WEIGHT + h) - lasso(weight=WEIGHT - h)) / (2 * h), atol=1e-5)


@pytest.mark.parametrize("accelerate", [True, False])
def test_16_bits(accelerate):
    goal = jnp.array([3.0, -2.0, 0.25], "bfloat16")
    loss = lambda x: jnp.sum((x - goal) ** 2) / 2
    tx = gdjax.proximal_gradient(prox=prox.l1(0.5), accelerate=accelerate)
    x, state = trained(tx, loss, jnp.ones(3, "bfloat16"), 60)
    assert x.dtype == jnp.bfloat16 and x[2] == 0 and state.learning_rate.dtype == jnp.float32
    np.testing.assert_allclose(x.astype("float32"), [2.5, -1.5, 0], atol=0.05)


def test_trees_with_holes_complex_leaves_and_none():
    params = {"a": jnp.array([1 + 1j, 0.1j]), "b": None, "c": jnp.arange(2), "d": jnp.array([3.0])}
    grads = {"a": params["a"], "b": None, "c": np.zeros(2, jax.dtypes.float0), "d": None}
    tx = gdjax.proximal_gradient(0.5, prox.l1(0.4))
    u, state = tx.update(grads, tx.init(params), params)
    z = np.asarray(params["a"]) / 2
    expected = z * np.maximum(1 - 0.2 / np.abs(z), 0)
    np.testing.assert_allclose(np.asarray(params["a"]) + u["a"], expected, atol=1e-6)
    np.testing.assert_allclose(state.x["a"], expected, atol=1e-6)
    assert u["d"] is None and state.x["d"] == 3 and u["c"].dtype == jax.dtypes.float0
    height = lambda p: jnp.sum(jnp.abs(p["a"] - (2 + 1j)) ** 2) / 2
    steps = gdjax.minimize(height, {"a": params["a"]}, gdjax.proximal_gradient(prox=prox.l1(0.5)), steps=40)
    goal = (2 + 1j) * (1 - 0.5 / np.sqrt(5))
    np.testing.assert_allclose(steps.params["a"], [goal, goal], rtol=1e-5)


ADAM = {"b1": 0.9, "b2": 0.99, "eps": 1e-6}


def hand_written(g: Any, p: Any, s: Any, t: int, rate: float, weight: float, decay: float) -> Any:
    m, v = 0.9 * s[0] + 0.1 * g, 0.99 * s[1] + 0.01 * g**2
    root = np.sqrt(v / (1 - 0.99**t)) + 1e-6
    z = p - rate * (m / (1 - 0.9**t) / root + decay * p)
    return np.sign(z) * np.maximum(np.abs(z) - rate / root * weight, 0), (m, v)


def rate(count: Any) -> Any:
    return 0.1 / (1 + jnp.asarray(count, float))


WRAPPED = {
    "adamw": lambda: gdjax.adamw(rate, **ADAM, weight_decay=0.01),
    "clipped": lambda: gdjax.chain(gdjax.clip_by_global_norm(1e6), gdjax.adamw(rate, **ADAM, weight_decay=0.01)),
    "partition": lambda: gdjax.partition({"x": gdjax.adamw(rate, **ADAM, weight_decay=0.01)}, {"a": "x", "b": "x"}),
    "masked": lambda: gdjax.chain(*(
        gdjax.masked(gdjax.adamw(rate, **ADAM, weight_decay=0.01), {"a": x, "b": not x}) for x in (True, False)
    )),
    "injected": lambda: gdjax.inject_hyperparams(gdjax.adamw)(rate, **ADAM, weight_decay=0.01),
    "per leaf": lambda: gdjax.adamw(gdjax.per_leaf(rate, {"a": 1.0, "b": 1.0}), **ADAM, weight_decay=0.01),
    "named": lambda: gdjax.named_chain(
        ("adam", gdjax.scale_by_adam(**ADAM)), ("decay", gdjax.add_decayed_weights(0.01)), ("two", gdjax.scale(2.0)),
        ("rate", gdjax.scale_by_schedule(lambda count: -rate(count) / 2)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_proximal_adamw_is_the_formula(name):
    with precision("float64"):
        tx = gdjax.proximal(WRAPPED[name](), prox.l1(0.8))
        params = {"a": jnp.array([1.0, -0.02, 0.3]), "b": jnp.array(0.5)}
        expected = {k: np.asarray(p) for k, p in params.items()}
        moments = dict.fromkeys(params, (0.0, 0.0))
        state, rng, zeros = tx.init(params), np.random.default_rng(4), 0
        for t in range(1, 6):
            grads = {"a": rng.normal(size=3), "b": rng.normal()}
            u, state = tx.update(jax.tree.map(jnp.asarray, grads), state, params)
            params = gdjax.apply_updates(params, u)
            for k, g in grads.items():
                expected[k], moments[k] = hand_written(g, expected[k], moments[k], t, rate(t - 1), 0.8, 0.01)
                np.testing.assert_allclose(params[k], expected[k], atol=1e-14)
                zeros += np.sum(np.asarray(params[k]) == 0)
        assert 0 < zeros < 20


INNER = {
    "sgd": gdjax.sgd(1 / LIPSCHITZ), "momentum": gdjax.sgd(0.2 / LIPSCHITZ, 0.8),
    "nesterov": gdjax.sgd(0.2 / LIPSCHITZ, 0.8, nesterov=True), "adam": gdjax.adam(rate),
    "adamw": gdjax.adamw(rate, weight_decay=0.0), "nadam": gdjax.nadam(rate), "rmsprop": gdjax.rmsprop(rate),
    "rmsprop with momentum": gdjax.rmsprop(0.1, momentum=0.5), "rmsprop of torch": gdjax.rmsprop(rate, like="torch"),
    "centred": gdjax.rmsprop(rate, centered=True, bias_correction=True), "adagrad": gdjax.adagrad(0.5),
    "adagrad of torch": gdjax.adagrad(0.5, like="torch"), "amsgrad": gdjax.amsgrad(0.05), "yogi": gdjax.yogi(rate),
    "noisy": gdjax.noisy_sgd(0.5 / LIPSCHITZ, eta=0.0, key=0), "scaled": gdjax.chain(gdjax.scale(-1 / LIPSCHITZ)),
}  # fmt: skip


@pytest.mark.parametrize("name", INNER)
def test_the_minimum_behind_any_optimizer_is_istas(name):
    """Whatever the metric, a point that stays where it is is the lasso's."""
    with precision("float64"):
        tx = gdjax.proximal(INNER[name], prox.l1(WEIGHT))
        x, state = jnp.asarray(SOLUTION), tx.init(jnp.zeros(12))
        step = jax.jit(lambda x, s: tx.update(jax.grad(least_squares)(x), s, x))
        for _ in range(400):  # the averages of the gradient at the solution reach it
            _, state = step(x, state)
        u, _ = step(x, state)
        np.testing.assert_allclose(u, 0, atol=1e-8)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "noisy", "adagrad", "amsgrad"])
def test_it_reaches_that_minimum(name):
    with precision("float64"):
        x, _ = trained(gdjax.proximal(INNER[name], prox.l1(WEIGHT)), least_squares, jnp.zeros(12), 4000)
    np.testing.assert_allclose(x, SOLUTION, atol=1e-6)
    assert np.array_equal(x == 0, SOLUTION == 0)


def test_proximal_adamw_is_sparse_at_the_right_places():
    with precision("float64"):
        tx = gdjax.proximal(gdjax.adamw(gdjax.linear_schedule(0.05, 0.0, 3000), weight_decay=0.0), prox.l1(WEIGHT))
        x, _ = trained(tx, least_squares, jnp.zeros(12), 3000)
    np.testing.assert_allclose(x, SOLUTION, atol=1e-4)
    assert np.array_equal(x == 0, SOLUTION == 0)


def test_numbers_set_in_the_state_set_the_step():
    tx = gdjax.proximal(gdjax.inject_hyperparams(gdjax.sgd)(0.5), prox.l1(1.0))
    params = jnp.array([2.0])
    state = tx.init(params)
    state.inner_state.hyperparams["learning_rate"] = jnp.float32(0.25)
    u, _ = tx.update(jnp.zeros(1), state, params)
    np.testing.assert_allclose(u, [-0.25])


def test_groups_have_their_steps_and_frozen_leaves_stay():
    groups = {"fast": gdjax.sgd(0.5), "slow": gdjax.sgd(0.25), "none": gdjax.set_to_zero()}
    params = {k: jnp.array([[3.0, 4.0]]) for k in groups}
    tx = gdjax.proximal(gdjax.partition(groups, {k: k for k in groups}), prox.group_lasso(1.0))
    u, _ = tx.update(gdjax.tree.zeros_like(params), tx.init(params), params)
    for k, step in {"fast": 0.5, "slow": 0.25, "none": 0.0}.items():
        np.testing.assert_allclose(u[k], -step * np.array([[0.6, 0.8]]), atol=1e-6)


def test_bfloat16_parameters_become_0_exactly():
    tx = gdjax.proximal(gdjax.adam(0.1), prox.l1(1.0))
    params = jnp.array([0.3, -0.07, 0.9], "bfloat16")
    u, _ = tx.update(jnp.full(3, 0.1, "bfloat16"), tx.init(params), params)
    assert u.dtype == jnp.bfloat16 and not np.any(gdjax.apply_updates(params, u)[:2])


@pytest.mark.parametrize(
    "inner, named",
    [
        (gdjax.lion(0.1), "scale_by_lion"), (gdjax.sign_sgd(0.1), "scale_by_sign"), (gdjax.muon(0.1), "muon"),
        (gdjax.shampoo(0.1), "shampoo"), (optax.adam(0.1), "optax.chain"), (gdjax.lbfgs(), "scale_by_lbfgs"),
        (gdjax.apply_if_finite(gdjax.sgd(0.1), 3), "apply_if_finite"),
        (gdjax.quantize_state(gdjax.adam(0.1), min_size=0), "quantize_state"),
        (gdjax.chain(gdjax.sgd(0.1), gdjax.clip(1.0)), "clip behind a direction or a rate"),
        (gdjax.params_ema(gdjax.sgd(0.1), 0.9), "params_ema"),
    ],
)  # fmt: skip
def test_an_optimizer_without_a_known_step_is_an_error(inner, named):
    with pytest.raises(
        ValueError, match=f"gdjax.proximal: inner has .*{named}.* no step size is known; it may have SGD"
    ):
        gdjax.proximal(inner, prox.l1(1.0)).init({"w": jnp.ones((4, 4))})


def test_errors():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones(3)}
    cases = [
        (lambda: gdjax.proximal(gdjax.scale_by_adam(), prox.l1()).init(params), ValueError, r"no learning rate in"),
        (lambda: gdjax.proximal(gdjax.masked(gdjax.sgd(0.1), {"a": True, "b": False}), prox.l1()).init(params),
         ValueError, r"no learning rate in inner reaches params\['b'\]"),
        (lambda: gdjax.proximal(gdjax.adam(0.1), prox.group_lasso()).init(params), ValueError, r"\['a'\]: step has"),
        (lambda: gdjax.proximal(gdjax.adam(0.1), prox.from_projection(abs)).init(params), ValueError, r"separable="),
        (lambda: gdjax.proximal(gdjax.sgd, prox.l1()), TypeError, r"gdjax.proximal: argument 0"),
        (lambda: gdjax.proximal(gdjax.sgd(0.1), 3.0), TypeError, r"gdjax.proximal: prox must be a function, got 3.0"),
        (lambda: gdjax.proximal_gradient(prox=None), TypeError, r"gdjax.proximal_gradient: prox must be a function"),
        (lambda: gdjax.proximal_gradient(gdjax.per_leaf(1.0, {"a": 2.0})), TypeError, r"one number for the whole tree"),
        (lambda: gdjax.proximal_gradient(-1.0), ValueError, r"learning_rate must be finite and at least 0"),
        (lambda: gdjax.proximal_gradient(decrease_factor=1.0), ValueError, r"decrease_factor must be between 0 and 1"),
        (lambda: gdjax.proximal_gradient().update(params, gdjax.proximal_gradient().init(params), params),
         ValueError, r"without a learning_rate update needs value= and value_fn="),
        (lambda: gdjax.proximal_gradient(1.0).update(params, gdjax.proximal_gradient(1.0).init(params)),
         ValueError, r"needs params"),
        (lambda: gdjax.proximal(gdjax.sgd(1.0), prox.l1()).update(
            params, gdjax.proximal(gdjax.sgd(1.0), prox.l1()).init(params)), ValueError, r"needs params"),
    ]  # fmt: skip
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_they_are_values_and_show_their_map():
    a, b = (gdjax.proximal_gradient(prox=prox.l1(0.5)) for _ in range(2))
    assert a == b and hash(a) == hash(b) and a != gdjax.proximal_gradient(prox=prox.l1(0.25))
    assert "prox=l1(weight=0.5)" in repr(a) and "prox=l1(weight=0.5)" in repr(
        gdjax.proximal(gdjax.sgd(1.0), prox.l1(0.5))
    )
    wrapped = gdjax.proximal(gdjax.adam(0.5), prox.l1(0.5))
    assert gdjax.get_hyperparams(wrapped, wrapped.init(jnp.ones(2)))["learning_rate"] == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_shows_and_leaves_the_step_size(bad):
    loss, x = lambda p: jnp.sum(p**2) / 2, jnp.array([1.0, 2.0])
    tx = gdjax.proximal_gradient()
    u, state = tx.update(x.at[0].set(bad), tx.init(x), x, value=loss(x), value_fn=loss)
    assert np.isnan(u[0]) and u[1] == 0
    assert state.learning_rate == 1 and np.array_equal(state.x, x)
