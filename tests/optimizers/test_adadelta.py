"""Adadelta."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.declare import matrices


def adadelta(
    x: Any, gradient: Any, learning_rate: Any = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    e_g, e_x = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        if weight_decay_mask is None or np.ndim(x) > 1:
            g = g + oracles.at(weight_decay, t) * x
        e_g = rho * e_g + (1 - rho) * g**2
        step = -np.sqrt(e_x + eps) / np.sqrt(e_g + eps) * g
        e_x = rho * e_x + (1 - rho) * step**2
        x = x + oracles.at(1.0 if learning_rate is None else learning_rate, t) * step
        yield x, {"e_g": e_g, "e_x": e_x}


CASES = {
    "default": {},
    "schedules": {"learning_rate": oracles.fall, "weight_decay": oracles.fall},
    "options": {"learning_rate": 0.5, "rho": 0.75, "eps": 1e-3, "weight_decay": 0.5},
    "mask": {"learning_rate": 2.0, "weight_decay": 0.5, "weight_decay_mask": matrices},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_oracle(name, dtype):
    kwargs = CASES[name]
    tx = gdjax.adadelta(**kwargs)
    got, want = oracles.run(tx, dtype), oracles.expected(functools.partial(adadelta, **kwargs))
    got[1].pop("count", None)  # of the schedules
    oracles.assert_same(got, want, **oracles.TOLERANCE[dtype])


def test_descends_without_a_rate():
    tx, g = gdjax.adadelta(), jnp.ones(2)
    u, _ = tx.update(g, tx.init(g), g)
    np.testing.assert_allclose(u, -np.sqrt(1e-6 / (0.1 + 1e-6)), rtol=1e-6)


def test_zero_gradients_without_eps():
    tx, zero = gdjax.adadelta(eps=0.0), jnp.zeros(2, "float16")
    u, state = tx.update(zero, tx.init(zero), zero)
    np.testing.assert_array_equal(u, zero)
    assert state[1].e_g.dtype == state[1].e_x.dtype == jnp.float32


@pytest.mark.parametrize("rho", [-0.1, 1.0])
def test_rho_is_checked(rho):
    with pytest.raises(ValueError, match=r"^gdjax.adadelta: rho must be in \[0, 1\)"):
        gdjax.adadelta(1.0, rho)
