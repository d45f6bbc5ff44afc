"""`minimize`: the plain loop against NumPy, and everything that ends or watches it."""

import io
import pickle
import re
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.training.loop import minimize
from gdjax.training.progress import Progress
from gdjax.training.results import MinimizeResult, NonFiniteError
from gdjax.training.step import Inputs, Last, guarded_step
from tests.support import relaxed

enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(20, 4)), RNG.normal(size=20)
W0 = RNG.normal(size=4)


def least_squares(p: Any, batch: Any = None) -> jax.Array:
    a, b = (jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32)) if batch is None else batch
    return 0.5 * jnp.mean((a @ p["w"] - b) ** 2)


def start() -> Any:
    return {"w": jnp.asarray(W0, jnp.float32)}


def numpy_descent(batches: list[Any], rate: float, momentum: float = 0.0) -> tuple[np.ndarray, Any, Any]:
    """The last parameters, and loss and gradient norm before each update."""
    w, v, losses, norms = W0.copy(), np.zeros(4), [], []
    for a, b in batches:
        residual = a @ w - b
        grad = a.T @ residual / len(b)
        losses.append(0.5 * np.mean(residual**2))
        norms.append(np.linalg.norm(grad))
        v = momentum * v + grad
        w = w - rate * v
    return w, losses, norms


def slices(n: int) -> list[Any]:
    return [(A[i : i + n].astype(np.float32), B[i : i + n].astype(np.float32)) for i in range(0, 20, n)]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equals_the_numpy_loop(momentum: float):
    result = minimize(least_squares, start(), gdjax.sgd(0.05, momentum=momentum), steps=50)
    w, losses, norms = numpy_descent([(A, B)] * 50, 0.05, momentum)
    np.testing.assert_allclose(result.params["w"], w, rtol=1e-5)
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(result.history["grad_norm"], norms, rtol=1e-4)
    assert (result.steps, result.converged, result.message) == (50, False, "all 50 steps done")


@pytest.mark.full
def test_float64_and_16_bit():
    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable_x64(True):
        params = {"w": jnp.asarray(W0)}
        result = minimize(lambda p: 0.5 * jnp.mean((A @ p["w"] - B) ** 2), params, gdjax.sgd(0.05), steps=50)
        np.testing.assert_allclose(result.params["w"], numpy_descent([(A, B)] * 50, 0.05)[0], rtol=1e-12)
        assert result.history["loss"].dtype == np.float64
    for dtype in (jnp.bfloat16, jnp.float16):
        result = minimize(lambda p: jnp.sum(p**2), jnp.ones(3, dtype), gdjax.sgd(0.25), steps=5)
        assert result.params.dtype == dtype and result.history["loss"].dtype == np.float32
        np.testing.assert_array_equal(result.history["loss"], 3 * 0.25 ** np.arange(5))


def test_mini_batches_are_drawn_again():
    batches = slices(5)
    result = minimize(least_squares, start(), gdjax.sgd(0.05), data=batches, steps=50)
    w, losses, _ = numpy_descent((slices(5) * 13)[:50], 0.05)
    np.testing.assert_allclose(result.params["w"], w, rtol=1e-5)
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-4)


def test_iterator_that_ends_ends_the_run():
    result = minimize(least_squares, start(), gdjax.sgd(0.05), data=iter(slices(5)), steps=50)
    w, losses, _ = numpy_descent(slices(5), 0.05)
    np.testing.assert_allclose(result.params["w"], w, rtol=1e-5)
    assert (result.steps, len(result.history["loss"]), result.converged) == (4, 4, False)
    assert result.message == "data ended after 4 steps"


def test_draws_no_batch_that_is_not_used():
    def endless() -> Iterator[Any]:
        for k in range(1000):
            drawn.append(k)
            yield slices(5)[k % 4]

    drawn: list[int] = []
    minimize(least_squares, start(), gdjax.sgd(0.05), data=endless(), steps=7)
    assert len(drawn) == 7


@pytest.mark.full
@pytest.mark.parametrize("data", [None, "batches"])
def test_compiles_once(data: Any):
    traces = []

    def loss(p: Any, *batch: Any) -> jax.Array:
        traces.append(1)
        return least_squares(p, *batch)

    # Python numbers are weakly typed and must not cost a second trace.
    params = {**start(), "number": 2.0, "weak": jnp.asarray(3.0)}
    batches = None if data is None else slices(5)
    tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adam(1e-2))
    result = minimize(loss, params, tx, data=batches, steps=30, grad_tol=0.0, loss_tol=0.0)
    assert len(traces) == 1 and not any(x.weak_type for x in jax.tree.leaves(result.params))


