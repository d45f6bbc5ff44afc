"""Prints, to stderr, what XLA says while a state is dealt to owners on two axes and undealt."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax

SHAPES = {"qkv": (3, 16, 48), "up": (16, 64), "many": (16, 8, 8)}
for sizes in {"data": 4, "model": 2}, {"model": 2, "data": 4}:
    mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 2)
    how = {"qkv": P(None, "data", "model")}
    params = {
        name: jax.device_put(jnp.ones(size), NamedSharding(mesh, how.get(name, P()))) for name, size in SHAPES.items()
    }
    loss = lambda params, x: sum((jnp.mean(p**2) for p in params.values()), jnp.mean(x))
    step = gdjax.sharded_step(loss, gdjax.soap(1e-2), params, mesh, min_bytes=64)
    saved = step.saved(step.init(params)[1])
    again = step.saved(step.restored(saved))
    for x, y in zip(jax.tree.leaves(saved), jax.tree.leaves(again), strict=True):
        assert jnp.array_equal(x, y)
print("done")
