"""Functions of trees."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import tree
from tests.trees import precision, random_tree


def exact_norm(leaves) -> float:
    return math.sqrt(math.fsum(float(abs(x)) ** 2 for leaf in leaves for x in np.asarray(leaf).ravel()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_global_norm(dtype: str):
    with precision(dtype):
        x = random_tree(0, dtype)
        wanted = exact_norm(np.asarray(leaf).astype("complex128") for leaf in jax.tree.leaves(x))
        got = gdjax.global_norm(x)
        assert got.dtype == (jnp.float64 if dtype == "float64" else jnp.float32) and got.shape == ()
        np.testing.assert_allclose(float(got), wanted, rtol=1e-6 if dtype != "float64" else 1e-14)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e-13, 1e-12, 1.0, 1e12, 1e18, 1e20, 1e30, 1e37])
def test_global_norm_neither_overflows_nor_vanishes(scale: float):
    x = {"a": jnp.asarray([3.0 * scale, 0.0], "float32"), "b": jnp.asarray(4.0 * scale, "float32")}
    np.testing.assert_allclose(gdjax.global_norm(x), 5 * scale, rtol=1e-6)


def test_global_norm_of_sixteen_bit_extremes():
    np.testing.assert_allclose(gdjax.global_norm(jnp.full((4,), 65504, "float16")), 2 * 65504.0)
    np.testing.assert_allclose(gdjax.global_norm(jnp.full((4,), 6e-8, "float16")), 2 * float(jnp.float16(6e-8)))


def test_global_norm_of_many_leaves_does_not_stall():
    # A sum in bfloat16 stops at 256.
    leaves = [jnp.ones((), "bfloat16")] * 300
    np.testing.assert_allclose(gdjax.global_norm(leaves), math.sqrt(300), rtol=1e-6)


@pytest.mark.slow
def test_global_norm_of_a_million_ones():
    np.testing.assert_allclose(gdjax.global_norm(jnp.ones((10**6,), "bfloat16")), 1e3, rtol=1e-6)


def test_global_norm_of_nothing():
    for empty in ({}, [], {"a": None}, {"a": jnp.zeros((0, 3))}):
        got = gdjax.global_norm(empty)
        assert got == 0 and got.dtype == jnp.float32


def test_global_norm_of_what_is_not_finite():
    assert np.isnan(gdjax.global_norm([jnp.ones(2), jnp.array([1.0, jnp.nan])]))
    assert np.isposinf(gdjax.global_norm([jnp.ones(2), jnp.array([1.0, -jnp.inf])]))


def test_global_norm_of_numbers():
    np.testing.assert_allclose(gdjax.global_norm({"a": 3.0, "b": np.float32(4.0)}), 5)


def test_derivative_of_global_norm():
    slope = jax.grad(gdjax.global_norm)
    np.testing.assert_allclose(slope(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(slope(jnp.zeros(3)), [0, 0, 0])
    np.testing.assert_allclose(slope(jnp.array([3e25, 4e25])), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(gdjax.global_norm)(jnp.array([3e-25, 4e-25])), [0.6, 0.8], rtol=1e-6)


def test_global_norm_does_not_depend_on_the_order():
    leaves = jax.tree.leaves(random_tree(0)) * 5
    np.testing.assert_allclose(gdjax.global_norm(leaves), gdjax.global_norm(leaves[::-1]), rtol=2e-7)


def test_global_norm_under_vmap():
    x = random_tree(0, lead=(3,))
    many = jax.vmap(gdjax.global_norm)(x)
    np.testing.assert_allclose(
        many, [gdjax.global_norm(jax.tree.map(lambda a, i=i: a[i], x)) for i in range(3)], rtol=1e-6
    )


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 100])
def test_pairwise_sum(n: int):
    x = jnp.arange(1.0, n + 1)
    assert tree.pairwise_sum(x) == n * (n + 1) / 2
    assert tree.pairwise_sum(x).shape == ()


def test_random_like():
    key = jax.random.key(0)
    like = {"a": jnp.zeros((1000,)), "b": jnp.zeros((1000,), "bfloat16"), "c": jnp.zeros((1000,), "complex64")}
    got = tree.random_like(key, like)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), got) == jax.tree.map(lambda x: (x.shape, x.dtype), like)
    for x in jax.tree.leaves(got):
        x = np.asarray(x).astype("complex64")
        assert abs(np.mean(x)) < 0.15 and abs(np.mean(np.abs(x) ** 2) - 1) < 0.15
    assert abs(np.corrcoef(np.asarray(got["a"]), np.asarray(got["b"]).astype("float32"))[0, 1]) < 0.1
    np.testing.assert_array_equal(tree.random_like(key, like)["a"], got["a"])
    assert (tree.random_like(key, like["a"], jax.random.uniform) >= 0).all()
    assert tree.random_like(key, {}) == {}
