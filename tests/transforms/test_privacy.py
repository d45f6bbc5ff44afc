"""Gradients of single examples, clipped, summed and with noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

RNG = np.random.default_rng(0)
GRADS = {"w": RNG.normal(size=(6, 3, 2)).astype("float32"), "b": RNG.normal(size=(6,)).astype("float32")}


def by_hand(grads, bound):
    norms = np.sqrt(sum(np.sum(np.float64(g).reshape(6, -1) ** 2, 1) for g in grads.values()))
    factors = np.minimum(1, bound / norms)
    return {k: np.einsum("i,i...->...", factors, np.float64(g)) for k, g in grads.items()}, int(np.sum(factors < 1))


@pytest.mark.parametrize("bound", [0.0, 2.0, 2.6, np.inf])
def test_global(bound):
    got, clipped = gdjax.per_example_global_norm_clip(GRADS, bound)
    want, count = by_hand(GRADS, bound)
    for k in GRADS:
        np.testing.assert_allclose(got[k], want[k], rtol=1e-5, atol=1e-6)
    assert clipped == count and clipped.dtype == jnp.int32


@pytest.mark.parametrize("uniform", [True, False])
def test_layers(uniform):
    got, clipped = gdjax.per_example_layer_norm_clip(GRADS, 2.0, uniform)
    for k, share in (("w", 1 / 2 if uniform else 6 / 7), ("b", 1 / 2 if uniform else 1 / 7)):
        want, count = by_hand({k: GRADS[k]}, 2.0 * share**0.5)
        np.testing.assert_allclose(got[k], want[k], rtol=1e-5, atol=1e-6)
        assert clipped[k] == count


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_one_example_moves_the_sum_by_no_more_than_the_bound(bad):
    grads = {k: g.copy() for k, g in GRADS.items()}
    grads["w"][2] = bad
    got, clipped = gdjax.per_example_global_norm_clip(grads, 1.0)
    rest, _ = gdjax.per_example_global_norm_clip({k: np.delete(g, 2, 0) for k, g in GRADS.items()}, 1.0)
    assert clipped == 6
    for k in GRADS:
        np.testing.assert_allclose(got[k], rest[k], rtol=1e-5, atol=1e-6)


def test_zero_examples_and_16_bits():
    got, clipped = gdjax.per_example_global_norm_clip([jnp.zeros((3, 2))], 0.0)
    assert clipped == 0 and (got[0] == 0).all()
    got, _ = gdjax.per_example_global_norm_clip([jnp.ones((4096, 1), "bfloat16")], 1.0)
    assert (got[0].dtype, float(got[0][0])) == (jnp.bfloat16, 4096)  # a sum in bfloat16 stalls at 256
    slope = jax.grad(lambda g: jnp.sum(gdjax.per_example_global_norm_clip([g], 1.0)[0][0]))(jnp.zeros((3, 2)))
    assert np.isfinite(slope).all()


def test_aggregate_without_noise_is_the_mean_of_the_clipped():
    tx = gdjax.differentially_private_aggregate(2.0, 0.0, 0)
    got, state = tx.update(GRADS, tx.init({}), {"w": jnp.ones((3, 2)), "b": jnp.ones(())})
    for k, want in by_hand(GRADS, 2.0)[0].items():
        np.testing.assert_allclose(got[k], want / 6, rtol=1e-5, atol=1e-6)
    assert (state.rng_key != tx.init({}).rng_key).all()


def test_the_noise():
    tx = gdjax.differentially_private_aggregate(0.5, 3.0, key=1)
    zero = jnp.zeros((4, 200, 100))
    state = tx.init(zero[0])
    first, state = tx.update(zero, state)
    second, _ = tx.update(zero, state)
    assert abs(np.std(first) - 0.5 * 3 / 4) < 0.01 and abs(np.mean(first)) < 0.01
    assert abs(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1]) < 0.03
    np.testing.assert_array_equal(tx.update(zero, tx.init(zero[0]))[0], first)


def test_integers_are_left_alone():
    tx = gdjax.differentially_private_aggregate(1.0, 0.0, 0)
    grads = {"w": jnp.ones((2, 3)), "n": np.zeros((2, 3), jax.dtypes.float0)}
    got = tx.update(grads, tx.init({}), {"w": jnp.ones(3), "n": jnp.arange(3)})[0]
    assert (got["n"].shape, got["n"].dtype) == ((3,), jax.dtypes.float0)


def aggregate(grads, params):
    tx = gdjax.differentially_private_aggregate(1.0, 1.0, 0)
    return tx.update(grads, tx.init(params), params)


@pytest.mark.parametrize("call, message", [
    (lambda: gdjax.differentially_private_aggregate(1.0, 1.0), "gdjax.differentially_private_aggregate: key is None"),
    (lambda: gdjax.differentially_private_aggregate(1.0, 1.0, 0, seed=1), "gdjax.*: give key or seed, not both"),
    (lambda: gdjax.differentially_private_aggregate(-1.0, 1.0, 0), "gdjax.*: l2_norm_clip must be finite and at least"),
    (lambda: aggregate({"w": jnp.ones((4, 3))}, {"w": jnp.ones((4, 3))}), r"gdjax.*: params\['w'\]: gradients of shape "
     r"\(4, 3\), with the examples along axis 0, do not match parameter shape \(4, 3\)"),
    (lambda: gdjax.per_example_global_norm_clip({"a": jnp.ones((4, 3)), "b": jnp.ones((3,))}, 1.0),
     r"gdjax.per_example_global_norm_clip: grads\['b'\]: shape \(3,\) has 3 examples in axis 0, the leaf before it 4"),
    (lambda: gdjax.per_example_layer_norm_clip({"a": jnp.ones(())}, 1.0), r"gdjax.*: grads\['a'\]: shape \(\) has no"),
])  # fmt: skip
def test_errors(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
