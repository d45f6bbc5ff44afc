"""The short examples: whole runs at their smallest size, and their parts against plain oracles.

They need the extra `examples`, which the tests do not install; `make examples` runs them everywhere.
"""

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import relaxed

pytestmark = pytest.mark.programs

NEEDED = "matplotlib", "PIL", "sklearn", "flax", "equinox"
if not all(importlib.util.find_spec(name) for name in NEEDED):
    pytest.skip("no extra `examples`", allow_module_level=True)

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "examples"))
# What a run at the smallest size prints.
SHORT = {
    "nnx_classifier": "test accuracy",
    "equinox_regression": "the ensemble 0.",
    "lbfgs_logistic": "L-BFGS                   within 1e-06: 2",
    "fine_tune": "last layer only",
    "sam_flatness": "SAM  test accuracy",
    "schedule_free": "schedule-free",
    "averages": "tail_ema",
    "dialects": "rmsprop, momentum 0.9",
    "private_digits": "epsilon",
    "meta_learning": "learned rates",
    "sweep": "best rate",
    "transfer": "width 256, transferred",
    "langevin": "samples of 32 chains",
    "pinn": "SSBroyden",
    "diloco": "H = 32, streaming",
    "solve": "SVM: validation loss",
    "from_jaxopt": "sparse coding: mean squared error",
}


@pytest.mark.slow  # that they run `make examples` asks of them; here it is what they print
@pytest.mark.parametrize("name", SHORT)
def test_it_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with relaxed():
        importlib.import_module(name).main(["--tiny", "--out", str(tmp_path)])
    assert SHORT[name] in capsys.readouterr().out
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_lists_every_example():
    page = (ROOT / "docs" / "examples.md").read_text("utf-8")
    programs = {path.name for path in (ROOT / "examples").glob("[!_]*.py")}
    assert {name for name in programs if f"python examples/{name}" not in page} == set()
    pictures = ROOT / "docs" / "images" / "examples"
    shown = set(re.findall(r"images/examples/(\w+)\.png", page))
    assert {path.stem for path in pictures.iterdir()} == shown >= set(SHORT)
    assert all(path.stat().st_size < 40_000 for path in pictures.iterdir())


def test_epsilon_is_that_of_the_gaussian_mechanism():
    private = importlib.import_module("private_digits")
    # Privacy is a statement about all events: the worst is a half line, and its probabilities are integrals.
    for noise, steps in [(5.0, 25), (20.0, 100), (3.0, 4)]:
        mu, e = steps**0.5 / noise, private.epsilon(noise, steps)
        x = np.linspace(-12, 14, 400_001)
        p, q = (np.exp(-((x - m) ** 2) / 2) / (2 * np.pi) ** 0.5 for m in (mu, 0.0))
        delta = np.sum(np.maximum(p - np.exp(e) * q, 0)) * (x[1] - x[0])
        assert delta == pytest.approx(private.DELTA, rel=1e-3)


def test_the_gradient_goes_through_the_inner_steps():
    meta_learning = importlib.import_module("meta_learning")
    start = jax.tree.map(lambda p: p + 0.1, meta_learning.network((1, 4, 1)))
    meta = meta_learning.with_rate(start, 0.02)
    with relaxed():
        batch = meta_learning.tasks(jax.random.key(0), 1)
        x, y = (b[0] for b in batch)
        new = meta_learning.adapted(meta, x[0], y[0], 1)
        g = jax.grad(meta_learning.error)(start, x[0], y[0])
        jax.tree.map(lambda n, p, d: np.testing.assert_allclose(n, p - 0.02 * d, rtol=1e-5, atol=1e-6), new, start, g)
        rates = jax.grad(meta_learning.meta_loss)(meta, batch, 1)["log_rates"]
        after = jax.grad(meta_learning.error)(new, x[1], y[1])
    expected = jax.tree.map(lambda a, d: -0.02 * jnp.sum(a * d), after, g)  # the chain rule
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), rates, expected)


def test_burgers_solution_and_the_residual_agree():
    pinn = importlib.import_module("pinn")
    t, x = np.meshgrid([0.05, 0.3, 0.6, 1.0], np.linspace(-0.95, 0.95, 9))
    exact, e = pinn.exact, 1e-4
    u, before, after = exact(t, x), exact(t, x - e), exact(t, x + e)
    np.testing.assert_allclose(u, exact(t, x, 160), atol=1e-9)
    start = np.array([0.2, 0.5, -0.7])
    np.testing.assert_allclose(exact(np.full(3, 1e-12), start), -np.sin(np.pi * start), atol=1e-5)
    u_t = (exact(t + e, x) - exact(t - e, x)) / (2 * e)
    u_x, u_xx = (after - before) / (2 * e), (after + before - 2 * u) / e**2
    np.testing.assert_allclose(u_t + u * u_x, pinn.NU * u_xx, atol=2e-3 * np.abs(u_t).max())
    with jax.enable_x64(True):
        params = pinn.network(jax.random.key(1), 5, 2)
        at = jnp.array(0.3), jnp.array(0.4)
        f = lambda t, x: float(pinn.u(params, jnp.array(t), jnp.array(x)))
        here, left, right = f(0.3, 0.4), f(0.3, 0.4 - e), f(0.3, 0.4 + e)
        u_t, u_x = (f(0.3 + e, 0.4) - f(0.3 - e, 0.4)) / (2 * e), (right - left) / (2 * e)
        wanted = u_t + here * u_x - pinn.NU * (left + right - 2 * here) / e**2
        np.testing.assert_allclose(pinn.residual(params, *at), wanted, rtol=1e-5)
        assert f(0.0, 0.3) == pytest.approx(-np.sin(0.3 * np.pi)) and f(0.7, -1.0) == pytest.approx(f(0.7, 1.0))


def test_a_frozen_layer_stays():
    fine_tune = importlib.import_module("fine_tune")
    params: Any = fine_tune.network(fine_tune.SIZES)
    tx = fine_tune.by_layer(0, 0.01, 0.1)
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    for layer, rate in {"layer0": 0, "layer1": 0.01, "layer2": 0.1}.items():
        np.testing.assert_allclose(updates[layer]["w"], -rate, rtol=1e-4)
    assert jax.tree.leaves(state.inner_states["layer0"]) == []


@pytest.mark.slow
def test_the_page_tells_how_far_apart_dialects_are():
    dialects = importlib.import_module("dialects")
    page = (ROOT / "docs" / "dialects.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("| `")]
    told = {x[1].split("`")[1] + x[1].rpartition("`")[2]: [*map(float, x[5].split(","))] for x in rows if x[5]}
    assert told.keys() == dialects.METHODS.keys()
    for name, numbers in told.items():
        with relaxed():
            found = [dialects.apart(name, like, 200).max() for like in dialects.DIALECTS]
        assert found == pytest.approx(numbers, rel=0.06), name
