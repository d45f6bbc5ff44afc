"""Mechanic."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests import oracles, vectors
from tests.support import relaxed
from tests.trees import assert_close, finite, signature, steps


def mechanic(
    x: Any, gradient: Any, value: Any, rate: Any = 1.0, weight_decay: float = 1e-2, eps: float = 1e-8,
    s_init: float = 1e-6, num_betas: int = 6, bounded: bool = True,
) -> Iterator[Any]:  # fmt: skip
    """Algorithm 1 over gradient descent, with its signs: Delta adds up the updates of the base."""
    betas, start, delta = 1 - 0.1 ** np.arange(1, num_betas + 1), x, np.zeros(x.size)
    m, v, r = np.zeros((3, num_betas))
    s = np.full(num_betas, s_init)
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        decay = weight_decay * np.sum(s) * np.sqrt(g @ g) / (np.sqrt(x @ x) + eps)
        # What is left of Delta when x - x_0 is divided by the scale and eps.
        h = (g + decay * x) @ (delta * np.sum(s) / (np.sum(s) + eps) if t > 1 else delta)
        delta = (x - start) / (np.sum(s) + eps) - oracles.at(rate, t) * g
        won = np.clip(-h, -m, m) if bounded else -h
        m = np.maximum(betas * m, abs(h) + eps)
        v = betas**2 * v + h**2
        r = betas * r + s * won
        r = r if bounded else np.maximum(r, 0)
        s = (s_init / num_betas * m + np.maximum(r, 0)) / (np.sqrt(v) + eps)
        x = start + np.sum(s) * delta
        yield x, {"r": r, "m": m, "v": v, "s": s, "count": t}


CASES = {
    "default": {},
    "all": {"weight_decay": 0.25, "eps": 1e-3, "s_init": 0.01, "num_betas": 3},
    "of the paper": {"bounded": False, "s_init": 0.01},
    "schedule": {"s_init": 0.01},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_follows_the_paper(name: str, dtype: str):
    rate = oracles.fall if name == "schedule" else 0.5
    tx = gdjax.mechanize(gdjax.sgd(rate), **CASES[name])
    # x - x_0, near 1e-6 at first, is divided by a scale near 1e-6: in float32 that has two digits.
    digits = {"default": 5e-2}.get(name, 1e-3) if dtype == "float32" else 1e-9
    vectors.assert_follows(tx, functools.partial(mechanic, rate=rate, **CASES[name]), dtype, rtol=digits, atol=digits)


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


def test_any_base():
    # An Optax optimizer, one that needs extra arguments, float0 leaves.
    with relaxed():
        theirs = steps(gdjax.mechanize(optax.adam(1.0)), X, [X, X])
    assert_close(theirs[0], steps(gdjax.mechanize(gdjax.adam(1.0)), X, [X, X])[0], 1e-5, 1e-5)
    tx = gdjax.mechanize(gdjax.polyak_sgd())
    assert finite(tx.update(X, tx.init(X), X, value=1.0)[0])
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
