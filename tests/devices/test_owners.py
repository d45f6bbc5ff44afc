"""Matrices at their owners: what a step sends, that nothing else moves, and that the saved state knows no devices."""

import collections
import contextlib
import gc
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from tests.trees import is_key, numbers

pytestmark = pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")
WIDTH, LR = 16, 1e-2
ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
METHODS = {
    "soap": gdjax.soap,
    "soap, all in one step": lambda lr: gdjax.soap(lr, precondition_frequency=lambda t: 4 + 0 * t),
    "soap, eigh": lambda lr: gdjax.soap(lr, precondition_frequency=3, refresh="eigh"),
    "kl_soap": gdjax.kl_soap,
    "shampoo": lambda lr: gdjax.shampoo(lr, block_size=None),
    "kl_shampoo": gdjax.kl_shampoo,
    "soap_muon": gdjax.soap_muon,
    "psgd": gdjax.psgd_kron,
    "psgd in turns": lambda lr: gdjax.psgd_kron(lr, preconditioner_update_probability=0.3),
    "blocks": lambda lr: gdjax.soap(lr, block_size=8),
    "short sides": lambda lr: gdjax.soap(lr, max_precond_dim=WIDTH),
    "dion": gdjax.dion,
    "muon": gdjax.muon,
}
ONE, TWO = {"data": 8}, {"data": 4, "model": 2}
LAYOUTS = {
    "data": (ONE, P(), AxisType.Auto),
    "fsdp": (ONE, P("data"), AxisType.Auto),
    "tensor": (TWO, P(None, "model"), AxisType.Auto),
    "both": (TWO, P("data", "model"), AxisType.Explicit),
}


def mesh_of(sizes: dict[str, int], kind: Any = AxisType.Auto) -> Mesh:
    devices = np.asarray(jax.devices()[: math.prod(sizes.values())]).reshape(*sizes.values())
    return Mesh(devices, tuple(sizes), axis_types=(kind,) * len(sizes))


@contextlib.contextmanager
def float64() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def params_of(layers: int, dtype: Any = None, width: int = WIDTH) -> Any:
    draw = lambda i, *size: jax.random.normal(jax.random.key(i), size, dtype) / width**0.5
    hidden = {f"layer{i}": {"kernel": draw(i, width, width), "bias": jnp.zeros(width, dtype)} for i in range(layers)}
    return hidden | {"up": {"kernel": draw(98, width, 2 * width)}, "down": {"kernel": draw(99, 2 * width, width)}}


def loss(params: Any, batch: Any) -> Any:
    h, y = batch
    for name, p in params.items():
        if name.startswith("layer"):
            h = jnp.tanh(h @ p["kernel"] + p.get("bias", jnp.zeros(WIDTH))[None])
    return jnp.mean((jnp.tanh(h @ params["up"]["kernel"]) @ params["down"]["kernel"] - y) ** 2)


def batch_of(dtype: Any = None) -> Any:
    x = jax.random.normal(jax.random.key(1), (64, WIDTH), dtype)
    return x, jnp.sin(3 * x)


def on_one_device(tx: Any, params: Any, batch: Any, steps: int) -> Any:
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return gdjax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def distance(x: Any, y: Any) -> float:
    """The largest difference of parameters, in rates."""
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return max(float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()) for a, b in pairs) / LR


def cases() -> Any:
    """Every method on one axis of eight, data or fsdp in turn. The rest is slow."""
    for i, name in enumerate(METHODS):
        for layout in LAYOUTS:
            ordinary = layout == ("data" if i % 2 else "fsdp")
            yield pytest.param(name, layout, marks=[] if ordinary else [pytest.mark.slow])


