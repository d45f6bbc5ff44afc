"""NorMuon against the paper's Algorithm 1 in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg.matrices import Matrix
from tests.polar_oracles import gradients, points, polar


def normuon(x, gs, lr=0.05, b1=0.95, b2=0.95, eps=1e-8, rms=0.2, nesterov=True, coeffs="polar_express", decay=0.0,
            longer=False):  # fmt: skip
    axis = 1 if longer and x.shape[0] > x.shape[1] else 0
    mu, v = np.zeros_like(x), 0.0
    for g in gs:
        mu = b1 * mu + (1 - b1) * g
        o = polar(b1 * mu + (1 - b1) * g if nesterov else mu, coeffs)
        v = b2 * v + (1 - b2) * np.mean(o**2, axis=axis, keepdims=True)
        u = o / (np.sqrt(v) + eps)
        into, out = x.shape
        size = np.sqrt(max(1, out / into)) * np.linalg.norm(o) if rms is None else rms * np.sqrt(into * out)
        x = x - lr * (size * u / np.linalg.norm(u) + decay * x)
        yield x, v


CASES = {
    "default": ({}, {}),
    "paper": ({"nesterov": False, "ns_coeffs": "jordan"}, {"nesterov": False, "coeffs": "jordan"}),
    "code": ({"consistent_rms": None, "ns_coeffs": "jordan"}, {"rms": None, "coeffs": "jordan"}),
    "longer": ({"neurons": "longer"}, {"longer": True}),
    "numbers": (
        {"b1": 0.8, "b2": 0.7, "eps": 0.1, "consistent_rms": 0.5, "weight_decay": 0.1},
        {"b1": 0.8, "b2": 0.7, "eps": 0.1, "rms": 0.5, "decay": 0.1},
    ),
}


@pytest.mark.parametrize("shape", [(4, 3), (3, 5), (4, 4)])
@pytest.mark.parametrize("name", CASES)
def test_oracle(name, shape):
    kwargs, theirs = CASES[name]
    start, *gs = gradients(shape)
    # eps also stands beside the norm in Newton-Schulz: larger gradients make that small.
    gs = [1e9 * g for g in gs]
    got, state = points(gdjax.normuon(0.05, **kwargs), start, gs)
    wanted = list(normuon(start, gs, **theirs))
    np.testing.assert_allclose(got, [x for x, _ in wanted], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gdjax.tree.get(state, "v")["w"], wanted[-1][1], rtol=1e-5)


def test_the_size_of_an_update():
    x = {"w": jnp.asarray(gradients((6, 4), 1)[0], "float32")}
    for rms in (0.2, 0.5):
        tx = gdjax.normuon(1.0, consistent_rms=rms)
        u = tx.update(x, tx.init(x), x)[0]["w"]
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(u**2)), rms, rtol=1e-5)


def test_the_second_moment_has_a_number_for_each_output():
    sizes = {"linear": (4, 3), "torch": (3, 4), "stack": (2, 5, 6), "conv": (3, 3, 4, 8)}
    params = {name: jnp.ones(size) for name, size in sizes.items()}
    roles = {"linear": Matrix(), "torch": Matrix(1, 0), "stack": Matrix(parts=3), "conv": Matrix((0, 1, 2), 3)}
    state = gdjax.scale_by_normuon(roles=lambda tree: roles, mu_dtype="bfloat16").init(params)
    shapes = {"linear": (1, 3), "torch": (3, 1), "stack": (2, 1, 6), "conv": (1, 1, 1, 8)}
    assert jax.tree.map(jnp.shape, state.v) == shapes
    assert {x.dtype.name for x in jax.tree.leaves(state.v)} == {"float32"}
    assert {x.dtype.name for x in jax.tree.leaves(state.mu)} == {"bfloat16"}
    longer = gdjax.scale_by_normuon(roles=lambda tree: roles, neurons="longer").init(params)
    shapes |= {"linear": (4, 1), "torch": (1, 4), "conv": (3, 3, 4, 1)}
    assert jax.tree.map(jnp.shape, longer.v) == shapes


def test_the_rest_is_adamws():
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    grads = {"w": jnp.ones((4, 3)), "b": jnp.arange(3.0)}
    ours = gdjax.normuon(0.1, adam_learning_rate=0.01)
    adam = gdjax.adamw(0.01, 0.9, 0.95, weight_decay=0.0)
    mine, his = (tx.update(grads, tx.init(params), params)[0]["b"] for tx in (ours, adam))
    np.testing.assert_allclose(mine, his, rtol=1e-6)
    other = gdjax.normuon(0.1, others=gdjax.sgd(0.5))
    np.testing.assert_allclose(other.update(grads, other.init(params), params)[0]["b"], -0.5 * grads["b"])
