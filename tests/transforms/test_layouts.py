"""flatten, and transforms that know no extra arguments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests.trees import assert_close, assert_equal, random_tree, signature, steps

PARAMS = random_tree(0)
GRADIENTS = [random_tree(seed) for seed in range(1, 4)]


def test_flat_is_the_same_for_methods_of_elements_and_norms():
    tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(0.1))
    assert_close(steps(gdjax.flatten(tx), PARAMS, GRADIENTS)[0], steps(tx, PARAMS, GRADIENTS)[0])


def test_the_inner_transform_sees_one_vector():
    seen = []

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        seen.append((updates.shape, params.shape, sorted(extra_args)))
        return jnp.arange(updates.size, dtype=updates.dtype), state

    tx = gdjax.flatten(gdjax.GradientTransformation(lambda params: params, update))
    state = tx.init({"a": jnp.ones((2, 2)), "b": jnp.float32(5)})
    np.testing.assert_array_equal(state, [1, 1, 1, 1, 5])
    updates, _ = tx.update({"a": jnp.ones((2, 2)), "b": jnp.ones(())}, state, {"a": jnp.ones((2, 2)), "b": 0.0}, x=1)
    assert seen[-1] == ((5,), (5,), ["x"])
    assert_equal(updates, {"a": jnp.array([[0.0, 1.0], [2.0, 3.0]]), "b": jnp.float32(4)})


def test_leaves_of_several_dtypes_and_integers():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2), "n": jnp.arange(3)}
    g = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2), "n": np.zeros(3, jax.dtypes.float0)}
    tx = gdjax.flatten(gdjax.adam(0.1))
    state = tx.init(params)
    updates, new = tx.update(g, state, params)
    assert [updates[k].dtype.name for k in "ab"] == ["bfloat16", "float32"]
    assert updates["n"].dtype == jax.dtypes.float0 and new[0].mu.shape == (4,)
    assert signature(new) == signature(state)


def test_errors_name_the_leaf():
    tx = gdjax.flatten(gdjax.sgd(0.1))
    with pytest.raises(TypeError, match=r"gdjax.flatten: params\['n'\]: gradient has dtype int32"):
        tx.update({"n": jnp.arange(2)}, tx.init({"n": jnp.ones(2)}), {"n": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"gdjax.flatten: params\['b'\] has no counterpart"):
        tx.update({"a": jnp.ones(2)}, tx.init({"a": jnp.ones(2)}), {"a": jnp.ones(2), "b": jnp.ones(2)})


def test_extra_arguments_are_kept_from_those_that_take_none():
    old = optax.GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, state))
    tx = gdjax.with_extra_args_support(old)
    assert isinstance(tx, gdjax.GradientTransformationExtraArgs)
    assert_equal(tx.update(PARAMS, tx.init(PARAMS), PARAMS, loss=1.0)[0], PARAMS)
    assert gdjax.with_extra_args_support(old) == tx
    ours = gdjax.adam(0.1)
    assert gdjax.with_extra_args_support(ours) is ours
    with pytest.raises(TypeError, match="gdjax.with_extra_args_support: argument 0 is 3"):
        gdjax.with_extra_args_support(3)
