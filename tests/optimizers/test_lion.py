"""Lion with its three shapes of the sign."""

import functools

import jax.numpy as jnp
import pytest

import gdjax
from tests import oracles
from tests.papers.descent import lion

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


MODES = [{"mode": "hard"}, {"mode": "smooth"}, {"mode": "smooth", "smooth_beta": 4.0}, {"mode": "refined", "b1": 0.25}]


oracle = functools.partial(lion, weight_decay=1e-3)


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
