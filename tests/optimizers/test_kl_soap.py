"""KL-SOAP against its authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.golden_matrices import as_published, compare
from tests.support import slow


@pytest.mark.parametrize("leaf", ["tall1", "wide1", *slow(["square"])])
@pytest.mark.parametrize("every", [1, 5])
def test_its_authors_code(every, leaf):
    tx = gdjax.scale_by_kl_soap(0.9, 0.95, precondition_frequency=lambda count: every)
    with as_published():
        compare(f"kl_soap/authors_f{every}", leaf, gdjax.chain(tx, gdjax.scale(-0.01)))


@pytest.mark.parametrize("leaf", ["tall1", "wide1", *slow(["square"])])
def test_its_authors_code_with_other_numbers(leaf):
    tx = gdjax.scale_by_kl_soap(0.95, 0.9, 0.8, 1e-3, lambda count: 2)
    with as_published():
        compare("kl_soap/authors_decay", leaf, gdjax.chain(tx, gdjax.scale(-0.01)), decay=0.001)


@pytest.mark.full
def test_a_turn_raises_v_where_its_authors_code_takes_a_longer_step():
    tx = gdjax.scale_by_kl_soap(0.9, 0.95, precondition_frequency=lambda count: 1)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        compare("kl_soap/authors_f1", "square", gdjax.chain(tx, gdjax.scale(-0.01)))


@pytest.mark.full
def test_bias_correction_is_a_factor_of_the_first_steps():
    g = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), "float32")
    got = []
    for correct in (True, False):
        tx = gdjax.scale_by_kl_soap(0.9, 0.98, bias_correction=correct, eps=0.0)
        state = tx.init(g)
        for _ in range(3):
            u, state = jax.jit(tx.update)(g, state)
        got.append(u)
    np.testing.assert_allclose(got[0], got[1] * (1 - 0.98**2) ** 0.5 / (1 - 0.9**2), rtol=1e-4)
