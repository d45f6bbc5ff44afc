"""Finiteness and the branches of wrappers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.combine.conditional import all_finite, apply_or, as_before, owners, zeros
from tests.trees import assert_equal


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
@pytest.mark.parametrize("shape", [(), (7,), (256, 256)], ids=str)
def test_all_finite_misses_nothing(dtype: str, shape: tuple[int, ...]):
    check = jax.jit(all_finite)
    rng = np.random.default_rng(0)
    x = np.asarray(rng.normal(size=shape))
    good = jnp.ones(3)
    assert check({"a": jnp.asarray(x).astype(dtype), "b": good, "n": jnp.arange(2)})
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for at in {0, x.size // 3, x.size - 1}:
            y = x.copy().reshape(-1)
            y[at] = value
            bad = jnp.asarray(y.reshape(shape)).astype(dtype)
            assert not check({"a": bad, "b": good})
            assert not check({"a": good, "b": bad * jnp.asarray(1j, dtype) if dtype == "complex64" else bad})


def test_all_finite_of_nothing():
    for tree in ({}, {"n": jnp.arange(3)}, jnp.zeros((0, 2)), {"f": np.zeros(2, jax.dtypes.float0)}):
        assert all_finite(tree)
    assert not all_finite([1.0, float("nan")])


def test_the_state_keeps_its_structure_and_dtypes():
    old = {"a": (jnp.zeros(2, jnp.bfloat16), jnp.int32(0))}
    got = as_before([jnp.ones(2), jnp.int32(1)], old)
    assert_equal(got, {"a": (jnp.ones(2, jnp.bfloat16), jnp.int32(1))})
    assert got["a"][0].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="returned a state of 1 arrays"):
        as_before([jnp.ones(2)], old)


def test_one_of_two():
    for chosen in (True, False):
        u, s = apply_or(jnp.asarray(chosen), lambda s: (jnp.ones(2), s + 1), lambda: jnp.zeros(2), jnp.float32(3))
        assert u.tolist() == [chosen, chosen] and float(s) == 3 + chosen
    float0 = np.zeros(2, jax.dtypes.float0)
    assert zeros({"f": float0})["f"] is float0


def test_arrays_of_a_state_go_with_the_parameters_that_their_slots_name():
    params = {"a": jnp.ones(2), "b": jnp.ones(2), "m": jnp.ones((2, 3))}
    for scale_by_adam in (gdjax.scale_by_adam, optax.scale_by_adam):
        tx = gdjax.masked(scale_by_adam(), {"a": False, "b": True, "m": False})
        assert owners(tx, tx.init(params), params) == {0: [], 1: [1, 2], 2: [], (): [0]}  # not "a", of the same shape
    tx = gdjax.scale_by_factored_rms(min_dim_size_to_factor=2)
    state = tx.init(params)
    sizes = {k: [jnp.shape(jax.tree.leaves(state)[i]) for i in mine] for k, mine in owners(tx, state, params).items()}
    # The rows of "m" have the shape of "a", and do not go with it.
    assert sizes == {0: [(2,)], 1: [(2,)], 2: [], (): [()], (1,): [(1,)] * 5, (2,): [(2,)], (3,): [(3,)]}
