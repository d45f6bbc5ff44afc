"""The state in the host's memory: the same to the bit, in which memory, and where there is none."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core import meshes
from tests.trees import assert_equal

PARAMS = {"b": jnp.ones(64), "w": jnp.ones((128, 64))}
GRADS = {"b": jnp.linspace(-1, 1, 64), "w": jnp.linspace(-2, 1, 128 * 64).reshape(128, 64)}
OURS = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(1e-2))
HOST = [m.kind for m in jax.local_devices()[0].addressable_memories()].count(meshes.HOST) and hasattr(jax, "memory")
with_host = pytest.mark.skipif(not HOST, reason="this JAX has no memory of the host on a CPU")


def kinds(state: Any) -> dict[str, str]:
    adam = gdjax.tree.get_all_with_path(state, "ScaleByAdamState")[0][1]
    return {f"{name}/{k}": x.sharding.memory_kind for name in ("mu", "nu") for k, x in getattr(adam, name).items()}


WANTED = {"mu/b": "device", "mu/w": "pinned_host", "nu/b": "device", "nu/w": "pinned_host"}


@pytest.mark.full
@with_host
def test_steps_are_the_same_to_the_bit():
    tx = gdjax.offload_state(OURS)
    s, t = OURS.init(PARAMS), tx.init(PARAMS)
    assert jax.tree.structure(s) == jax.tree.structure(t)
    assert kinds(t) == WANTED
    traces = []

    @jax.jit
    def step(g: Any, t: Any) -> Any:
        traces.append(1)
        return tx.update(g, t, PARAMS)

    plain = jax.jit(OURS.update)
    for _ in range(3):
        u, s = plain(GRADS, s, PARAMS)
        v, t = step(GRADS, t)
        assert_equal((v, t), (u, s))
        assert kinds(t) == WANTED
    assert len(traces) == 1
    u, s = OURS.update(GRADS, s, PARAMS)  # not compiled by the caller
    v, t = tx.update(GRADS, t, PARAMS)
    assert_equal((v, t), (u, s))
    assert kinds(t) == WANTED


@with_host
def test_in_a_scan_and_from_the_device():
    tx = gdjax.offload_state(OURS)
    start = tx.init(PARAMS)

    @partial(jax.jit, static_argnums=0)
    def run(tx: Any, state: Any) -> Any:
        return jax.lax.scan(lambda s, _: (tx.update(GRADS, s, PARAMS)[1], None), state, None, length=2)[0]

    got, s = run(tx, start), OURS.init(PARAMS)
    _, loaded = jax.jit(tx.update)(GRADS, s, PARAMS)  # as a checkpoint is read
    assert kinds(loaded) == kinds(got) == WANTED
    assert_equal(got, run(OURS, s))


@with_host
def test_divided_over_devices():
    tx, mesh = gdjax.offload_state(OURS), jax.sharding.Mesh(jax.devices()[:2], ("data",))
    shardings = gdjax.state_sharding(tx, PARAMS, mesh)
    state = jax.jit(tx.init, out_shardings=shardings)(PARAMS)
    _, state = jax.jit(tx.update, out_shardings=(None, shardings))(GRADS, state, PARAMS)
    mu = gdjax.tree.get(state, "mu")["w"]
    assert (tuple(mu.sharding.spec), mu.sharding.memory_kind) == (("data", None), "pinned_host")
    _, plain = jax.jit(OURS.update)(GRADS, OURS.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(mu, gdjax.tree.get(plain, "mu")["w"])


@with_host
def test_layer_by_layer():
    w = jnp.linspace(-0.1, 0.1, 2 * 64 * 64).reshape(2, 64, 64)
    x, found = jnp.ones((2, 64)), []
    for tx in (gdjax.adam(1e-2), gdjax.offload_state(gdjax.adam(1e-2))):
        step = gdjax.gradient_release(
            tx, lambda p, x: x, lambda w, x, _: jnp.tanh(x @ w), lambda p, x, _: jnp.mean(x**2), stack=lambda p: p
        )
        found.append(step(w, tx.init(w), x))
    assert_equal(found[1], found[0])
    assert gdjax.tree.get(found[1][1], "mu").sharding.memory_kind == "pinned_host"
    with pytest.raises(ValueError, match=r"state.*mu is on the device, and kept on the host: put it there first"):
        step(w, gdjax.adam(1e-2).init(w), x)


def test_where_there_is_no_such_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(meshes, "HOST", "attic")
    tx = gdjax.offload_state(gdjax.adam(1e-2))
    with pytest.raises(ValueError, match=r"gdjax.offload_state: cpu has memories of the kinds \[.*\], none of 'attic'"):
        tx.init(PARAMS)
    with pytest.raises(ValueError, match="gdjax.offload_state"):
        jax.eval_shape(tx.update, GRADS, gdjax.adam(1e-2).init(PARAMS), PARAMS)


def test_a_release_that_cannot_name_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(meshes, "HOST", jax.local_devices()[0].default_memory().kind)
    monkeypatch.delattr(jax, "memory", raising=False)
    with pytest.raises(RuntimeError, match="has no jax.memory: this needs a later release"):
        gdjax.offload_state(gdjax.adam(1e-2)).init(PARAMS)


def test_arguments():
    with pytest.raises(TypeError, match="gdjax.offload_state"):
        gdjax.offload_state(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_bytes"):
        gdjax.offload_state(gdjax.adam(1e-2), min_bytes=-1)