def test_a_drifting_transform_compiles_once():
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        half, weak = state
        return jax.tree.map(lambda g: -0.01 * g, updates), (half.astype(jnp.float32) + 1, weak + jnp.float32(1))

    traces = []

    def loss(p: Any) -> jax.Array:
        traces.append(1)
        return least_squares(p)

    tx = optax.GradientTransformation(lambda p: (jnp.zeros((), jnp.bfloat16), jnp.asarray(0.0)), update)
    result = minimize(loss, start(), tx, steps=5)
    assert len(traces) == 1 and [x.dtype for x in result.state] == [jnp.bfloat16, jnp.float32]
    assert [float(x) for x in result.state] == [5.0, 5.0]


def test_arguments_stay_usable():
    params, tx = start(), gdjax.adam(1e-2)
    state = tx.init(params)
    first = minimize(least_squares, params, tx, state=state, steps=10)
    np.testing.assert_array_equal(params["w"], W0.astype(np.float32))
    assert int(jax.tree.leaves(state)[0]) == 0
    second = minimize(least_squares, params, tx, state=state, steps=10)
    np.testing.assert_array_equal(first.params["w"], second.params["w"])


def test_a_numpy_array_is_not_overwritten():
    w = np.ones(2**20, np.float32)  # large and aligned: the CPU backend may use it without a copy
    minimize(lambda w: jnp.sum(w**2), w, gdjax.sgd(0.1), steps=3)
    assert (w == 1).all()


@pytest.mark.full
def test_goes_on_where_it_ended():
    tx = gdjax.adam(lambda count: 0.1 / (1.0 + count.astype(jnp.float32)))
    whole = minimize(least_squares, start(), tx, steps=20)
    half = minimize(least_squares, start(), tx, steps=10)
    rest = minimize(least_squares, half.params, tx, state=half.state, steps=10)
    np.testing.assert_array_equal(rest.params["w"], whole.params["w"])
    joined = np.concatenate([half.history["learning_rate"], rest.history["learning_rate"]])
    np.testing.assert_allclose(joined, 0.1 / (1 + np.arange(20)), rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [lambda: gdjax.sgd(0.25), lambda: gdjax.inject_hyperparams(gdjax.adam)(0.25), lambda: gdjax.adamw(lambda c: 0.25)],
)
def test_history_has_the_learning_rate(make: Any):
    history = minimize(least_squares, start(), make(), steps=3).history
    assert list(history) == ["loss", "grad_norm", "update_norm", "learning_rate"]
    np.testing.assert_array_equal(history["learning_rate"], np.float32([0.25] * 3))


@pytest.mark.full
@pytest.mark.parametrize("make", [lambda: optax.adam(0.1), lambda: optax.inject_hyperparams(optax.sgd)(0.1)])
def test_optax_transforms_run(make: Any):
    with relaxed():
        tx = make()
        result = minimize(least_squares, start(), tx, steps=20)
        params = start()
        state = tx.init(params)
        for _ in range(20):
            updates, state = tx.update(jax.grad(least_squares)(params), state, params)
            params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(result.params["w"], params["w"], rtol=1e-5)
    assert ("learning_rate" in result.history) == hasattr(state, "hyperparams")


@pytest.mark.full
def test_extra_arguments_reach_a_transform_that_takes_them():
    def update(updates: Any, state: Any, params: Any = None, *, value_fn: Any, **rest: Any) -> Any:
        value, grad = rest.pop("value") + value_fn(params), rest.pop("grad")
        assert rest == {}
        return jax.tree.map(lambda g: -0.01 * value * g, grad), state

    tx = gdjax.GradientTransformation(lambda p: (), update)
    result = minimize(least_squares, start(), tx, steps=1)
    w0, grad = start()["w"], jax.grad(least_squares)(start())["w"]
    np.testing.assert_allclose(result.params["w"], w0 - 0.02 * least_squares(start()) * grad, rtol=1e-6)
    bare = optax.GradientTransformation(lambda p: (), lambda u, s, p=None: (u, s))
    assert minimize(least_squares, start(), bare, steps=1).steps == 1


@pytest.mark.full
def test_stops_on_gradient_tolerance():
    tx = gdjax.sgd(0.1)
    result = minimize(least_squares, start(), tx, steps=5000, grad_tol=1e-3)
    _, _, norms = numpy_descent([(A, B)] * 5000, 0.1)
    first = int(np.argmax(np.array(norms) <= 1e-3))
    assert result.converged and abs(result.steps - first) <= 1 and first > 50
    assert len(result.history["grad_norm"]) == result.steps + 1
    assert result.history["grad_norm"][-1] <= 1e-3 < result.history["grad_norm"][-2]
    # Exactly the parameters at which the tolerance was met, whatever the device did before the host noticed.
    again = minimize(least_squares, start(), tx, steps=result.steps)
    np.testing.assert_array_equal(result.params["w"], again.params["w"])
    assert "grad_tol" in result.message and str(result.steps) in result.message


