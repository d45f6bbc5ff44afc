"""KL-Shampoo against its authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.golden_matrices import compare
from tests.support import slow


@pytest.mark.parametrize("leaf", ["tall1", "wide1", *slow(["square"])])
@pytest.mark.parametrize("every", [1, 5])
def test_its_authors_code(every, leaf):
    tx = gdjax.scale_by_kl_shampoo(0.9, 0.95, precondition_frequency=lambda count: every)
    compare(f"kl_shampoo/authors_f{every}", leaf, gdjax.chain(tx, gdjax.scale(-0.01)))


@pytest.mark.parametrize("leaf", ["tall1", "wide1", *slow(["square"])])
def test_its_authors_code_with_other_numbers(leaf):
    tx = gdjax.scale_by_kl_shampoo(0.95, 0.8, 1e-3, lambda count: 2)
    compare("kl_shampoo/authors_decay", leaf, gdjax.chain(tx, gdjax.scale(-0.01)), decay=0.001)
    tx = gdjax.scale_by_kl_shampoo(0.9, 0.95, precondition_frequency=1, init_factor=1.0)
    compare("kl_shampoo/authors_unclamped_init1", leaf, gdjax.chain(tx, gdjax.scale(-0.01)))


def test_eigenvalues_have_a_least_value():
    tx = gdjax.scale_by_kl_shampoo(shampoo_beta=0.5, precondition_frequency=1)
    g = jnp.eye(3) * 1e-6
    state = tx.init(g)
    for _ in range(20):
        u, state = jax.jit(tx.update)(g, state)
    np.testing.assert_allclose(next(iter(state.dL.values())), 0.01, rtol=1e-5)  # 1 / sqrt(d) is at most 10
    np.testing.assert_allclose(jnp.diag(u), 1e-6 / (0.01 + 1e-8) * (1 - 0.9**19), rtol=1e-3)


def test_a_side_without_a_factor_is_whitened_by_nothing():
    g = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), "float32")
    tx = gdjax.scale_by_kl_shampoo(shampoo_beta=0.5, max_precond_dim=4)
    _, state = tx.update(g, tx.init(g))
    _, state = tx.update(g, state)
    assert state.R == {"3x5": gdjax.MaskedNode()} == state.dR
    np.testing.assert_allclose(state.L["3x5"][0], 0.75 * g @ g.T / 5, rtol=1e-5)
