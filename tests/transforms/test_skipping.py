"""The skip functions of MultiSteps."""

import jax.numpy as jnp
import numpy as np

import gdjax

TREE = {"a": jnp.array([1.0, jnp.nan, jnp.inf]), "b": jnp.array(-jnp.inf, jnp.bfloat16), "n": None}


def test_not_finite():
    skip, info = gdjax.skip_not_finite(TREE, 0, None)
    assert bool(skip) and bool(info["should_skip"]) and int(info["num_not_finite"]) == 3
    skip, info = gdjax.skip_not_finite({"a": jnp.ones(3)}, 0, None)
    assert not skip and int(info["num_not_finite"]) == 0
    skip, info = gdjax.skip_not_finite({}, 0, None)
    assert not skip and info["num_not_finite"].dtype == jnp.int32


def test_large():
    skip, info = gdjax.skip_large_updates({"a": jnp.full(300, 1.0, jnp.bfloat16)}, 0, None, 300.5)
    assert not skip and float(info["norm_squared"]) == 300 and info["norm_squared"].dtype == jnp.float32
    assert gdjax.skip_large_updates({"a": jnp.full(300, 1.0)}, 0, None, 300.0)[0]  # not below
    for x in (np.nan, 1e30, np.inf):
        assert gdjax.skip_large_updates({"a": jnp.array([x])}, 0, None, 1e38)[0]