UPPER = {"a": 0.5, "b": np.array([1.5, 0.01])}
BOUNDED: dict[str, tuple[Any, Any, Any]] = {
    "bfgs": (gdjax.bfgs(bounds=(-1.0, UPPER)), -1.0, UPPER),
    "ssbroyden": (gdjax.ssbroyden(bounds=(-1.0, UPPER)), -1.0, UPPER),
    "injected": (gdjax.inject_hyperparams(gdjax.bfgs, "bounds")(1.0, bounds=(-1.0, UPPER)), -1.0, UPPER),
    "in_a_group": (
        gdjax.partition(
            {0: gdjax.bfgs(linesearch=None, bounds=(-1.0, 0.5)), 1: gdjax.set_to_zero()}, {"a": 0, "b": 1}
        ), -1.0, {"a": 0.5, "b": 0.0},
    ),
}  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("name", BOUNDED)
def test_stops_on_the_projected_gradient(name: str):
    """At a bound the gradient is not small, and the run used to make all its steps, with updates of 0."""
    tx, lower, upper = BOUNDED[name]
    n = 3 if name == "in_a_group" else 5
    target, scales = np.array([1.0, -3.0, 0.25, 3.0, 3.0])[:n], np.array([1.0, 30.0, 7.0, 2.0, 0.1])[:n]

    def loss(p: Any) -> jax.Array:
        return jnp.sum(scales * (jnp.concatenate(jax.tree.leaves(p))[:n] - target) ** 2)

    with enable_x64(True):
        start = {"a": jnp.zeros(3, jnp.float64), "b": jnp.zeros(2, jnp.float64)}
        result = minimize(loss, start, tx, steps=200, grad_tol=1e-9)
        grads = jax.device_get(jax.grad(loss)(result.params))
    assert result.converged and result.steps < 40, result.message
    assert "projected gradient norm within grad_tol" in result.message
    last = result.history["projected_grad_norm"][-1]
    assert last <= 1e-9 < 1e-2 < result.history["grad_norm"][-1]
    held = jax.tree.map(lambda p, g, u: p - np.clip(p - g, lower, u), jax.device_get(result.params), grads, upper)
    assert np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(held))) < 1e-9


@pytest.mark.full
def test_steps_to_a_bound_as_scipy_counts_them():
    """Rosenbrock's function with the minimum cut off: SciPy's L-BFGS-B needs 39 evaluations or so."""
    with enable_x64(True):
        x = jnp.full(6, -0.5, jnp.float64)
        f = lambda x: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
        result = minimize(f, x, gdjax.bfgs(bounds=(None, 0.8)), steps=200, grad_tol=1e-9)
    assert result.converged and result.steps < 60, result.message


def test_stops_at_zero_with_a_projection_last():
    tx = gdjax.chain(gdjax.sgd(0.1), gdjax.masked(gdjax.keep_params_nonnegative(), {"a": True, "b": False}))
    loss = lambda p: jnp.sum((p["a"] + 1) ** 2) + jnp.sum((p["b"] + 1) ** 2)
    result = minimize(loss, {"a": jnp.ones(2), "b": jnp.ones(1)}, tx, steps=200, grad_tol=1e-4)
    assert result.converged and result.steps < 100
    np.testing.assert_allclose(result.params["a"], 0)
    np.testing.assert_allclose(result.params["b"], -1, atol=1e-4)


def test_a_mask_that_shapes_do_not_satisfy_still_runs():
    """The bounds are looked for in shapes, which are not all that an array is."""

    def mask(params: Any) -> Any:
        return jax.tree.map(lambda x: x.at is not None, params)

    with pytest.raises(ValueError, match="raised AttributeError: .* has no attribute 'at'"):
        gdjax.explain(gdjax.masked(gdjax.clip(1.0), mask), start())
    tx = gdjax.chain(gdjax.masked(gdjax.clip(1.0), mask), gdjax.sgd(0.1))
    assert minimize(least_squares, start(), tx, steps=3, grad_tol=1e-9).steps == 3


def test_without_bounds_the_norm_is_the_gradients():
    result = minimize(least_squares, start(), gdjax.bfgs(), steps=100, grad_tol=1e-5)
    assert result.converged and "projected_grad_norm" not in result.history
    assert "gradient norm within grad_tol" in result.message and "projected" not in result.message


def test_stops_on_steady_loss():
    result = minimize(least_squares, start(), gdjax.sgd(0.1), steps=5000, loss_tol=1e-5)
    loss = result.history["loss"].astype(np.float64)
    change = np.abs(np.diff(loss)) / np.maximum(loss[1:], loss[:-1])
    assert result.converged and result.steps == len(loss) - 1 > 10 and "loss_tol" in result.message
    assert change[-1] <= 1.01e-5 and (change[:-1] > 0.99e-5).all()


