"""Eigenvalues, roots of matrices, non-negative least squares: against NumPy, SciPy and Optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from gdjax import tree
from gdjax.linalg.roots import matrix_inverse_pth_root, nnls, power_iteration
from tests.support import relaxed
from tests.trees import precision

root_of, iterate = jax.jit(matrix_inverse_pth_root), jax.jit(power_iteration)  # p is traced, as every other number


def symmetric(values, seed: int = 0) -> np.ndarray:
    """A matrix with the given eigenvalues."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    return q @ np.diag(np.asarray(values, float)) @ q.T


@pytest.mark.parametrize("values", [[5, 1, 0.5, -2], [-7, 3, 1, 0], [1e-12, 1e-13, 0, 0], [3e15, -1e15, 0, 1]])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_power_iteration(values, dtype: str):
    with precision(dtype):
        m = jnp.asarray(symmetric(values), dtype)
        value, v = iterate(m)
        assert value.dtype == v.dtype == dtype
        np.testing.assert_allclose(value, values[0], rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(v), 1, rtol=1e-6)
        size = abs(values[0])
        np.testing.assert_allclose(np.asarray(m) @ np.asarray(v) / size, values[0] / size * np.asarray(v), atol=1e-5)


@pytest.mark.full
def test_power_iteration_is_optax_s():
    m = jnp.asarray(symmetric([5, 1, 0.5, -2]), "float32")
    for options in ({}, {"num_iters": 3}, {"key": jax.random.PRNGKey(7)}, {"v0": jnp.ones(4), "error_tolerance": 1e-2}):
        got = jax.jit(lambda m, options=options: power_iteration(m, **options))(m)
        with relaxed():
            wanted = optax.power_iteration(m, **options)
        np.testing.assert_allclose(got[0], wanted[0], rtol=2e-6)
        np.testing.assert_allclose(got[1], wanted[1], atol=2e-6)


@pytest.mark.full
def test_power_iteration_of_a_function_of_trees():
    m = symmetric([5, 1, 0.5, -2])

    def product(v):
        x = jnp.asarray(m, "float32") @ jnp.concatenate([v["a"], v["b"]])
        return {"a": x[:1], "b": x[1:]}

    value, v = power_iteration(product, v0={"a": jnp.ones(1), "b": jnp.ones(3)})
    np.testing.assert_allclose(value, 5, rtol=1e-5)
    np.testing.assert_allclose(product(v)["b"], 5 * v["b"], atol=1e-4)
    np.testing.assert_allclose(tree.norm(v), 1, rtol=1e-6)


def test_power_iteration_of_complex_and_sixteen_bit_matrices():
    m = jnp.array([[2, 1j], [-1j, 2]], "complex64")  # eigenvalues 3 and 1
    np.testing.assert_allclose(power_iteration(m)[0], 3, rtol=1e-5)
    value, v = power_iteration(jnp.diag(jnp.array([1.0, 4.0], "bfloat16")))
    assert value.dtype == v.dtype == jnp.float32
    np.testing.assert_allclose(value, 4, rtol=1e-6)


def test_power_iteration_where_the_product_vanishes():
    for m, v0 in [(np.zeros((2, 2)), None), (np.diag([1.0, 0.0]), jnp.array([0.0, 2.0]))]:
        value, v = power_iteration(jnp.asarray(m, "float32"), v0=v0)
        assert value == 0
        np.testing.assert_allclose(np.linalg.norm(v), 1, rtol=1e-6)


def test_power_iteration_from_a_start_orthogonal_to_the_eigenvector():
    value, v = power_iteration(jnp.diag(jnp.array([5.0, 2.0])), v0=jnp.array([0.0, 3.0]))
    assert value == 2
    np.testing.assert_array_equal(v, [0, 1])


def test_power_iteration_errors():
    with pytest.raises(ValueError, match=r"gdjax\.power_iteration: with a function for a matrix, pass v0"):
        power_iteration(lambda v: v)
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 3\), expected a square"):
        power_iteration(jnp.ones((2, 3)))


