"""snapshot, monitor and measure_with_ema."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import assert_close, assert_equal, random_tree, signature

PARAMS = random_tree(0)
GRADIENTS = [random_tree(seed) for seed in range(1, 5)]


def size(tree: Any) -> Any:
    return gdjax.global_norm(tree)


def test_snapshot_keeps_what_passes_it():
    tx = gdjax.chain(
        gdjax.scale(2.0), gdjax.snapshot("twice", lambda x: x), gdjax.clip(0.1), gdjax.snapshot("size", size)
    )
    state = tx.init(PARAMS)
    assert_close(gdjax.tree.get(state, "size"), size(PARAMS))
    updates, new = tx.update(GRADIENTS[0], state, PARAMS)
    assert_equal(gdjax.tree.get(new, "twice"), jax.tree.map(lambda g: 2 * g, GRADIENTS[0]))
    assert_close(gdjax.tree.get(new, "size"), size(updates))
    assert signature(new) == signature(state)


def test_a_snapshot_of_the_parameters_does_not_share_their_memory():
    tx, params = gdjax.snapshot("all", lambda x: x), random_tree(0)
    step = jax.jit(lambda params, state, g: tx.update(g, state, params), donate_argnums=(0, 1))
    step(params, tx.init(params), GRADIENTS[0])


def test_a_snapshot_keeps_its_dtype():
    tx = gdjax.snapshot("sum", lambda x: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(x)))
    state = tx.init(random_tree(0, "bfloat16"))
    assert signature(tx.update(GRADIENTS[0], state)[1]) == signature(state)


def test_monitor_measures_with_and_without_memory():
    decay = 0.75
    tx = gdjax.monitor(
        {
            "size": size,
            "average": gdjax.measure_with_ema(size, decay),
            "plain": gdjax.measure_with_ema(size, decay, debias=False),
            "often": gdjax.measure_with_ema(lambda x: size(x) > 2.5, decay),
            "momentum": gdjax.trace(0.5),
        }
    )
    state, m, often, trace = tx.init(PARAMS), 0.0, 0.0, jax.tree.map(np.zeros_like, PARAMS)
    before = signature(state)
    for t, g in enumerate(GRADIENTS, start=1):
        updates, state = jax.jit(tx.update)(g, state)
        assert_equal(updates, g)
        norm = np.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in jax.tree.leaves(g)))
        m, often = decay * m + (1 - decay) * norm, decay * often + (1 - decay) * (norm > 2.5)
        trace = jax.tree.map(lambda v, g: 0.5 * v + g, trace, g)
        got = state.measurements
        np.testing.assert_allclose(got["size"], norm, rtol=1e-6)
        np.testing.assert_allclose(got["average"], m / (1 - decay**t), rtol=1e-6)
        np.testing.assert_allclose(got["plain"], m, rtol=1e-6)
        np.testing.assert_allclose(got["often"], often / (1 - decay**t), rtol=1e-6)
        assert_close(got["momentum"], trace)
        assert signature(state) == before
    assert 0 < often < 1  # the norms lie on both sides


def test_before_the_first_update_there_are_zeros():
    state = gdjax.monitor({"size": size, "whole": lambda x: x}).init(PARAMS)
    assert_equal(state.measurements, {"size": jnp.zeros(()), "whole": jax.tree.map(jnp.zeros_like, PARAMS)})


def test_a_measure_may_need_extra_arguments():
    def update(updates: Any, state: Any, params: Any = None, *, loss: Any, **extra_args: Any) -> Any:
        return loss, state

    tx = gdjax.monitor({"loss": gdjax.GradientTransformation(lambda params: (), update)})
    state = tx.init(PARAMS)
    assert state.measurements == {}
    assert float(tx.update(PARAMS, state, PARAMS, loss=jnp.float32(3.0))[1].measurements["loss"]) == 3


def test_measures_must_be_functions_or_transforms():
    with pytest.raises(TypeError, match="gdjax.monitor: argument 'size' is 3"):
        gdjax.monitor({"size": 3})