@pytest.mark.parametrize("chunk", range(1, 8))
def test_result_does_not_depend_on_when_the_host_looks(chunk: int, monkeypatch: pytest.MonkeyPatch):
    """The device freezes at step 5; the host looks after 1, chunk, chunk, ... steps."""
    monkeypatch.setattr("gdjax.training.progress.CHUNK_SECONDS", 1e9)
    monkeypatch.setattr("gdjax.training.progress.CHUNK_STEPS", chunk)

    def loss(p: Any, batch: Any) -> jax.Array:
        return jnp.sum(batch * p**2)

    batches = [jnp.float32(1.0)] * 5
    good = minimize(loss, jnp.ones(2), gdjax.adam(0.1), data=batches, steps=5)
    flat = minimize(
        loss, jnp.ones(2), gdjax.adam(0.1), data=[*batches, jnp.float32(0.0), *batches], steps=11, grad_tol=0
    )
    assert flat.converged and flat.steps == 5
    np.testing.assert_array_equal(flat.params, good.params)
    jax.tree.map(np.testing.assert_array_equal, flat.state, good.state)
    before = minimize(loss, jnp.ones(2), gdjax.adam(0.1), data=batches, steps=4)
    with pytest.raises(NonFiniteError) as caught:
        minimize(loss, jnp.ones(2), gdjax.adam(0.1), data=[*batches, jnp.float32(np.nan), *batches], steps=11)
    assert caught.value.step == 5
    np.testing.assert_array_equal(caught.value.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, caught.value.state, good.state)


def test_divergence_keeps_the_last_good_params():
    with pytest.raises(NonFiniteError, match=r"gdjax\.minimize: not finite at step 3: loss nan") as caught:
        minimize(lambda p: jnp.sum(jnp.log(p["w"])), {"w": jnp.ones(3)}, gdjax.sgd(0.3), steps=100)
    error, w, last, losses = caught.value, 1.0, 1.0, []
    for _ in range(3):
        last = w
        losses.append(3 * np.log(w))
        w = w - 0.3 / w
    assert isinstance(error, FloatingPointError) and error.step == 3
    np.testing.assert_allclose(error.params["w"], last, rtol=1e-5)
    np.testing.assert_allclose(error.history["loss"], [*losses, np.nan], rtol=1e-5, atol=1e-6)
    assert np.isfinite(3 * np.log(last)) and w < 0


def test_non_finite_gradient_of_a_finite_loss():
    with pytest.raises(NonFiniteError, match="at step 0: loss 0.0, gradient norm inf") as caught:
        minimize(lambda w: jnp.sum(jnp.sqrt(w)), jnp.zeros(2), gdjax.sgd(0.1), steps=5)
    np.testing.assert_array_equal(caught.value.params, np.zeros(2))


def test_non_finite_last_update():
    with pytest.raises(NonFiniteError, match="step 0 made numbers not finite") as caught:
        minimize(lambda w: jnp.sum(w**2), jnp.ones(2), gdjax.scale(lambda count: -jnp.inf), steps=1)
    np.testing.assert_array_equal(caught.value.params, np.ones(2))


def test_large_gradients_are_finite():
    # Their sum of squares is not.
    result = minimize(lambda w: jnp.sum(5e24 * w**2), jnp.ones(2), gdjax.sgd(0.5e-25), steps=2)
    np.testing.assert_allclose(result.history["grad_norm"], np.sqrt(2) * np.array([1e25, 0.5e25]), rtol=1e-6)


def test_callback_sees_every_step_and_stops():
    seen = []

    def callback(step: int, params: Any, state: Any, metrics: dict[str, Any]) -> bool:
        seen.append((step, np.array(params["w"]), float(metrics["loss"]), metrics["aux"]))
        return step == 6

    result = minimize(least_squares, start(), gdjax.sgd(0.05), steps=50, callback=callback)
    assert (result.steps, result.message) == (7, "stopped by the callback at step 6")
    assert [s for s, *_ in seen] == list(range(7))
    for step, w, loss, aux in seen:
        w_np, losses, _ = numpy_descent([(A, B)] * (step + 1), 0.05)
        np.testing.assert_allclose(w, w_np, rtol=1e-5)
        assert loss == pytest.approx(losses[-1], rel=1e-5) and aux is None
    np.testing.assert_array_equal(result.params["w"], seen[-1][1])


