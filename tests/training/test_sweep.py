"""`sweep`: a grid of hyperparameters in one compiled step, against the runs one by one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.support import relaxed

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(20, 4)).astype(np.float32), RNG.normal(size=20).astype(np.float32)
KEY = jax.random.key(0)


def loss(p: Any, batch: Any = (A, B)) -> jax.Array:
    a, b = batch
    return 0.5 * jnp.mean((jnp.asarray(a) @ p["w"] - b) ** 2)


def start() -> Any:
    return {"w": jnp.ones(4)}


def scheduled(peak: Any, b1: Any) -> Any:
    rate = gdjax.warmup_cosine_decay_schedule(0.0, peak, 3, 12)
    return gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(rate, b1=b1))


@pytest.mark.full
@pytest.mark.parametrize(
    ("factory", "grid"),
    [
        (gdjax.adam, {"learning_rate": [1e-3, 1e-2, 0.1]}),
        (partial(gdjax.sgd, momentum=0.9), {"learning_rate": np.geomspace(1e-3, 0.1, 3)}),
        (scheduled, {"peak": [0.01, 0.1], "b1": [0, 0.9]}),
        (gdjax.lion, [{"learning_rate": 1e-2, "b1": 0.9}, {"learning_rate": 1e-3, "b1": 0.95}]),
    ],
)
def test_equals_the_runs_one_by_one(factory: Any, grid: Any):
    batches = [(A[i : i + 5], B[i : i + 5]) for i in range(0, 20, 5)]
    result = gdjax.sweep(loss, start(), factory, grid, steps=12, data=batches)
    for k, point in enumerate(result.points):
        alone = gdjax.minimize(loss, start(), factory(**point), steps=12, data=batches)
        np.testing.assert_allclose(result.history["loss"][k], alone.history["loss"], rtol=1e-6)
        np.testing.assert_allclose(result.params["w"][k], alone.params["w"], rtol=1e-6, atol=1e-6)


def test_the_order_of_the_points():
    result = gdjax.sweep(loss, start(), gdjax.sgd, {"learning_rate": [0.1, 0.2], "momentum": [0.0, 0.5]}, steps=1)
    assert [tuple(p.values()) for p in result.points] == [(0.1, 0.0), (0.1, 0.5), (0.2, 0.0), (0.2, 0.5)]
    assert result.history["loss"].shape == (4, 1) and result.params["w"].shape == (4, 4)


@pytest.mark.full
def test_one_trace_for_the_whole_grid():
    traces = []

    def f(p: Any) -> jax.Array:
        traces.append(1)
        return loss(p)

    gdjax.sweep(f, start(), gdjax.adam, {"learning_rate": np.geomspace(1e-4, 1, 16)}, steps=5)
    assert len(traces) == 1


def test_divergence_stays_at_its_point():
    rates = [0.01, 1e20, 0.1]
    result = gdjax.sweep(loss, start(), gdjax.sgd, {"learning_rate": rates}, steps=30)
    calm = gdjax.sweep(loss, start(), gdjax.sgd, {"learning_rate": [0.01, 0.1, 0.1]}, steps=30)
    np.testing.assert_array_equal(result.history["loss"][[0, 2]], calm.history["loss"][:2])
    assert not np.isfinite(result.history["loss"][1, -1]) and np.isfinite(np.asarray(result.params["w"])[[0, 2]]).all()
    assert result.best.index == 2 and result.best.point == {"learning_rate": 0.1}
    np.testing.assert_array_equal(result.best.params["w"], result.params["w"][2])
    assert result.diverged[0] == result.diverged[2] == -1 and result.diverged[1] == (
        np.argmax(~np.isfinite(result.history["loss"][1]))
    )


def test_keys_and_auxiliary_output():
    def f(p: Any, key: jax.Array) -> Any:
        return loss({"w": p["w"] + 0.1 * jax.random.normal(key, (4,))}), {"more": 1.0}

    result = gdjax.sweep(f, start(), gdjax.sgd, {"learning_rate": [0.01, 0.1]}, steps=4, has_aux=True, key=KEY)
    for k, rate in enumerate([0.01, 0.1]):
        alone = gdjax.minimize(f, start(), gdjax.sgd(rate), steps=4, has_aux=True, key=KEY)
        np.testing.assert_allclose(result.history["loss"][k], alone.history["loss"], rtol=1e-6)


def test_extra_arguments_reach_the_transform():
    result = gdjax.sweep(loss, start(), gdjax.polyak_sgd, {"max_learning_rate": [0.05, 0.2]}, steps=4)
    alone = gdjax.minimize(loss, start(), gdjax.polyak_sgd(0.2), steps=4)
    np.testing.assert_allclose(result.history["loss"][1], alone.history["loss"], rtol=1e-6)


def test_evaluation_judges():
    result = gdjax.sweep(
        loss, start(), gdjax.sgd, {"learning_rate": [0.01, 0.1]}, steps=20, evaluate=lambda p: -loss(p)
    )
    assert result.best.index == 0 and "evaluation" in str(result)
    np.testing.assert_allclose(result.scores, [-loss({"w": w}) for w in result.params["w"]], rtol=1e-6)
    plain = gdjax.sweep(loss, start(), gdjax.sgd, {"learning_rate": [0.01, 0.1]}, steps=20)
    np.testing.assert_allclose(plain.scores, plain.history["loss"][:, -2:].astype(float).mean(axis=1))


def test_prints_as_a_table():
    result = gdjax.sweep(loss, start(), gdjax.sgd, {"learning_rate": [0.1, 1e20], "momentum": [0.9]}, steps=20)
    head, _, best, worst = str(result).splitlines()
    assert head.split() == "learning_rate momentum last loss mean of the last tenth remark".split()
    assert best.split()[:2] == ["0.1", "0.9"] and best.endswith("  best")
    assert worst.endswith(f"not finite at step {result.diverged[1]}") and repr(result) == str(result)
    lost = gdjax.sweep(loss, start(), gdjax.sgd, {"learning_rate": [1e30]}, steps=9)
    with pytest.raises(FloatingPointError, match="every point diverged"):
        _ = lost.best
    assert "best" not in str(lost)


def test_progress_and_the_end_of_data(capsys: pytest.CaptureFixture[str]):
    seen = []
    result = gdjax.sweep(
        loss, start(), gdjax.sgd, {"learning_rate": [0.01, 0.1]}, steps=9, data=iter([(A, B)] * 3),
        progress=lambda step, **m: seen.append((step, float(m["loss"]))),
    )  # fmt: skip
    assert seen == [(i + 1, float(x)) for i, x in enumerate(result.history["loss"].min(axis=0))] and len(seen) == 3
    gdjax.sweep(loss, start(), gdjax.sgd, {"learning_rate": [0.01]}, steps=2, progress=True)
    assert "step 2/2" in capsys.readouterr().err


def run(**changes: Any) -> Any:
    arguments = {"loss_fn": loss, "params": start(), "factory": gdjax.sgd, "grid": {"learning_rate": [0.1]}, "steps": 2}
    return gdjax.sweep(**{**arguments, **changes})


RUN_ONE = r"run one sweep for each value of {0}, with functools.partial\(factory, {0}=...\)"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"grid": {}}, ValueError, "the grid has no point: {}"),
        ({"grid": []}, ValueError, r"the grid has no point: \[\]"),
        ({"grid": {"learning_rate": []}}, ValueError, "the grid has no point"),
        ({"grid": {"rate": 0.1}}, TypeError, r"grid\['rate'\] must be a sequence of numbers, got 0.1"),
        ({"grid": [{"learning_rate": 0.1}, {"momentum": 0.1}]}, ValueError, r"point 1 has \['momentum'\], and point 0"),
        ({"grid": {"nesterov": [True]}}, TypeError, f"nesterov is True .* {RUN_ONE.format('nesterov')}"),
        ({"grid": {"learning_rate": [gdjax.constant_schedule(0.1)]}}, TypeError, "learning_rate is constant_schedule"),
        (
            {"factory": gdjax.galore, "grid": {"learning_rate": [0.1], "rank": [1, 2]}},
            TypeError,
            f"rank shapes the program, .* {RUN_ONE.format('rank')}",
        ),
        ({"factory": lambda rate: 3, "grid": {"rate": [0.1]}}, TypeError, r"argument factory\(\*\*point\) is 3"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"data": []}, ValueError, "data has no batch"),
        ({"data": (A, B)}, TypeError, "data is an iterable of batches, got a tuple of arrays of shapes"),
        ({"loss_fn": lambda p: p["w"]}, TypeError, "loss_fn must return a real scalar"),
        ({"key": KEY}, TypeError, "with key=, loss_fn gets an argument `key`"),
        ({"evaluate": lambda p: p["w"]}, TypeError, r"evaluate must return a real scalar, got shape \(4,\)"),
        ({"progress": 3}, TypeError, "progress must be True, False or a function, got 3"),
    ],
)  # fmt: skip
def test_misuse(changes: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=f"^gdjax.sweep: {message}"):
        run(**changes)


def test_a_number_out_of_range_names_its_point():
    with pytest.raises(ValueError, match="gdjax.sgd: learning_rate must be finite and at least 0") as e:
        run(grid={"learning_rate": [0.1, -0.1]})
    assert e.value.__notes__ == ["gdjax.sweep: for the point {'learning_rate': -0.1}"]
    with pytest.raises(TypeError, match="lr"):
        run(grid={"lr": [0.1]})


def test_no_rate_is_a_warning():
    with pytest.warns(UserWarning, match="^gdjax.sweep: the updates of tx go up the gradient"):
        run(factory=gdjax.scale_by_adam, grid={"b1": [0.5, 0.9]})


@pytest.mark.parametrize("name", ["sgd", "adam", "lion", "rmsprop", "adagrad", "muon"])
def test_hypergradients(name: str):
    """The gradient of the last loss with respect to the rate, through all steps, is that of central differences."""

    def last_loss(rate: Any) -> jax.Array:
        tx = getattr(gdjax, name)(rate)

        def step(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = tx.update(jax.grad(f)(params), state, params)
            return (gdjax.apply_updates(params, updates), state), None

        params = jnp.ones((4, 1))
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=6)
        return f(params)

    def f(w: Any) -> jax.Array:
        return 0.5 * jnp.mean((jnp.asarray(A, w.dtype) @ w - B[:, None]) ** 2)

    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with relaxed(), enable_x64(True):
        rate = jnp.asarray(0.03)
        assert float(jnp.abs(jax.grad(last_loss)(rate))) > 0
        gdjax.check_gradients(last_loss, rate, rtol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize(
    "factory",
    [
        lambda rate, decay: gdjax.params_ema(gdjax.sgd(rate), decay),
        lambda rate, decay: gdjax.schedule_free_sgd(rate, b1=decay),
        lambda rate, decay: gdjax.swa(gdjax.sgd(rate, momentum=decay), 2),
    ],
    ids="params_ema schedule_free swa".split(),
)
def test_evaluates_the_average_that_an_optimizer_keeps(factory: Any):
    """As `minimize` does; the parameters of the result are the trained ones."""
    grid = {"rate": [0.1, 0.3], "decay": [0.5, 0.9]}
    result = gdjax.sweep(loss, start(), factory, grid, steps=6, evaluate=loss)
    for k, point in enumerate(result.points):
        alone = gdjax.minimize(loss, start(), factory(**point), steps=6, evaluate=loss)
        np.testing.assert_allclose(result.scores[k], alone.evaluations["evaluation"][-1], rtol=1e-5)
        np.testing.assert_allclose(result.params["w"][k], alone.params["w"], rtol=1e-5)
        assert not np.isclose(result.scores[k], loss(alone.params), rtol=1e-4)


def sized(size: int) -> Any:
    """A loss whose best rate for sgd falls as 1 / size."""
    return lambda p: size * loss(p), start()


RATES = [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28]


@pytest.mark.full
def test_sizes_are_the_sweeps_one_by_one():
    found = gdjax.sweep(sized, None, gdjax.sgd, {"learning_rate": RATES}, steps=20, sizes=(1, 2, 4))
    for size in (1, 2, 4):
        one = gdjax.sweep(*sized(size), gdjax.sgd, {"learning_rate": RATES}, steps=20)
        np.testing.assert_array_equal(found.results[size].history["loss"], one.history["loss"])
        np.testing.assert_array_equal(found.scores[size], one.scores)
    np.testing.assert_array_equal(found.rates, RATES)
    assert found.name == "learning_rate" and not found.evaluated
    turned = gdjax.sweep(
        sized, None, gdjax.sgd, {"momentum": [0], "learning_rate": RATES[::-1]}, steps=20, sizes=(1, 2)
    )
    assert turned.name == "learning_rate"
    np.testing.assert_allclose(turned.scores[2], found.scores[2], rtol=1e-6)
    judged = gdjax.sweep(sized, None, gdjax.sgd, {"learning_rate": RATES}, steps=20, sizes=(1, 2), evaluate=loss)
    assert judged.evaluated and judged.scores[2][3] == judged.results[2].evaluations["evaluation"][3]


def by_size(*scores: Any) -> gdjax.SweepBySize:
    """Of scores at rates 1/8, 1/4, 1/2, ..., for sizes 1, 2, 4, ..."""
    points = [{"rate": 2.0 ** (k - 3)} for k in range(len(scores[0]))]
    one = lambda y: gdjax.SweepResult(points, {"loss": np.ones((len(points), 1))}, None, np.asarray(y, float), False)
    return gdjax.SweepBySize({2**k: one(y) for k, y in enumerate(scores)})


def test_the_best_rate_drifts():
    """Parabolas in log2 of the rate, whose minima are known; the second's is an octave and a half lower."""
    x = np.arange(5.0) - 3
    found = by_size(1 + (x - 0.2) ** 2, 2 + 0.5 * (x + 1.3) ** 2)
    np.testing.assert_allclose(np.log2([best.rate for best in found.best.values()]), [0.2, -1.3], atol=1e-9)
    np.testing.assert_allclose(found.drift, -1.5)
    assert [best.at_edge for best in found.best.values()] == [False, False]
    # The first is best at the rate 1, whose score is measured for the second too.
    np.testing.assert_allclose(list(found.costs.values()), [0, 0.5 * (1.3**2 - 0.3**2)])
    assert found.cost == found.costs[2] and found.best[2].score == 2 + 0.5 * 0.3**2
    uneven = by_size(1 + (x - 0.2) ** 2, 2 + 0.5 * (x + 1.3) ** 2, 3 + (x + 1.3) ** 2)
    np.testing.assert_allclose(uneven.drift, -0.75)  # of a line through all three
    head, _, first, second, note = str(found).splitlines()
    assert head.split()[:4] == ["size", "best", "rate", "log2"] and first.split()[:3] == ["1", "1.149", "0.2"]
    assert second.split()[2:] == ["-1.3", "2.045", "0.8"] and repr(found) == str(found)
    assert note == "note: the best rate moves -1.50 octaves a doubling"


