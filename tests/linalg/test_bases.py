"""Bases of eigenvectors where the matrix has a null space, equal rows, zeros or NaN."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.linalg.bases import refreshed_basis, turned_basis
from tests.trees import precision

RNG = np.random.default_rng(0)
N = 12


def of_rank(r):
    g = RNG.normal(size=(N, r))
    return g @ g.T


def rotation(n=N):
    return np.linalg.qr(RNG.normal(size=(n, n)))[0]


def equal_rows():
    g = RNG.normal(size=(N, 5))
    g[[1, 3, 5]] = g[[0, 2, 4]]
    return g @ g.T


def after_another():
    """A basis of eigenvectors, and a factor to which another gradient was added: it has what the first had."""
    first = of_rank(3)
    return first + 0.01 * of_rank(2), np.linalg.eigh(first)[1][:, ::-1]


CASES = {
    "low rank": lambda: (of_rank(5), np.eye(N)),
    "low rank in some basis": lambda: (of_rank(5), rotation()),
    "rank 1": lambda: (of_rank(1), np.eye(N)),
    "rows of zeros": lambda: (np.pad(of_rank(N)[:4, :4], ((N - 4, 0), (N - 4, 0))), np.eye(N)),
    "equal rows": lambda: (equal_rows(), np.eye(N)),
    "after another": after_another,
    "full rank": lambda: (of_rank(N) + np.eye(N), rotation()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("exact", [True, False])
def test_bases_are_continuous(case, exact):
    with precision("float64"):
        a, old = CASES[case]()
        noise = RNG.normal(size=a.shape) * 1e-15 * np.abs(a).max()
        turn = jax.jit(lambda a: turned_basis(a, jnp.asarray(old), exact, True))
        (q, w), (moved, mixed) = turn(jnp.asarray(a)), turn(jnp.asarray(a + noise + noise.T))
        np.testing.assert_allclose(q.T @ q, np.eye(N), atol=1e-13)
        np.testing.assert_allclose(np.abs(np.sum(q * moved, axis=0)), 1, atol=1e-12)  # signs do not count
        bound = 1e-10 if exact else 2e-6  # a power step divides what is rounding in a null space by eps^0.4
        np.testing.assert_allclose(np.abs(moved), np.abs(q), rtol=bound, atol=bound)
        np.testing.assert_allclose(mixed, w, atol=bound)
        np.testing.assert_allclose(np.sum(w, axis=1), 1, rtol=1e-12)


@pytest.mark.full
def test_rows_of_zeros_keep_about_their_coordinates():
    a, old = CASES["rows of zeros"]()
    q, w = turned_basis(jnp.asarray(a, "float32"), jnp.asarray(old, "float32"), True, True)
    np.testing.assert_allclose(np.abs(q[: N - 4, 4:]), np.eye(N - 4), atol=0.05)
    np.testing.assert_array_equal(w[4:, : N - 4], np.eye(N - 4))
    np.testing.assert_allclose(
        np.abs(q[N - 4 :, :4]), np.abs(np.linalg.eigh(a[N - 4 :, N - 4 :])[1][:, ::-1]), atol=1e-4
    )


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("size", [0.0, np.nan])
def test_where_the_matrix_says_nothing_all_stays(exact, size):
    old = jnp.asarray(rotation(), "float32")
    q, w = turned_basis(jnp.full((N, N), size, "float32"), old, exact, True)
    np.testing.assert_array_equal(q, old)
    np.testing.assert_array_equal(w, np.eye(N))


def test_eigenvectors_in_a_turn_that_is_traced():
    a, old = (jnp.asarray(x, "float32") for x in CASES["low rank"]())
    turn = jax.jit(lambda exact: turned_basis(a, old, exact, True)[0])
    for exact in (True, False):
        np.testing.assert_allclose(turn(jnp.asarray(exact)), turned_basis(a, old, exact, True)[0], atol=2e-3)
    assert not np.allclose(turn(jnp.asarray(True)), turn(jnp.asarray(False)), atol=0.1)


def test_a_power_step_of_eigenvectors_adds_nothing():
    with precision("float64"):
        a = jnp.asarray(of_rank(N) + np.eye(N))
        q = jnp.asarray(np.linalg.eigh(a)[1][:, ::-1])
        np.testing.assert_allclose(refreshed_basis(a, q), q, atol=1e-13)


def test_a_basis_of_fewer_columns():
    a, q = jnp.asarray(of_rank(N), "float32"), jnp.asarray(rotation()[:, :4], "float32")
    new = refreshed_basis(a, q)
    np.testing.assert_allclose(new.T @ new, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(jnp.abs(jnp.diag(new.T @ jnp.linalg.qr(a @ q)[0])), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("f", "shapes", "expected"),
    [
        (turned_basis, [(2, 3), (2, 3)], "(..., n, n) and (..., n, k)"),
        (turned_basis, [(3, 3), (2, 3, 3)], "(..., n, n) and (..., n, k)"),
        (functools.partial(turned_basis, exact=True), [(3, 3), (3, 2)], "(..., n, n) and (..., n, n)"),
        (refreshed_basis, [(3, 3), (4, 3)], "(..., n, n) and (..., n, k)"),
        (refreshed_basis, [(3, 3), ()], "(..., n, n) and (..., n, k)"),
    ],
)
def test_shapes_that_do_not_fit(f, shapes, expected):
    name = getattr(f, "func", f).__name__
    text = f"gdjax.{name}: matrices have shape {shapes[0]} and basis {shapes[1]}, expected {expected}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        f(*map(jnp.ones, shapes))


@pytest.mark.parametrize("kinds", [("complex64", "float32"), ("float32", "complex64")])
def test_a_basis_that_would_lose_its_imaginary_part(kinds):
    with pytest.raises(
        TypeError, match=f"^gdjax.turned_basis: matrices are {kinds[0]} and basis is {kinds[1]}, expected"
    ):
        turned_basis(*(jnp.eye(3, dtype=kind) for kind in kinds))
