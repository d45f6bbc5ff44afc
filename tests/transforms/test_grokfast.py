"""Grokfast against its formula in NumPy."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def grokfast(x: Any, gradient: Any, alpha: float = 0.98, lamb: float = 2.0) -> Iterator[Any]:
    """Before gradient descent with momentum 0.5 at a rate of 0.01; the average begins at the first gradient."""
    mu, v = None, np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        mu = g if mu is None else alpha * mu + (1 - alpha) * g
        v = 0.5 * v + g + lamb * mu
        x = x - 0.01 * v
        yield x, {"mu": mu, "trace": v}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kwargs", [{}, {"alpha": 0.75, "lamb": 0.5}], ids=["default", "all"])
def test_follows_the_paper(kwargs: dict[str, Any], dtype: str):
    # Errors of the average, of which lamb times as much is added, add up over the steps.
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {}
    tx = gdjax.grokfast(gdjax.sgd(0.01, 0.5), **kwargs)
    oracles.assert_follows(tx, functools.partial(grokfast, **kwargs), dtype, **tolerance)


def test_no_amplification_is_the_optimizer():
    tx, inner, g = gdjax.grokfast(gdjax.adamw(0.1), lamb=0.0), gdjax.adamw(0.1), jnp.array([1.0, -2.0])
    u, state = tx.update(g, tx.init(g), g)
    wanted, inner_state = inner.update(g, inner.init(g), g)
    np.testing.assert_array_equal(u, wanted)
    np.testing.assert_array_equal(state[1][0].mu, inner_state[0].mu)


def test_the_dtype_of_the_average():
    params = jnp.ones(2, jnp.bfloat16)
    dtypes = [gdjax.grokfast(gdjax.sgd(0.1), accumulator_dtype=d).init(params)[0].mu.dtype for d in (None, "float32")]
    assert dtypes == [jnp.bfloat16, jnp.float32]


def test_a_number_is_no_optimizer():
    with pytest.raises(TypeError, match=r"^gdjax.grokfast: argument 0 is 0.003, which has no init and update"):
        gdjax.grokfast(0.003)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^gdjax.grokfast: alpha must be"):
        gdjax.grokfast(gdjax.sgd(0.1), alpha=1.0)
