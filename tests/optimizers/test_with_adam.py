"""What the optimizers for matrices share: their direction for matrices, AdamW for the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.optimizers.with_adam import with_adam

PARAMS = {"up": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}, "embed": jnp.ones((5, 2))}
GRADS = jax.tree.map(lambda p: 0.5 * p - 1, PARAMS)


def made(**changes):
    given = dict(
        weight_decay=0.1, weight_decay_mask=None, adam_learning_rate=0.02, adam_b1=0.8, adam_b2=0.9, adam_eps=1e-6,
        adam_weight_decay=0.3, mu_dtype=None, others=None,
    )  # fmt: skip
    given |= {"learning_rate": 0.5, "roles": None}
    return with_adam("gdjax.muon", gdjax.scale_by_sign, given | changes)


def first(tx, leaf):
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    return updates[leaf]


def test_matrices_get_the_direction_the_decay_and_the_rate():
    p, g = PARAMS["up"]["kernel"], GRADS["up"]["kernel"]
    np.testing.assert_allclose(first(made(), "up")["kernel"], -0.5 * (np.sign(g) + 0.1 * p), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.02, None])
def test_the_rest_gets_adamw(rate):
    adam = gdjax.adamw(0.5 if rate is None else rate, 0.8, 0.9, 1e-6, weight_decay=0.3)
    rest = {"bias": PARAMS["up"]["bias"], "embed": PARAMS["embed"]}
    grads = {"bias": GRADS["up"]["bias"], "embed": GRADS["embed"]}
    want, _ = adam.update(grads, adam.init(rest), rest)
    tx = made(adam_learning_rate=rate)
    np.testing.assert_allclose(first(tx, "embed"), want["embed"], rtol=1e-6)
    np.testing.assert_allclose(first(tx, "up")["bias"], want["bias"], rtol=1e-6)


def test_or_another_transform():
    np.testing.assert_allclose(first(made(others=gdjax.sgd(0.25)), "embed"), -0.25 * GRADS["embed"], rtol=1e-6)


@pytest.mark.parametrize("name", "normuon dion dion2 scion soap shampoo kl_shampoo kl_soap soap_muon psgd_kron".split())
def test_errors_name_the_optimizer_that_was_called(name):
    tx, params = getattr(gdjax, name)(0.1), {"up": {"kernel": jnp.ones((4, 6))}}
    with pytest.raises(ValueError, match=rf"^gdjax\.{name}: params\['up'\]\['kernel'\]: gradient shape"):
        tx.update({"up": {"kernel": jnp.ones((4, 5))}}, tx.init(params), params)


@pytest.mark.parametrize("name", "soap shampoo soap_muon psgd_kron".split())
def test_the_direction_has_the_roles_of_the_optimizer(name):
    """By default a joined q, k, v is three matrices, and a pattern of paths says what else is one."""
    params = {"attn": {"c_attn": {"kernel": jnp.ones((4, 12))}}}
    state = getattr(gdjax, name)(0.1).init(params)
    assert {stack: x.shape[0] for stack, x in gdjax.tree.get(state, "L").items()} == {"4x4": 3}
    tx = getattr(gdjax, f"scale_by_{name}")(roles={"w$": "matrix"})
    assert list(tx.init({"w": jnp.ones((3, 4))}).L) == ["3x4"]
