"""White gradients with one that is 10 to 1000 times as large: how long an update is at that step, and later."""

import importlib
import sys
from pathlib import Path

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


@pytest.mark.parametrize("name", [pytest.param(x, marks=[] if x in SAMPLE else [pytest.mark.slow]) for x in SCALED])
def test_a_spike_is_bounded(name):
    assert_bounded(spikes.made(name), shapes=SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALED)
def test_a_spike_is_bounded_in_matrices_as_of_models(name):
    assert_bounded(spikes.made(name), shapes={k: x for k, x in spikes.SHAPES.items() if k != "bias"}, seed=1)


@pytest.mark.parametrize("name", ["kl_soap", *(pytest.param(x, marks=pytest.mark.slow) for x in ("soap", "kl_shampoo"))])
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


@pytest.mark.parametrize("name", ["soap", "kl_soap"])
def test_max_update_rms_is_the_longest_update(name):
    rng = np.random.default_rng(0)
    g = jnp.asarray(rng.normal(size=(6, 4)), "float32")
    free, bound = (getattr(gdjax, f"scale_by_{name}")(max_update_rms=x) for x in (None, 0.3))
    states = [free.init(g), bound.init(g)]
    for _ in range(6):
        pairs = [tx.update(g, s) for tx, s in zip((free, bound), states, strict=True)]
        (u, v), states = zip(*pairs, strict=True)
        rms = float(jnp.sqrt(jnp.mean(u**2)))
        np.testing.assert_allclose(v, u * min(1, 0.3 / max(rms, 1e-9)), rtol=1e-5, atol=1e-7)
    assert rms > 0.4
    by_rate = getattr(gdjax, name)(0.1, max_update_rms=0.3, roles={"": "matrix"})
    assert float(jnp.sqrt(jnp.mean(_last(by_rate, g) ** 2))) == pytest.approx(0.03, rel=1e-4)


def _last(tx, g):
    state = tx.init(g)
    for _ in range(6):
        u, state = tx.update(g, state, g)
    return u
