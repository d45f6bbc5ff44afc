"""Stacks of matrices at their owners."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gdjax.core import meshes, owners

new_jax = pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="this JAX has no jax.shard_map")


def mesh_of(number: int) -> Mesh:
    return Mesh(np.asarray(jax.devices()[:number]), ("data",))


@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_stack_goes_to_its_owners_and_back(number: int):
    stack = jnp.arange(12.0).reshape(number, -1, 2)

    def there_and_back(x: jax.Array) -> Any:
        there = owners.dealt(x)
        return there, owners.gathered(there, number)

    with meshes.owned_by(mesh_of(4)):
        there, back = jax.jit(lambda x: there_and_back(x))(stack)
    rows = -(-number // 4)
    assert there.shape == (rows, 4, *stack.shape[1:])
    for j in range(rows * 4):  # matrix j at owner j % 4; where there is room for more are zeros
        np.testing.assert_array_equal(there[j // 4, j % 4], stack[j] if j < number else 0 * stack[0])
    np.testing.assert_array_equal(back, stack)


@new_jax
def test_each_owner_computes_its_own():
    stack = jnp.arange(1.0, 9.0).reshape(8, 1, 1)

    def by_owners(x: jax.Array) -> jax.Array:
        of_owner = lambda owner, x, common: 100 * jnp.float32(owner) + common["by"] * x
        made = owners.by_owners(of_owner, owners.dealt(x), {"by": 2.0})
        return owners.gathered(made, 8)

    with meshes.owned_by(mesh_of(4)):
        found = jax.jit(lambda x: by_owners(x))(stack)
    assert found.ravel().tolist() == [2, 104, 206, 308, 10, 112, 214, 316]
    assert by_owners(stack).ravel().tolist() == [2, 4, 6, 8, 10, 12, 14, 16]  # without a mesh


@new_jax
def test_stacks_of_several_widths_together():
    stacks = [jnp.full((1, 2, 3), 1.0), jnp.full((2, 2, 1), 2.0)]
    with meshes.owned_by(mesh_of(4)):
        wide, narrow = jax.jit(lambda *xs: owners.together(lambda x: x * x.shape[-1], list(xs)))(*stacks)
    np.testing.assert_array_equal(wide, jnp.full((1, 2, 3), 3.0))  # the widest have 3 columns
    np.testing.assert_array_equal(narrow, jnp.full((2, 2, 1), 6.0))


def test_how_matrices_lie():
    """By shape, upright and on their sides; not of vectors, nor where an axis before the matrix is divided."""
    mesh = mesh_of(4)
    specs = {(8, 4): ("data",), (2, 4, 12): (None, None, "data"), (3,): (), (4, 6, 6): ("data",)}
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in specs]
    shares = [NamedSharding(mesh, P(*spec)) for spec in specs.values()]
    assert dict(owners.tiles_of(shapes, shares)) == {
        (8, 4): (("data",), ()),
        (4, 8): ((), ("data",)),
        (4, 12): ((), ("data",)),
        (12, 4): (("data",), ()),
    }
