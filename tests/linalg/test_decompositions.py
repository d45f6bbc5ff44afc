"""Derivatives of decompositions: JAX's where there are any, finite where eigenvalues are equal or columns dependent."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg import bases
from gdjax.linalg.decompositions import eigh, qr
from tests.trees import precision

RNG = np.random.default_rng(0)
REAL_OR_COMPLEX = pytest.mark.parametrize("kind", ["float64", "complex128"])


SPECTRA = [4.0, 3.0, 2.0, 1.0, 0.5], [4.0, 2.0, 2.0, 2.0, 1.0], [1.0] * 5, [3.0, 1.0, 1.0 + 1e-9, 0.0, 0.0]


def normal(*shape: int, kind: str = "float64") -> jax.Array:
    x = RNG.standard_normal(shape)
    return jnp.asarray(x + 1j * RNG.standard_normal(shape) if kind == "complex128" else x)


def hermitian(n: int, kind: str = "float64") -> jax.Array:
    x = normal(n, n, kind=kind)
    return (x + x.mT.conj()) / 2


def along(f: Callable[[Any], Any], x: Any, way: Any) -> Any:
    return jax.jvp(f, (x,), (way,))[1]


def difference(f: Callable[[Any], Any], x: Any, way: Any, h: float = 1e-4) -> Any:
    at = lambda k: f(x + k * h * way)
    return jax.tree.map(lambda a, b, c, d: (8 * (a - b) - (c - d)) / (12 * h), at(1), at(-1), at(2), at(-2))


@REAL_OR_COMPLEX
def test_distinct_eigenvalues_and_independent_columns_have_the_derivatives_of_jax(kind: str):
    with precision("float64"):
        a, way = hermitian(4, kind), hermitian(4, kind)
        vectors, values = along(eigh, a, way)
        expected = along(jnp.linalg.eigh, a, way)
        np.testing.assert_allclose(values, expected.eigenvalues, rtol=1e-12)
        np.testing.assert_allclose(vectors, expected.eigenvectors, rtol=1e-10)
        x, to = normal(2, 5, 3, kind=kind), normal(2, 5, 3, kind=kind)
        for found, wanted in zip(along(qr, x, to), along(lambda x: tuple(jnp.linalg.qr(x)), x, to), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.full
def test_vectors_of_equal_eigenvalues_do_not_mix_and_the_others_are_right():
    with precision("float64"):
        q = jnp.linalg.qr(normal(5, 5))[0]
        a, way = q @ jnp.diag(jnp.asarray([4.0, 4.0, 2.0, 0.0, 0.0])) @ q.T, hermitian(5)
        assert all(jnp.isfinite(x).all() for x in along(eigh, a, way))
        assert jnp.isfinite(jax.grad(lambda a: jnp.sum(eigh(a)[0] ** 3))(a)).all()
        single = lambda a: jnp.outer(eigh(a)[0][:, 2], eigh(a)[0][:, 2])  # that of 2
        np.testing.assert_allclose(along(single, a, way), difference(single, a, way), rtol=1e-8, atol=1e-9)


@pytest.mark.full
@REAL_OR_COMPLEX
@pytest.mark.parametrize("p", [2, 4])
def test_roots_have_derivatives_whatever_eigenvalues_are_equal(p: int, kind: str):
    with precision("float64"):
        q = jnp.linalg.qr(normal(5, 5, kind=kind))[0]
        for values in (
            [4.0, 3.0, 2.0, 1.0, 0.5],
            [4.0, 2.0, 2.0, 2.0, 1.0],
            [1.0] * 5,
            [3.0, 1.0, 1.0 + 1e-9, 0.0, 0.0],
        ):
            a, x = q @ jnp.diag(jnp.asarray(values, kind)) @ q.T.conj(), normal(5, 2, kind=kind)
            # The null space is reached by squares alone, so that no eigenvalue is below 0.
            f = lambda t: bases.inverse_root(a + t**2 * x @ x.mT.conj() + t * (a @ a), p, 1e-2)  # noqa: B023
            t = jnp.asarray(0.1)
            np.testing.assert_allclose(along(f, t, 1.0), difference(f, t, 1.0), rtol=1e-6, atol=1e-8)
            weights = normal(5, 5, kind=kind)
            of = lambda t: jnp.real(jnp.sum(weights * f(t)))  # noqa: B023
            np.testing.assert_allclose(jax.grad(of)(t), along(of, t, 1.0), rtol=1e-10)


@pytest.mark.full
def test_dependent_columns_have_finite_derivatives_and_those_before_the_right_ones():
    with precision("float64"):
        x, way = normal(5, 4), normal(5, 4).at[:, 2].set(0)
        x = x.at[:, 2].set(x[:, 0] - x[:, 1]).at[:, 3].set(0)
        assert all(jnp.isfinite(y).all() for y in along(qr, x, way))
        first = lambda x: qr(x)[0][:, :2]
        np.testing.assert_allclose(along(first, x, way), difference(first, x, way), rtol=1e-8)
        assert jnp.isfinite(jax.grad(lambda x: jnp.sum(qr(x)[0] ** 3))(x)).all()


@pytest.mark.full
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("matrix", ["zero", "dead", "identity", "thin"])
def test_turned_bases_of_degenerate_matrices_have_derivatives(matrix: str, exact: bool):
    """A power step is differentiable, and of eigenvectors those whose eigenvalues are single."""
    with precision("float64"):
        x = normal(5, 2)
        g = {"zero": jnp.zeros((5, 2)), "dead": x.at[1].set(0), "identity": jnp.eye(5), "thin": x}[matrix]
        way = jnp.where(g == 0, 0, normal(*g.shape)) if matrix != "thin" else normal(5, 2)
        f = lambda g: gdjax.turned_basis(g @ g.T, jnp.eye(5), exact=exact)
        forward = along(f, g, way)
        assert all(jnp.isfinite(x).all() for x in forward)
        weights = normal(5, 5), normal(5, 5)
        of = lambda g: sum(jnp.sum(w * x) for w, x in zip(weights, f(g), strict=True))
        np.testing.assert_allclose(jnp.sum(jax.grad(of)(g) * way), along(of, g, way), rtol=1e-9, atol=1e-12)
        if not (exact and matrix == "identity"):
            for found, wanted in zip(forward, difference(f, g, way, 1e-5), strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
