"""The L-BFGS matrices against dense ones in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.linalg import quasi_newton as secant
from gdjax.linalg.quasi_newton import Memory
from tests.linesearch.problems import precision

N, M = 6, 4
RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(N, N))
HESSIAN = ROOT @ ROOT.T + 0.5 * np.eye(N)


def pairs(k: int) -> list[Any]:
    steps = RNG.normal(size=(k, N))
    return [(s, HESSIAN @ s) for s in steps]


def split(x: np.ndarray) -> list[Any]:
    """A vector as the leaves of a tree."""
    return [jnp.asarray(x[:1]), jnp.asarray(x[1:5].reshape(2, 2)), jnp.asarray(x[5])]


def joined(leaves: list[Any]) -> np.ndarray:
    return np.concatenate([np.asarray(x).reshape(-1) for x in leaves])


def memory_of(history: list[Any]) -> Memory:
    """The memory after these pairs; None is a step that left none."""
    empty = [jnp.zeros((M, *x.shape)) for x in split(np.zeros(N))]
    memory = Memory(empty, empty, jnp.zeros(M), jnp.asarray(-1, jnp.int32))
    for pair in history:
        s, y = (split(x) for x in (np.full((2, N), np.nan) if pair is None else pair))
        memory = memory.pushed(s, y, secant.weight(s, y))
    return memory


def inverse(history: list[Any], gamma: float) -> np.ndarray:
    """H by the BFGS formula, equation 6.17 of Nocedal & Wright, pair after pair."""
    H = gamma * np.eye(N)
    for s, y in (pair for pair in history[-M:] if pair is not None):
        rho = 1 / (y @ s)
        V = np.eye(N) - rho * np.outer(y, s)
        H = V.T @ H @ V + rho * np.outer(s, s)
    return H


HISTORIES = {
    "none": [],
    "some": pairs(2),
    "full": pairs(M),
    "ring": pairs(2 * M + 1),
    "gaps": [*pairs(3), None, *pairs(1), None],
    "only gaps": [None, None],
}


@pytest.mark.full
@pytest.mark.parametrize("history", HISTORIES.values(), ids=list(HISTORIES))
def test_products_equal_the_dense_matrices(history: list[Any]):
    g = RNG.normal(size=N)
    with precision("float64"):
        memory, gamma = memory_of(history), jnp.asarray(0.3)
        Hg = joined(jax.jit(secant.inverse_product)(memory, split(g), gamma))
        Bg = joined(jax.jit(secant.product)(memory, split(g), gamma))
        scaling = float(secant.scaling(memory, split(g)))
    H = inverse(history, 0.3)
    np.testing.assert_allclose(Hg, H @ g, rtol=1e-9)
    np.testing.assert_allclose(Bg, np.linalg.solve(H, g), rtol=1e-8)
    good = [pair for pair in history[-M:] if pair is not None]
    expected = good[-1][0] @ good[-1][1] / (good[-1][1] @ good[-1][1]) if good else min(1, 1 / np.linalg.norm(g))
    np.testing.assert_allclose(scaling, expected, rtol=1e-12)


@pytest.mark.full
def test_secant_equation():
    with precision("float64"):
        history = pairs(3)
        memory = memory_of(history)
        s, y = history[-1]
        np.testing.assert_allclose(joined(secant.inverse_product(memory, split(y), jnp.asarray(2.0))), s, rtol=1e-9)


@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.1, 0.5])
def test_damping_is_powells(factor: float):
    history = pairs(5)
    H = inverse(history, 0.3)
    s = RNG.normal(size=N)
    Bs = np.linalg.solve(H, s)
    y = factor * Bs + np.array([s[1], -s[0], 0, 0, 0, 0])  # the second part is orthogonal to s
    theta = 1.0 if s @ y >= 0.2 * s @ Bs else 0.8 * s @ Bs / (s @ Bs - s @ y)
    assert (theta < 1) == (factor < 0.2)
    with precision("float64"):
        got = joined(secant.damped(memory_of(history), split(s), split(y), jnp.asarray(0.3)))
    np.testing.assert_allclose(got, theta * y + (1 - theta) * Bs, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(s @ got, max(0.2 * s @ Bs, s @ y), rtol=1e-8)


S = np.array([1.0, 2.0, 0, 0, 0, 0], np.float32)


@pytest.mark.parametrize(
    ("s", "y", "good"),
    [
        (S, S, True),
        (1e-6 * S, 1e6 * S, True),
        (1e-12 * S, 1e-6 * S, True),
        (S, -S, False),  # curves down
        (S, 0 * S, False),
        (0 * S, S, False),
        (S, np.array([2.0, -1.0, 0, 0, 0, 0], np.float32), False),
        (S, np.array([2.0, -1.0 + 1e-7, 0, 0, 0, 0], np.float32), False),  # rounding
        (1e-20 * S, 1e-20 * S, False),  # 1 / <s, y> overflows
        (1e20 * S, 1e20 * S, False),
        (S, np.nan * S, False),
        (np.full(6, np.inf, np.float32), S, False),
    ],
)
def test_weight(s: np.ndarray, y: np.ndarray, good: bool):
    rho = secant.weight(split(s), split(y))
    assert rho.dtype == jnp.float32 and bool(rho > 0) == good
    np.testing.assert_allclose(rho, 1 / (s.astype(float) @ y) if good else 0, rtol=1e-6)


@pytest.mark.full
def test_16_bit_memory_is_computed_with_in_float32():
    s = jnp.asarray([1.0, 3.0], jnp.float32)
    empty = [jnp.zeros((2, 2), jnp.bfloat16)]
    memory = Memory(empty, empty, jnp.zeros(2), jnp.asarray(-1, jnp.int32))
    (a,), (b,) = memory.rounded([s / 3], [s])
    memory = memory.pushed([a], [b], secant.weight([a], [b]))
    assert memory.S[0].dtype == jnp.bfloat16
    (u,) = secant.inverse_product(memory, [s], secant.scaling(memory, [s]))
    assert u.dtype == jnp.float32
    np.testing.assert_allclose(u, a, rtol=1e-6)  # the secant equation of the rounded pair
