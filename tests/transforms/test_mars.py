"""MARS against its formula in NumPy, around three optimizers."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def corrected(g: Any, before: Any, b1: float, gamma: float, max_norm: float) -> Any:
    c = g + gamma * b1 / (1 - b1) * (g - before)
    return c * min(1, max_norm / np.linalg.norm(c))


def mars(
    x: Any, gradient: Any, kind: str = "adamw", b1: float = 0.95, gamma: float = 0.025, max_norm: float = 1.0
) -> Iterator[Any]:
    """The paper's general algorithm at a rate of 0.01, with g_0 = 0; MARS-AdamW or MARS-Lion."""
    before, m, v = (np.zeros(np.shape(x)) for _ in range(3))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        c = corrected(g, before, b1, gamma, max_norm)
        before, m, v = g, b1 * m + (1 - b1) * c, 0.99 * v + 0.01 * c**2
        if kind == "adamw":
            x = x - 0.01 * (m / (1 - b1**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8) + 0.5 * x)
            yield x, {"g": g, "mu": m, "nu": v}
        else:
            x = x - 0.01 * np.sign(m)
            yield x, {"g": g, "ema": m}


CASES = {
    "default": {},
    "all": {"b1": 0.75, "gamma": 0.5, "max_norm": 0.5},
    "no bound": {"gamma": 1.0, "max_norm": float("inf")},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_adamw(name: str, dtype: str):
    b1 = CASES[name].get("b1", 0.95)
    tx = gdjax.mars(gdjax.adamw(0.01, b1, 0.99, weight_decay=0.5), **CASES[name])
    oracles.assert_follows(tx, functools.partial(mars, **CASES[name]), dtype)


def test_lion():
    tx = gdjax.mars(gdjax.signum(0.01, 0.95))
    oracles.assert_follows(tx, functools.partial(mars, kind="lion"), "float64")


def test_muon_gets_what_is_corrected():
    rng, inner = np.random.default_rng(0), gdjax.muon(0.01, beta=0.95, nesterov=False)
    params = {"w": jnp.ones((3, 4))}
    tx = gdjax.mars(inner, gamma=0.5)
    state, plain, before = tx.init(params), inner.init(params), np.zeros((3, 4))
    for _ in range(3):
        g = rng.normal(size=(3, 4))
        updates, state = tx.update({"w": jnp.asarray(g, jnp.float32)}, state, params)
        c = jnp.asarray(corrected(g, before, 0.95, 0.5, 1.0), jnp.float32)
        wanted, plain = inner.update({"w": c}, plain, params)
        np.testing.assert_allclose(updates["w"], wanted["w"], rtol=1e-4, atol=1e-6)
        before = g


def test_a_number_is_no_optimizer():
    with pytest.raises(TypeError, match=r"^gdjax.mars: argument 0 is 0.003, which has no init and update"):
        gdjax.mars(0.003)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^gdjax.mars: b1 must be"):
        gdjax.mars(gdjax.adamw(0.003), b1=1.0)


def test_a_huge_gradient_is_forgotten():
    tx, params = gdjax.mars(gdjax.adamw(0.1, 0.95, 0.99)), jnp.ones(3)
    state = tx.init(params)
    for g in ([1e30, 1.0, -1.0], [1.0, 1.0, -1.0], [1.0, 1.0, -1.0]):
        u, state = tx.update(jnp.array(g), state, params)
        assert jnp.isfinite(u).all()
    np.testing.assert_allclose(state[0].g, [1, 1, -1])
