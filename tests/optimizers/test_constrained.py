"""`constrained`: one step by hand, a saddle point that only optimism finds, the minimum under constraints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def tree(x, equality=None, inequality=None):
    return {"x": x, "multipliers": {"equality": equality, "inequality": inequality}}


def test_a_step_by_hand():
    """The second multiplier of the inequalities would become negative."""
    tx = gdjax.constrained(gdjax.sgd(0.1), gdjax.sgd(0.5))
    params = tree(jnp.array([1.0, 2.0]), jnp.array([0.5]), jnp.array([0.5, 0.5]))
    # The gradient of the Lagrangian by its multipliers is -h and -g.
    grads = tree(jnp.array([10.0, -10.0]), jnp.array([-3.0]), jnp.array([0.5, -4.0]))
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["x"], [-1, 1], rtol=1e-6)
    np.testing.assert_allclose(updates["multipliers"]["equality"], [-1.5], rtol=1e-6)
    np.testing.assert_allclose(updates["multipliers"]["inequality"], [0.25, -0.5], rtol=1e-6)


def test_optimism_finds_the_saddle_point_of_a_linear_problem():
    game = gdjax.lagrangian(lambda x: x, equality=lambda x: x)

    def distance(optimism):
        tx = gdjax.constrained(gdjax.sgd(0.1), gdjax.sgd(0.1), optimism)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(game.loss)(params), state, params)
            return (gdjax.apply_updates(params, updates), state), None

        start = game.init(jnp.float32(1.0))
        (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=600)
        return float(jnp.hypot(params["x"], params["multipliers"]["equality"] - 1))

    assert distance(1.0) < 0.1 < 5 < distance(0.0)


@pytest.mark.parametrize("params", [jnp.ones(2), {"x": 1.0}, {"x": 1.0, "multipliers": {"equalities": 1.0}}])
def test_another_tree_is_refused(params):
    with pytest.raises(ValueError, match="gdjax.constrained: the parameters must be"):
        gdjax.constrained(gdjax.sgd(0.1), gdjax.sgd(0.1)).init(params)


def test_what_is_no_transform_is_refused():
    with pytest.raises(TypeError, match="gdjax.constrained: argument dual_tx"):
        gdjax.constrained(gdjax.sgd(0.1), 0.1)
