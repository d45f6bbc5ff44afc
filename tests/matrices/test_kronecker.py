"""Kronecker factors and the bases of their eigenvectors, from the formulas."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.matrices import kronecker


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


RNG = np.random.default_rng(0)


def unitary(n: int, kind: str = "complex64") -> jax.Array:
    x = RNG.normal(size=(n, n)) + (1j * RNG.normal(size=(n, n)) if kind == "complex64" else 0)
    return jnp.asarray(np.linalg.qr(x)[0], kind)


def complex_matrix(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape) + 1j * RNG.normal(size=shape), "complex64")


def test_into_the_bases_and_back():
    g, left, right = complex_matrix(3, 4), unitary(3), unitary(4)
    inside = kronecker.into(g, left, right)
    np.testing.assert_allclose(inside, np.conj(left).T @ g @ right, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(kronecker.out_of(inside, left, right), g, rtol=2e-5, atol=1e-5)


def test_a_side_without_a_basis_stays():
    g, left, right = complex_matrix(3, 4), unitary(3), unitary(4)
    np.testing.assert_allclose(kronecker.into(g, None, right), g @ right, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(kronecker.out_of(g, left, None), left @ g, rtol=2e-5, atol=1e-5)
    assert kronecker.into(g, None, None) is g and kronecker.out_of(g, None, None) is g


def test_a_gram_matrix_is_hermitian():
    g = jnp.array([[1, 1j], [0, 2]], "complex64")
    np.testing.assert_array_equal(kronecker.gram(g), [[2, 2j], [-2j, 4]])


def test_the_root_of_v_counts_as_a_ten_thousandth_of_the_largest_at_least():
    m, v = jnp.array([[1.0, 1.0, 1.0]]), jnp.array([[4.0, 1e-2, 0.0]])
    # The roots are 2, 0.1 and 0, which counts as 2e-4.
    np.testing.assert_allclose(kronecker.normalized(m, v, 0.0), [[0.5, 10, 5000]], rtol=1e-5)
    np.testing.assert_allclose(kronecker.normalized(m, v, 1.0), [[1 / 3, 1 / 1.1, 1 / 1.0002]], rtol=1e-5)
    assert not kronecker.normalized(0 * m, 0 * v, 0.0).any()


def test_an_average_of_factors():
    old = jnp.full((2, 2), 8.0)
    np.testing.assert_array_equal(kronecker.averaged(old, lambda: jnp.ones((2, 2)), 0.75), jnp.full((2, 2), 6.25))
    assert kronecker.averaged(None, lambda: jnp.ones((2, 2)), 0.75) is None


@pytest.mark.full
@pytest.mark.whole
@pytest.mark.parametrize("side", [0, 1], ids=["rows", "columns"])
@pytest.mark.parametrize("refresh", ["qr", "eigh"])
def test_the_first_basis_is_of_eigenvectors_and_moments_move_along(side: int, refresh: str):
    """Of diag(1, 9): the larger eigenvalue comes first, so that rows or columns change places, up to signs."""
    old, factor = jnp.eye(2), jnp.diag(jnp.array([1.0, 9.0]))
    mu, nu = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[5.0, 6.0], [7.0, 8.0]])
    how = {"side": side, "moments": 1, "pairs": 1, "refresh": refresh, "in_order": True}
    basis, m, v = kronecker._turned(jnp.array(True), old, mu, nu, factor, **how)
    np.testing.assert_allclose(abs(basis), [[0, 1], [1, 0]], atol=1e-6)
    turned = lambda x: x[:, ::-1] if side else x[::-1]
    np.testing.assert_allclose(abs(m), turned(mu), rtol=1e-6)
    np.testing.assert_allclose(v, turned(nu), rtol=1e-6)
    back = kronecker.out_of(m, None, basis) if side else kronecker.out_of(m, basis, None)
    np.testing.assert_allclose(back, mu, rtol=1e-6)  # the same matrix


class State(NamedTuple):
    L: Any
    QL: Any
    R: Any
    QR: Any


def test_a_side_without_a_factor_has_no_turn():
    s = State(None, None, None, None)
    assert kronecker.in_new_bases(s, 1, (), (), "eigh") is s
