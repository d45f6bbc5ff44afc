"""The exchanges of compiled programs: each once, with its bytes, whatever a compiler made of its text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax

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
    return [tuple(row) for row in gdjax.collectives(text)]


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


@new_jax
@pytest.mark.parametrize("loop", [False, True])
def test_of_a_program_that_this_machine_compiles(loop: bool):
    mesh = Mesh(np.asarray(jax.devices()), ("data",))

    def exchange(x: jax.Array) -> jax.Array:
        return jax.lax.psum_scatter(x, "data", tiled=True)

    def some(x: jax.Array) -> jax.Array:
        if loop:
            again = lambda x: jax.lax.all_gather(exchange(x), "data", tiled=True)
            return jax.lax.fori_loop(0, 3, lambda i, x: again(x), x)
        return exchange(x)

    f = jax.jit(jax.shard_map(some, mesh=mesh, in_specs=P(), out_specs=P("data") if not loop else P(), check_vma=False))
    x = jax.ShapeDtypeStruct((64, 4), jnp.float32, sharding=NamedSharding(mesh, P()))
    found = gdjax.collectives(f.lower(x).compile())
    assert [(row.kind, row.bytes, row.in_loop) for row in found] == [
        (kind, 1024, loop) for kind in (["reduce-scatter", "all-gather"] if loop else ["reduce-scatter"])
    ]


def test_what_is_not_compiled_is_refused():
    with pytest.raises(TypeError, match=r"collectives: takes jax.jit\(f\).lower\(...\).compile\(\), or its text"):
        gdjax.collectives(jax.jit(jnp.sum).lower(jnp.ones(8)))
