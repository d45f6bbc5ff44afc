"""What devices exchange, read from programs of other compilers; and stacks of matrices at their owners."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gdjax.core import meshes
from gdjax.xla import at_home

new_jax = pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="this JAX has no jax.shard_map")
# What a TPU writes, and starts and ends.
FUSED = """
%all-reduce-scatter.6 (input_0: f32[768,768], input_1: f32[8,4]) -> (f32[96,768], f32[1,4]) {
  %r.26 = (f32[768,768], f32[8,4]) all-reduce(%input_0, %input_1), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}
}

ENTRY %main (p: f32[768,768]) -> f32[] {
  %all-reduce.1 = f32[] all-reduce(%p), channel_id=2, replica_groups=[2,4]<=[8]
}
"""


CHAIN = """
%fusion.1 (p: bf16[4,8]) -> bf16[32,8] {
  %all-gather.1 = bf16[32,8] all-gather(%p), channel_id=7, replica_groups=mesh['a'=8,'b'=2] {'a'}, x={chain_id="0"}
}
%fusion.2 (p: bf16[4,8]) -> bf16[32,8] {
  %all-gather.2 = bf16[32,8] all-gather(%p), channel_id=7, replica_groups=mesh['a'=8,'b'=2] {'a'}, x={chain_id="0"}
  %all-gather.3 = bf16[32,8] all-gather(%p), channel_id=8, replica_groups=mesh['a'=8,'b'=2] {'a'}, x={chain_id="0"}
}
"""


STARTED = """
%inner (x: f32[4]) -> f32[4] {
  %c.1 = (f32[4], f32[4], u32[], u32[]) collective-permute-start(%x), channel_id=3
  %collective-permute-done = f32[4]{0} collective-permute-done(%c.1)
}
%body (x: (f32[4])) -> (f32[4]) {
  %c = f32[4] conditional(%i, %x), branch_computations={%inner, %other}
}
ENTRY %main (p: f32[2,3]) -> f32[16,3] {
  %w = (f32[4]) while(%p), condition=%cond, body=%body
  %g.1 = (f32[2,3], f32[16,3]) all-gather-start(%p), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}
  %all-gather-done = f32[16,3]{1,0} all-gather-done(%g.1)
}
"""


def rows(text: str) -> list[tuple[str, int, int, int, float, bool]]:
    return [tuple(row) for row in at_home.collectives_of_text(text)]


def test_a_fused_reduce_scatter_is_one_of_all_its_arrays():
    size = 4 * (768 * 768 + 32)
    assert rows(FUSED) == [
        ("reduce-scatter", 2, 8, size, size * 7 / 8, False),
        ("all-reduce", 1, 4, 4, 6.0, False),
    ]


def test_what_runs_beside_other_work_counts_once():
    assert rows(CHAIN) == [("all-gather", 1, 8, 512, 448.0, False)] * 2


def test_starts_count_and_ends_do_not_and_loops_are_marked():
    assert rows(STARTED) == [
        ("collective-permute", 1, 0, 16, 16.0, True),
        ("all-gather", 1, 8, 192, 168.0, False),
    ]


def test_the_devices_of_a_group():
    """All bytes are 64: an all-reduce sends each twice, but for the device's own share."""
    text = "ENTRY %main () -> f32[] {{\n  %x = f32[16] all-reduce(%p), {}\n}}"
    groups = {"replica_groups={{0,1},{2,3}}": 2, "replica_groups=[2,4]<=[8]": 4, "channel_id=1": 0}
    for group, n in groups.items():
        wire = 2 * 64 * (n - 1) / n if n else 128.0
        assert rows(text.format(group)) == [("all-reduce", 1, n, 64, wire, False)], group


def test_bytes_of_dtypes():
    text = "ENTRY %main () -> f32[] {{\n  %x = ({}) collective-permute(%p)\n}}"
    sizes = {"f32[2,3]": 24, "bf16[8]": 16, "s4[6]": 3, "pred[5]": 5, "c64[2]": 16, "f8e4m3fn[7]": 7, "f32[]": 4}
    assert {made: rows(text.format(made))[0][3] for made in sizes} == sizes


def mesh_of(number: int) -> Mesh:
    return Mesh(np.asarray(jax.devices()[:number]), ("data",))


@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_stack_goes_to_its_owners_and_back(number: int):
    stack = jnp.arange(12.0).reshape(number, -1, 2)

    def there_and_back(x: jax.Array) -> Any:
        there = at_home.dealt(x)
        return there, at_home.gathered(there, number)

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
        made = at_home.by_owners(of_owner, at_home.dealt(x), {"by": 2.0})
        return at_home.gathered(made, 8)

    with meshes.owned_by(mesh_of(4)):
        found = jax.jit(lambda x: by_owners(x))(stack)
    assert found.ravel().tolist() == [2, 104, 206, 308, 10, 112, 214, 316]
    assert by_owners(stack).ravel().tolist() == [2, 4, 6, 8, 10, 12, 14, 16]  # without a mesh


@new_jax
def test_stacks_of_several_widths_together():
    stacks = [jnp.full((1, 2, 3), 1.0), jnp.full((2, 2, 1), 2.0)]
    with meshes.owned_by(mesh_of(4)):
        wide, narrow = jax.jit(lambda *xs: at_home.together(lambda x: x * x.shape[-1], list(xs)))(*stacks)
    np.testing.assert_array_equal(wide, jnp.full((1, 2, 3), 3.0))  # the widest have 3 columns
    np.testing.assert_array_equal(narrow, jnp.full((2, 2, 1), 6.0))


def test_how_matrices_lie():
    """By shape, upright and on their sides; not of vectors, nor where an axis before the matrix is divided."""
    mesh = mesh_of(4)
    specs = {(8, 4): ("data",), (2, 4, 12): (None, None, "data"), (3,): (), (4, 6, 6): ("data",)}
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in specs]
    shares = [NamedSharding(mesh, P(*spec)) for spec in specs.values()]
    assert dict(at_home.tiles_of(shapes, shares)) == {
        (8, 4): (("data",), ()),
        (4, 8): ((), ("data",)),
        (4, 12): ((), ("data",)),
        (12, 4): (("data",), ()),
    }
