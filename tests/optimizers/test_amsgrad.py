"""AMSGrad."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

import gdjax
from tests import oracles


def amsgrad(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    eps_root: float = 0.0, bias_correction_mu: bool = True, bias_correction_nu: bool = True, like: str = "optax",
) -> Iterator[Any]:  # fmt: skip
    m, v, v_max = (np.zeros(np.shape(x)) for _ in range(3))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        c = 1 - b2**t if bias_correction_nu else 1
        v_max = np.maximum(v_max, v if like == "torch" else v / c)
        m_hat = m / (1 - b1**t) if bias_correction_mu else m
        root = np.sqrt((v_max / c if like == "torch" else v_max) + eps_root) + eps
        x = x - oracles.at(learning_rate, t) * m_hat / np.where(root == 0, 1, root)
        yield x, {"mu": m, "nu": v, "nu_max": v_max}


CASES = {
    "default": {},
    "schedule": {"learning_rate": oracles.fall},
    "reference": {"eps": 0.0, "bias_correction_mu": False, "bias_correction_nu": False, "b2": 0.75},
    "options": {"b1": 0.5, "b2": 0.5, "eps": 0.25, "eps_root": 0.125},
    "mu only": {"b2": 0.75, "bias_correction_nu": False},
    "nu only": {"b2": 0.75, "bias_correction_mu": False},
    "torch": {"like": "torch"},
    "torch, options": {"b2": 0.75, "eps": 0.25, "eps_root": 0.125, "learning_rate": oracles.fall, "like": "torch"},
    "torch, mu only": {"b2": 0.75, "bias_correction_nu": False, "like": "torch"},
    "torch, nu only": {"b2": 0.75, "bias_correction_mu": False, "like": "torch"},
}


# The oracle's 1 - b2^t is a difference, wrong by 1e-16 / 0.001 at the first step, which the maximum remembers.
test_oracle = oracles.follows(gdjax.amsgrad, amsgrad, CASES, float64=(1e-13, 1e-14), learning_rate=0.01)


def test_the_papers_defaults():
    paper = {"bias_correction_mu": False, "bias_correction_nu": False, "eps": 0.0}
    oracles.assert_follows(gdjax.amsgrad(0.01, like="paper"), functools.partial(amsgrad, learning_rate=0.01, **paper),
                           "float64", rtol=1e-13, atol=1e-14)  # fmt: skip


def test_zero_gradients_in_sixteen_bits():
    tx, zero = gdjax.amsgrad(0.1), jnp.zeros(2, "float16")
    np.testing.assert_array_equal(tx.update(zero, tx.init(zero))[0], zero)


def test_mu_dtype():
    state = gdjax.amsgrad(0.1, mu_dtype="bfloat16").init(jnp.zeros(2))[0]
    assert (state.mu.dtype, state.nu.dtype, state.nu_max.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
