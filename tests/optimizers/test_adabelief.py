"""AdaBelief."""

import jax.numpy as jnp
import numpy as np

import gdjax


def test_belief_in_a_steady_gradient():
    # nu_t = (b1^t g)^2 (1 - b2) + ..., against Adam's g^2: where the gradient does not change the steps grow.
    g = jnp.ones(())
    sizes = []
    for tx in (gdjax.adabelief(0.1), gdjax.adam(0.1)):
        u, state = tx.update(g, tx.init(g))
        for _ in range(19):
            u, state = tx.update(g, state)
        sizes.append(float(u))
    assert sizes[0] < 2 * sizes[1] < 0


def test_decay_of_some_leaves_and_the_state_without():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    zeros = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    tx = gdjax.adabelief(0.1, weight_decay=0.5, weight_decay_mask={"w": True, "b": False})
    u, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(u["w"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(u["b"], 0)
    assert len(gdjax.adabelief(0.1).init(params)) == 2  # as in Optax 0.2.8, whose checkpoints have no decay
    assert len(tx.init(params)) == 3
