"""LARS."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.declare import matrices


def lars(
    x: Any, gradient: Any, learning_rate: Any, weight_decay: Any = 0.0, weight_decay_mask: Any = True,
    trust_coefficient: float = 0.001, eps: float = 0.0, trust_ratio_mask: Any = True, momentum: float = 0.9,
    nesterov: bool = False,
) -> Iterator[Any]:  # fmt: skip
    """One layer."""
    v = np.zeros(np.shape(x))
    sees = lambda mask: mask if isinstance(mask, bool) else np.ndim(x) > 1
    for t in range(1, oracles.STEPS + 1):
        d = gradient(t, x)
        if sees(weight_decay_mask):
            d = d + oracles.at(weight_decay, t) * x
        norms = [np.sqrt(np.sum(y**2)) for y in (x, d)]
        if sees(trust_ratio_mask) and min(norms) > 0:
            d = trust_coefficient * norms[0] / (norms[1] + eps) * d
        d = oracles.at(learning_rate, t) * d
        v = momentum * v - d
        x = x + (momentum * v - d if nesterov else v)
        yield x, {"trace": v}


CASES = {
    "default": {},
    "schedules": {"learning_rate": oracles.fall, "weight_decay": oracles.fall, "trust_coefficient": 0.125},
    "decay": {"weight_decay": 0.5, "weight_decay_mask": matrices, "trust_coefficient": 0.125},
    "masks": {"trust_ratio_mask": matrices, "weight_decay_mask": False, "weight_decay": 9.0, "nesterov": True},
    "options": {"momentum": 0.5, "eps": 0.25, "trust_coefficient": 0.25, "weight_decay": 0.125},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_oracle(name, dtype):
    kwargs = {"learning_rate": 0.0625, **CASES[name]}
    params, state = oracles.run(gdjax.lars(**kwargs), dtype)
    want = oracles.expected(functools.partial(lars, **kwargs))
    oracles.assert_same((params, {"trace": state["trace"]}), want, **oracles.TOLERANCE[dtype])


def test_zero_norms():
    tx = gdjax.lars(0.5)
    zero, one = jnp.zeros(2, "float16"), jnp.ones(2, "float16")
    np.testing.assert_array_equal(tx.update(zero, tx.init(one), one)[0], zero)
    np.testing.assert_array_equal(tx.update(one, tx.init(one), zero)[0], -0.5 * one)  # plain descent


def test_params_are_asked_for_by_name():
    tx, x = gdjax.lars(0.1), jnp.ones(2)
    with pytest.raises(ValueError, match=r"^gdjax\.\w+: this transform needs params"):
        tx.update(x, tx.init(x))
