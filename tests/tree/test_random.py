"""Random trees: the draws of Optax, and 16-bit ones drawn in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdjax import tree
from tests.support import relaxed
from tests.trees import assert_equal, random_tree

SMALL = {"a": (3,), "b": [(3,)]}


def test_random_like_draws_standard_normals():
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


@pytest.mark.parametrize("sampler", [jax.random.normal, jax.random.uniform, lambda k, s, d: jax.random.gumbel(k, s, d)])
def test_random_like_draws_what_optax_does(sampler):
    key, like = jax.random.key(3), random_tree(0, shapes=SMALL)
    assert_equal(tree.random_like(key, like, sampler), optax.tree.random_like(key, like, sampler))
    assert_equal(
        tree.random_like(rng_key=key, target_tree=like, sampler=sampler, dtype=jnp.float32),
        optax.tree.random_like(key, random_tree(0, "bfloat16", SMALL), sampler, jnp.float32),
    )


def test_random_like_in_sixteen_bits_rounds_the_draws_of_float32():
    key, like = jax.random.key(3), random_tree(0, shapes=SMALL)
    wanted = jax.tree.map(lambda x: x.astype("bfloat16"), tree.random_like(key, like))
    assert_equal(tree.random_like(key, random_tree(0, "bfloat16", SMALL)), wanted)
    assert_equal(tree.random_like(key, like, dtype="bfloat16"), wanted)


def test_random_like_with_a_sampler_of_integers():
    key, like = jax.random.key(3), random_tree(0, shapes=SMALL)
    got = tree.random_like(key, like, jax.random.rademacher, jnp.int8)
    assert_equal(got, optax.tree.random_like(key, like, jax.random.rademacher, jnp.int8))
    assert {x.dtype for x in jax.tree.leaves(got)} == {np.dtype("int8")}


def test_random_like_leaves_float0():
    none = np.zeros((2,), jax.dtypes.float0)
    got = tree.random_like(jax.random.key(0), {"a": jnp.zeros(1), "b": none})
    assert got["b"] is none and got["a"].shape == (1,)


def test_split_key_like():
    key, like = jax.random.key(1), random_tree(0, shapes=SMALL)
    got = tree.split_key_like(key, like)
    with relaxed():
        assert_equal(got, optax.tree.split_key_like(key, like))
    data = [jax.random.key_data(k).tobytes() for k in jax.tree.leaves(got)]
    assert len(set(data)) == len(data) == len(jax.tree.leaves(like))
    assert tree.split_key_like(key, {}) == {}


def test_unwrap_random_key_data():
    key = jax.random.key(5)
    got = tree.unwrap_random_key_data({"key": key, "x": jnp.ones(2), "n": 3})
    np.testing.assert_array_equal(got["key"], jax.random.key_data(key))
    assert got["n"] == 3 and got["x"].dtype == jnp.float32