@pytest.mark.full
def test_auxiliary_output():
    def scalars(p: Any) -> Any:
        return least_squares(p), {"step": p["w"][0], "twice": 2 * least_squares(p)}

    result = minimize(scalars, start(), gdjax.sgd(0.05), steps=4, has_aux=True, progress=Progress(4))
    assert set(result.history) == {"loss", "grad_norm", "update_norm", "learning_rate", "step", "twice"}
    np.testing.assert_allclose(result.history["twice"], 2 * result.history["loss"])

    for aux in ({"a": 1.0, "b": {"c": 1.0}}, {"step": jnp.ones(2)}, {1: 1.0}, 3.0, None):
        result = minimize(lambda p, aux=aux: (least_squares(p), aux), start(), gdjax.sgd(0.05), steps=1, has_aux=True)
        assert set(result.history) == {"loss", "grad_norm", "update_norm", "learning_rate"}

    arrays = []
    result = minimize(
        lambda p: (least_squares(p), p["w"]), start(), gdjax.sgd(0.05), steps=2, has_aux=True,
        callback=lambda step, p, s, metrics: arrays.append(np.array(metrics["aux"])),
    )  # fmt: skip
    assert set(result.history) == {"loss", "grad_norm", "update_norm", "learning_rate"}
    np.testing.assert_array_equal(arrays[0], W0.astype(np.float32))


def test_complex_parameters_descend():
    target = jnp.array([1 + 2j, -3j], jnp.complex64)

    def loss(z: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square((z - target).real) + jnp.square((z - target).imag))

    result = minimize(loss, jnp.zeros(2, jnp.complex64), gdjax.sgd(0.1), steps=60)
    np.testing.assert_allclose(result.params, target, atol=1e-4)


def test_integer_and_missing_leaves_stay():
    params = {"w": jnp.ones(2), "n": jnp.arange(3), "none": None}
    result = minimize(
        lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["n"]).astype(jnp.float32), params, gdjax.adam(0.1), steps=3
    )
    assert result.params["n"].dtype == jnp.int32 and result.params["none"] is None
    np.testing.assert_array_equal(result.params["n"], np.arange(3))
    assert (result.params["w"] < 1).all()


def test_state_that_holds_the_params_and_a_key():
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        anchor, key = state
        key, sub = jax.random.split(key)
        noise = 1e-3 * jax.random.normal(sub, (4,))
        return {"w": -0.05 * updates["w"] + noise + 0.0 * anchor["w"]}, (anchor, key)

    tx = gdjax.GradientTransformation(lambda p: (p, jax.random.key(0)), update)
    result = minimize(least_squares, start(), tx, steps=10)
    np.testing.assert_array_equal(result.state[0]["w"], W0.astype(np.float32))
    assert not (jax.random.key_data(result.state[1]) == jax.random.key_data(jax.random.key(0))).all()


def test_no_steps():
    result = minimize(least_squares, start(), gdjax.adam(0.1), steps=0, data=iter([]))
    np.testing.assert_array_equal(result.params["w"], W0.astype(np.float32))
    assert isinstance(result, MinimizeResult) and result.steps == 0 and not result.converged
    assert {k: v.shape for k, v in result.history.items()} == dict.fromkeys(["loss", "grad_norm", "update_norm"], (0,))


def test_progress_in_a_log_and_as_a_function(capsys: pytest.CaptureFixture[str]):
    minimize(least_squares, start(), gdjax.sgd(0.05), steps=20, progress=True)
    out, err = capsys.readouterr()
    first, last = err.splitlines()
    assert out == "" and "\r" not in err
    assert first.startswith("step 1/20  loss ") and "learning_rate 0.05" in first and "grad_norm" in first
    assert re.match(r"step 20/20  \S+ steps/s  loss ", last)

    calls = []
    result = minimize(
        least_squares, start(), gdjax.sgd(0.05), steps=20, progress=lambda step, **m: calls.append((step, m))
    )
    assert capsys.readouterr() == ("", "")
    assert [step for step, _ in calls] == list(range(1, 21))
    assert [m["loss"] for _, m in calls] == list(result.history["loss"])


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("COLUMNS", "200")
    minimize(least_squares, start(), gdjax.sgd(0.05), steps=20, progress=True)
    text = stream.getvalue()
    assert re.fullmatch(r"\r  5% \[\.+\] 1/20  loss [^\n]+\r100% \[#+\] 20/20  \S+ steps/s  loss [^\n]+\n", text)


