"""`minimize`: the norm of updates, evaluation, keys, and runs that go on."""

import inspect
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(20, 4)).astype(np.float32), RNG.normal(size=20).astype(np.float32)
W0 = RNG.normal(size=4).astype(np.float32)
KEY = jax.random.key(3)


def loss(p: Any) -> jax.Array:
    return 0.5 * jnp.mean((jnp.asarray(A) @ p["w"] - B) ** 2)


def noisy(p: Any, *, key: jax.Array) -> jax.Array:
    return loss({"w": p["w"] + 0.1 * jax.random.normal(key, (4,))})


def run(f: Any = loss, tx: Any = None, **options: Any) -> gdjax.MinimizeResult:
    return gdjax.minimize(f, {"w": jnp.asarray(W0)}, tx or gdjax.sgd(0.05), **{"steps": 6, **options})


def test_the_norm_of_updates():
    seen = [W0]
    history = run(callback=lambda i, p, s, m: seen.append(np.array(p["w"]))).history
    np.testing.assert_allclose(history["update_norm"], np.linalg.norm(np.diff(seen, axis=0), axis=1), rtol=1e-5)
    np.testing.assert_allclose(history["update_norm"], 0.05 * history["grad_norm"], rtol=1e-4)


@pytest.mark.full
def test_the_norm_of_an_update_that_bfloat16_loses_or_a_tolerance_stops():
    lost = gdjax.minimize(lambda p: jnp.sum(p), jnp.ones(3, jnp.bfloat16), gdjax.sgd(1e-4), steps=2)
    np.testing.assert_array_equal(lost.history["update_norm"], np.zeros(2))
    stopped = run(steps=100, loss_tol=0.02)
    assert stopped.converged and stopped.history["update_norm"][-1] == 0 and stopped.history["update_norm"][-2] > 0


@pytest.mark.parametrize("scale", [1e25, 1.0, 1e-25])
def test_the_norm_of_a_large_and_of_a_small_update(scale: float):
    start = jnp.zeros(2, jnp.complex64) if scale == 1 else jnp.zeros(2)
    step = jnp.array([3.0, 4.0]) * np.float32(scale)
    tx = gdjax.GradientTransformation(lambda p: (), lambda g, s, p: (g * 0 - step.astype(g.dtype), s))
    result = gdjax.minimize(lambda p: jnp.sum(jnp.real(p)), start, tx, steps=1)
    np.testing.assert_allclose(result.history["update_norm"], [5 * scale], rtol=1e-6)


@pytest.mark.full
def test_a_transform_that_estimates_curvature():
    result = run(tx=gdjax.sophia(0.05), steps=40)
    assert result.history["loss"][-1] < 0.5 * result.history["loss"][0]


def half_norm(p: Any) -> jax.Array:
    return 0.5 * jnp.sum(p["w"] ** 2)


def test_evaluates_every_n_updates_and_at_the_end():
    seen = []
    whole = run(
        steps=7, evaluate=half_norm, evaluate_every=3,
        callback=lambda i, p, s, m: seen.append(float(half_norm(p))),
    )  # fmt: skip
    np.testing.assert_array_equal(whole.evaluations["step"], [3, 6, 7])
    np.testing.assert_array_equal(whole.evaluations["evaluation"], np.float32([seen[2], seen[5], seen[6]]))
    last = run(steps=7, evaluate=lambda p: {"half": half_norm(p), "one": 1})
    assert list(last.evaluations) == ["step", "half", "one"] and last.evaluations["step"].tolist() == [7]
    assert last.evaluations["half"][0] == np.float32(seen[6])
    assert run(steps=2).evaluations == {}


def test_evaluation_where_the_run_ends_early():
    """The step that meets a tolerance is known before the next evaluation, which is of the parameters returned."""
    result = run(steps=500, loss_tol=0.02, evaluate=half_norm, evaluate_every=4)
    steps = result.evaluations["step"]
    assert result.converged and steps[-1] == result.steps and (np.diff(steps)[:-1] == 4).all()
    assert result.evaluations["evaluation"][-1] == half_norm(result.params)
    with pytest.raises(gdjax.NonFiniteError) as caught:
        gdjax.minimize(
            lambda p: jnp.sum(jnp.log(p)), jnp.ones(3), gdjax.sgd(0.3), steps=9, evaluate=jnp.sum, evaluate_every=1
        )
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.step == 3 and error.evaluations["step"].tolist() == [1, 2, 3]


def test_progress_shows_the_last_evaluation():
    seen = []
    run(steps=4, evaluate=half_norm, evaluate_every=2, progress=lambda step, **m: seen.append(m.get("evaluation")))
    assert seen[:2] == [None, None] and seen[2] == seen[3] > 0


@pytest.mark.full
def test_each_step_has_a_key_of_its_own():
    rows = []

    def f(p: Any, key: jax.Array) -> Any:
        return noisy(p, key=key), {"drawn": jax.random.uniform(key)}

    history = run(f, has_aux=True, key=KEY, callback=lambda i, *rest: rows.append(i)).history
    own = [float(jax.random.uniform(jax.random.fold_in(KEY, i))) for i in range(6)]
    np.testing.assert_array_equal(history["drawn"], np.float32(own))
    assert rows == list(range(6))
    raw = run(noisy, key=jax.random.PRNGKey(3)).history["loss"]
    np.testing.assert_array_equal(raw, run(noisy, key=KEY).history["loss"])


