"""16-bit parameters over devices: the same bits on 1, 2 and 8, whatever the mesh."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from tests.combine.test_sharding import of_axes, typed
from tests.trees import assert_close, random_tree

SHAPES = {"w": (16, 24), "v": (24,), "s": ()}
SPECS = {"w": P("data", None), "v": P(), "s": P()}
HOW = {
    "apply_updates": lambda: gdjax.adamw(0.01),
    "random": lambda: gdjax.with_stochastic_rounding(gdjax.adamw(0.01), key=0),
    "master": lambda: gdjax.with_master_weights(gdjax.adamw(0.01)),
    "16": lambda: gdjax.with_master_weights(gdjax.adamw(0.01), remainder_bits=16),
    "8": lambda: gdjax.with_master_weights(gdjax.adamw(0.01), remainder_bits=8),
    "kahan": lambda: gdjax.with_kahan_summation(gdjax.adamw(0.01)),
}
PARAMS, GRADIENTS = random_tree(0, "bfloat16", SHAPES), random_tree(1, "bfloat16", SHAPES)


def two_steps(how: str, params: Any, state: Any, g: Any) -> Any:
    tx = HOW[how]()
    for i in range(2):
        u, state = tx.update(g, state, params)
        params = (
            gdjax.apply_updates(params, u, i, "stochastic")
            if how == "apply_updates"
            else gdjax.apply_updates(params, u)
        )
    return params, state


@functools.cache
def alone(how: str) -> Any:
    return jax.jit(functools.partial(two_steps, how))(PARAMS, HOW[how]().init(PARAMS), GRADIENTS)


def bits(tree: Any) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def placed(tree: Any, mesh: Mesh, specs: Any) -> Any:
    return {k: jax.device_put(x, NamedSharding(mesh, specs[k])) for k, x in tree.items()}


@pytest.mark.full
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ["Auto", pytest.param("Explicit", marks=typed)])
def test_the_same_bits_where_all_is_divided(how: str, kind: str):
    """Parameters, gradients and state divided alike, as in FSDP."""
    for n in (2, 8):
        mesh = of_axes(kind, (n,), ("data",))
        with contextlib.nullcontext() if kind == "Auto" else jax.set_mesh(mesh):
            there, g = placed(PARAMS, mesh, SPECS), placed(GRADIENTS, mesh, SPECS)
            state = jax.jit(HOW[how]().init)(there)
            got, _ = jax.jit(functools.partial(two_steps, how))(there, state, g)
            assert got["w"].sharding.is_equivalent_to(there["w"].sharding, 2)
            for x, y in zip(bits(got), bits(alone(how)[0]), strict=True):
                np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("how", ["random", "master", "8"])
@pytest.mark.parametrize("kind", ["Auto", pytest.param("Explicit", marks=typed)])
def test_the_state_divided_and_the_parameters_whole(how: str, kind: str):
    mesh, tx = of_axes(kind, (8,), ("data",)), HOW[how]()
    whole = dict.fromkeys(SPECS, P())
    with contextlib.nullcontext() if kind == "Auto" else jax.set_mesh(mesh):
        there, g = placed(PARAMS, mesh, whole), placed(GRADIENTS, mesh, whole)
        shardings = gdjax.state_sharding(tx, there, mesh, min_bytes=0)
        state = jax.jit(tx.init, out_shardings=shardings)(there)
        got, new = jax.jit(functools.partial(two_steps, how))(there, state, g)
        assert_close(got, alone(how)[0], rtol=2.0**-7)
        for x, s in zip(jax.tree.leaves(new), jax.tree.leaves(shardings), strict=True):
            if kind == "Explicit":
                assert x.sharding.is_equivalent_to(s, x.ndim)


@pytest.mark.full
@typed
def test_in_shard_map_a_share_is_rounded_by_its_own_places():
    mesh = of_axes("Auto", (8,), ("data",))
    p, u = jnp.ones((64, 32), jnp.bfloat16), jnp.full((64, 32), 2.0**-8)

    def added(p: Any, u: Any, key: Any) -> Any:
        return gdjax.apply_updates(p, u, key, rounding="stochastic")

    share = P("data", None)
    shared = functools.partial(jax.shard_map, mesh=mesh, out_specs=share)
    run = lambda f: jax.jit(shared(f, in_specs=(share, share, P())))
    alike = np.asarray(run(added)(p, u, jax.random.key(0))).reshape(8, 8, 32)
    assert all(np.array_equal(x, alike[0]) for x in alike)
    folded = lambda p, u, key: added(p, u, jax.random.fold_in(key, jax.lax.axis_index("data")))
    apart = np.asarray(run(folded)(p, u, jax.random.key(0))).reshape(8, 8, 32)
    assert not any(np.array_equal(x, apart[0]) for x in apart[1:])
    for how, make in HOW.items():
        tx = make()
        step = lambda p, g, tx=tx: gdjax.apply_updates(p, tx.update(g, tx.init(p), p)[0])
        got = jax.jit(shared(step, in_specs=(share, share)))(p, u)
        assert got.dtype == jnp.bfloat16 and np.all(np.isfinite(np.asarray(got, np.float32))), how
