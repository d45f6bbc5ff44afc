"""ADOPT, with and without clipping."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.papers.adam import adopt


def test_clipping_makes_a_difference():
    one, two = (lambda x, g, c=c: adopt(x, g, use_clipping=c) for c in (True, False))
    assert oracles.distance(one, two) > 0.01


def test_a_clip_value_of_ones_own():
    tx, g = gdjax.scale_by_adopt(b1=0.0, clip_value_fn=lambda t: t / 2), jnp.array([1.0, -1.0])
    state = tx.update(g, tx.init(g))[1]
    u, state = tx.update(4 * g, state)
    np.testing.assert_allclose(u, 0.5 * g)
    np.testing.assert_allclose(tx.update(4 * g, state)[0], g)


def test_a_complex_number_is_clipped_in_size():
    tx, g = gdjax.scale_by_adopt(b1=0.0), jnp.array([3 + 4j, 0j])
    u, state = tx.update(g, tx.init(g))
    assert u.tolist() == [0, 0]
    np.testing.assert_allclose(tx.update(4 * g, state)[0], [0.6 + 0.8j, 0], rtol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zero_gradients_and_no_eps(dtype: str):
    tx, zero = gdjax.scale_by_adopt(eps=0.0), jnp.zeros(2, dtype)
    state = tx.update(zero, tx.init(zero))[1]
    u, state = tx.update(zero, state)
    assert u.tolist() == [0, 0]
    # A gradient then is bounded by the clipping: c_2 (1 - b1).
    np.testing.assert_allclose(tx.update(zero + 100, state)[0], 2**0.25 * 0.1, rtol=1e-3)

    def total(g: Any) -> Any:
        return jnp.sum(tx.update(g, state)[0]).astype(jnp.float32)

    assert np.isfinite(jax.grad(total)(zero)).all()
