"""With Orbax: states saved and restored, with a target and without, on one device and sharded over eight."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from gdjax.codes.blocks import BlockCodes
from tests.cases import CASES
from tests.declare import matrices
from tests.interop.states import filled
from tests.trees import assert_close, assert_equal, random_tree, signature, steps

PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in (1, 2)]


def saved(state: Any, path: Any) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state)
        checkpointer.wait_until_finished()


def restored(path: Any, *target: Any) -> Any:
    with ocp.StandardCheckpointer() as checkpointer, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Orbax of 2025 says that it reads the shardings from the file
        return checkpointer.restore(path, *target)


@pytest.mark.programs
def test_every_state_is_saved_and_restored(tmp_path: Any):
    state = {case.name.replace("/", "_"): filled(case.make(), PARAMS) for case in CASES}
    saved(state, tmp_path / "state")
    got = restored(tmp_path / "state", jax.tree.map(jnp.zeros_like, state))
    assert signature(got) == signature(state)
    assert_equal(got, state)


@pytest.mark.full
def test_no_state_holds_an_array_without_elements():
    # Orbax refuses those.
    sizes = {case.name: [x.size for x in jax.tree.leaves(jax.eval_shape(case.make().init, PARAMS))] for case in CASES}
    assert [name for name, n in sizes.items() if 0 in n] == []


CHAIN = gdjax.chain(
    gdjax.clip(1.0), gdjax.masked(gdjax.trace(0.9), matrices), gdjax.inject_hyperparams(gdjax.adam)(0.1)
)


def test_what_comes_back_with_a_target_and_without(tmp_path: Any):
    params, state = steps(CHAIN, PARAMS, GRADIENTS)
    saved(state, tmp_path / "state")
    plain = restored(tmp_path / "state")
    # Tuples become lists, NamedTuples dicts; what is empty becomes None.
    assert isinstance(plain, list) and plain[0] is None
    assert plain[1]["inner_state"]["trace"]["dense"]["bias"] is None
    assert_equal(plain[2]["hyperparams"], state[2].hyperparams)
    target = jax.eval_shape(CHAIN.init, PARAMS)
    again = restored(tmp_path / "state", target)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert isinstance(again[1].inner_state.trace["dense"]["bias"], gdjax.MaskedNode)
    assert_equal(CHAIN.update(GRADIENTS[0], again, params), CHAIN.update(GRADIENTS[0], state, params))


def test_a_chain_of_another_length_is_refused_and_a_named_one_is_not(tmp_path: Any):
    saved(gdjax.chain(gdjax.trace(0.9), gdjax.scale(0.1)).init(PARAMS), tmp_path / "tuple")
    longer = jax.eval_shape(gdjax.chain(gdjax.ema(0.9), gdjax.trace(0.9)).init, PARAMS)
    with pytest.raises(ValueError):
        restored(tmp_path / "tuple", longer)
    saved(gdjax.named_chain(("momentum", gdjax.trace(0.9)), ("rate", gdjax.scale(0.1))).init(PARAMS), tmp_path / "dict")
    assert restored(tmp_path / "dict").keys() == {"momentum", "rate"}


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:8]).reshape(8), ("x",))


TX = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(0.1))


def sharded(mesh: Mesh, seed: int) -> Any:
    tree = random_tree(seed, shapes={"w": (16, 3), "b": (8,), "s": ()})
    specs = {"w": P("x"), "b": P("x"), "s": P()}
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


@jax.jit
def step(params: Any, state: Any, g: Any) -> Any:
    updates, state = TX.update(g, state, params)
    return gdjax.apply_updates(params, updates), state


def test_a_sharded_state(tmp_path: Any, mesh: Mesh):
    params, g = sharded(mesh, 0), sharded(mesh, 1)
    state = TX.init(params)
    assert state[1][0].mu["w"].sharding == params["w"].sharding
    params, state = step(params, state, g)
    assert state[1][0].nu["w"].sharding == params["w"].sharding
    saved(state, tmp_path / "state")
    # The parts shaped like the parameters lie like them; the counts are on every device.
    shapes = jax.eval_shape(TX.init, params)
    target = gdjax.tree_map_params(
        TX,
        lambda x, p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=p.sharding),
        shapes,
        params,
        transform_non_params=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, P())),
    )
    again = restored(tmp_path / "state", target)
    assert_equal(again, state)
    assert again[1][0].mu["w"].sharding.is_equivalent_to(params["w"].sharding, 2)
    assert_equal(step(params, again, g), step(params, state, g))
    # The same numbers as on one device.
    alone = jax.device_get((sharded(mesh, 0), sharded(mesh, 1)))
    once = step(alone[0], TX.init(alone[0]), alone[1])
    assert_close(jax.device_get((params, state)), jax.device_get(once))


def test_a_count_committed_to_one_device(tmp_path: Any, mesh: Mesh):
    # Before the first step init's count is on one device, free to move. A target with its sharding pins it there.
    params, g = sharded(mesh, 0), sharded(mesh, 1)
    state = TX.init(params)
    count = state[1][0].count
    assert count.sharding.device_set == {jax.devices()[0]} and not count.committed
    saved(state, tmp_path / "state")
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    with pytest.raises(ValueError, match="incompatible devices"):
        step(params, restored(tmp_path / "state", target), g)


# Blocks of 16 lie inside the shards of the kernel, on eight devices and on two.
CODED = {
    "8 bits": gdjax.quantize_state(gdjax.adamw(0.01), min_size=0),
    "blocks": gdjax.quantize_state(gdjax.adamw(0.01), moments="blocks", squares="blocks", block_size=16, min_size=0),
    "4 bits": gdjax.quantize_state(gdjax.adamw(0.01), bits=4, block_size=16, min_size=0),
    "with an error": gdjax.adamw(0.01, mu_dtype=gdjax.bfloat16_with_error),
    "a compact master": gdjax.with_master_weights(
        gdjax.quantize_state(gdjax.adamw(0.01), min_size=0), remainder_bits=8
    ),
}


def placed(mesh: Mesh, seed: int) -> Any:
    specs, tree = {"kernel": P("x"), "bias": P()}, random_tree(seed, shapes={"kernel": (128, 16), "bias": (64,)})
    return {k: jax.device_put(x, NamedSharding(mesh, specs[k])) for k, x in tree.items()}


def run_of(mesh: Mesh) -> Any:
    """From name to parameters and state at the start: codes lie like the parameters, counts on every device."""
    run: dict[str, Any] = {}
    for name, tx in CODED.items():
        dtype = "bfloat16" if name == "a compact master" else "float32"
        params = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), placed(mesh, 0))
        run[name] = params, tx.init(params)
    everywhere = NamedSharding(mesh, P())
    return jax.tree.map(lambda x: x if isinstance(x.sharding, NamedSharding) else jax.device_put(x, everywhere), run)


@jax.jit
def coded_steps(run: Any, gradients: Any) -> Any:
    def step(run: Any, g: Any) -> Any:
        new = {}
        for name, tx in CODED.items():
            params, state = run[name]
            updates, state = tx.update(jax.tree.map(lambda g, p: g.astype(p.dtype), g, params), state, params)
            new[name] = gdjax.apply_updates(params, updates), state
        return new, None

    return jax.lax.scan(step, run, gradients)[0]


@pytest.mark.slow
def test_codes_go_on_on_as_many_devices_and_on_fewer(tmp_path: Any):
    def gradients(mesh: Mesh, seeds: range) -> Any:
        return jax.tree.map(lambda *xs: jnp.stack(xs), *(placed(mesh, seed) for seed in seeds))

    eight, two = (Mesh(np.array(jax.devices()[:n]), ("x",)) for n in (8, 2))
    half = coded_steps(run_of(eight), gradients(eight, range(1, 4)))
    saved(half, tmp_path / "run")
    wanted = coded_steps(half, gradients(eight, range(4, 9)))
    for mesh in (eight, two):
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), run_of(mesh))
        again = restored(tmp_path / "run", target)
        assert_equal(jax.device_get(again), jax.device_get(half))
        codes = again["blocks"][1].inner_state[0].mu["kernel"]
        assert isinstance(codes, BlockCodes) and len(codes.scales.sharding.device_set) == mesh.size
        assert_equal(jax.device_get(coded_steps(again, gradients(mesh, range(4, 9)))), jax.device_get(wanted))