def test_a_line_search_gets_the_key_of_its_step():
    def update(updates: Any, state: Any, params: Any = None, *, value: Any, value_fn: Any, **rest: Any) -> Any:
        return jax.tree.map(lambda g: 0.0 * g, updates), state + jnp.abs(value - value_fn(params))

    tx = gdjax.GradientTransformation(lambda p: jnp.zeros(()), update)
    assert run(noisy, tx, key=KEY).state < 1e-6


@pytest.mark.full
@pytest.mark.parametrize("cut", [1, 4])
def test_a_run_goes_on_bit_for_bit(cut: int):
    tx = gdjax.adam(gdjax.cosine_decay_schedule(0.1, 8))
    options = {"key": KEY, "evaluate": half_norm, "evaluate_every": 2}
    whole = run(noisy, tx, steps=8, **options)
    calls = []
    half = run(noisy, tx, steps=cut, **options)
    rest = gdjax.minimize(
        noisy, half.params, tx, steps=8 - cut, state=half.state, first_step=half.steps,
        callback=lambda i, *rest: calls.append(i), **options,
    )  # fmt: skip
    np.testing.assert_array_equal(rest.params["w"], whole.params["w"])
    for name, column in whole.history.items():
        np.testing.assert_array_equal(np.concatenate([half.history[name], rest.history[name]]), column)
    assert calls == list(range(cut, 8)) and rest.steps == 8 - cut
    assert rest.evaluations["step"].tolist() == [s for s in (2, 4, 6, 8) if s > cut]
    again = run(noisy, tx, steps=8 - cut, **options)
    assert not np.array_equal(again.history["loss"][0], rest.history["loss"][0])


def test_one_trace_with_a_key_and_evaluation():
    traces = []

    def f(p: Any, *, key: jax.Array) -> jax.Array:
        traces.append(1)
        return noisy(p, key=key)

    run(f, key=KEY, evaluate=half_norm, evaluate_every=1)
    assert len(traces) == 1


def test_a_later_step_is_told_by_its_number():
    with pytest.raises(gdjax.NonFiniteError, match="not finite at step 12") as caught:
        gdjax.minimize(lambda p: jnp.log(p), jnp.float32(-1), gdjax.sgd(0.1), steps=3, first_step=12)
    assert caught.value.step == 12
    with pytest.warns(UserWarning, match="learning_rate is -0.125 at step 11, and below 0 in 1 of 2"):
        run(tx=gdjax.sgd(lambda t: jnp.where(t < 1, 0.125, -0.125)), steps=2, first_step=10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"evaluate": 3}, TypeError, "evaluate must be a function of the parameters, got 3"),
        ({"evaluate_every": 2}, ValueError, "evaluate_every=2 needs evaluate="),
        ({"evaluate": half_norm, "evaluate_every": 0}, ValueError, "evaluate_every must be at least 1, got 0"),
        ({"evaluate": lambda p: p["w"]}, TypeError, "evaluate must return a number or a dict of numbers, got"),
        ({"evaluate": lambda p: None}, TypeError, "evaluate must return a number or a dict of numbers, got None"),
        ({"evaluate": lambda p: {"a": "b"}}, TypeError, "evaluate must return a number or a dict of numbers"),
        ({"first_step": -1}, ValueError, "first_step must be at least 0, got -1"),
        ({"key": KEY}, TypeError, r"with key=, loss_fn gets an argument `key`; it has \(p\): add one of that name"),
        ({"f": noisy}, TypeError, r"loss_fn takes a key; pass key=jax.random.key\(0\), from which each step"),
    ],
)
def test_misuse(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=f"^gdjax.minimize: {message}"):
        run(**options)


def test_evaluate_must_return_the_same_names():
    names = iter(["a", "b"])
    with pytest.raises(ValueError, match=r"evaluate returned \['b'\], and \['a'\] before"):
        run(steps=2, evaluate=lambda p: {next(names): 1.0}, evaluate_every=1)


def test_a_schedule_that_returns_nothing():
    with pytest.raises(TypeError, match="gdjax.adam: the schedule of learning_rate returned None, not a number"):
        run(tx=gdjax.adam(lambda t: None))


def test_every_argument_is_told():
    for f in (gdjax.minimize, gdjax.sweep):
        assert all(f"{name}:" in f.__doc__ or f"{name}," in f.__doc__ for name in inspect.signature(f).parameters)


@pytest.mark.full
def test_the_number_of_the_next_step():
    """Three legs are one run: each goes on with the number of all updates, not with its own."""
    whole = run(noisy, steps=9, key=KEY)
    assert whole.next_step == 9
    legs = [run(noisy, steps=2, key=KEY)]
    for steps in (3, 4):
        last = legs[-1]
        legs.append(
            gdjax.minimize(
                noisy, last.params, gdjax.sgd(0.05), steps=steps, state=last.state, key=KEY, first_step=last.next_step
            )
        )
    assert [leg.next_step for leg in legs] == [2, 5, 9] and [leg.steps for leg in legs] == [2, 3, 4]
    np.testing.assert_array_equal(legs[-1].params["w"], whole.params["w"])
    stopped = run(steps=100, loss_tol=0.02, first_step=7)
    assert stopped.converged and stopped.next_step == 7 + stopped.steps < 107