@pytest.mark.parametrize(("name", "layout"), [*cases()])
def test_the_updates_are_those_of_one_device(name: str, layout: str):
    sizes, spec, kind = LAYOUTS[layout]
    with float64():
        tx, params, batch = METHODS[name](LR), params_of(3, np.float64), batch_of(np.float64)
        mesh = mesh_of(sizes, kind)
        put = lambda p: jax.device_put(p, NamedSharding(mesh, spec if p.ndim == 2 else P()))
        there = jax.tree.map(put, params)
        step = gdjax.sharded_step(loss, tx, there, mesh, min_bytes=64)
        there, state = step.init(there)
        for _ in range(10):
            there, state, _ = step(there, state, batch)
        wanted, on_one = on_one_device(tx, params, batch, 10)
        assert distance(wanted, params) > 5  # the steps were steps
        assert distance(there, wanted) < 1e-6
        saved = step.saved(state)
        assert jax.tree.structure(saved) == jax.tree.structure(on_one)
        assert [x.shape for x in jax.tree.leaves(saved)] == [x.shape for x in jax.tree.leaves(on_one)]


def sent(tx: Any, params: Any, devices: int = 8) -> tuple[float, dict[str, int], Any, Any]:
    """Bytes over those of the gradient, exchanges by kind, the plan, and the step."""
    mesh = mesh_of({"data": devices})
    step = gdjax.sharded_step(loss, tx, params, mesh, min_bytes=64)
    shapes = jax.eval_shape(step.init, params)
    rows = gdjax.collectives(step.lower(shapes[0], shapes[1], batch_of()).compile())
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    assert not any(row.in_loop for row in rows)
    plan = gdjax.plan(tx, params, mesh, min_bytes=64)
    wire = sum(row.wire_bytes for row in rows)
    assert abs(plan.wire_bytes - wire) <= 1 + 1e-6 * wire
    return wire / size, dict(collections.Counter(row.kind for row in rows)), plan, shapes[1]


EXACT = [name for name in METHODS if name not in ("blocks", "dion")]


@pytest.mark.full
@pytest.mark.parametrize(
    "name", [n if n in ("soap", "psgd") else pytest.param(n, marks=pytest.mark.slow) for n in EXACT]
)
def test_matrices_go_home_and_back_and_nothing_else_moves(name: str):
    """As ZeRO's 2 (n - 1) / n, and both ways once more by all-to-all, of which each device has an eighth."""
    params = params_of(16)
    del params["up"], params["down"]

    def of(params: Any, batch: Any) -> Any:
        return loss(params | params_of(0), batch)

    mesh = mesh_of(ONE)
    step = gdjax.sharded_step(of, METHODS[name](LR), params, mesh, min_bytes=256)
    shapes = jax.eval_shape(step.init, params)
    rows = gdjax.collectives(step.lower(shapes[0], shapes[1], batch_of()).compile())
    matrices = 16 * WIDTH**2 * 4
    small = 16 * WIDTH * 4 + 4
    by_kind = {kind: sum(r.wire_bytes for r in rows if r.kind == kind) for kind in rows["kind"]}
    assert by_kind == {
        "reduce-scatter": matrices * 7 / 8,
        "all-gather": matrices * 7 / 8,
        "all-to-all": 2 * matrices / 8 * 7 / 8,
        "all-reduce": 2 * small * 7 / 8,
    }
    assert sum(r.kind == "all-to-all" for r in rows) == 2


@pytest.mark.programs
def test_the_plan_is_exact_and_exchanges_grow_with_nothing():
    few, many = (sent(gdjax.soap(LR), params_of(n)) for n in (2, 6))
    longer = sent(gdjax.soap(LR, precondition_frequency=2), params_of(6))
    assert few[1]["all-to-all"] == many[1]["all-to-all"] == longer[1]["all-to-all"] == 4  # two shapes, in and out
    assert many[0] == longer[0]


