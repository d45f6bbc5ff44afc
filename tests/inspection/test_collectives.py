"""The exchanges of compiled programs: each once, with its bytes, whatever a compiler made of its text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax

new_jax = pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="this JAX has no jax.shard_map")


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