def test_progress_line_ends_when_the_run_fails(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", stream)
    with pytest.raises(NonFiniteError):
        minimize(lambda p: jnp.sum(jnp.log(p)), jnp.ones(3), gdjax.sgd(0.3), steps=100, progress=True)
    assert stream.getvalue().endswith("\n")


@pytest.mark.full
@pytest.mark.optimized
@pytest.mark.parametrize("name", ["sgd", "adam", "lion"])
def test_guard_costs_no_copy(name: str):
    """The step takes no more temporary memory than one that clips by the norm, and writes in place."""
    tx, params = getattr(gdjax, name)(1e-3), {k: jnp.ones((256, 256)) for k in "abcd"}
    state, last = tx.init(params), Last(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros((), jnp.int32))

    def loss(p: Any) -> Any:
        return sum(jnp.sum(x**2) for x in p.values())

    clipped = gdjax.chain(gdjax.clip_by_global_norm(1.0), tx)

    def plain(params: Any, state: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = clipped.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state, value

    def memory(step: Any, *args: Any) -> Any:
        return jax.jit(step, donate_argnums=(0, 1)).lower(*args).compile().memory_analysis()

    step = guarded_step(lambda p: (loss(p), None), tx, None, None)
    guarded = memory(step, params, state, params, last, Inputs((), np.int32(0), None))
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    assert guarded.temp_size_in_bytes <= memory(plain, params, clipped.init(params)).temp_size_in_bytes + 0.01 * size
    assert guarded.alias_size_in_bytes == size + sum(x.nbytes for x in jax.tree.leaves(state))


def test_every_step_works_in_place():
    seen = []
    tx = gdjax.sgd(0.05, momentum=0.9)
    minimize(
        least_squares, start(), tx, steps=5, callback=lambda i, p, s, m: seen.append((p["w"], jax.tree.leaves(s)[0]))
    )
    assert [(w.is_deleted(), v.is_deleted()) for w, v in seen] == [(True, True)] * 3 + [(False, True), (False, False)]


def test_error_pickles():
    error = NonFiniteError("m", 1, {"w": np.ones(2)}, (), {"loss": np.ones(1)})
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == "m" and again.step == 1 and (again.params["w"] == 1).all()


def run(**changes: Any) -> MinimizeResult:
    arguments = {"loss_fn": least_squares, "params": start(), "tx": gdjax.sgd(0.1), "steps": 2, **changes}
    return minimize(**arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"steps": 1.5}, TypeError, "steps must be an int, got 1.5"),
        ({"tx": 0.1}, TypeError, "argument tx is 0.1, which has no init and update"),
        ({"grad_tol": -1.0}, ValueError, "grad_tol must be at least 0, got -1.0"),
        ({"loss_tol": float("nan")}, ValueError, "loss_tol must be at least 0, got nan"),
        ({"data": {"x": 1}}, TypeError, "data must be an iterable of batches, got dict"),
        ({"data": 3}, TypeError, "data must be an iterable of batches, got int"),
        ({"data": []}, ValueError, "data has no batch"),
        ({"data": iter([])}, ValueError, "data has no batch"),
        ({"progress": "yes"}, TypeError, "progress must be True, False or a function, got 'yes'"),
        ({"params": {"w": "weights"}}, TypeError, r"params\['w'\] is 'weights'"),
        ({"params": {"k": jax.random.key(0)}}, TypeError, r"params\['k'\] is a PRNG key"),
    ],
)
def test_misuse(changes: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=f"gdjax.minimize: {message}"):
        run(**changes)


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda p: p["w"], r"got shape \(4,\) and dtype float32; take the mean or the sum$"),
        (lambda p: jnp.int32(3), r"got shape \(\) and dtype int32$"),
        (lambda p: jax.lax.complex(p["w"][0], p["w"][1]), r"got shape \(\) and dtype complex64$"),
        (lambda p: None, "got a NoneType$"),
        (lambda p: {"loss": p["w"][0]}, "got a dict$"),
        (lambda p: (p["w"][0], {"aux": 1.0}), "got a tuple of 2; if the first is the loss, pass has_aux=True$"),
        (lambda p: (p["w"][0], 1.0, 2.0), "got a tuple of 3$"),
    ],
)
def test_loss_must_be_a_real_scalar(loss_fn: Any, message: str):
    with pytest.raises(TypeError) as e:
        run(loss_fn=loss_fn)
    assert re.match(f"^gdjax.minimize: loss_fn must return a real scalar, {message}", str(e.value))


def test_the_slips_of_a_loss():
    def loss(p: Any) -> Any:
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(p))

    def of_batch(p: Any, batch: Any, scale: float = 1.0) -> Any:
        return scale * loss(p)

    cases = [
        (jax.grad(loss), {"w": jnp.ones(2)}, r"got a dict; pass the loss itself, not its gradient"),
        (jax.grad(loss), [jnp.ones(2), jnp.ones(1)], r"got a list of 2; pass the loss"),
        (jax.grad(loss), jnp.ones(2), r"; take the mean or the sum, or pass the loss itself, not its gradient"),
        (loss, [1, 2], r"dtype int32; the parameters are integers: write 1.0 for 1"),
        (of_batch, jnp.ones(2), r"loss_fn takes \(p, batch\), and without data gets the first: pass data="),
        (lambda p, key: loss(p), jnp.ones(2), r"loss_fn takes \(p, key\), .* pass data=, or key="),
        (
            lambda p: (p[0], p[1]),
            (jnp.float32(1), jnp.float32(2)),
            "got a tuple of 2; if the first is the loss, pass has_aux",
        ),
    ]
    for f, params, message in cases:
        with pytest.raises(TypeError, match=rf"^gdjax.minimize: .*{message}"):
            gdjax.minimize(f, params, gdjax.sgd(0.1), steps=1)
    with pytest.raises(TypeError, match=r"^gdjax.sweep: loss_fn takes \(p, batch\)"):
        gdjax.sweep(of_batch, jnp.ones(2), gdjax.sgd, {"learning_rate": [0.1]}, steps=1)
    gdjax.minimize(lambda p, key: loss(p), jnp.ones(2), gdjax.sgd(0.1), steps=1, key=jax.random.key(0))
    gdjax.minimize(lambda p, scale=1.0: loss(p), jnp.ones(2), gdjax.sgd(0.1), steps=1)


