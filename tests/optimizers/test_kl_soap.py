"""KL-SOAP against its authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.matrices import kronecker
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


def test_a_turn_raises_v_where_its_authors_code_takes_a_longer_step():
    tx = gdjax.scale_by_kl_soap(0.9, 0.95, precondition_frequency=lambda count: 1)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        compare("kl_soap/authors_f1", "square", gdjax.chain(tx, gdjax.scale(-0.01)))


def test_after_a_turn_no_number_is_longer_than_four_times_the_longest_before():
    rng = np.random.default_rng(0)
    m, new_m = rng.normal(size=(2, 5, 4)).astype("float32")
    v = np.where(np.arange(4) < 3, rng.uniform(0.5, 2, (5, 4)), 0).astype("float32")  # nothing along the last column
    m *= v > 0
    longest = np.abs(m[:, :3] / np.sqrt(v[:, :3])).max()
    raised = np.asarray(kronecker._at_least(*map(jnp.asarray, (v, v, new_m, v, m))))
    assert np.abs(new_m / np.sqrt(raised)).max() == pytest.approx(4 * longest, rel=1e-5)
    np.testing.assert_array_equal(raised[:, :3], v[:, :3])  # which are short enough


def test_a_turn_that_lengthens_the_update_turns_v_as_a_covariance():
    n = 16
    m, v = jnp.ones((n, n)), jnp.ones((n, n))
    spread = jnp.zeros((n, n)).at[jnp.diag_indices(n)].set(n**0.5)  # as long, all on the diagonal
    v_follows = v.at[jnp.diag_indices(n)].set(0.3)
    raised = kronecker._at_least(v_follows, v, spread, v, m)
    np.testing.assert_allclose(raised.diagonal(), 1.0)  # 16 / 16 is the least for a number four times as long, v is 1
    shorter = jnp.full((n, n), 1.2)  # lengthened by less than 1.3: v follows the columns
    np.testing.assert_array_equal(kronecker._at_least(v, 2 * v, shorter, v, m), v)
    np.testing.assert_array_equal(kronecker._at_least(v, 2 * v, 1.6 * m, v, m), 2 * v)


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
