"""Assignments: against SciPy and Optax."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

from gdjax.assignment import base_hungarian_algorithm, hungarian_algorithm
from tests.support import relaxed
from tests.trees import precision

assign = jax.jit(hungarian_algorithm)
SHAPES = [(1, 1), (1, 4), (5, 2), (4, 4), (3, 6), (8, 8)]


def check(cost: np.ndarray, pairs) -> None:
    """A matching of all rows or columns, the rows ascending, that costs what SciPy's does."""
    i, j = map(np.asarray, pairs)
    assert len(i) == len(j) == len(set(j)) == min(cost.shape) and (np.diff(i) > 0).all()
    assert i.dtype == j.dtype == np.int32
    np.testing.assert_allclose(cost[i, j].sum(), cost[linear_sum_assignment(cost)].sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_against_scipy(shape):
    rng = np.random.default_rng(0)
    for _ in range(10):
        for cost in (rng.standard_normal(shape), rng.integers(0, 4, shape), -(rng.random(shape) ** 3)):
            check(cost, assign(jnp.asarray(cost, "float32")))


@pytest.mark.full
@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (3, 5)])
def test_against_optax(shape):
    cost = jnp.asarray(np.random.default_rng(1).standard_normal(shape), "float32")
    i, j = hungarian_algorithm(cost)
    with relaxed():
        for theirs in (optax.assignment.hungarian_algorithm(cost), optax.assignment.base_hungarian_algorithm(cost)):
            assert set(zip(*map(np.ravel, theirs), strict=True)) == set(zip(np.ravel(i), np.ravel(j), strict=True))
    assert base_hungarian_algorithm is hungarian_algorithm


def test_against_every_permutation():
    cost = np.random.default_rng(2).standard_normal((5, 5))
    least = min(sum(cost[i, p[i]] for i in range(5)) for p in itertools.permutations(range(5)))
    i, j = assign(jnp.asarray(cost, "float32"))
    np.testing.assert_allclose(cost[i, j].sum(), least, rtol=1e-5)


def test_whole_numbers():
    cost = np.array([[8, 4, 7], [5, 2, 3], [9, 6, 7], [9, 4, 8]])
    i, j = hungarian_algorithm(cost)
    assert (list(i), list(j)) == ([0, 1, 3], [0, 2, 1])
    check(cost, (i, j))


def test_many_at_once():
    costs = np.random.default_rng(3).standard_normal((6, 3, 5))
    i, j = jax.jit(jax.vmap(hungarian_algorithm))(jnp.asarray(costs, "float32"))
    for cost, *pairs in zip(costs, i, j, strict=True):
        check(cost, pairs)


def test_float64_tells_costs_apart_that_float32_does_not():
    cost = np.array([[1.0, 1.0 + 1e-10], [1.0, 1.0]])
    with precision("float64"):
        _, j = hungarian_algorithm(jnp.asarray(cost))
        assert list(j) == [0, 1]
        _, j = hungarian_algorithm(jnp.asarray(cost[:, ::-1]))
        assert list(j) == [1, 0]


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_forbidden_pairs(value: float):
    cost = np.array([[value, 5, 1], [2, value, value], [9, 9, value]])
    i, j = assign(jnp.asarray(cost, "float32"))
    assert (list(i), list(j)) == ([0, 1, 2], [2, 0, 1])


def test_forbidden_pairs_that_cannot_be_avoided():
    # Two rows want the one column that is allowed. Optax's base_hungarian_algorithm does not return.
    cost = np.array([[1, np.inf, np.inf], [0, np.inf, np.inf], [np.inf, 3, 4]])
    i, j = assign(jnp.asarray(cost, "float32"))
    assert sorted(np.asarray(j)) == [0, 1, 2] and np.isinf(cost[i, j]).sum() == 1
    assert cost[i, j][np.isfinite(cost[i, j])].sum() == 3


def test_minus_infinity_is_taken_first():
    _, j = assign(jnp.array([[0.0, -jnp.inf, 3.0], [-100.0, -50.0, 7.0], [1.0, 1.0, 2.0]]))
    assert list(j) == [1, 0, 2]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_pairs(shape):
    i, j = hungarian_algorithm(jnp.zeros(shape))
    assert i.shape == j.shape == (0,) and i.dtype == j.dtype == jnp.int32


def test_errors():
    for wrong in (jnp.ones(3), jnp.ones((2, 2), "complex64")):
        with pytest.raises(ValueError, match=r"gdjax\.hungarian_algorithm: cost_matrix has shape"):
            hungarian_algorithm(wrong)
