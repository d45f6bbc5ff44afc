"""Adaptive clipping by unit, against NumPy: which axes, which norms, and its edges. And centralized gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

# The shape and the axes of a unit.
AXES = {
    (): (), (5,): (0,), (4, 3): (0,), (1, 4): (0, 1), (3, 1, 1): (0, 1, 2), (2, 3, 4): (0,), (2, 3, 2, 3): (0, 1, 2),
    (1, 2, 2, 2, 3): (0, 1, 2, 3), (1, 1, 1, 1, 1, 4): (0, 1, 2, 3, 4, 5), (0, 3): (0,),
}  # fmt: skip
RNG = np.random.default_rng(0)


def norm(x, axes):
    return np.broadcast_to(np.sqrt(np.sum(np.abs(np.float64(x)) ** 2, axis=axes, keepdims=True)), x.shape)


@pytest.mark.parametrize("shape", AXES, ids=str)
def test_oracle(shape):
    axes = AXES[shape]
    g, p = RNG.normal(size=(2, *shape)).astype("float32")
    p = p * (RNG.uniform(size=shape) > 0.5)
    np.testing.assert_allclose(gdjax.unitwise_norm(jnp.asarray(g)), norm(g, axes), rtol=1e-6)
    tx = gdjax.adaptive_grad_clip(0.5, 0.01)
    got = tx.update(jnp.asarray(g), tx.init(p), jnp.asarray(p))[0]
    with np.errstate(invalid="ignore"):
        want = g * np.minimum(1, 0.5 * np.maximum(norm(p, axes), 0.01) / norm(g, axes))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("axis, axes", [(1, (1,)), (-1, (2,)), ((0, 2), (0, 2))])
def test_axis(axis, axes):
    x = RNG.normal(size=(2, 3, 4))
    np.testing.assert_allclose(gdjax.unitwise_norm(x.astype("float32"), axis), norm(x, axes), rtol=1e-6)


def test_extremes():
    for size in (1e20, 1e-30, 3e-38):
        x = jnp.full((4, 2), size)
        np.testing.assert_allclose(gdjax.unitwise_norm(x), 2 * size, rtol=1e-6)
    half = jnp.full((300, 1), 300.0, "float16")
    assert gdjax.unitwise_norm(half).dtype == jnp.float16
    np.testing.assert_allclose(np.float64(gdjax.unitwise_norm(half)), 300 * 300**0.5, rtol=2**-10)
    np.testing.assert_allclose(gdjax.unitwise_norm(jnp.array([3 + 4j, 0])), 5, rtol=1e-6)


def clipped(g, p, *args):
    tx = gdjax.adaptive_grad_clip(*args)
    return tx.update(g, tx.init(p), p)[0]


def test_zeros():
    g, p = jnp.zeros((3, 2)).at[0, 0].set(1.0), jnp.zeros((3, 2)).at[:, 1].set(2.0)
    np.testing.assert_allclose(clipped(g, p, 0.1), [[1e-4, 0], [0, 0], [0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(clipped(g, p, 0.1, 0.0), 0)
    np.testing.assert_array_equal(clipped(g, p, 0.0), 0)
    np.testing.assert_allclose(clipped(jnp.array(2.0), jnp.array(-3.0), 0.1), 0.3, rtol=1e-6)
    slopes = jax.grad(lambda g, p: jnp.sum(clipped(g, p, 0.1)), (0, 1))(jnp.zeros((3, 2)), jnp.zeros((3, 2)))
    assert np.isfinite(slopes).all()


def test_small_gradients_are_clipped_to_the_bound_too():
    got = clipped(jnp.full(4, 2e-7), jnp.zeros(4), 1e-4)  # of norm 4e-7; the bound is 1e-7
    np.testing.assert_allclose(got, 5e-8, rtol=1e-5)


def test_unitwise_clip():
    g = jnp.array([[3.0, 0.3], [4.0, 0.4]])
    got = gdjax.transforms.unitwise_clip(gdjax.unitwise_norm(g), jnp.ones((2, 2)), g)
    np.testing.assert_allclose(got, [[0.6, 0.3], [0.8, 0.4]], rtol=1e-6)
    tiny = jnp.full((1,), 1e-8)
    np.testing.assert_allclose(gdjax.unitwise_clip(tiny, tiny, tiny), 1e-10, rtol=1e-5)  # div_eps


@pytest.mark.parametrize("call, message", [
    (lambda: gdjax.unitwise_norm(jnp.ones((2,) * 6)), r"gdjax.unitwise_norm: x has shape \(2, 2, 2, 2, 2, 2\); give"),
    (lambda: gdjax.unitwise_norm(jnp.ones((2, 2)), 2), "gdjax.unitwise_norm: .* axis 2 does not name"),
    (lambda: gdjax.unitwise_norm(jnp.ones((2, 2)), (0, -2)), r"gdjax.unitwise_norm: .* axis \(0, -2\) does not name"),
    (lambda: gdjax.unitwise_clip(jnp.ones(2), jnp.ones(2), jnp.ones(3)), r"gdjax.unitwise_clip: grad has shape \(3,\)"),
    (lambda: gdjax.adaptive_grad_clip(-0.1), "gdjax.adaptive_grad_clip: clipping must be finite and at least 0"),
    (lambda: gdjax.adaptive_grad_clip(0.1).update(jnp.ones(2), gdjax.EmptyState()), "gdjax.adaptive_grad_clip: this "
     "transform needs params"),
    (lambda: gdjax.centralize(output_axis=2).update(jnp.ones((2, 2)), gdjax.EmptyState()), "gdjax.centralize: .*"
     "output_axis 2 does not name"),
])  # fmt: skip
def test_errors(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.parametrize("output_axis, axes", [(0, (1, 2)), (-1, (0, 1)), (1, (0, 2))])
def test_centralize(output_axis, axes):
    grads = {"w": RNG.normal(size=(2, 3, 4)).astype("float32"), "b": np.ones(3, "float32"), "s": np.float32(2)}
    got = gdjax.centralize(output_axis=output_axis).update(grads, gdjax.EmptyState())[0]
    want = np.float64(grads["w"])
    np.testing.assert_allclose(got["w"], want - want.mean(axes, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got["b"], grads["b"])
    assert got["s"] == 2
