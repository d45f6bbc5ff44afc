"""Lion with its three shapes of the sign."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def lion(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.99, mu_dtype: Any = np.float64,
    weight_decay: Any = 0.0, mask: Any = None, mode: str = "hard", smooth_beta: float = 1.0,
) -> Iterator[Any]:  # fmt: skip
    shapes = {"hard": np.sign, "smooth": lambda c: np.tanh(smooth_beta * c), "refined": lambda c: np.clip(c, -1, 1)}
    mu = np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        u = shapes[mode](b1 * mu + (1 - b1) * g)
        if mask is None or mask(x):
            u = u + oracles.at(weight_decay, t) * x
        x = x - oracles.at(learning_rate, t) * u
        mu = np.float64((b2 * mu + (1 - b2) * g).astype(mu_dtype))
        yield x, {"mu": mu}


MATRICES = lambda params: jax.tree.map(lambda x: jnp.ndim(x) > 1, params)
CASES = {
    "default": {},
    "schedule": {"learning_rate": oracles.fall},
    "b1, b2": {"b1": 0.5, "b2": 0.75},
    "b1 = b2 = 0": {"b1": 0.0, "b2": 0.0},  # sign descent
    "weight_decay": {"weight_decay": 0.5},
    "mask, schedules": {"weight_decay": oracles.fall, "learning_rate": oracles.fall, "mask": MATRICES},
}
MODES = [{"mode": "hard"}, {"mode": "smooth"}, {"mode": "smooth", "smooth_beta": 4.0}, {"mode": "refined", "b1": 0.25}]


oracle = functools.partial(lion, weight_decay=1e-3)
test_oracle = oracles.follows(gdjax.lion, oracle, CASES, learning_rate=0.01)
test_optax = oracles.like_optax("lion", CASES, learning_rate=0.01)


@DTYPES
@pytest.mark.parametrize("kwargs", MODES, ids=oracles.named)
def test_modes(kwargs, dtype):
    tx = lambda lib: lib.chain(lib.scale_by_lion(**kwargs), lib.scale(-1 / 16))
    oracles.assert_follows(tx(gdjax), functools.partial(lion, learning_rate=1 / 16, **kwargs), dtype)
    if dtype == "float32":
        oracles.assert_like_optax(tx)


def test_modes_differ():
    modes = [functools.partial(lion, learning_rate=1 / 16, **kwargs) for kwargs in MODES]
    assert min(oracles.distance(a, b) for i, a in enumerate(modes) for b in modes[:i]) > 0.1


def test_mu_dtype():
    # In float64, where no momentum lies so near the middle of two bfloat16 numbers that the order of sums decides.
    tx = gdjax.lion(0.01, mu_dtype=jnp.bfloat16)
    assert tx.init(jnp.ones(3))[0].mu.dtype == jnp.bfloat16
    oracles.assert_follows(tx, functools.partial(oracle, mu_dtype=jnp.bfloat16), "float64")


def test_momentum_reads_the_old_value():
    # c and mu have different weights, both of the momentum before this step: 0.5 * 2 + 0.5 * -3 < 0.
    tx = gdjax.scale_by_lion(b1=0.5, b2=0.75)
    _, state = tx.update(jnp.array(8.0), tx.init(jnp.array(0.0)))
    u, state = tx.update(jnp.array(-3.0), state)
    assert float(u) == -1 and float(state.mu) == 0.75 * 2 - 0.25 * 3