@pytest.mark.programs
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_a_device_has_its_matrices_alone(devices: int):
    """Of 8 and 2 matrices, with room for a multiple of the devices."""
    tx, params = gdjax.scale_by_soap(), params_of(8)
    params = {name: {"kernel": p["kernel"]} for name, p in params.items()}
    _, _, plan, state = sent(tx, params, devices)
    square, wide = WIDTH**2, 2 * WIDTH**2
    one = 4 * (2 * square + 4 * square), 4 * (2 * wide + 2 * square + 2 * 4 * square)
    assert plan.part("state") == 8 // devices * one[0] + -(-2 // devices) * one[1] + 4
    assert state.mu["16x16"].shape == (8 // devices, devices, WIDTH, WIDTH)
    step = gdjax.sharded_step(loss, tx, params, mesh_of({"data": devices}), min_bytes=64)
    for lies in (step.state_sharding, step.init(params)[1]):
        assert gdjax.state_bytes(tx, params, lies) == plan.part("state")
    assert not step.check(*step.init(params), batch_of()).warnings


@pytest.mark.full
def test_beside_tensor_parallel_nothing_is_gathered():
    """Without a word of how matrices lie there, a partitioner gathers each stack on its way back: 3 gradients more."""
    params, mesh = params_of(6), mesh_of(TWO)
    put = lambda p: jax.device_put(p, NamedSharding(mesh, P(None, "model") if p.ndim == 2 else P()))
    there, found = jax.tree.map(put, params), []
    for tx in (gdjax.sgd(LR), gdjax.soap(LR)):
        step = gdjax.sharded_step(loss, tx, there, mesh, min_bytes=64)
        shapes = jax.eval_shape(step.init, there)
        rows = gdjax.collectives(step.lower(shapes[0], shapes[1], batch_of()).compile())
        found.append(sum(row.wire_bytes for row in rows) / sum(x.nbytes for x in jax.tree.leaves(params)))
    assert found[1] - found[0] < 1


def same(x: Any, y: Any) -> bool:
    return all(bool((a == b).all()) for a, b in zip(numbers(x), numbers(y), strict=True))


@pytest.mark.parametrize(
    "name",
    [
        n if n in ("shampoo", "coded") else pytest.param(n, marks=pytest.mark.slow)
        for n in ("soap", "kl_soap", "shampoo", "kl_shampoo", "soap_muon", "psgd", "blocks", "coded", "accumulated")
    ],
)
def test_a_run_goes_on_with_fewer_devices_and_back(name: str):
    make = METHODS | {
        "coded": lambda lr: gdjax.quantize_state(gdjax.soap(lr), min_size=0),
        "accumulated": lambda lr: gdjax.MultiSteps(gdjax.soap(lr), 2),
    }
    with float64():
        tx, params, batch = make[name](LR), params_of(3, np.float64), batch_of(np.float64)
        steps = {n: gdjax.sharded_step(loss, tx, params, mesh_of({"data": n}), min_bytes=64) for n in (8, 4, 2, 1)}
        there, state = steps[8].init(params)
        for _ in range(5):
            there, state, _ = steps[8](there, state, batch)
        saved, half = steps[8].saved(state), jax.tree.map(np.asarray, there)
        ends = {}
        for n, step in steps.items():
            restored = step.restored(saved)
            assert same(step.saved(restored), saved)
            p, s = jax.device_put(half, step.params_sharding), restored
            for _ in range(3):
                p, s, _ = step(p, s, batch)
            ends[n] = jax.tree.map(np.asarray, p)
            back = steps[8].restored(step.saved(s))
            lies = jax.tree.map(lambda x, how: x.sharding.is_equivalent_to(how, x.ndim), back, steps[8].state_sharding)
            assert all(jax.tree.leaves(lies))
        assert distance(ends[8], half) > 0.5
        # Codes are drawn: what rounding moves over a border between two is another code.
        assert max(distance(ends[n], ends[8]) for n in (4, 2, 1)) < (1e-3 if name == "coded" else 1e-6)


def test_matrices_of_16_bits_are_sent_in_16_bits():
    """Planned: a CPU sends no sum of 16 bits, and compiles all as 32."""
    found = []
    for dtype in (jnp.float32, jnp.bfloat16):
        params = jax.eval_shape(lambda dtype=dtype: params_of(3, dtype))
        rows = gdjax.plan(gdjax.soap(LR), params, mesh_of(ONE), min_bytes=64).exchanges
        found.append(sum(row.wire_bytes for row in rows if row.kind == "all-to-all"))
    assert found[0] == 2 * found[1] > 0


def test_a_step_keeps_no_parameters():
    params = params_of(1)
    step = gdjax.sharded_step(loss, gdjax.soap(LR), params, mesh_of(ONE), min_bytes=64)
    gone = [weakref.ref(x) for x in jax.tree.leaves(params)]
    step.init(params)
    del params
    gc.collect()
    assert [x() for x in gone] == [None] * len(gone)
    assert jax.tree.leaves(step.target)


@pytest.mark.full
def test_what_is_saved_is_the_state_and_what_is_restored_a_copy():
    params = params_of(3)
    for tx, alike in (gdjax.adam(LR), True), (gdjax.soap(LR), False):
        step = gdjax.sharded_step(loss, tx, params, mesh_of(ONE), min_bytes=64)
        there, state = step.init(params)
        saved = step.saved(state)
        same_arrays = [x is y for x, y in zip(jax.tree.leaves(saved), jax.tree.leaves(state), strict=True)]
        assert all(same_arrays) == alike and any(same_arrays)
        step(there, step.restored(saved), batch_of())  # writes over what it gets
        assert same(step.saved(step.restored(saved)), saved)


WRAPPED = {
    "clipped": lambda: gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.soap(LR)),
    "guarded": lambda: gdjax.apply_if_finite(gdjax.soap(LR), 3),
    "on the host": lambda: gdjax.offload_state(gdjax.soap(LR)),
    "injected": lambda: gdjax.inject_hyperparams(gdjax.soap)(learning_rate=LR),
    "transferred": lambda: gdjax.transfer(gdjax.soap(LR), jax.eval_shape(lambda: params_of(3, width=8))),
}


