"""Muon against NumPy statements of Jordan's code, Optax's variant and Liu et al.'s factor, and its edges."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import MuonDimensionNumbers as Axes
from tests import oracles

A, B, C = 3.4445, -4.7750, 2.0315


def newton_schulz(m, steps=5, eps=1e-8):
    x = m / (np.linalg.norm(m) + eps)
    x = x.T if m.shape[0] > m.shape[1] else x
    for _ in range(steps):
        s = x @ x.T
        x = A * x + (B * s + C * s @ s) @ x
    return x.T if m.shape[0] > m.shape[1] else x


def muon(
    x,
    gradient,
    lr=0.05,
    beta=0.95,
    corrected=True,
    nesterov=True,
    rms=None,
    weight_decay=0.0,
    adaptive=False,
    power=None,
):
    """Muon for the matrix, AdamW without decay for the rest."""
    mu, nu = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    b1, b2 = 0.9, 0.999
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        if np.ndim(x) == 2:
            mu = beta * mu + (1 - beta) * g
            if corrected:
                m = mu / (1 - beta**t)
                m = beta * mu / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t) if nesterov else m
            else:
                m = g + beta * (mu - g) if nesterov else mu  # torch's lerp
            o = newton_schulz(m)
            if power is not None:
                norm, d = np.linalg.norm(m), oracles.at(power, t) / 2
                E = m @ m.T / norm**2 - np.eye(len(m))
                o = norm ** (2 * d) * (o + d * E @ o + d * (d - 1) / 2 * E @ E @ o)
            o = np.sum(m * o) * o if adaptive else o
            into, out = x.shape
            o = o * (np.sqrt(max(1, out / into)) if rms is None else rms * np.sqrt(max(into, out)))
            x = x - lr * (o + weight_decay * x)
            yield x, {"mu": mu}
        else:
            mu, nu = b1 * mu + (1 - b1) * g, b2 * nu + (1 - b2) * g**2
            m = b1 * mu / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t) if nesterov else mu / (1 - b1**t)
            x = x - lr * m / (np.sqrt(nu / (1 - b2**t)) + 1e-8)
            yield x, {"mu": mu}


def falling(count):
    """From positive to negative, in numbers that every dtype holds exactly."""
    return jnp.where(count < 20, 0.25, -0.25)


CASES = {
    "Optax": ({}, {}),
    "reference": ({"bias_correction": False}, {"corrected": False}),
    "reference without Nesterov": (
        {"bias_correction": False, "nesterov": False, "beta": 0.8},
        {"corrected": False, "nesterov": False, "beta": 0.8},
    ),
    "Moonlight": (
        {"bias_correction": False, "consistent_rms": 0.2, "weight_decay": 0.1},
        {"corrected": False, "rms": 0.2, "weight_decay": 0.1},
    ),
    "DynMuon": ({"power": falling, "weight_decay": 0.1}, {"power": falling, "weight_decay": 0.1}),
    "adaptive": ({"adaptive": True, "nesterov": False}, {"adaptive": True, "nesterov": False}),
}


@pytest.mark.parametrize("name", CASES)
def test_oracle(name, monkeypatch):
    kwargs, theirs = CASES[name]
    oracle = functools.partial(muon, **theirs)
    monkeypatch.setattr(oracles, "fields", lambda state: {"mu": _momenta(state)})
    # Newton-Schulz multiplies rounding errors along small singular values by up to A^5 = 485 in every step.
    oracles.assert_follows(gdjax.muon(0.05, **kwargs), oracle, "float64", rtol=1e-11, atol=1e-11)


def _momenta(state):
    inner = state.inner_states
    adam = inner["adam"].inner_state[0].mu
    return {**adam, "matrix": inner["muon"].inner_state[0].mu["matrix"]}


def test_the_factor_of_a_wide_matrix_and_its_transpose():
    g = np.random.default_rng(0).normal(size=(2, 8)).astype("float32")
    wide, tall = (gdjax.muon(1.0).update(x, gdjax.muon(1.0).init(x), x)[0] for x in (jnp.asarray(g), jnp.asarray(g.T)))
    np.testing.assert_allclose(wide, 2 * tall.T, rtol=1e-5)


def test_a_power_of_the_singular_values_of_a_stack():
    """Each layer of a stack of four axes is a matrix by itself, tall or wide."""
    stack = jax.random.normal(jax.random.key(0), (2, 3, 4, 6))
    make = lambda *axes: gdjax.scale_by_muon(power=0.25, weight_dimension_numbers=Axes(*axes))
    for axes in ((2, 3), (3, 2)):
        u, _ = make(*axes).update(stack, make(*axes).init(stack), stack)
        one = make(axes[0] - 2, axes[1] - 2)
        alone = [[one.update(x, one.init(x), x)[0] for x in xs] for xs in stack]
        np.testing.assert_allclose(u, jnp.array(alone), rtol=2e-5, atol=1e-5)


def test_which_leaves():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(3), "c": jnp.ones((2, 2, 2)), "n": jnp.ones((2, 2), int)}
    with pytest.warns(UserWarning, match="gdjax.muon: its Adam trains .* matrices of more than two axes: c. Pass"):
        state = gdjax.muon(0.1).init(params)
    of = {k: gdjax.MaskedNode for k in params}
    muon_mu = state.inner_states["muon"].inner_state[0].mu
    assert {k for k, x in muon_mu.items() if not isinstance(x, of[k])} == {"a"}
    spec = {"a": None, "b": None, "c": Axes((0, 1), 2), "n": None}
    for numbers in (spec, lambda tree: spec):
        state = gdjax.muon(0.1, adam_learning_rate=0.01, muon_weight_dimension_numbers=numbers).init(params)
        assert state.inner_states["adam"].inner_state[0].mu["a"].shape == (2, 3)
        assert state.inner_states["muon"].inner_state[0].mu["c"].shape == (2, 2, 2)


def test_axes_of_a_cube():
    g = np.random.default_rng(1).normal(size=(2, 3, 4)).astype("float32")

    def update(axes):
        tx = gdjax.scale_by_muon(weight_dimension_numbers=axes)
        return np.asarray(tx.update(jnp.asarray(g), tx.init(jnp.asarray(g)))[0])

    batch = update(Axes(2, 1))  # a batch of 2 matrices (4, 3)
    for x, got in zip(g, batch, strict=True):
        np.testing.assert_allclose(got, newton_schulz(x.T).T, rtol=1e-4, atol=1e-5)
    flat = update(Axes((2, 0), -2))  # one matrix (8, 3)
    wanted = newton_schulz(g.transpose(2, 0, 1).reshape(8, 3)).reshape(4, 2, 3).transpose(1, 2, 0)
    np.testing.assert_allclose(flat, wanted, rtol=1e-4, atol=1e-5)


def test_adaptive_takes_each_matrix_of_a_batch_apart():
    g = np.random.default_rng(2).normal(size=(2, 3, 4)).astype("float32")
    tx = gdjax.scale_by_muon(adaptive=True, weight_dimension_numbers=Axes(1, 2))
    one = gdjax.scale_by_muon(adaptive=True)
    together = tx.update(jnp.asarray(g), tx.init(jnp.asarray(g)))[0]
    for x, got in zip(g, together, strict=True):
        np.testing.assert_allclose(got, one.update(jnp.asarray(x), one.init(jnp.asarray(x)))[0], rtol=1e-4, atol=1e-5)


def test_one_program_for_equal_shapes_and_their_transposes():
    params = {str(i): jnp.ones((3, 4) if i % 2 else (4, 3)) for i in range(6)}
    tx = gdjax.scale_by_muon(ns_steps=2)
    text = jax.jit(tx.update).lower(params, tx.init(params)).as_text()
    assert len(re.findall("stablehlo.dot_general", text)) == 3  # A, A^2 and (b A + c A^2) X, the same twice
    assert text.count("tensor<6x3x4xf32>") > 3


def test_bfloat16_is_computed_in_float32():
    g = np.random.default_rng(3).normal(size=(4, 6)).astype("float32")
    tx = gdjax.scale_by_muon(mu_dtype="float32")
    x = jnp.asarray(g, "bfloat16")
    got = tx.update(x, tx.init(x))[0]
    want = newton_schulz(np.float64(x))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float64(got), want, rtol=2**-8, atol=1e-4)


def test_products_in_bfloat16_change_the_update_by_about_one_percent():
    params = jnp.asarray(np.random.default_rng(4).normal(size=(96, 32)).astype("float32"))
    exact, rounded = (
        tx.update(params, tx.init(params), params)[0] for tx in (gdjax.muon(0.1), gdjax.muon(0.1, ns_dtype="bfloat16"))
    )
    assert rounded.dtype == jnp.float32
    assert 1e-3 < jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact) < 0.02


def test_products_in_another_dtype_are_of_real_matrices():
    tx = gdjax.scale_by_muon(ns_dtype="bfloat16")
    x = {"w": jnp.ones((2, 3), "complex64")}
    with pytest.raises(TypeError, match=r"^gdjax.scale_by_muon: params\['w'\]: ns_dtype bfloat16 does not support"):
        tx.update(x, tx.init(x))


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0)])
def test_a_matrix_without_elements(shape: tuple[int, int]):
    p = {"a": jnp.zeros(shape), "w": jnp.eye(2)}
    u, _ = gdjax.muon(0.1).update(p, gdjax.muon(0.1).init(p), p)
    assert u["a"].shape == shape and bool(jnp.any(u["w"] != 0))


def test_huge_and_zero_gradients():
    params, zero = jnp.ones((3, 4)), jnp.zeros((3, 4))
    tx = gdjax.muon(0.1)
    step = jax.jit(lambda g: tx.update(g, tx.init(params), params)[0])
    u = step(zero + 1e20)
    assert np.isfinite(u).all() and np.abs(u).max() > 0.01
    np.testing.assert_array_equal(step(zero), 0)
    assert np.isfinite(jax.grad(lambda g: jnp.sum(step(g)))(zero)).all()


def test_the_coefficients_of_the_state_are_used():
    x = jnp.ones((2, 3))
    tx = gdjax.scale_by_muon(ns_steps=1)
    state = tx.init(x)._replace(ns_coeffs=jnp.array([2.0, 0.0, 0.0]))
    np.testing.assert_allclose(tx.update(x, state)[0], 2 / 6**0.5, rtol=1e-6)


@pytest.mark.parametrize("call, message", [
    (lambda: gdjax.muon(0.1, preconditioning="l1"), "gdjax.muon: preconditioning must be one of frobenius, spectral, "
     "aol, schatten, got 'l1'"),
    (lambda: gdjax.muon(0.1, ns_steps=0), "gdjax.muon: ns_steps must be at least 1, got 0"),
    (lambda: gdjax.muon(0.1, ns_coeffs=(1.0,)), r"gdjax.muon: ns_coeffs must have shape \(3,\) or \(steps, 3\), got"),
    (lambda: gdjax.muon(0.1, beta=1.0), "gdjax.muon: beta must be in"),
    (lambda: update({"w": jnp.ones(3)}), r"gdjax.scale_by_muon: params\['w'\]: shape \(3,\) is no matrix; give its"),
    (lambda: update(jnp.ones((2, 3)), Axes(0, 0)), r"gdjax.scale_by_muon: params: reduction_axis \(0,\) and "
     r"output_axis \(0,\) of shape \(2, 3\) overlap"),
    (lambda: update(jnp.ones((2, 3)), Axes(0, 2)), "gdjax.scale_by_muon: params: output_axis 2 does not name"),
    (lambda: update({"w": jnp.ones((2, 3))}, {"v": Axes()}), "gdjax.scale_by_muon: the dimension numbers are not a "
     r"prefix of the tree: only the dimension numbers have \['v'\], only the tree has \['w'\]"),
    (lambda: gdjax.muon(0.1).update(jnp.ones((2, 3)), gdjax.muon(0.1).init(jnp.ones((3, 2))), jnp.ones((3, 2))),
     "gdjax.muon: params.*: gradient shape"),
])  # fmt: skip
def test_errors(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def update(g, axes=None):
    tx = gdjax.scale_by_muon(weight_dimension_numbers=axes)
    return tx.update(g, tx.init(g))


@pytest.mark.full
@pytest.mark.optimized
def test_the_momentum_of_a_large_matrix_is_written_once_before_its_norms():
    params = {name: jnp.ones((256, 300)) for name in "ab"}
    tx = gdjax.scale_by_muon()
    update = lambda g, s: tx.update(g, s)
    text = jax.jit(update, donate_argnums=1).lower(params, tx.init(params)).compile().as_text()
    # A bounded gradient is read for the new momentum, and for what Newton-Schulz starts from.
    bounded = [x for x in text.split("\n\n") if "xor(" in x and "f32[256,300]" in x]
    assert len(bounded) == 2 * len(params)


def test_the_rest_may_have_another_optimizer():
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    tx = gdjax.muon(0.1, others=gdjax.sgd(0.5))
    np.testing.assert_allclose(tx.update(params, tx.init(params), params)[0]["b"], -0.5)
    with pytest.raises(TypeError, match="gdjax.muon: argument others is 3"):
        gdjax.muon(0.1, others=3)
