"""Gradient descent: plain, momentum, Nesterov's three forms; and who leaves a saddle point."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def sgd_of_the_notes(x: Any, gradient: Any, lr: float = 0.05, mu: float = 0.9) -> Iterator[Any]:
    v = 0.0
    for t in range(1, oracles.STEPS + 1):
        v = mu * v - lr * gradient(t, x)
        x = x + v
        yield x, {"trace": v / -lr}


def nesterov_of_the_notes(x: Any, gradient: Any, lr: float = 0.05, mu: float = 0.9) -> Iterator[Any]:
    """The reformulated form: x here is the point ahead."""
    v = 0.0
    for t in range(1, oracles.STEPS + 1):
        v_prev = v
        v = mu * v - lr * gradient(t, x)
        x = x - mu * v_prev + (1 + mu) * v
        yield x, {"trace": v / -lr}


def nesterov_look_ahead(x: Any, gradient: Any, lr: float = 0.05, mu: float = 0.9) -> Iterator[Any]:
    """The original form: yields the points ahead, where the gradients are taken."""
    v = 0.0
    for t in range(1, oracles.STEPS + 1):
        v = mu * v - lr * gradient(t, x + mu * v)
        x = x + v
        yield x + mu * v, {"trace": v / -lr}


@DTYPES
def test_momentum_with_the_rate_inside_the_velocity(dtype):
    oracles.assert_follows(gdjax.sgd(0.05, 0.9), sgd_of_the_notes, dtype)


@DTYPES
@pytest.mark.parametrize("form", [nesterov_of_the_notes, nesterov_look_ahead])
def test_forms_of_nesterov(form, dtype):
    oracles.assert_follows(gdjax.sgd(0.05, 0.9, nesterov=True), form, dtype)


def test_nesterov_is_not_momentum():
    assert oracles.distance(nesterov_look_ahead, sgd_of_the_notes) > 0.1


@DTYPES
def test_gradients_at_nesterov_point(dtype):
    lr, mu = 0.05, 0.9
    tx = gdjax.sgd(lr, mu)

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        params = gdjax.apply_updates(params, updates)
        return params, state, gdjax.nesterov_point(params, state, lr, mu)

    want, _ = oracles.run(gdjax.sgd(lr, mu, nesterov=True), dtype)
    with oracles.precision(dtype):
        params, noise = ({k: x.astype(dtype) for k, x in d.items()} for d in (oracles.PARAMS, oracles.NOISE))
        state, ahead = tx.init(jax.tree.map(jnp.asarray, params)), params
        for t in range(oracles.STEPS):
            grads = {k: oracles.gradient(np.asarray(x), noise[k][t]) for k, x in ahead.items()}
            params, state, ahead = step(params, state, grads)
            for leaf, x in ahead.items():
                np.testing.assert_allclose(x, want[leaf][t], **oracles.TOLERANCE[dtype])


def test_accumulator_dtype():
    # In float64, where no result lies so near the middle of two bfloat16 numbers that the order of sums decides.
    def oracle(x, gradient):
        v = np.zeros(np.shape(x), jnp.bfloat16)
        for t in range(1, oracles.STEPS + 1):
            full = 0.9 * np.float64(v) + gradient(t, x)
            v = full.astype(jnp.bfloat16)
            x = x - 0.05 * full
            yield x, {"trace": v}

    tx = gdjax.sgd(0.05, 0.9, accumulator_dtype=jnp.bfloat16)
    assert tx.init(jnp.ones(3))[0].trace.dtype == jnp.bfloat16
    oracles.assert_follows(tx, oracle, "float64")


def test_plain_descent_keeps_no_state():
    assert jax.tree.leaves(gdjax.sgd(0.1).init(jnp.ones(3))) == []


# --- A saddle: f(x, y) = x^2 - y^2 + y^4 / 4, saddle point (0, 0), minima -1 at y = +-sqrt(2). ---

START = (1.0, 0.0)  # on the stable manifold y = 0, where f is x^2


def saddle(p: Any) -> Any:
    x, y = p
    return x**2 - y**2 + y**4 / 4


def descend(tx: Any, steps: int, slope: Any = None) -> Any:
    """The points visited from START; `slope` holds a linear term's coefficient for every step."""
    slope = jnp.zeros((steps, 2)) if slope is None else slope

    def step(carry, c):
        p, state = carry
        updates, state = tx.update(jax.grad(saddle)(p) + c, state, p)
        return (p + updates, state), p + updates

    p = jnp.array(START)
    return jax.lax.scan(step, (p, tx.init(p)), slope)[1]


STAY = {
    "sgd": gdjax.sgd(0.1),
    "momentum": gdjax.sgd(0.1, 0.9),
    "nesterov": gdjax.sgd(0.1, 0.9, nesterov=True),
}


@pytest.mark.parametrize("name", STAY)
def test_descent_stays_on_the_stable_manifold(name):
    points = np.asarray(jax.jit(lambda: descend(STAY[name], 2000))())
    assert np.all(points[:, 1] == 0)
    assert abs(points[-1, 0]) < 1e-6


def escapes(run: Any, seeds: int = 64) -> Any:
    """The first step after which f < -0.9, for every seed."""
    points = jax.jit(jax.vmap(run))(jax.vmap(jax.random.key)(jnp.arange(seeds)))
    return np.argmax(np.asarray(jax.vmap(jax.vmap(saddle))(points)) < -0.9, axis=1), points


# The bounds: y grows by 1.2 a step, and from 1e-3 to 1.2 takes 39 steps.
def test_noisy_sgd_leaves():
    # The first noise moves y by about lr sqrt(eta) = 0.01: of 64 runs the slowest needs fewer than 100 steps.
    first, points = escapes(lambda key: descend(gdjax.noisy_sgd(0.1, key=key), 150))
    assert np.all((first > 0) & (first < 100))
    assert np.all(saddle(points[:, -1].T) < -0.9)


def test_perturbed_gradient_descent_leaves():
    # x falls by 0.8 a step, so that |g| <= 1e-3 after 35. A perturbation may be nearly parallel to x, and the next
    # comes 51 steps later.
    first, points = escapes(lambda key: descend(gdjax.perturbed_gradient_descent(0.1, key=key), 200))
    assert np.all((first > 35) & (first < 150))
    ys = np.asarray(points[:, :, 1])
    assert np.all(ys[:, :34] == 0)  # without noise until then
    np.testing.assert_allclose(np.abs(ys[:, -1]), np.sqrt(2), atol=0.02)  # and back at a minimum after noise there


def test_mini_batches_leave():
    # f is the mean of f + c_i y over 8 examples whose c_i add up to 0: the whole batch stays, batches of 2 leave.
    c = jnp.array([0.4, -0.4, 0.3, -0.3, 0.2, -0.2, 0.1, -0.1])

    def run(key):
        batches = jax.random.randint(key, (150, 2), 0, 8)
        slope = c[batches].mean(axis=1)
        return descend(gdjax.sgd(0.1), 150, jnp.stack([jnp.zeros(150), slope], axis=1))

    first, _ = escapes(run)
    assert np.all((first > 0) & (first < 100))
    whole = jnp.stack([jnp.zeros(2000), jnp.full(2000, c.sum())], axis=1)
    assert np.all(np.asarray(jax.jit(lambda: descend(gdjax.sgd(0.1), 2000, whole))())[:, 1] == 0)
