"""White gradients with one that is 10 to 1000 times as large: how long an update is at that step, and later."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
spikes = importlib.import_module("spikes")

AT, LATER = 5.0, 3.0
SMALL = {"hidden": (32, 16)}
SAMPLE = "adamw adam_atan2 kl_shampoo soap muon".split()
SCALED = [name for name in spikes.names() if name not in spikes.APART]


def assert_bounded(tx, **given):
    found = spikes.told(spikes.figures(tx, **given))
    assert max(at for at, _ in found) <= AT, found
    assert max(later for _, later in found) <= LATER, found


@pytest.mark.full
@pytest.mark.whole
@pytest.mark.parametrize("name", [pytest.param(x, marks=[] if x in SAMPLE else [pytest.mark.slow]) for x in SCALED])
def test_a_spike_is_bounded(name):
    assert_bounded(spikes.made(name), shapes=SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALED)
def test_a_spike_is_bounded_in_matrices_as_of_models(name):
    assert_bounded(spikes.made(name), shapes={k: x for k, x in spikes.SHAPES.items() if k != "bias"}, seed=1)


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["kl_soap", *(pytest.param(x, marks=pytest.mark.slow) for x in ("soap", "kl_shampoo"))]
)
@pytest.mark.parametrize("every", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_refresh_in_each_step_is_bounded_too(name, every):
    assert_bounded(spikes.made(name, precondition_frequency=every), shapes=SMALL)


@pytest.mark.parametrize("name", ["sgd", *(pytest.param(x, marks=pytest.mark.slow) for x in ("acprop", "sghmc"))])
def test_what_is_linear_is_told(name):
    found = spikes.told(spikes.figures(spikes.made(name), shapes=SMALL))
    assert found[1][0] > 20 and "linear" in spikes.APART[name]


@pytest.mark.slow
def test_each_that_is_told_apart_needs_it():
    for name in spikes.APART:
        found = spikes.told(spikes.figures(spikes.made(name)))
        assert max(at for at, _ in found) > AT or max(later for _, later in found) > LATER, name


def last_update(tx):
    g = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), "float32")
    step = lambda state, _: tx.update(g, state, g)[::-1]
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, tx.init(g), None, 6)[1])()[-1])


@pytest.mark.full
@pytest.mark.parametrize("name", ["soap", "kl_soap"])
def test_max_update_rms_is_the_longest_update(name):
    u, v = (last_update(getattr(gdjax, f"scale_by_{name}")(max_update_rms=x)) for x in (None, 0.3))
    rms = np.sqrt(np.mean(u**2))
    assert rms > 0.4
    np.testing.assert_allclose(v, u * 0.3 / rms, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(last_update(getattr(gdjax, f"scale_by_{name}")(max_update_rms=0.9)), u, rtol=1e-6)
    by_rate = last_update(getattr(gdjax, name)(0.1, max_update_rms=0.3, roles={"": "matrix"}))
    np.testing.assert_allclose(by_rate, -0.1 * v, rtol=1e-5, atol=1e-7)
