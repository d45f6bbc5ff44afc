"""Muown against the paper's equations in NumPy, and where they say nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg.matrices import Matrix
from tests.polar_oracles import gradients, points, polar


def muown(
    w: Any, gs: Any, lr: float = 0.05, b1: float = 0.95, adam: Any = (0.9, 0.95, 1e-8), rms: float | None = 0.2,
    nesterov: bool = True, coeffs: Any = "polar_express", decay: float = 0.0,
) -> Any:  # fmt: skip
    """v, s and w = s v / |v|, each by itself; of (inputs, outputs)."""
    v, s = w.copy(), np.linalg.norm(w, axis=0)
    mu, m, q = np.zeros_like(w), np.zeros_like(s), np.zeros_like(s)
    for t, g in enumerate(gs, 1):
        length = np.linalg.norm(v, axis=0)
        ds = np.sum(g * v, axis=0) / length
        dv = s / length * (g - ds * v / length)
        mu = b1 * mu + (1 - b1) * dv
        into, out = w.shape
        size = np.sqrt(max(1, out / into)) if rms is None else rms * np.sqrt(max(into, out))
        v = v - lr * size * polar(b1 * mu + (1 - b1) * dv if nesterov else mu, coeffs, eps=0)
        c1, c2, eps = adam
        m, q = c1 * m + (1 - c1) * ds, c2 * q + (1 - c2) * ds**2
        s = s - lr * (m / (1 - c1**t)) / (np.sqrt(q / (1 - c2**t)) + eps)
        old, w = w, s * v / np.linalg.norm(v, axis=0)
        if decay:
            w = w - lr * decay * old
            s = np.linalg.norm(w, axis=0)
            v = w * np.linalg.norm(v, axis=0) / s
        yield w, {"norm": np.linalg.norm(v, axis=0, keepdims=True), "m": m[None], "v": q[None]}


CASES = {
    "default": ({}, {}),
    "code": ({"ns_coeffs": "jordan", "weight_decay": 0.1}, {"coeffs": "jordan", "decay": 0.1}),
    "numbers": (
        {"b1": 0.8, "adam_b1": 0.7, "adam_b2": 0.8, "adam_eps": 0.1, "consistent_rms": None, "nesterov": False},
        {"b1": 0.8, "adam": (0.7, 0.8, 0.1), "rms": None, "nesterov": False},
    ),
}


@pytest.mark.parametrize("shape", [(4, 3), (3, 5), (4, 4)])
@pytest.mark.parametrize("name", CASES)
def test_oracle(name: str, shape: Any):
    kwargs, theirs = CASES[name]
    start, *gs = gradients(shape)
    got, state = points(gdjax.muown(0.05, eps=0.0, **kwargs), start, gs)
    wanted = list(muown(start, gs, **theirs))
    np.testing.assert_allclose(got, [w for w, _ in wanted], rtol=1e-11, atol=1e-12)
    for field, value in wanted[-1][1].items():
        np.testing.assert_allclose(getattr(gdjax.tree.get(state, "MuownState"), field)["w"], value, rtol=1e-10)


@pytest.fixture
def problem() -> Any:
    w, g = (jnp.asarray(x, "float32") for x in gradients((6, 4), 2))
    return {"w": w}, {"w": g}


def test_a_step_is_as_long_as_the_neuron_is_turned(problem: Any):
    """At a rate where the neurons hardly turn, across them the update is Muon's of the part across them."""
    params, grads = problem
    w, g = np.asarray(params["w"]), np.asarray(grads["w"])
    across = lambda x: x - w * np.sum(x * w, axis=0) / np.sum(w * w, axis=0)
    u = gdjax.muown(1e-3, adam_eps=1.0).update(grads, gdjax.muown(1e-3).init(params), params)[0]["w"]
    tx = gdjax.muon(1e-3, "polar_express", consistent_rms=0.2)
    muon = tx.update({"w": jnp.asarray(across(g))}, tx.init(params), params)[0]["w"]
    np.testing.assert_allclose(across(np.asarray(u)), across(np.asarray(muon)), atol=2e-5)


def test_nothing_moves_without_a_gradient(problem: Any):
    params, _ = problem
    tx = gdjax.muown(0.1)
    u, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_array_equal(u["w"], 0)


def test_a_gradient_along_the_neurons_turns_none(problem: Any):
    params, _ = problem
    tx = gdjax.muown(0.01)
    u, state = tx.update(params, tx.init(params), params)
    along = params["w"] / jnp.linalg.norm(params["w"], axis=0, keepdims=True)
    np.testing.assert_allclose(u["w"], -0.01 * along, rtol=1e-5, atol=1e-6 * float(jnp.max(jnp.abs(params["w"]))))
    np.testing.assert_array_equal(gdjax.tree.get(state, "MuownState").mu["w"], 0)


def test_neurons_of_0_begin_with_muons_update(problem: Any):
    """All of them, or one; then they have a direction like any other."""
    params, grads = problem
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx, muon = gdjax.muown(0.01), gdjax.muon(0.01, "polar_express", consistent_rms=0.2, bias_correction=False)
    u, state = tx.update(grads, tx.init(zeros), zeros)
    np.testing.assert_allclose(u["w"], muon.update(grads, muon.init(zeros), zeros)[0]["w"], rtol=1e-5)
    np.testing.assert_allclose(gdjax.tree.get(state, "norm")["w"][0], jnp.linalg.norm(u["w"], axis=0), rtol=1e-6)
    again, _ = tx.update(grads, state, gdjax.apply_updates(zeros, u))
    assert jnp.all(jnp.isfinite(again["w"])) and jnp.any(again["w"] != 0)
    one = {"w": params["w"].at[:, 1].set(0)}
    u, _ = tx.update(grads, tx.init(one), one)
    assert jnp.all(jnp.isfinite(u["w"])) and jnp.all(jnp.any(u["w"] != 0, axis=0))


@pytest.mark.full
def test_the_norms_are_those_of_the_outputs_of_each_matrix():
    sizes = {"linear": (4, 3), "torch": (3, 4), "stack": (2, 5, 6)}
    params = {name: jnp.asarray(gradients(size, 1)[0], "float32") for name, size in sizes.items()}
    roles = {"linear": Matrix(), "torch": Matrix(1, 0), "stack": Matrix(parts=3)}
    tx = gdjax.muown(0.01, roles=lambda tree: roles)
    u, state = jax.jit(tx.update)(params, tx.init(params), params)
    norm = gdjax.tree.get(state, "MuownState").norm
    assert jax.tree.map(jnp.shape, norm) == {"linear": (1, 3), "torch": (3, 1), "stack": (2, 1, 6)}
    turned = {"w": params["torch"].T}
    alone = gdjax.muown(0.01)
    wanted = jax.jit(alone.update)(turned, alone.init(turned), turned)[0]["w"].T
    np.testing.assert_allclose(u["torch"], wanted, rtol=1e-5, atol=1e-7)


def test_16_bits(problem: Any):
    params, grads = (jax.tree.map(lambda x: x.astype("bfloat16"), tree) for tree in problem)
    tx = gdjax.muown(0.01)
    u, state = tx.update(grads, tx.init(params), params)
    assert u["w"].dtype == jnp.bfloat16
    state = gdjax.tree.get(state, "MuownState")
    assert {x["w"].dtype.name for x in (state.norm, state.m, state.v)} == {"float32"}
