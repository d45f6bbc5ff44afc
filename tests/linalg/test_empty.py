"""Matrices without elements in the public functions of matrices."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax.tree.accumulators import AccumulationType, _of_array

EMPTY = [(0, 4), (4, 0), (0, 0), (2, 0, 4), (0, 4, 4)]


@pytest.mark.parametrize("shape", EMPTY)
def test_functions_of_matrices(shape: tuple[int, ...]):
    x = jnp.zeros(shape)
    assert gdjax.orthogonalize(x).shape == gdjax.unitwise_norm(x).shape == shape


@pytest.mark.parametrize("method", ["eigh", "newton"])
@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3, 3)])
def test_roots(shape: tuple[int, ...], method: Any):
    assert gdjax.inverse_root(jnp.zeros(shape), 2, method=method).shape == shape


@pytest.mark.parametrize("shape", [(3, 0), (3, 0, 2), (0, 2)])
def test_what_micro_batches_join(shape: tuple[int, ...]):
    kept = _of_array(AccumulationType.CONCAT, 2, jnp.float32)
    joined = kept.finalize(kept.init(jnp.zeros(shape)))
    assert joined.shape == (2 * shape[0], *shape[1:])


@pytest.mark.full
def test_a_stack_of_no_matrices_takes_a_key():
    params = {"none": jnp.zeros((0, 4, 4))}
    tx = gdjax.psgd_kron(1e-2)
    updates, _ = tx.update(params, tx.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == {"none": (0, 4, 4)}