def test_aux_must_come_in_a_pair():
    with pytest.raises(
        TypeError, match=r"^gdjax.minimize: with has_aux loss_fn returns a pair, .* got an array of shape \(\)"
    ):
        run(has_aux=True)
    with pytest.raises(TypeError, match="got a tuple of 3"):
        run(loss_fn=lambda p: (p["w"][0], 1.0, 2.0), has_aux=True)
    with pytest.raises(TypeError, match=r"must return a real scalar, got shape \(4,\)"):
        run(loss_fn=lambda p: (p["w"], 1.0), has_aux=True)


@pytest.mark.parametrize("loss_fn", [least_squares, lambda p, x, y: jnp.sum(p["w"])], ids=["unpacks", "two arguments"])
def test_a_pair_of_arrays_is_no_iterable_of_batches(loss_fn: Any):
    x, y = A.astype(np.float32), B.astype(np.float32)
    for data, kind in (((x, y), "tuple"), ([x, y], "list")):
        both = r"pass data=\[\(x, y\)\] if they are one batch, data=\[x1, x2\], a list, or an iterator if each is one"
        with pytest.raises(TypeError, match=rf"a {kind} of arrays of shapes \(20, 4\) and \(20,\): {both}"):
            run(loss_fn=loss_fn, data=data)
    for data in ((y, y), (x, x), (x, x[:, :1])):  # of one rank too
        with pytest.raises(TypeError, match="a tuple of arrays of shapes"):
            run(loss_fn=loss_fn, data=data)
    with pytest.raises((ValueError, TypeError)) as e:  # these might be two batches
        run(loss_fn=loss_fn, data=[x, x])
    assert e.value.__notes__[0] == (
        "gdjax.minimize: data is a list of 2 arrays, and each is taken for a batch; "
        "for one batch of several arrays pass data=[(x, y)] or itertools.repeat((x, y))"
    )
    with pytest.raises(ValueError) as e:
        run(loss_fn=lambda p, batch: least_squares(p, (*batch, 1)), data=slices(5))
    assert not any("gdjax.minimize" in note for note in getattr(e.value, "__notes__", ()))


@pytest.mark.full
def test_batches_may_be_a_pair_of_arrays():
    pair = (jnp.ones((3, 4)), jnp.zeros((5, 4)))  # two batches, of 3 and of 5 rows
    alike = [jnp.ones((3, 4)), jnp.zeros((3, 4))]
    named = ({"x": jnp.ones((3, 4))}, {"x": jnp.ones((3, 4))})
    for data in (pair, alike, iter(alike * 2), [tuple(alike), tuple(alike)], (tuple(alike), tuple(alike)), named):
        assert run(loss_fn=lambda p, x: jnp.mean((jax.tree.leaves(x)[0] @ p["w"]) ** 2), data=data, steps=4).steps == 4


def ascents() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        two = gdjax.chain(gdjax.adam(1e-3), gdjax.sgd(0.1))
    return {
        "no rate": gdjax.scale_by_adam(),
        "a chain without": gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.trace(0.9)),
        "nothing": gdjax.chain(),
        "a positive scale": gdjax.chain(gdjax.scale_by_rms(), gdjax.scale(1e-3)),
        "two rates": two,
    }


@pytest.mark.parametrize("name", ascents())
def test_an_ascent_is_a_warning(name: str):
    with pytest.warns(UserWarning, match="^gdjax.minimize: the updates of tx go up the gradient") as caught:
        result = run(tx=ascents()[name])
    assert len(caught) == 1 and result.history["loss"][1] > result.history["loss"][0]


@pytest.mark.parametrize(
    "tx",
    [
        gdjax.chain(gdjax.scale_by_adam(), gdjax.scale(-1e-3)),
        gdjax.chain(gdjax.scale_by_adam(), gdjax.scale_by_schedule(lambda t: -0.1)),
        gdjax.chain(gdjax.scale_by_adam(), gdjax.scale_by_learning_rate(0.1, flip_sign=False)),  # on purpose
        gdjax.masked(gdjax.adam(0.1), True), gdjax.rprop(0.1), gdjax.adafactor(), gdjax.cocob(), gdjax.prodigy(),
        gdjax.scale_by_cocob(), gdjax.lbfgs(), gdjax.fromage(0.1), gdjax.sgd(0.0), gdjax.adamw(0.1, mask={"w": True}),
        gdjax.apply_if_finite(gdjax.adam(0.1), 2), gdjax.scale_by_schedule(lambda t: 0.0),
    ],
)  # fmt: skip
def test_no_ascent_is_no_warning(tx: Any):
    run(tx=tx)


