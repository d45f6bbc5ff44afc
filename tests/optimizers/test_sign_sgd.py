"""Sign descent and Signum."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def test_signs():
    u, _ = gdjax.scale_by_sign().update(jnp.array([-3.0, 0.0, 1e-30]), gdjax.EmptyState())
    np.testing.assert_array_equal(u, [-1, 0, 1])
    u, _ = gdjax.scale_by_sign().update(jnp.array([3 + 4j, 0]), gdjax.EmptyState())
    np.testing.assert_allclose(u, [0.6 + 0.8j, 0], rtol=1e-6)


def test_beta_is_checked():
    with pytest.raises(ValueError, match=r"^gdjax.signum: beta must be in \[0, 1\).* got 1.0"):
        gdjax.signum(0.1, 1.0)