@pytest.mark.full
@pytest.mark.parametrize("name", WRAPPED)
def test_in_a_wrapper(name: str):
    with float64():
        tx, params, batch = WRAPPED[name](), params_of(3, np.float64), batch_of(np.float64)
        gdjax.plan(tx, params, mesh_of(ONE), min_bytes=64)
        step = gdjax.sharded_step(loss, tx, params, mesh_of(ONE), min_bytes=64)
        there, state = step.init(params)
        for _ in range(2):
            there, state, _ = step(there, state, batch)
            state = step.restored(saved := step.saved(state))
            assert same(step.saved(state), saved)
        assert distance(there, on_one_device(tx, params, batch, 2)[0]) < 1e-6
        lies = jax.tree.map(lambda x, how: x.sharding.is_equivalent_to(how, x.ndim), state, step.state_sharding)
        assert all(jax.tree.leaves(lies))


@pytest.mark.full
@pytest.mark.parametrize("min_size", [257, 1000, 2048, 2049])
def test_what_is_coded_does_not_depend_on_the_devices(min_size: int):
    """Three matrices have 768 numbers, and eight places for them 2,048."""
    tx, params = gdjax.quantize_state(gdjax.soap(LR), min_size=min_size), params_of(3)
    step = gdjax.sharded_step(loss, tx, params, mesh_of(ONE), min_bytes=64)
    there, state = step.init(params)
    saved = step.saved(state)
    assert jax.tree.structure(saved) == jax.tree.structure(tx.init(params))
    step(there, step.restored(saved), batch_of())


def test_what_a_new_state_has_where_there_is_room():
    """A basis of no matrix is I, as in `init`, so that nothing there becomes NaN."""
    tx, params = gdjax.scale_by_soap(), {"w": jnp.ones((WIDTH, WIDTH))}
    step = gdjax.sharded_step(lambda p, x: jnp.mean((x @ p["w"]) ** 2), tx, params, mesh_of(ONE))
    state = step.restored(tx.init(params))
    np.testing.assert_array_equal(state.QL["16x16"], np.broadcast_to(np.eye(WIDTH), (1, 8, WIDTH, WIDTH)))
    for x, how in zip(jax.tree.leaves(step.target), jax.tree.leaves(step.saved(state)), strict=True):
        assert x.sharding.is_equivalent_to(how.sharding, x.ndim) and (x.shape, x.dtype) == (how.shape, how.dtype)
    p, state = step.init(params)
    for _ in range(12):
        p, state, _ = step(p, state, batch_of()[0])
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state) if not is_key(x))