def inverse_root(a: np.ndarray, p: int, ridge: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(a)
    return vectors @ np.diag((values + ridge * values[-1]) ** (-1 / p)) @ vectors.T


@pytest.mark.full
@pytest.mark.parametrize("p", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matrix_inverse_pth_root(p: int, dtype: str):
    a = symmetric([4, 2, 1, 0.5, 0.3])
    with precision(dtype):
        tolerance = 1e-6 if dtype == "float32" else 1e-13
        root, error = root_of(jnp.asarray(a, dtype), p, error_tolerance=tolerance)
        assert root.dtype == dtype
        np.testing.assert_allclose(root, inverse_root(a, p, 1e-6), rtol=10 * tolerance, atol=10 * tolerance)
        assert error <= tolerance
        if p in (1, 2, 4, 8) and dtype == "float32":
            with relaxed():
                theirs, _ = optax.matrix_inverse_pth_root(jnp.asarray(a, dtype), p)
            np.testing.assert_allclose(root, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("condition", [1e3, 1e5])
def test_matrix_inverse_pth_root_of_an_ill_conditioned_matrix(condition: float):
    a = symmetric(np.geomspace(1, 1 / condition, 5)).astype("float32")
    wanted = inverse_root(a.astype("float64"), 4, 1e-6)
    size = np.abs(wanted).max()
    got, _ = root_of(jnp.asarray(a), 4)
    np.testing.assert_allclose(got / size, wanted / size, atol=1e-8 * condition)


@pytest.mark.full
def test_matrix_inverse_pth_root_at_the_edges():
    root, error = root_of(jnp.zeros((2, 2)), 2)
    assert np.isfinite(root).all() and np.isfinite(error)
    root, _ = matrix_inverse_pth_root(jnp.array([[4.0]], "bfloat16"), 2)
    assert root.shape == (1, 1) and root.dtype == jnp.bfloat16 and root[0, 0] == 0.5
    singular, _ = root_of(jnp.diag(jnp.array([1.0, 0.0])), 2)
    np.testing.assert_allclose(singular, np.diag([1, 1e3]), rtol=1e-4, atol=1e-4)
    few, error = root_of(jnp.diag(jnp.array([1.0, 0.01])), 2, num_iters=2)
    assert error > 0.1 and few[1, 1] < 5
    ridged, _ = root_of(jnp.diag(jnp.array([1.0, 0.0])), 1, ridge_epsilon=0.25)
    np.testing.assert_allclose(ridged, np.diag([0.8, 4]), rtol=1e-5)
    with pytest.raises(ValueError, match=r"gdjax\.matrix_inverse_pth_root: matrix has shape \(3,\), expected a square"):
        matrix_inverse_pth_root(jnp.ones(3), 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nnls(dtype: str):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((12, 5)), rng.standard_normal((12, 3))
    wanted = np.stack([scipy.optimize.nnls(a, column)[0] for column in b.T], 1)
    assert (wanted == 0).any() and (wanted > 0).any()
    with precision(dtype):
        x, y = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
        got = jax.jit(nnls, static_argnums=2)(x, y, 300)
        assert got.dtype == dtype and (got >= 0).all()
        tolerance = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(nnls(x, y[:, 0], 300, unroll=2), wanted[:, 0], rtol=tolerance, atol=tolerance)
        if dtype == "float32":
            with relaxed():
                np.testing.assert_allclose(got, optax.nnls(x, y, 1000), rtol=1e-4, atol=1e-4)


def test_nnls_converges_on_ill_conditioned_problems():
    rng = np.random.default_rng(1)
    a = rng.standard_normal((30, 10)) @ np.diag(np.geomspace(1, 0.03, 10))
    b = rng.standard_normal(30)
    wanted, _ = scipy.optimize.nnls(a, b)
    with precision("float64"):
        x, y = jnp.asarray(a), jnp.asarray(b)
        ours, theirs = (np.abs(np.asarray(f(x, y, 2000)) - wanted).max() for f in (nnls, optax.nnls))
    assert ours < 1e-9 < 1e-4 < theirs


def test_nnls_at_the_edges():
    np.testing.assert_array_equal(nnls(jnp.zeros((3, 2)), jnp.ones(3), 5), [0, 0])
    np.testing.assert_allclose(nnls(jnp.eye(2), jnp.array([1.0, -1.0]), 50, L=2.0), [1, 0], rtol=1e-5)
    with pytest.raises(ValueError, match=r"gdjax\.nnls: A has shape \(2, 2\), b \(3,\)"):
        nnls(jnp.eye(2), jnp.ones(3), 5)
