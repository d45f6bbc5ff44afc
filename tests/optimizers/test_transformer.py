"""The recipe for a transformer is the chain that its docstring says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

STEPS, WARMUP = 20, 4


def block(key):
    up, down = jax.random.split(key)
    return {
        "norm": {"scale": jnp.ones(4)},
        "up": {"kernel": jax.random.normal(up, (4, 8)), "bias": jnp.zeros(8)},
        "down": {"kernel": jax.random.normal(down, (8, 4))},
    }


PARAMS = {
    "embed": {"embedding": jax.random.normal(jax.random.key(0), (6, 4))},
    "blocks": [block(jax.random.key(i)) for i in (1, 2)],
    "lm_head": {"kernel": jax.random.normal(jax.random.key(3), (4, 6))},
}


def run(tx, params=PARAMS, steps=6):
    state = tx.init(params)
    for t in range(steps):
        keys = iter(jax.random.split(jax.random.key(t), 100))
        grads = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape) + p, params)  # noqa: B023
        updates, state = jax.jit(tx.update)(grads, state, params)
        params = gdjax.apply_updates(params, updates)
    return params


def by_hand(hyperball=None):
    def rate(peak):
        return lambda count: (
            peak
            * jnp.where(
                count < WARMUP, (count / WARMUP) * (1 - 1 / WARMUP) + 1 / WARMUP, (STEPS - count) / (STEPS - WARMUP)
            )
        )

    decay = [] if hyperball else [gdjax.add_decayed_weights(0.1, cautious=True)]
    numbers = gdjax.matrices_by_role()
    matrices = gdjax.chain(gdjax.scale_by_normuon(roles=numbers), *decay, gdjax.scale_by_learning_rate(rate(0.02)))
    groups = {"matrix": matrices, "rest": gdjax.adam(rate(0.01), 0.9, 0.95)}
    tx = gdjax.partition(groups, gdjax.label_by_role(only=["matrix"], rest="rest"))
    return gdjax.hyperball(tx, rate(hyperball)) if hyperball else tx


@pytest.mark.full
@pytest.mark.parametrize("hyperball", [None, 0.1])
def test_is_the_chain_of_the_docstring(hyperball):
    tx = gdjax.transformer_optimizer(
        0.02, STEPS, adam_learning_rate=0.01, warmup_steps=WARMUP, hyperball_learning_rate=hyperball
    )
    for ours, want in zip(*map(jax.tree.leaves, (run(tx), run(by_hand(hyperball)))), strict=True):
        np.testing.assert_allclose(ours, want, rtol=2e-5, atol=1e-6)


def test_matrices_decay_with_care_and_nothing_else_does():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    tx = gdjax.transformer_optimizer(0.02, STEPS, weight_decay=0.5)
    updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
    kernel = PARAMS["blocks"][0]["up"]["kernel"]
    np.testing.assert_allclose(updates["blocks"][0]["up"]["kernel"], -0.02 * 0.5 * kernel, rtol=1e-5)
    assert not any(jnp.any(x) for x in jax.tree.leaves((updates["embed"], updates["lm_head"])))


@pytest.mark.full
def test_the_norms_stay_on_the_ball():
    new = run(gdjax.transformer_optimizer(0.02, STEPS, hyperball_learning_rate=0.1))
    for i in (0, 1):
        norms = [jnp.linalg.norm(tree["blocks"][i]["up"]["kernel"]) for tree in (new, PARAMS)]
        np.testing.assert_allclose(*norms, rtol=1e-6)


@pytest.mark.full
def test_the_rate_ends_at_zero():
    tx = gdjax.transformer_optimizer(0.02, 5)
    ended, longer = run(tx, steps=5), run(tx, steps=7)
    jax.tree.map(np.testing.assert_array_equal, ended, longer)


@pytest.mark.full
def test_roles_are_shown():
    text = str(gdjax.explain(gdjax.transformer_optimizer(0.02, STEPS), PARAMS))
    assert "matrix 4 x 8" in text and "embedding" in text and "head" in text


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 5, "warmup_steps": 5}, {"steps": 5, "warmup_steps": 0}])
def test_errors(wrong):
    with pytest.raises(ValueError, match="gdjax.transformer_optimizer: "):
        gdjax.transformer_optimizer(0.02, **wrong)
    with pytest.raises(TypeError, match="gdjax.transformer_optimizer: steps must be an int"):
        gdjax.transformer_optimizer(0.02, 2.5)
    with pytest.raises(TypeError, match="gdjax.transformer_optimizer: a rate is a number"):
        gdjax.transformer_optimizer(gdjax.constant_schedule(0.02), 5)
