"""D-Adaptation and Prodigy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import vectors
from tests.trees import finite, steps


@pytest.mark.full
def test_the_estimates_do_grow():
    for tx in (gdjax.prodigy(), gdjax.dadapt_adamw()):
        d = [s["estim_lr"] for s in vectors.run(tx, "float32")[1]]
        assert d[0] < 2e-6 and d[-1] > 0.1 and (np.diff(d) >= 0).all()


EVERY = pytest.mark.parametrize("tx", [f(eps=eps) for f in (gdjax.prodigy, gdjax.dadapt_adamw) for eps in (1e-8, 0.0)])


@EVERY
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zero_gradients_at_first(tx: Any, dtype: str):
    x, zero = jnp.ones(3, dtype), jnp.zeros(3, dtype)
    still, state = steps(tx, x, [zero, zero])
    assert still.tolist() == [1, 1, 1] and finite(state) and state.estim_lr == np.float32(1e-6)
    slope = jax.grad(lambda g: jnp.sum(tx.update(g, state, x)[0]).astype(jnp.float32))
    assert np.isfinite(jax.jit(slope)(zero)).all()
    u, state = tx.update(zero + 1, state, x)
    assert finite(u) and finite(state)


@pytest.mark.parametrize("factory", [gdjax.prodigy, gdjax.dadapt_adamw])
def test_a_warm_up_from_zero(factory: Any):
    # At a rate of 0 the sums of the estimate are 0 too.
    x = jnp.array([1.0, -2.0])
    moved, state = steps(factory(gdjax.linear_schedule(0.0, 1.0, 2), estim_lr0=0.01), x, [x] * 3)
    assert finite((moved, state)) and (jnp.abs(moved) < jnp.abs(x)).all()


@EVERY
def test_what_float16_could_not_hold(tx: Any):
    # d g is 1e-9 at first, and its square 1e-18.
    x = jnp.ones(3, "float16")
    _, state = tx.update(1e-3 * x, tx.init(x), x)
    assert all((slot > 0).all() for slot in state[:3]) and state.exp_avg.dtype == jnp.float32


def test_errors():
    with pytest.raises(ValueError, match=r"gdjax.prodigy: betas must be a pair of numbers, got 0.9"):
        gdjax.prodigy(betas=0.9)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"gdjax.dadapt_adamw: beta2 must be in \[0, 1\).* got 1.0"):
        gdjax.dadapt_adamw(betas=(0.9, 1.0))
    with pytest.raises(ValueError, match=r"gdjax.prodigy: estim_lr0 must be finite and above 0, got 0.0"):
        gdjax.prodigy(estim_lr0=0.0)


MASKS = {
    "tree": {"w": True, "b": False},
    "function": lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree),
    "path": gdjax.mask_by_path("w"),
}


@pytest.mark.full
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_prodigy_decays_where_the_mask_is_true(mask: Any):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    gradients = jax.tree.map(lambda x: x + 0.5, params)
    some, all_of_them, none = (
        gdjax.prodigy(estim_lr0=0.1, weight_decay=decay, weight_decay_mask=m)
        for decay, m in [(0.5, mask), (0.5, None), (0.0, None)]
    )
    wanted = {"w": all_of_them, "b": none}
    state = some.init(params)
    got, after = some.update(gradients, state, params)
    for name, tx in wanted.items():
        u, plain = tx.update(gradients, tx.init(params), params)
        np.testing.assert_array_equal(got[name], u[name])
        np.testing.assert_array_equal(after.estim_lr, plain.estim_lr)
    assert not np.array_equal(*(tx.update(gradients, tx.init(params), params)[0]["b"] for tx in (all_of_them, none)))
    assert some == gdjax.prodigy(estim_lr0=0.1, weight_decay=0.5, weight_decay_mask=mask)
    scheduled = gdjax.prodigy(estim_lr0=0.1, weight_decay=lambda t: 0.5, weight_decay_mask=mask)
    np.testing.assert_allclose(scheduled.update(gradients, scheduled.init(params), params)[0]["w"], got["w"])


def test_prodigy_names_a_mask_that_does_not_fit():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match="^gdjax.prodigy: the weight_decay_mask is not a prefix of the tree"):
        gdjax.prodigy(weight_decay=0.5, weight_decay_mask={"w": True}).init(params)
    with pytest.raises(TypeError, match="^gdjax.prodigy: weight_decay_mask"):
        gdjax.prodigy(weight_decay=0.5, weight_decay_mask={"w": 0.5, "b": True}).init(params)
