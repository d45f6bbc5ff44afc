"""Updates scaled by norms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

P = {"a": np.array([[3.0, 0.0], [0.0, 4.0]], "float32"), "b": np.array([12.0, 5.0], "float32"), "c": np.float32(0)}
G = {"a": np.array([[0.0, 8.0], [6.0, 0.0]], "float32"), "b": np.zeros(2, "float32"), "c": np.float32(2)}


def update(tx: Any, g: Any = G, p: Any = P) -> Any:
    return tx.update(g, tx.init(p), p)[0]


def test_trust_ratio():
    u = update(gdjax.scale_by_trust_ratio())
    np.testing.assert_allclose(u["a"], G["a"] / 2, rtol=1e-6)
    np.testing.assert_array_equal(u["b"], 0)  # an update of 0
    assert u["c"] == 2  # a parameter of 0
    u = update(gdjax.scale_by_trust_ratio(1.0, 0.5, 0.25))
    np.testing.assert_allclose(u["a"], G["a"] * (0.5 * 5 / 10.25), rtol=1e-6)
    np.testing.assert_array_equal(u["b"], 0)
    np.testing.assert_allclose(u["c"], 2 * 0.5 * 1 / 2.25, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_norms_in_sixteen_bits(dtype):
    # 300^2 is infinite in float16, and in bfloat16 a sum of ones stops at 256.
    p, g = jnp.full(1024, 300.0, dtype), jnp.full(1024, 1.0, dtype)
    np.testing.assert_array_equal(update(gdjax.scale_by_trust_ratio(), g, p), p)
    np.testing.assert_array_equal(update(gdjax.scale_by_param_block_rms(), g, p), p)
    np.testing.assert_array_equal(update(gdjax.scale_by_param_block_norm(), g / 64, p), g * (300 * 32 / 64))


def test_parameter_norms():
    u = update(gdjax.scale_by_param_block_norm(0.5))
    np.testing.assert_allclose(u["a"], 5 * G["a"], rtol=1e-6)
    assert u["c"] == 0.5 * 2
    u = update(gdjax.scale_by_param_block_rms(0.5))
    np.testing.assert_allclose(u["a"], 2.5 * G["a"], rtol=1e-6)
    assert u["c"] == 0.5 * 2
    assert update(gdjax.scale_by_param_block_rms(), jnp.zeros((0, 2)), jnp.zeros((0, 2))).shape == (0, 2)


def test_normalize_by_update_norm():
    norm = np.sqrt(104)
    u = update(gdjax.normalize_by_update_norm(3.0, 0.5))
    np.testing.assert_allclose(u["a"], G["a"] * 3 / (norm + 0.5), rtol=1e-6)
    zero = jax.tree.map(np.zeros_like, G)
    jax.tree.map(np.testing.assert_array_equal, update(gdjax.normalize_by_update_norm(eps=0.0), zero), zero)
    huge = update(
        gdjax.normalize_by_update_norm(gdjax.constant_schedule(2.0)), {"x": jnp.full(4, 1e30)}, {"x": jnp.ones(4)}
    )
    np.testing.assert_allclose(huge["x"], np.ones(4), rtol=1e-6)


@pytest.mark.parametrize("tx", [gdjax.scale_by_trust_ratio(), gdjax.scale_by_param_block_norm(0.0)], ids=repr)
def test_derivatives_at_zero_are_finite(tx):
    zero = jnp.zeros(3)
    for f in (lambda x: jnp.sum(update(tx, x, zero)), lambda x: jnp.sum(update(tx, zero, x))):
        assert np.isfinite(jax.grad(f)(zero)).all()


@pytest.mark.parametrize("wrong", [{"min_norm": -1.0}, {"trust_coefficient": -1.0}, {"eps": -1.0}])
def test_domains(wrong):
    with pytest.raises(ValueError, match=rf"^gdjax.scale_by_trust_ratio: {next(iter(wrong))} must be finite and at"):
        gdjax.scale_by_trust_ratio(**wrong)
