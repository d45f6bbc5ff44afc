"""Eigenvectors and roots of stacks of matrices against NumPy, and zero, rank-1 and NaN matrices among them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.linalg.bases import eigh, inverse_root, refreshed_basis
from tests.trees import precision

RNG = np.random.default_rng(0)


def definite(*shape, rank=None):
    g = RNG.normal(size=(*shape, shape[-1] if rank is None else rank))
    return g @ g.swapaxes(-1, -2)


def wanted_root(a, p, ridge):
    values, vectors = np.linalg.eigh(a)
    values = np.maximum(values, 0) + ridge * values.max(-1, keepdims=True)
    return (vectors * values[..., None, :] ** (-1 / p)) @ vectors.swapaxes(-1, -2)


@pytest.mark.parametrize("method", ["eigh", "newton"])
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
def test_the_inverse_root_of_each_matrix(method, p, size):
    with precision("float64"):
        a = definite(2, 3, 4) * size
        got = jax.jit(lambda a: inverse_root(a, p, 1e-3, method))(a)
        np.testing.assert_allclose(got * size ** (1 / p), wanted_root(a / size, p, 1e-3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["eigh", "newton"])
def test_zero_rank_one_and_nan_matrices(method):
    v = np.array([3.0, 4.0, 0.0]) / 5
    stack = np.stack([np.zeros((3, 3)), np.outer(v, v), np.full((3, 3), np.nan), np.diag([4.0, 4.0, 4.0])])
    zero, single, nan, plain = inverse_root(jnp.asarray(stack, "float32"), 2, 1e-4, method)
    np.testing.assert_array_equal(zero, np.eye(3))
    np.testing.assert_allclose(single @ v, v, atol=1e-3)
    np.testing.assert_allclose(single @ np.array([4.0, -3.0, 0.0]) / 100, [4.0, -3.0, 0.0], rtol=1e-2, atol=1e-2)
    assert np.isnan(nan).all()
    np.testing.assert_allclose(plain, np.eye(3) / 2, atol=1e-4)


@pytest.mark.full
def test_roots_of_complex_and_sixteen_bit_matrices():
    g = RNG.normal(size=(3, 3)) + 1j * RNG.normal(size=(3, 3))
    a = (g @ g.conj().T).astype("complex64")
    root = np.asarray(inverse_root(jnp.asarray(a), 2))
    np.testing.assert_allclose(root @ a @ root, np.eye(3), atol=2e-2)
    half = jnp.asarray(definite(2, 3), "bfloat16")
    assert inverse_root(half, 4).dtype == jnp.bfloat16


def test_a_null_space_without_a_ridge_is_left_out():
    root = inverse_root(jnp.diag(jnp.array([4.0, 0.0])), 2, 0.0)
    np.testing.assert_allclose(root, np.diag([0.5, 0.0]))


def test_eigenvalues_fall():
    a = jnp.asarray(definite(3, 4), "float32").at[1].set(jnp.nan)
    values, vectors = eigh(a)
    assert np.isnan(values[1]).all() and np.isnan(vectors[1]).all()
    for i in (0, 2):
        assert (np.diff(values[i]) < 0).all()
        np.testing.assert_allclose(a[i] @ vectors[i], vectors[i] * values[i][None], atol=1e-4)


def test_power_steps_find_the_eigenvectors_and_keep_their_signs():
    a = np.diag([9.0, 3.0, 1.0]) + 0.1
    basis = jnp.asarray(np.linalg.qr(RNG.normal(size=(3, 3)))[0], "float32")
    for _ in range(40):
        before, basis = basis, refreshed_basis(jnp.asarray(a, "float32"), basis)
    np.testing.assert_allclose(basis, before, atol=1e-5)  # a sign that flips would show
    np.testing.assert_allclose(np.abs(np.linalg.eigh(a)[1][:, ::-1]), np.abs(basis), atol=1e-4)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("kind", ["float32", "complex64"])
def test_eigenvectors_stay_with_their_signs(signs, kind):
    a = (
        5 * np.eye(3)
        + definite(3)
        + (1j * (np.triu(np.ones((3, 3)), 1) - np.tril(np.ones((3, 3)), -1)) if kind == "complex64" else 0)
    )
    values, vectors = np.linalg.eigh(a)
    vectors = (vectors[:, ::-1] * np.array(signs)).astype(kind)
    assert (np.diff(values) > 0.1).all()
    np.testing.assert_allclose(refreshed_basis(jnp.asarray(a, kind), jnp.asarray(vectors)), vectors, atol=2e-5)


def test_a_basis_that_nothing_is_known_of_stays():
    basis = jnp.asarray(np.linalg.qr(RNG.normal(size=(3, 3, 3)))[0], "float32")
    v = np.array([1.0, 2.0, 2.0]) / 3
    a = jnp.asarray(np.stack([np.zeros((3, 3)), np.full((3, 3), np.nan), np.outer(v, v)]), "float32")
    new = refreshed_basis(a, basis)
    np.testing.assert_array_equal(new[:2], basis[:2])
    np.testing.assert_allclose(new[2].T @ new[2], np.eye(3), atol=1e-5)
    np.testing.assert_allclose(np.abs(new[2][:, 0]), np.abs(v), atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match=r"^gdjax.inverse_root: matrices have shape \(2, 3\), expected \(..., n, n\)"):
        inverse_root(jnp.ones((2, 3)), 2)
    with pytest.raises(ValueError, match="^gdjax.inverse_root: method must be one of eigh, newton, got 'svd'"):
        inverse_root(jnp.ones((2, 2)), 2, method="svd")
