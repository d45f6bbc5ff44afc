"""NAdam and NAdamW."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


@pytest.mark.parametrize("make", [gdjax.nadam, gdjax.nadamw])
def test_the_decay_of_the_momentum(make):
    with pytest.raises(
        ValueError, match=rf"^gdjax\.{make.__name__}: momentum_decay is of Nesterov's momentum, and nest"
    ):
        make(0.1, nesterov=False, like="torch")
    want = oracles.run(make(0.1, like="torch"))
    jax.tree.map(np.testing.assert_array_equal, oracles.run(make(0.1, momentum_decay=0.004)), want)
    constant = oracles.run(make(0.1, momentum_decay=None, like="torch"))
    jax.tree.map(np.testing.assert_array_equal, constant, oracles.run(make(0.1)))


def test_the_state_of_a_growing_b1():
    params = {"w": jnp.ones(3, "bfloat16"), "b": jnp.ones(())}
    state = gdjax.nadam(0.1, mu_dtype="float16", like="torch").init(params)[0]
    assert isinstance(state, gdjax.ScaleByNadamState) and state.b1_product.dtype == jnp.float32
    assert (state.mu["w"].dtype, state.nu["w"].dtype) == (jnp.float16, jnp.float32)
    # After many steps the product is 0, and the mean is that of Adam with Nesterov's momentum.
    late = state._replace(b1_product=jnp.zeros(()), count=jnp.int32(10**6))
    tx = gdjax.nadam(0.1, like="torch")
    g = jax.tree.map(jnp.ones_like, params)
    u, _ = tx.update(g, (late, gdjax.EmptyState()))
    v, _ = gdjax.nadam(0.1).update(g, (gdjax.ScaleByAdamState(*late[:3]), gdjax.EmptyState()))
    np.testing.assert_allclose(u["b"], v["b"], rtol=1e-6)


@pytest.mark.parametrize(("nadam", "adam"), [(gdjax.nadam, gdjax.adam), (gdjax.nadamw, gdjax.adamw)])
def test_nadam_is_adam_with_nesterov_momentum(nadam, adam):
    assert_equal = functools.partial(np.testing.assert_array_equal)
    jax.tree.map(assert_equal, oracles.run(nadam(0.01, 0.8)), oracles.run(adam(0.01, 0.8, nesterov=True)))