def test_a_rate_below_zero_is_a_warning():
    with pytest.warns(UserWarning, match="learning_rate is -0.125 at step 2, and below 0 in 2 of 4 steps: there the"):
        run(tx=gdjax.sgd(lambda t: jnp.where(t < 2, 0.125, -0.125)), steps=4)
    with pytest.warns(UserWarning, match="learning_rate is -"), pytest.raises(NonFiniteError):
        run(tx=gdjax.sgd(lambda t: jnp.float32(-1e3)), steps=100)


def test_the_error_says_what_is_kept():
    with pytest.raises(
        NonFiniteError, match=r"; \.params of this error are the last good .* gdjax\.apply_if_finite skips"
    ):
        run(loss_fn=lambda p: jnp.sum(jnp.log(p["w"])))


TRANSFORMS = {
    "adam": lambda lib: lib.adam(0.1),
    "chain": lambda lib: lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(optax.linear_schedule(0.1, 0.0, 9))),
    "injected": lambda lib: lib.inject_hyperparams(lib.adam)(0.1),
    "groups": lambda lib: lib.partition({"a": lib.adam(0.1), "b": lib.sgd(0.1, 0.9)}, lambda tree: {"w": "a"}),
    "MultiSteps": lambda lib: lib.MultiSteps(lib.adam(0.1), 2),
    "lbfgs": lambda lib: lib.lbfgs(),
}


@pytest.mark.parametrize("name", [*list(TRANSFORMS)[:-1], pytest.param("lbfgs", marks=pytest.mark.slow)])
def test_goes_on_from_a_state_of_optax(name: str):
    with relaxed():
        ours, theirs = TRANSFORMS[name](gdjax), TRANSFORMS[name](optax)
        half = minimize(least_squares, start(), theirs, steps=4)
        whole = minimize(least_squares, start(), theirs, steps=8)
        again = minimize(least_squares, half.params, theirs, state=half.state, steps=4)
        mixed = gdjax.chain(optax.identity(), ours, optax.identity())
        state = (optax.EmptyState(), half.state, optax.EmptyState())
        rest = minimize(least_squares, half.params, ours, state=half.state, steps=4)
        inside = minimize(least_squares, half.params, mixed, state=state, steps=4)
    np.testing.assert_array_equal(again.params["w"], whole.params["w"])
    np.testing.assert_allclose(rest.params["w"], whole.params["w"], rtol=1e-4)
    np.testing.assert_allclose(inside.params["w"], whole.params["w"], rtol=1e-4)
    assert not any("optax" in type(s).__module__ for s in (rest.state, *rest.state))
    assert type(inside.state[0]) is optax.EmptyState


def test_a_traced_call_is_refused_with_what_to_do():
    f = lambda x: gdjax.minimize(lambda x: jnp.sum(x**2), x, gdjax.sgd(0.1), steps=2).params
    by = lambda a: jnp.sum(gdjax.minimize(lambda x: a * jnp.sum(x**2), jnp.ones(2), gdjax.sgd(0.1), steps=2).params)
    for call in (
        lambda: jax.jit(f)(jnp.ones(2)),
        lambda: jax.vmap(f)(jnp.ones((3, 2))),
        lambda: jax.grad(lambda x: jnp.sum(f(x)))(jnp.ones(2)),
        lambda: jax.grad(by)(1.0),
        lambda: jax.jit(by)(1.0),
    ):
        with pytest.raises(TypeError, match=r"gdjax.minimize is a loop in Python.*scan over tx.update"):
            call()


@pytest.mark.full
def test_a_loss_without_a_lower_bound_and_one_that_underflows_are_told():
    with enable_x64(True):
        try:
            message = gdjax.minimize(lambda x: -jnp.exp(x[0]), jnp.zeros(1), gdjax.lbfgs(), steps=20).message
        except gdjax.NonFiniteError as e:
            message = str(e)
        assert "is it unbounded below?" in message and "gradient norm inf" not in message
    tiny = gdjax.minimize(lambda x: 1e-35 * jnp.sum((x - 1) ** 2), jnp.zeros(2), gdjax.bfgs(), steps=5)
    assert "the loss's differences underflow in float32" in tiny.message
    usual = gdjax.minimize(lambda x: 1e-28 * jnp.sum((x - 1) ** 2), jnp.zeros(2), gdjax.bfgs(), steps=5)
    assert "underflow" not in usual.message
