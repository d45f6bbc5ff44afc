"""ACProp as Optax and as the paper have it."""

import jax.numpy as jnp
import numpy as np

import gdjax


def test_the_papers_mean_makes_steps_longer_by_one_over_b1():
    g = [jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])]
    updates = []
    for new_mean in (False, True):
        tx = gdjax.scale_by_acprop(b1=0.5, eps=0.0, eps_root=0.0, new_mean=new_mean)
        state = tx.update(g[0], tx.init(g[0]))[1]
        updates.append(tx.update(g[1], state)[0])
    np.testing.assert_allclose(updates[1], 2 * updates[0], rtol=1e-6)


def test_zero_gradients_and_no_eps():
    tx, zero = gdjax.scale_by_acprop(eps=0.0, eps_root=0.0), jnp.zeros(2)
    state = tx.init(zero)
    for _ in range(2):
        u, state = tx.update(zero, state)
        assert u.tolist() == [0, 0]
    assert tx.update(jnp.ones(2), state)[0].tolist() == [1, 1]  # nothing to divide by