def test_an_optimum_at_the_edge_is_named():
    low, high = by_size([1, 2, 3, 4], [4, 3, 2, 1]).best.values()
    assert (low.rate, low.at_edge, high.rate, high.at_edge) == (0.125, True, 1.0, True)
    beside = by_size([3, 1, np.nan, np.inf], [3, 1, 2, np.inf], [3, 1, 1, 1])
    assert [best.at_edge for best in beside.best.values()] == [True, False, False]
    np.testing.assert_allclose([best.rate for best in beside.best.values()][::2], [0.25, 2**-1.5])
    assert str(beside).splitlines()[2].endswith("at an edge of the grid")
    assert by_size([1, 1, 1], [1, 1, 1]).best[1] == (0.125, 1, True)
    lost = by_size([2, 1, 2], [3, np.nan, 4])
    assert np.isnan(lost.cost) and lost.best[2].rate == 0.125
    with pytest.raises(FloatingPointError, match="gdjax.sweep: every point of a size diverged"):
        _ = by_size([1, 2, 3], [np.nan] * 3).best


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sizes": (2, 1)}, ValueError, r"sizes must be at least 2 positive numbers in rising order, got \(2, 1\)"),
        ({"sizes": (1,)}, ValueError, "sizes must be at least 2 positive"),
        ({"sizes": (0, 1)}, ValueError, "sizes must be at least 2 positive"),
        ({"sizes": 64}, TypeError, "sizes must be a sequence of numbers, got 64"),
        ({"sizes": {1: sized(1), 2: sized(2)}}, TypeError, "sizes must be a sequence of numbers"),
        ({"params": start()}, TypeError, r"with sizes, params comes from make\(size\), the first argument: pass None"),
        ({"loss_fn": loss}, TypeError, "."),
        ({"loss_fn": lambda size: start()}, TypeError, r"make\(1\) must return \(loss_fn, params\), got dict"),
        ({"data": iter([(A, B)])}, TypeError, "data is an iterator, which ends with the first run; pass a list"),
        ({"grid": {"learning_rate": RATES, "momentum": [0, 0.9]}}, ValueError, "with sizes one number alone"),
        ({"grid": {"learning_rate": [0.1]}}, ValueError, r"one number alone differs over the grid, got \[\]"),
        ({"grid": {"learning_rate": [0.1, 0.2]}}, ValueError, "needs 3 or more different learning_rate above 0"),
        ({"grid": {"learning_rate": [0.0, 0.1, 0.2]}}, ValueError, "the grid needs 3 or more different learning_rate"),
    ],
)  # fmt: skip
def test_misuse_of_sizes(changes: dict[str, Any], error: type[Exception], message: str):
    arguments = {"loss_fn": sized, "params": None, "grid": {"learning_rate": RATES}, "sizes": (1, 2)}
    with pytest.raises(error, match=message):
        run(**{**arguments, **changes})


def test_its_fields_are_those_of_minimize():
    """`losses` was the name of `history["loss"]`."""
    loss = lambda p: jnp.sum(p**2)
    grid = {"learning_rate": [0.1, 0.2]}
    found = gdjax.sweep(loss, jnp.ones(2), gdjax.sgd, grid, steps=3, evaluate=lambda p: jnp.sum(p))
    alone = gdjax.minimize(loss, jnp.ones(2), gdjax.sgd(0.2), steps=3, evaluate=lambda p: jnp.sum(p))
    np.testing.assert_allclose(found.history["loss"][1], alone.history["loss"], rtol=1e-6)
    assert found.steps == alone.steps == 3
    for name in ("step", "evaluation"):
        np.testing.assert_allclose(found.evaluations[name][1:], alone.evaluations[name], rtol=1e-6)
    assert gdjax.sweep(loss, jnp.ones(2), gdjax.sgd, grid, steps=3).evaluations == {}
    with pytest.warns(DeprecationWarning, match=r'\.losses is now \.history\["loss"\]'):
        assert found.losses is found.history["loss"]
