"""The gradient noise scale of `sharded_step`: of devices and micro-batches, weighted or not, on every layout."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from gdjax.training import sharded_step as module
from tests.transforms.test_noise_scale import of_window

pytestmark = pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")
WIDTH, ROWS = 16, 32
LAYOUTS = {
    "data": ({"data": 8}, P(), False, 1),
    "micro-batches": ({"data": 4, "model": 2}, P(None, "model"), False, 2),
    "fsdp": ({"data": 4, "model": 2}, P("data", "model"), False, 2),
    "explicit": ({"data": 8}, P(), True, 1),
    "explicit, tensor": ({"data": 4, "model": 2}, P(None, "model"), True, 2),
    "one device": ({"data": 1}, P(), False, 8),
}


def mesh_of(sizes: dict[str, int], explicit: bool = False) -> Mesh:
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    devices = np.asarray(jax.devices()[: int(np.prod([*sizes.values()]))])
    return Mesh(devices.reshape(*sizes.values()), tuple(sizes), axis_types=(kind,) * len(sizes))


def start(dtype: Any = jnp.float32) -> Any:
    w = jax.random.normal(jax.random.key(0), (WIDTH, WIDTH)) / 4
    return {"w": w.astype(dtype), "b": jnp.zeros(WIDTH, dtype)}


def batch(seed: int) -> Any:
    """In the first part, and in the fourth, no row counts."""
    x = jax.random.normal(jax.random.key(seed), (ROWS, WIDTH))
    valid = (np.arange(ROWS) % 5 > 1).astype(np.int32)
    valid[[0, 1, 2, 3, 12, 13, 14, 15]] = 0
    return {"x": x, "y": jnp.cos(x), "valid": jnp.asarray(valid)}


def of_rows(params: Any, rows: Any) -> Any:
    return jnp.mean((jnp.tanh(rows["x"] @ params["w"] + params["b"][None]) - rows["y"]) ** 2, axis=1)


def masked(params: Any, rows: Any) -> Any:
    return jnp.sum(of_rows(params, rows) * rows["valid"].astype(jnp.float32)), jnp.sum(rows["valid"])


def mean(params: Any, rows: Any) -> Any:
    return jnp.mean(of_rows(params, rows))


def of_parts(params: Any, rows: Any, weighted: bool) -> tuple[list[Any], list[float]]:
    """The gradients of the eight parts, one after the other, and their weights."""
    gradients, weights = [], []
    for i in range(8):
        part = jax.tree.map(lambda x, i=i: x[i * ROWS // 8 : (i + 1) * ROWS // 8], rows)
        weight = float(np.sum(part["valid"])) if weighted else ROWS / 8
        loss = lambda p, part=part, weight=weight: masked(p, part)[0] / max(weight, 1) if weighted else mean(p, part)
        gradients.append(jax.grad(loss)(params))
        weights.append(weight)
    return gradients, weights


def made(layout: str, weighted: bool, dtype: Any = jnp.float32, **how: Any) -> Any:
    sizes, matrices, explicit, parts = LAYOUTS[layout]
    mesh, params = mesh_of(sizes, explicit), start(dtype)
    params["w"] = jax.device_put(params["w"], NamedSharding(mesh, matrices))
    tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.0))
    loss = masked if weighted else mean
    how = {"micro_batches": parts, "min_bytes": 512, "weighted": weighted, "noise_scale": True} | how
    return gdjax.sharded_step(loss, tx, params, mesh, **how), params


@pytest.mark.full
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_estimates_are_those_of_the_parts(layout: str, weighted: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "REDUCES_AND_DIVIDES", ("cpu",))  # without weights a TPU would not see the parts
    step, params = made(layout, weighted)
    params, state = step.init(params)
    found = []
    for seed in range(3):
        params, state, _ = step(params, state, batch(seed))
        found.append(of_window(*of_parts(start(), batch(seed), weighted)))
        shares = np.asarray([0.99 ** (seed - i) for i in range(seed + 1)])
        square, noise = (float(np.sum(shares * xs) / np.sum(shares)) for xs in zip(*found, strict=True))
        told = gdjax.metrics(state)
        np.testing.assert_allclose(told["grad_noise"], noise, rtol=1e-4)
        np.testing.assert_allclose(told["grad_sq"], square, rtol=1e-4, atol=1e-5 * noise)
    assert state.count == 3


def test_in_bfloat16_norms_are_of_float32():
    half = lambda rows: {**rows, "x": rows["x"].astype(jnp.bfloat16), "y": rows["y"].astype(jnp.bfloat16)}
    step, params = made("data", False, jnp.bfloat16)
    _, state, _ = step(*step.init(params), half(batch(0)))
    _, noise = of_window(*of_parts(start(), batch(0), False))
    np.testing.assert_allclose(gdjax.metrics(state)["grad_noise"], noise, rtol=0.02)
    assert state.squares.dtype == jnp.float32


def test_the_step_is_checked_beside_one_device():
    step, params = made("micro-batches", True)
    params, state = step.init(params)
    assert not any(row.differs for row in step.check(params, state, batch(0)).rows)
    assert jax.tree.structure(state) == jax.tree.structure(step.tx.init(start()))


def test_what_it_exchanges_is_scalars():
    """The gradients are exchanged as before; number, weights and norms of the parts are three numbers more."""

    def exchanged(noise_scale: bool) -> int:
        step, params = made("data", False, noise_scale=noise_scale)
        text = step.lower(*jax.eval_shape(step.init, params), batch(0)).as_text()
        return sum(text.count(f"stablehlo.{name}") for name in ("all_reduce", "reduce_scatter", "all_gather"))

    step, params = made("data", False, noise_scale=False)
    plain = gdjax.state_sharding(step.tx, params, step.mesh, "data", min_bytes=512)
    assert jax.tree.structure(plain) == jax.tree.structure(step.state_sharding)
    assert exchanged(True) - exchanged(False) == 3


def test_a_batch_of_one_part_is_refused():
    with pytest.raises(ValueError, match="noise_scale compares gradients of parts of the batch, and it has one"):
        made("one device", False, micro_batches=1)
