"""The loss times a scale, and the scale that float16 lets it have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import assert_close, assert_equal, random_tree


def run(tx: Any, gradients: Any, params: Any) -> Any:
    update, state, found = jax.jit(tx.update), tx.init(params), []
    for g in gradients:
        u, state = update(g, state, params)
        found.append((u, state))
    return found


def test_gradients_reach_the_inner_transform_over_the_scale():
    params, gradients = random_tree(0), [random_tree(i) for i in (1, 2, 3)]
    scaled = [jax.tree.map(lambda g: g * 2.0**15, g) for g in gradients]
    inner = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adam(0.1))
    got, wanted = run(gdjax.dynamic_loss_scale(inner), scaled, params), run(inner, gradients, params)
    for (u, state), (v, plain) in zip(got, wanted, strict=True):
        assert_close((u, state.inner_state), (v, plain), rtol=1e-6)


def test_the_scale_grows_and_backs_off():
    tx = gdjax.dynamic_loss_scale(gdjax.sgd(0.5, momentum=0.9), 8.0, growth_interval=2, minimum_scale=2.0)
    gs = [1.0, 1.0, 1.0, jnp.inf, 1.0, 1.0, jnp.nan, jnp.nan, jnp.nan, -jnp.inf, 1.0]
    states = [s for _, s in run(tx, [jnp.array([g, 1.0]) for g in gs], jnp.zeros(2))]
    assert [float(s.loss_scale) for s in states] == [8, 16, 16, 8, 8, 16, 8, 4, 2, 2, 2]
    assert [int(s.fin_steps) for s in states] == [1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1]
    assert [bool(s.last_finite) for s in states] == [bool(np.isfinite(g)) for g in gs]
    assert [int(s.total_notfinite) for s in states][-1] == 5


def test_a_step_that_is_not_finite_changes_nothing_inside():
    tx, params = gdjax.dynamic_loss_scale(gdjax.adamw(0.1)), random_tree(0)
    bad = random_tree(1) | {"scale": jnp.array(jnp.inf)}
    (_, before), (u, after) = run(tx, [random_tree(2), bad], params)
    assert_equal(u, jax.tree.map(jnp.zeros_like, params))
    assert_equal(after.inner_state, before.inner_state)


def test_the_scale_stays_finite():
    tx = gdjax.dynamic_loss_scale(gdjax.sgd(0.5), 2.0**127, growth_interval=1)
    states = [s for _, s in run(tx, [jnp.ones(1)] * 3, jnp.zeros(1))]
    assert np.isfinite(states[-1].loss_scale)


def small_loss(p: Any, x: Any) -> Any:
    """A mean of what float16 can tell, whose gradient it cannot."""
    y = (p["w"] * x).astype(jnp.float16)
    return jnp.mean(y.astype(jnp.float32)) * 1e-7


def test_float16_trains_where_its_gradients_are_too_small():
    """The recipe of the docstring: without the scale every gradient is 0; with it some steps overflow, then none."""
    params, x = {"w": jnp.ones(8, jnp.float16)}, jnp.ones(8, jnp.float16)
    assert not np.any(np.asarray(jax.grad(small_loss)(params, x)["w"]))
    inner = gdjax.with_master_weights(gdjax.sgd(1e4))
    tx = gdjax.dynamic_loss_scale(inner, 2.0**48)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        scale = gdjax.tree.get(state, "loss_scale")
        grads = jax.grad(lambda p: scale * small_loss(p, x))(params)
        updates, state = tx.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    state, first = tx.init(params), params
    for _ in range(60):
        params, state = step(params, state)
    taken = 60 - int(state.total_notfinite)
    assert 0 < int(state.total_notfinite) < 30 and params["w"].dtype == jnp.float16
    wanted = np.asarray(first["w"], np.float64) - taken * 1e4 * 1e-7 / 8
    np.testing.assert_allclose(np.asarray(params["w"], np.float64), wanted, rtol=1e-3)


def test_metrics_inside_see_the_gradient_of_the_loss():
    tx = gdjax.dynamic_loss_scale(gdjax.with_metrics(gdjax.sgd(0.1), norms=("grad",)), 4.0)
    ((_, state),) = run(tx, [jnp.array([12.0, 16.0])], jnp.zeros(2))
    assert float(gdjax.metrics(state)["grad_norm"]) == pytest.approx(5.0)


def test_extra_arguments_reach_the_inner_transform():
    tx = gdjax.dynamic_loss_scale(gdjax.polyak_sgd(), 4.0)
    p = jnp.array([1.0, 2.0])
    u, _ = tx.update(4.0 * p, tx.init(p), p, value=2.5)
    v, _ = gdjax.polyak_sgd().update(p, gdjax.polyak_sgd().init(p), p, value=2.5)
    assert_close(u, v)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"init_scale": 0.0}, "init_scale must be finite and above 0"),
        ({"growth_factor": 0.5}, "growth_factor must be finite and at least 1"),
        ({"backoff_factor": 1.0}, "backoff_factor must be between 0 and 1"),
        ({"growth_interval": 0}, "growth_interval must be at least 1"),
        ({"minimum_scale": -1.0}, "minimum_scale must be finite and above 0"),
    ],
)
def test_wrong_numbers(arguments: Any, error: str):
    with pytest.raises(ValueError, match=f"gdjax.dynamic_loss_scale: {error}"):
        gdjax.dynamic_loss_scale(gdjax.sgd(0.1), **arguments)