EMPTY = {"rows": (0, 4), "columns": (4, 0), "both": (0, 0), "stack": (2, 0, 4), "none": (0, 4, 4)}
OF_MATRICES = {
    name: getattr(gdjax, name)
    for name in (
        "muon normuon soap shampoo psgd_kron dion dion2 scion muown kl_soap galore apollo kl_shampoo soap_muon"
    ).split()
} | {"transformer_optimizer": lambda lr: gdjax.transformer_optimizer(lr, steps=10)}


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::UserWarning")  # leaves called "both" are no norms
@pytest.mark.parametrize(
    "name",
    [
        n if n in ("muon", "normuon", "soap", "psgd_kron") else pytest.param(n, marks=pytest.mark.slow)
        for n in OF_MATRICES
    ],
)
def test_matrices_without_elements(name: str):
    tx = OF_MATRICES[name](LR)
    empty = {key: jnp.zeros(size) for key, size in EMPTY.items()}
    for params in ({"w": jnp.eye(WIDTH)} | empty, {"none": empty["none"]}):
        of = lambda p, x: jnp.mean(x @ p["w"]) if "w" in p else jnp.mean(x) + jnp.sum(p["none"])
        step = gdjax.sharded_step(of, tx, params, mesh_of(ONE), min_bytes=64)
        there, state = step.init(params)
        for _ in range(2):
            there, state, _ = step(there, state, batch_of()[0])
            state = step.restored(saved := step.saved(state))
        assert jax.tree.map(jnp.shape, (there, saved)) == jax.tree.map(jnp.shape, (params, tx.init(params)))
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(there))


@pytest.mark.programs
def test_dealing_copies_no_stack_to_every_device():
    """XLA warns where it does, on two axes: "Involuntary full rematerialization"."""
    program = Path(__file__).with_name("dealing.py")
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, cwd=program.parents[2], env=ENV)
    assert ran.returncode == 0 and ran.stdout == "done\n", ran.stderr[-2000:]
    assert "rematerialization" not in ran.stderr, ran.stderr[:2000]


def test_what_is_wrong_is_named():
    tx, params, batch = gdjax.scale_by_soap(roles=gdjax.matrices_by_role()), params_of(3), batch_of()
    params = {name: {"kernel": p["kernel"]} for name, p in params.items()}
    step, other = (gdjax.sharded_step(loss, tx, params, mesh_of({"data": n}), min_bytes=64) for n in (8, 4))
    there, state = step.init(params)
    plain = tx.init(params)
    with pytest.raises(
        ValueError, match=r"saved state\.mu\['16x16'\] is float32 of shape \(1, 8, 16, 16\), wanted .*\(3, 16, 16\)"
    ):
        step.restored(state)
    with pytest.raises(
        ValueError, match=r"state\.mu\['16x16'\] is .* \(3, 16, 16\), wanted .*\(1, 8, 16, 16\) for 8 dev.*restored"
    ):
        step.saved(plain)
    with pytest.raises(ValueError, match="saved state has another structure than the step's; give it step.saved"):
        step.restored(gdjax.adam(1e-3).init(params))
    # JAX's own error of devices that differ is asked for its reason.
    with pytest.raises(
        ValueError,
        match=r"state\.mu\['16x16'\] has shape \(1, 4, 16, 16\), and the step keeps .*\(1, 8, 16, 16\).*restored",
    ):
        step(there, jax.device_put(other.init(params)[1], NamedSharding(step.mesh, P())), batch)
    with pytest.raises(ValueError, match=r"state\.mu\['16x16'\] has shape \(3, 16, 16\).*step.restored"):
        step(there, plain, batch)
    with pytest.raises(ValueError, match=r"blocks of 16x16.*step.saved\(state\) for any"):
        tx.update(params, jax.device_put(state, jax.devices()[0]), params)
