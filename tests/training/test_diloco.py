"""DiLoCo on a mesh: a loop over replicas in NumPy's manner gives the same, and what is exchanged is what must be."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from gdjax.lift.order import OrderWarning
from tests.trees import assert_close

pytestmark = pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="this JAX has no jax.shard_map")

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {"first": (8, 16), "bias": (16,), "last": (16, 4)}
M, BATCH = 4, 16


def mesh_of(*sizes: int, names: tuple[str, ...] = ("replica", "data")) -> Mesh:
    devices = np.asarray(jax.devices()[: math.prod(sizes)]).reshape(sizes)
    return Mesh(devices, names[: len(sizes)])


def start() -> Any:
    keys = jax.random.split(jax.random.key(0), len(SHAPES))
    return {name: jax.random.normal(key, shape) / 4 for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)}


def batches(number: int, size: int = BATCH) -> list[tuple[Any, Any]]:
    keys = jax.random.split(jax.random.key(1), (number, 2))
    return [(jax.random.normal(a, (size, 8)), jax.random.normal(b, (size, 4))) for a, b in keys]


def loss(params: Any, batch: Any) -> Any:
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["first"] + params["bias"][None]) @ params["last"] - y) ** 2)


@jax.jit
def of_replicas(workers: Any, batch: Any) -> Any:
    parts = jax.tree.map(lambda x: x.reshape(M, -1, *x.shape[1:]), batch)
    return jax.vmap(jax.value_and_grad(loss))(workers, parts)


def adamw(p: Any, g: Any, s: Any, t: int) -> Any:
    m, v = 0.9 * s[0] + 0.1 * g, 0.999 * s[1] + 0.001 * g**2
    return p - 1e-2 * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + 1e-4 * p), (m, v)


def momentum(p: Any, g: Any, s: Any, t: int) -> Any:
    v = 0.9 * s[0] + g
    return p - 0.1 * v, (v, v)


def nesterov(p: Any, g: Any, s: Any, t: int) -> Any:
    v = 0.9 * s[0] + g
    return p - 0.7 * (0.9 * v + g), (v, v)


def adam(p: Any, g: Any, s: Any, t: int) -> Any:
    m, v = 0.9 * s[0] + 0.1 * g, 0.999 * s[1] + 0.001 * g**2
    return p - 1e-2 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), (m, v)


def by_hand(
    data: Any, *, every: int, inner: Any = adamw, outer: Any = nesterov, turns: Any = None, delay: int = 0,
    alpha: float = 0.0,
) -> Any:  # fmt: skip
    """The papers' algorithms in NumPy, leaf by leaf: theta_m along the first axis, theta, and all losses.

    `turns` has for each leaf the t_p at which its fragment is exchanged: t - t_p = 0 modulo H.
    """
    theta = jax.tree.map(np.asarray, start())
    theta_m = {name: np.stack([p] * M) for name, p in theta.items()}
    state = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in theta_m.items()}
    outside = {name: (np.zeros_like(p), np.zeros_like(p), 0) for name, p in theta.items()}
    turns, losses = turns or dict.fromkeys(theta, 0), []
    for t, batch in enumerate(data, 1):
        found, grads = jax.tree.map(np.asarray, of_replicas(theta_m, batch))
        losses.append(found)
        for name, g in grads.items():
            theta_m[name], state[name] = inner(theta_m[name], g, state[name], t)
            if (t - turns[name]) % every == 0:
                delta, (*s, n) = np.mean(theta[name][None] - theta_m[name], axis=0), outside[name]
                theta[name], s = outer(theta[name], delta, s, n + 1)
                outside[name] = *s, n + 1
            if t > delay and (t - delay - turns[name]) % every == 0:
                theta_m[name] = alpha * theta_m[name] + (1 - alpha) * theta[name][None]
    return theta_m, theta, np.asarray(losses)


def run(step: Any, data: Any, made: Any = None) -> Any:
    params, state = step.init(start()) if made is None else made
    losses = []
    for batch in data:
        params, state, values = step(params, state, batch)
        losses.append(values)
    return params, state, np.asarray(losses)


STREAMING = {"fragments": 3, "delay": 2, "alpha": 0.25}
TURNS = {"first": 1, "last": 3, "bias": 5}  # the largest fragment first, at (p + 1) 5 // 3


@pytest.mark.full
@pytest.mark.parametrize("how", [{}, {"delay": 3}, {"fragments": 3}, STREAMING], ids=str)
def test_the_loop_over_replicas(how: dict[str, Any]):
    data, turns = batches(14), TURNS if "fragments" in how else None
    wanted = by_hand(data, every=5, turns=turns, delay=how.get("delay", 0), alpha=how.get("alpha", 0.0))
    step = gdjax.diloco_step(loss, gdjax.adamw(1e-2), start(), mesh_of(M), every=5, **how)
    params, state, losses = run(step, data)
    assert_close((params, state.outer_params, losses), wanted, 2e-5, 2e-6)
    assert all(jnp.abs(p - p[:1]).max() > 1e-4 for p in params.values())  # between exchanges
    assert gdjax.eval_params(step.tx, state, params) is state.outer_params


@pytest.mark.parametrize("way", ["shares", "tensor parallel"])
def test_replicas_of_two_devices_and_other_optimizers(way: str):
    data, mesh = batches(14), mesh_of(M, 2)
    wanted = by_hand(data, every=5, inner=momentum, outer=adam, turns=TURNS, delay=2, alpha=0.25)
    how, params = {"data": "data", "min_bytes": 128}, start()
    if way == "tensor parallel":
        how, divided = {}, NamedSharding(mesh, P(None, "data"))
        params["first"] = jax.device_put(params["first"], divided)
    tx, outer = gdjax.sgd(0.1, momentum=0.9), gdjax.adam(1e-2)
    step = gdjax.diloco_step(loss, tx, params, mesh, every=5, outer=outer, **STREAMING, **how)
    params, state, losses = run(step, data)
    assert_close((params, state.outer_params, losses), wanted, 2e-5, 2e-6)
    trace, nu = gdjax.tree.get(state.inner_state, "trace"), gdjax.tree.get(state.outer_state[0], "nu")
    for x, share in ((trace["first"], (1, 8, 8)), (nu["first"], (8, 8)), (state.outer_params["first"], (8, 8))):
        assert x.addressable_shards[0].data.shape == share
    whole = (1, 8, 16) if way == "shares" else (1, 8, 8)
    assert params["first"].addressable_shards[0].data.shape == whole


@pytest.mark.full
def test_a_mean_of_inner_steps():
    """H = 1, and an outer step of 1: for SGD that is data parallel training."""
    data = batches(4)
    step = gdjax.diloco_step(loss, gdjax.sgd(0.1), start(), mesh_of(M), every=1, outer=gdjax.sgd(1.0))
    params, state, _ = run(step, data)
    wanted = start()
    for batch in data:
        _, g = of_replicas(jax.tree.map(lambda p: jnp.stack([p] * M), wanted), batch)
        wanted = jax.tree.map(lambda p, g: p - 0.1 * jnp.mean(g, axis=0), wanted, g)
    assert_close(state.outer_params, wanted, 1e-5, 1e-6)
    for m in range(M):  # to the bit: replicas are given theta, and not a difference
        assert_close(jax.tree.map(lambda x, m=m: x[m], params), state.outer_params, 0, 0)


def compiled(step: Any, batch: Any) -> Any:
    params, state = jax.eval_shape(step.init, start())
    return step.lower(params, state, batch).compile()


BYTES = 4 * sum(map(math.prod, SHAPES.values()))


@pytest.mark.parametrize("fragments", [1, 3])
def test_one_exchange_a_round(fragments: int):
    """It stands in a branch: the other H - 1 steps of a round exchange nothing."""
    step = gdjax.diloco_step(loss, gdjax.adamw(1e-2), start(), mesh_of(M), every=5, fragments=fragments, delay=1)
    program = compiled(step, batches(1)[0])
    found = gdjax.collectives(program)
    assert [(row.kind, row.devices, row.in_loop) for row in found] == [("all-reduce", M, False)] * fragments
    assert sum(row.bytes for row in found) == BYTES
    main = program.as_text().split("\nENTRY ")[1]
    assert "conditional(" in main and "all-reduce" not in main
    parallel = gdjax.sharded_step(loss, gdjax.adamw(1e-2), start(), mesh_of(M), "replica")
    each_step = gdjax.collectives(compiled(parallel, batches(1)[0]))
    assert sum(row.bytes for row in each_step) >= BYTES  # data parallel, in every step


def test_devices_of_a_replica_exchange_their_shares():
    how = {"every": 5, "data": "data", "min_bytes": 0}
    step = gdjax.diloco_step(loss, gdjax.adamw(1e-2), start(), mesh_of(2, 4), **how)
    between = [row for row in gdjax.collectives(compiled(step, batches(1)[0])) if row.devices == 2]
    assert [(row.kind, row.bytes) for row in between] == [("all-reduce", BYTES / 4)]


def test_a_run_goes_on_from_what_was_saved():
    data = batches(9)
    step = gdjax.diloco_step(loss, gdjax.adamw(1e-2), start(), mesh_of(M), every=3, fragments=2, delay=1, alpha=0.5)
    whole = run(step, data)
    params, state, _ = run(step, data[:4])
    saved = jax.tree.map(np.asarray, (params, state))
    params, state = jax.device_put(saved, (step.params_sharding, step.state_sharding))
    assert_close(run(step, data[4:], (params, state))[:2], whole[:2], 0, 0)


@pytest.mark.full
def test_other_states_dtypes_and_what_else_a_loss_returns():
    """16-bit parameters, whose Delta the outer optimizer gets in float32; keys, counts and matrices in the states."""
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), start())
    tx = gdjax.MultiSteps(gdjax.chain(gdjax.add_noise(0.01, 0.5, 0), gdjax.adamw(1e-2)), 2)
    outer = gdjax.partition(
        {True: gdjax.muon(0.02), False: gdjax.sgd(0.7)}, lambda p: jax.tree.map(lambda x: x.ndim == 2, p)
    )

    def of(params: Any, batch: Any) -> Any:
        x, y = (a.astype(jnp.bfloat16) for a in batch)
        return loss(params, (x, y)).astype(jnp.float32), {"mean": jnp.mean(x)}

    step = gdjax.diloco_step(
        of, tx, params, mesh_of(2, 2), every=2, outer=outer, data="data", min_bytes=0, has_aux=True
    )
    now, state = step.init(params)
    before = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), (now, state))
    found: Any = None
    for batch in batches(4):
        now, state, found = step(now, state, batch)
    values, aux = found
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), (now, state)) == before
    assert values.shape == aux["mean"].shape == (2,) and values.dtype == jnp.float32
    assert_close(jax.tree.map(lambda x: x[1], now), state.outer_params, 0, 0)
    assert all(
        (x != y).any() for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(state.outer_params), strict=True)
    )


@pytest.mark.full
@pytest.mark.parametrize("data", [None, "data"])
def test_totals_and_weights_of_each_replica(data: str | None):
    """One replica has no valid row, and a NaN for its total; the loss draws, by a key of the replica."""

    def of(params: Any, batch: Any, key: Any) -> Any:
        (x, y), valid = batch
        off = jnp.mean((jnp.tanh(x @ params["first"] + params["bias"][None]) @ params["last"] - y) ** 2, axis=1)
        weight = jnp.sum(valid)
        total = jnp.sum(off * valid.astype(jnp.float32)) * jnp.where(weight == 0, jnp.nan, 1.0)
        return (total, weight), {"drawn": jax.random.normal(key), "valid": valid}

    mesh = mesh_of(M) if data is None else mesh_of(M, 2)
    step = gdjax.diloco_step(
        of, gdjax.sgd(0.1), start(), mesh, every=2, data=data, min_bytes=0, has_aux=True, weighted=True
    )
    valid = np.zeros(BATCH, np.int32)
    valid[[0, 1, 2, 5, 12, 13, 14, 15]] = 1
    key, batch = jax.random.key(3), batches(1)[0]
    params, _, (losses, aux) = step(*step.init(start()), (batch, valid), key)
    np.testing.assert_array_equal(aux["drawn"], [jax.random.normal(k) for k in jax.random.split(key, M)])
    np.testing.assert_array_equal(aux["valid"].reshape(-1), valid)
    for m in range(M):
        value, grads = 0.0, jax.tree.map(jnp.zeros_like, start())
        if (rows := 4 * m + np.flatnonzero(valid[4 * m : 4 * m + 4])).size:
            value, grads = jax.value_and_grad(loss)(start(), jax.tree.map(lambda x, rows=rows: x[rows], batch))
        wanted = jax.tree.map(lambda p, g: p - 0.1 * g, start(), grads)
        assert_close((losses[m], jax.tree.map(lambda p, m=m: p[m], params)), (value, wanted), 1e-5, 1e-6)


def test_what_was_given_to_a_step_is_gone():
    step = gdjax.diloco_step(loss, gdjax.sgd(0.1), start(), mesh_of(M), every=2)
    params, state = step.init(start())
    new, _, _ = step(params, state, batches(1)[0])
    with pytest.raises(ValueError, match=r"diloco_step: params\['bias'\] is gone: a step writes over its arguments"):
        step(params, state, batches(1)[0])
    with pytest.raises(ValueError, match=r"diloco_step: state.count is gone"):
        step(new, state, batches(1)[0])


def test_fragments_by_name_and_by_size():
    make = lambda fragments: gdjax.diloco_step(loss, gdjax.sgd(0.1), start(), mesh_of(M), every=4, fragments=fragments)
    assert make(2).fragments == {"first": 0, "last": 1, "bias": 1}
    assert make({"first": 1, "last": 0, "bias": 1}).fragments == {"first": 1, "last": 0, "bias": 1}
    params = {"a": [jnp.ones(2), jnp.ones(3)], "b": jnp.ones(1)}
    step = gdjax.diloco_step(
        lambda p, x: jnp.mean(x), gdjax.sgd(0.1), params, mesh_of(M), every=4, fragments={"a": 1, "b": 0}
    )
    assert step.fragments == {"a": [1, 1], "b": 0}


MISTAKES = [
    ({"axis": "pod"}, ValueError, "axis='pod', but the axes of the mesh are 'replica', 'data'"),
    ({"data": "model"}, ValueError, "axis='model', but the axes of the mesh are 'replica', 'data'"),
    ({"data": "replica"}, ValueError, "axis and data are both 'replica'"),
    ({"every": 0}, ValueError, "every must be at least 1, got 0"),
    ({"every": 2.5}, TypeError, "every must be an int, got 2.5"),
    ({"delay": 4}, ValueError, "delay must be less than every=4, got 4"),
    ({"alpha": 1.5}, ValueError, "alpha must be in"),
    ({"fragments": 0}, ValueError, "fragments must be at least 1, got 0"),
    ({"fragments": 4}, ValueError, "fragments must be at most the number of leaves, 3, got 4"),
    ({"fragments": 3, "every": 2}, ValueError, "every=2 is too short for 3 fragments"),
    ({"fragments": {"first": 0, "last": 2, "bias": 0}}, ValueError, "fragments has a 2, and no 1"),
    ({"fragments": {"first": 0}}, ValueError, "fragments is no prefix of params"),
    ({"inner": gdjax.adamw}, TypeError, "argument inner is"),
    ({"outer": 0.7}, TypeError, "argument outer is 0.7"),
    ({"mesh": "replica"}, TypeError, "mesh must be a jax.sharding.Mesh"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), MISTAKES, ids=[f"{'-'.join(m[0])}-{m[2][:9]}" for m in MISTAKES])
def test_mistakes(wrong: dict[str, Any], kind: type, message: str):
    right = {"inner": gdjax.sgd(0.1), "mesh": mesh_of(M, 2), "every": 4, "params": start()}
    with pytest.raises(kind, match=f"gdjax.diloco_step: .*{message}"):
        gdjax.diloco_step(loss, **(right | wrong))


def test_parameters_divided_over_the_axis():
    mesh = mesh_of(M)
    params = start() | {"first": jax.device_put(start()["first"], NamedSharding(mesh, P("replica")))}
    with pytest.raises(ValueError, match=r"params\['first'\] is divided over 'replica'"):
        gdjax.diloco_step(loss, gdjax.sgd(0.1), params, mesh, every=2)


def test_explicit_axes():
    mesh = jax.make_mesh((M,), ("replica",), axis_types=(jax.sharding.AxisType.Explicit,))
    with pytest.raises(ValueError, match="diloco_step: the axes 'replica' of the mesh are not automatic"):
        gdjax.diloco_step(loss, gdjax.sgd(0.1), start(), mesh, every=2)


def test_a_jax_without_shard_map(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(jax, "shard_map")
    with pytest.raises(NotImplementedError, match="diloco_step: JAX .* has no jax.shard_map"):
        gdjax.diloco_step(loss, gdjax.sgd(0.1), start(), mesh_of(M), every=2)


def test_an_average_in_the_inner_optimizer():
    with pytest.warns(OrderWarning, match="schedule_free .*does not see"):
        gdjax.diloco_step(loss, gdjax.schedule_free_sgd(0.1), start(), mesh_of(M), every=2)


def test_another_batch_and_another_mesh():
    step = gdjax.diloco_step(loss, gdjax.sgd(0.1), start(), mesh_of(M), every=2)
    params, state = step.init(start())
    with pytest.raises(ValueError, match=r"diloco_step: batch\[0\] has shape \(6, 8\).*4 devices of 'replica'"):
        step(params, state, batches(1, 6)[0])
    there = gdjax.diloco_step(loss, gdjax.sgd(0.1), start(), mesh_of(2), every=2).init(start())
    with pytest.raises(ValueError, match=r"diloco_step: params\['bias'\] lies as .*the step was made for"):
        step(*there, batches(1)[0])


PROCESS = """
import sys, jax, numpy as np
jax.config.update("jax_cpu_collectives_implementation", "gloo")
address, number, place, to = sys.argv[1:]
jax.distributed.initialize(address, int(number), int(place))
import gdjax
from tests.training.test_diloco import STREAMING, M, batches, loss, start
assert jax.device_count() == M and jax.process_count() == int(number)
mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("replica",))
step = gdjax.diloco_step(loss, gdjax.adamw(1e-2), start(), mesh, every=5, **STREAMING)
params, state = step.init(jax.tree.map(np.asarray, start()))
place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("replica"))
mine = [s.index for s in jax.device_put(np.zeros(M), place).addressable_shards]
for batch in jax.tree.map(np.asarray, batches(14)):
    batch = jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, place, lambda i: x[i]), batch)
    params, state, losses = step(params, state, batch)
theta = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), state.outer_params)
np.savez(to, rows=[i[0].start for i in mine], losses=[s.data[0] for s in losses.addressable_shards], **theta)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_several_processes(number: int, tmp_path: Path):
    """Four replicas in two processes or four: each has the theta of the loop by hand, and the losses of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={M // number}"}
    args = [[address, str(number), str(i), str(tmp_path / f"{i}.npz")] for i in range(number)]
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, *a], env=env, cwd=ROOT, stderr=subprocess.PIPE) for a in args
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        for process in processes:
            process.kill()
    _, theta, losses = by_hand(batches(14), every=5, turns=TURNS, delay=2, alpha=0.25)
    rows: list[int] = []
    for i in range(number):
        got = np.load(tmp_path / f"{i}.npz")
        assert_close({name: got[name] for name in theta}, theta, 2e-5, 2e-6)
        assert_close(got["losses"], losses[-1][got["rows"]], 2e-5, 2e-6)
        rows += list(got["rows"])
    assert sorted(rows) == list(range(M))
