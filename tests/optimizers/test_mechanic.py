"""Mechanic."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests import vectors
from tests.support import relaxed
from tests.trees import assert_close, finite, signature, steps


def test_the_scale_does_grow():
    scale = [np.sum(s["s"]) for s in vectors.run(gdjax.mechanize(gdjax.sgd(1.0)), "float32")[1]]
    assert scale[0] < 1e-5 < 1e-3 < scale[-1]


X = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
ZERO = jax.tree.map(jnp.zeros_like, X)


@pytest.mark.parametrize("eps", [1e-8, 0.0])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("start", [X, ZERO], ids=["x", "zero"])
def test_zero_gradients_and_zero_parameters(eps: float, dtype: str, start: Any):
    tx = gdjax.mechanize(gdjax.adam(1.0), eps=eps)
    x, zero = (jax.tree.map(lambda x: x.astype(dtype), t) for t in (start, ZERO))
    still, state = steps(tx, x, [zero, zero])
    assert_close(still, x)
    assert finite(state) and state.s.dtype == jnp.float32 and (state.s > 0).all()
    moved, state = steps(tx, x, [zero, *[jax.tree.map(jnp.ones_like, x)] * 3])
    assert finite((moved, state)) and (state.s > 0).all()


def test_derivatives_at_zero_gradients():
    tx = gdjax.mechanize(gdjax.sgd(1.0))

    def total(g: Any) -> Any:
        return sum(jnp.sum(u) for u in jax.tree.leaves(tx.update(g, tx.init(X), X)[0]))

    assert finite(jax.jit(jax.grad(total))(ZERO))


def test_the_parameters_of_the_first_update_are_the_reference():
    # As where pretrained parameters take the place of those that init got.
    tx = gdjax.mechanize(gdjax.sgd(1.0))
    u, state = tx.update(X, tx.init(ZERO), X)
    assert_close(state.x0, X)
    assert_close((u, state), tx.update(X, tx.init(X), X))
    _, state = tx.update(X, state, ZERO)
    assert_close(state.x0, X)


@pytest.mark.full
def test_any_base():
    # An Optax optimizer, one that needs extra arguments, float0 leaves.
    two = lambda base: jax.jit(lambda x: steps(gdjax.mechanize(base), x, [x, x])[0])(X)
    with relaxed():
        theirs = two(optax.adam(1.0))
    assert_close(theirs, two(gdjax.adam(1.0)), 1e-5, 1e-5)
    tx = gdjax.mechanize(gdjax.polyak_sgd())
    assert finite(jax.jit(tx.update)(X, tx.init(X), X, value=1.0)[0])
    params = {**X, "table": jnp.arange(3)}
    g = {**X, "table": np.zeros(3, jax.dtypes.float0)}
    tx = gdjax.mechanize(gdjax.adam(1.0))
    u, state = tx.update(g, tx.init(params), params)
    assert u["table"].dtype == jax.dtypes.float0 and signature(state) == signature(tx.init(params))
    assert_close({k: u[k] for k in X}, tx.update(X, tx.init(X), X)[0])


def test_errors():
    with pytest.raises(ValueError, match=r"gdjax.mechanize: this transform needs params"):
        tx = gdjax.mechanize(gdjax.sgd(1.0))
        tx.update(X, tx.init(X))
    with pytest.raises(TypeError, match=r"gdjax.mechanize: argument 0 is 0.1, which has no init and update"):
        gdjax.mechanize(0.1)
    with pytest.raises(ValueError, match=r"gdjax.mechanize: num_betas must be at least 1, got 0"):
        gdjax.mechanize(gdjax.sgd(1.0), num_betas=0)
    with pytest.raises(ValueError, match=r"gdjax.mechanize: state has fields"):
        gdjax.mechanize(gdjax.sgd(1.0)).update(X, gdjax.adam(1.0).init(X)[0], X)
