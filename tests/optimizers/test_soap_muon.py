"""SOAP-Muon against the code of a record of modded-nanogpt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg.matrices import Matrix
from tests.golden_matrices import as_published, compare
from tests.support import slow


@pytest.mark.parametrize("leaf", ["tall1", "wide1", *slow(["square"])])
@pytest.mark.parametrize("every", [1, 5])
def test_the_code_of_a_record(every, leaf):
    # torch's weights are (outputs, inputs). Newton-Schulz multiplies a rounding by up to 3.4^5.
    tx = gdjax.soap_muon(0.02, precondition_frequency=lambda count: every, roles=Matrix(1, 0))
    with as_published():
        compare(f"soap_muon/nanogpt_f{every}", leaf, tx, rtol=2e-4)


def test_the_first_step_is_one_of_muon():
    g = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), "float32")
    got, _ = jax.jit(gdjax.scale_by_soap_muon().update)(g, gdjax.scale_by_soap_muon().init(g))
    muon = gdjax.scale_by_muon(bias_correction=False)
    np.testing.assert_allclose(got, muon.update(g, muon.init(g))[0], rtol=1e-4, atol=1e-6)


def test_blocks_are_orthogonalized_together():
    g = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6)), "float32")
    tx = gdjax.scale_by_soap_muon(block_size=2, precondition_frequency=1, ns_steps=10)
    state = tx.init(g)
    for _ in range(3):
        u, state = jax.jit(tx.update)(g, state)
    values = np.linalg.svd(u, compute_uv=False)
    assert state.mu["2x2"].shape == (6, 2, 2) and 0.6 < values.min() and values.max() < 1.3


@pytest.mark.parametrize(("given", "beta"), [({}, 0.8), ({"shampoo_beta": 0.5}, 0.5), ({"shampoo_beta": 0}, 0.0)])
def test_the_decay_of_the_factors(given, beta):
    g = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3)), "float32")
    tx = gdjax.scale_by_soap_muon(b2=0.8, **given)
    _, state = tx.update(g, tx.init(g))
    np.testing.assert_allclose(state.L["2x3"][0], (1 - beta) * g @ g.T, rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="gdjax.soap_muon: ns_coeffs"):
        gdjax.soap_muon(0.1, ns_coeffs="best")
    with pytest.raises(ValueError, match="gdjax.scale_by_soap_muon: sides must be one of both, short"):
        gdjax.scale_by_soap_muon(sides="long")
