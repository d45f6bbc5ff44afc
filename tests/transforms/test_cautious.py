"""Cautious updates against their formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def by_hand(u, g, eps, clamp):
    keep = (u * g < 0).astype(u.dtype)
    return u * keep / max(keep.mean() + eps, clamp)


@pytest.mark.parametrize(
    "inner", [gdjax.adamw(0.1), gdjax.lion(0.1), gdjax.sgd(0.1, 0.9)], ids=["adamw", "lion", "sgd"]
)
@pytest.mark.parametrize("eps, clamp", [(0.0, 1e-3), (0.1, 0.7)])
def test_against_the_formula(inner, eps, clamp):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(5, 4)), "float32"), "b": jnp.asarray(rng.normal(size=7), "float32")}
    tx = gdjax.cautious(inner, eps, clamp)
    state, plain = tx.init(params), inner.init(params)
    for _ in range(6):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), "float32"), params)
        u, state = tx.update(grads, state, params)
        raw, plain = inner.update(grads, plain, params)
        for k, x in u.items():
            # The update is a difference of numbers near 0.1, whose rounding is 6e-9.
            expected = by_hand(np.asarray(raw[k]), np.asarray(grads[k]), eps, clamp)
            np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-8)
        params = gdjax.apply_updates(params, u)


def test_directions_that_ascend():
    g = {"w": jnp.asarray([1.0, -2.0, 0.0])}
    tx = gdjax.cautious(gdjax.identity(), ascends=True)
    np.testing.assert_allclose(tx.update(g, tx.init(g))[0]["w"], np.asarray([1.0, -2.0, 0.0]) * 1.5, rtol=1e-6)


def test_nothing_agrees_or_is_a_number_or_is_there():
    tx = gdjax.cautious(gdjax.scale(1.0))  # uphill
    for x in (jnp.ones(3), jnp.zeros(3), jnp.ones(()), jnp.ones((0, 2))):
        u, _ = tx.update({"w": x}, tx.init({"w": x}))
        np.testing.assert_array_equal(u["w"], jnp.zeros_like(x))
    down = gdjax.cautious(gdjax.scale(-1.0))
    u, _ = down.update({"w": jnp.asarray([jnp.nan, 1.0, jnp.inf])}, down.init({"w": jnp.ones(3)}))
    np.testing.assert_array_equal(u["w"], [jnp.nan, -1.0, jnp.nan])


def test_complex_numbers_agree_along_the_gradient():
    g = {"w": jnp.asarray([1 + 1j, 1 - 1j, 2j], "complex64")}
    tx = gdjax.cautious(gdjax.scale(-1.0))
    np.testing.assert_allclose(tx.update(g, tx.init(g))[0]["w"], -g["w"], rtol=1e-6)


def test_an_element_without_a_gradient_waits_whatever_its_momentum():
    """The mask is strict: u g = 0 is no agreement."""
    tx = gdjax.cautious(gdjax.sgd(0.1, momentum=0.9))
    _, state = tx.update(jnp.ones(4), tx.init(jnp.ones(4)))
    u, _ = tx.update(jnp.asarray([1.0, 0.0, 1.0, 0.0]), state)
    np.testing.assert_allclose(u, [-0.38, 0.0, -0.38, 0.0], rtol=1e-6)  # 0.1 (0.9 + 1), twice for the half that waits
