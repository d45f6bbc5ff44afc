"""The shorter examples: their parts against plain oracles, and whole runs at their smallest size.

The two that draw need the extra `examples`, which the tests do not install; `make examples` runs them everywhere.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

pytestmark = pytest.mark.programs

sys.path.append(str(Path(__file__).parents[2] / "examples"))
own = importlib.import_module("own_optimizer")
shampoo = importlib.import_module("own_shampoo")
functions, paths, escape = (importlib.import_module(f"landscape.{name}") for name in ("functions", "paths", "escape"))

needs_pictures = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("matplotlib", "PIL", "sklearn")), reason="no extra `examples`"
)


def test_own_optimizer_follows_its_formula():
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=4)}
    tx = own.scale_by_block_adam(b1=0.8, b2=0.95)
    state = tx.init({k: jnp.asarray(x, jnp.float32) for k, x in params.items()})
    m, v = dict.fromkeys(params, 0.0), dict.fromkeys(params, 0.0)
    for t in range(1, 11):
        g = {k: rng.normal(size=x.shape) for k, x in params.items()}
        updates, state = tx.update({k: jnp.asarray(x, jnp.float32) for k, x in g.items()}, state)
        for k in params:
            m[k] = 0.8 * m[k] + 0.2 * g[k]
            v[k] = 0.95 * v[k] + 0.05 * np.mean(g[k] ** 2)
            expected = m[k] / (1 - 0.8**t) / (np.sqrt(v[k] / (1 - 0.95**t)) + 1e-8)
            np.testing.assert_allclose(updates[k], expected, rtol=1e-5, atol=1e-6)
            assert state.v[k].shape == ()


def test_own_optimizer_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    own.main(["--tiny", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "block_adam(learning_rate=warmup_cosine_decay_schedule(init_value=0.002" in shown
    assert "equal: True   unpickled: True   built 3 times, compiled 1" in shown
    assert "at last   learning_rate 0.0002  b2 0.9990" in shown
    assert "params['layer1']['b']: gradient shape (16, 1) does not match parameter shape (1, 16)" in shown
    losses = np.genfromtxt(tmp_path / "loss.csv", delimiter=",", names=True)
    assert len(losses) == 300
    assert losses["block_adam"][0] == losses["adam"][0] > 0.5
    assert losses["block_adam"][-1] < 0.05
    assert losses["adam"][-1] < 0.05


@pytest.mark.parametrize("every, firsts", [(lambda count: 3, [1, 1, 1]), (3, [1, 2, 3])], ids=["at once", "spread"])
def test_own_shampoo_follows_its_formula(every: Any, firsts: list[int]):
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 4), "b": (3, 2), "c": (5, 2)}
    tx = shampoo.scale_by_one_sided_shampoo(b1=0.8, b2=0.9, every=every, sides="rows")
    state = tx.init({k: jnp.zeros(n) for k, n in shapes.items()})
    m, L = dict.fromkeys(shapes, 0.0), dict.fromkeys(shapes, 0.0)
    root, turns = {k: np.eye(n) for k, (n, _) in shapes.items()}, {k: [] for k in shapes}
    for t in range(1, 11):
        g = {k: rng.normal(size=n) for k, n in shapes.items()}
        old = state.root
        updates, state = tx.update({k: jnp.asarray(x, jnp.float32) for k, x in g.items()}, state)
        for k, (rows, columns) in shapes.items():
            m[k] = 0.8 * m[k] + 0.2 * g[k]
            L[k] = 0.9 * L[k] + 0.1 * g[k] @ g[k].T
            u = root[k] @ m[k]
            np.testing.assert_allclose(updates[k], u / np.sqrt(np.mean(u**2)), rtol=2e-2, atol=2e-2)
            stack = f"{rows}x{columns}"
            if not np.array_equal(state.root[stack], old[stack]):
                turns[k].append(t)
                values, vectors = np.linalg.eigh(L[k])
                root[k] = vectors @ np.diag((values.clip(0) + 1e-4 * values.max()) ** -0.5) @ vectors.T
    assert sorted(ts[0] for ts in turns.values()) == firsts
    assert all(np.diff(ts).tolist() == [3] * (len(ts) - 1) for ts in turns.values())


@pytest.mark.parametrize("g", [jnp.zeros((3, 2)), jnp.ones((3, 2)), jnp.ones((1, 4)), jnp.full((2, 2), 1e15)])
def test_own_shampoo_on_odd_gradients(g: jax.Array):
    tx = shampoo.scale_by_one_sided_shampoo(every=1, sides="rows")
    state = tx.init(g)
    for _ in range(3):
        u, state = tx.update(g, state)
        np.testing.assert_allclose(u, np.sign(g), rtol=1e-3)


def test_own_shampoo_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shampoo.main(["--tiny", "--out", str(tmp_path)])
    assert "one_sided_shampoo   loss" in capsys.readouterr().out
    losses = np.genfromtxt(tmp_path / "loss.csv", delimiter=",", names=True)
    assert len(losses) == 300
    assert losses["one_sided_shampoo"][-1] < losses["adam"][-1] < 0.05
    drawn = importlib.util.find_spec("matplotlib") is not None
    assert (tmp_path / "loss.png").exists() == drawn


@pytest.mark.parametrize("name", functions.LANDSCAPES)
def test_minima_are_minima(name: str):
    place = functions.LANDSCAPES[name]
    for x, y in place.minima:
        gradient, hessian = (d(lambda z: place.f(z[0], z[1]))(jnp.array([x, y])) for d in (jax.grad, jax.hessian))
        np.testing.assert_allclose(place.f(x, y), place.lowest, atol=1e-9)
        np.testing.assert_allclose(gradient, 0, atol=1e-3)
        assert np.linalg.eigvalsh(hessian).min() > 0


def test_a_trajectory_is_that_of_the_plain_loop():
    place = functions.LANDSCAPES["Beale"]
    points = paths.trajectory(place.f, gdjax.sgd(0.001, momentum=0.9), jnp.array(place.start), 20)

    def f(z: Any) -> Any:
        return place.f(z[0], z[1])

    x, v = np.array(place.start, np.float32), np.zeros(2, np.float32)
    for point in points:
        np.testing.assert_allclose(point, x, rtol=1e-5)
        v = np.float32(0.9) * v + np.asarray(jax.grad(f)(x))
        x = x - np.float32(0.001) * v


def test_the_best_run_is_neither_slow_nor_outside(monkeypatch: pytest.MonkeyPatch):
    steps = 15
    monkeypatch.setattr(paths, "RATES", [1e-5, 0.1, 1e3])
    best = paths.best_runs(paths.METHODS["adam"], steps)
    assert best.keys() == functions.LANDSCAPES.keys()
    for name, (rate, points) in best.items():
        assert rate == 0.1
        place = functions.LANDSCAPES[name]
        tx = gdjax.adam(gdjax.exponential_decay(rate, steps, paths.DECAY))
        expected = paths.trajectory(place.f, tx, jnp.array(place.start, jnp.float32), steps)
        np.testing.assert_allclose(points, expected, rtol=1e-3, atol=1e-3)


def test_only_noise_leaves_the_stable_manifold_of_a_saddle():
    names = ("sgd", "momentum", "adam", "noisy_sgd", "perturbed_gradient_descent")
    on_it, beside_it = escape.distances(300, {name: paths.METHODS[name] for name in names})
    assert [name for name in names if escape.leaves(on_it[name]) == "never"] == ["sgd", "momentum", "adam"]
    assert [name for name in names if on_it[name][-1] > 0.9] == ["noisy_sgd", "perturbed_gradient_descent"]
    assert all(beside_it[name][-1] > 0.9 for name in names)


@pytest.mark.slow  # as of the short examples
@needs_pictures
def test_digits_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    digits = importlib.import_module("digits")
    digits.main(["--tiny", "--out", str(tmp_path)])
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if "%" in line}
    assert digits.optimizers(100).keys() <= rows.keys()
    assert float(rows["adamw"][2].removesuffix("%")) > 70
    assert (tmp_path / "loss.png").stat().st_size > 10_000


@pytest.mark.slow  # as of the short examples
@needs_pictures
def test_landscapes_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    importlib.import_module("landscapes").main(["--tiny", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.split()[:1] == ["lion"] for line in lines) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"landscapes.png", "landscapes.gif", "saddle.png"}
    image = importlib.import_module("PIL.Image")
    with image.open(tmp_path / "landscapes.gif") as film:
        assert film.n_frames > 3
