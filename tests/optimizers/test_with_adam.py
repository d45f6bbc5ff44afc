"""What the optimizers for matrices share: their direction for matrices, AdamW for the rest."""

import dataclasses
import inspect
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core import base
from gdjax.leaf_roles.plan import routing
from gdjax.lift.rule import Leafwise
from gdjax.optimizers.with_adam import with_adam
from gdjax.transforms.decay import descending

PARAMS = {"up": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}, "embed": jnp.ones((5, 2))}
GRADS = jax.tree.map(lambda p: 0.5 * p - 1, PARAMS)


def made(adam_learning_rate=0.02, others=None):
    return with_adam(
        "gdjax.muon", gdjax.scale_by_sign(), 0.5, 0.1, None, None, others, adam_learning_rate, b1=0.8, b2=0.9, eps=1e-6
    )


def first(tx, leaf):
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    return updates[leaf]


def test_matrices_get_the_direction_the_decay_and_the_rate():
    p, g = PARAMS["up"]["kernel"], GRADS["up"]["kernel"]
    np.testing.assert_allclose(first(made(), "up")["kernel"], -0.5 * (np.sign(g) + 0.1 * p), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.02, None])
def test_the_rest_gets_adamw(rate):
    adam = gdjax.adamw(0.5 if rate is None else rate, 0.8, 0.9, 1e-6, weight_decay=0.0)
    rest = {"bias": PARAMS["up"]["bias"], "embed": PARAMS["embed"]}
    grads = {"bias": GRADS["up"]["bias"], "embed": GRADS["embed"]}
    want, _ = adam.update(grads, adam.init(rest), rest)
    tx = made(adam_learning_rate=rate)
    np.testing.assert_allclose(first(tx, "embed"), want["embed"], rtol=1e-6)
    np.testing.assert_allclose(first(tx, "up")["bias"], want["bias"], rtol=1e-6)


def test_or_another_transform():
    np.testing.assert_allclose(first(made(others=gdjax.sgd(0.25)), "embed"), -0.25 * GRADS["embed"], rtol=1e-6)


# For some arguments of these optimizers another value than the default, which each of them takes.
OTHER = {
    "precondition_frequency": 3, "max_precond_dim": 5, "block_size": 2, "sides": "short", "refresh": "eigh",
    "init_factor": 0.3, "ns_coeffs": "cans", "ns_steps": 4, "preconditioning": "spectral", "equilibrate": "both",
    "renormalize": "outputs", "ns_dtype": "float16", "start_preconditioning_step": 2, "root": 3, "root_method": "qr",
    "grafting": "sgd", "dQ": "QUAD", "max_size_triangular": 3, "memory_save_mode": "one_diag", "max_update_rms": 2.0,
    "precond_init_scale": 2.0, "key": 5, "preconditioner_update_probability": 0.5, "rank": 2, "update_proj_gap": 3,
    "scale": 2.0, "scale_type": "tensor", "norm_growth": 2.0, "fraction": 0.5, "rank_fraction": 0.5,
    "mu_dtype": "float16", "roles": {"up": "matrix"}, "neurons": "longer",
}  # fmt: skip
WITH_DIRECTION = "soap kl_soap soap_muon shampoo kl_shampoo psgd_kron normuon dion dion2 apollo".split()
# Where their AdamW differs from `adamw`, but for its decay of 0.
ADAM = {"soap": {"b1": 0.95, "b2": 0.95}, "apollo": {"eps": 1e-6}}
ADAM |= dict.fromkeys(("normuon", "dion", "dion2"), {"b2": 0.95})


def rules(tx):
    """The rules in a transform in their order, each with what it was made with."""
    part = base.part_of(tx)
    if isinstance(part, Leafwise):
        fields = [getattr(part, field.name) for field in dataclasses.fields(part)]
        return [(part.rule, [dict(x) for x in fields if isinstance(x, Mapping)])]
    return [rule for inside in (part.inside() if part else ()) for rule in rules(inside.tx)]


def composed(optimizer, given):
    """The same of the direction, AdamW, and what is around them, each with the arguments that it is to get."""
    scale_by = getattr(gdjax, f"scale_by_{optimizer}")
    own = {name: x for name, x in given.items() if name in inspect.signature(scale_by).parameters}
    matrices = descending(
        scale_by(**own | {"roles": routing(given["roles"])}), given["learning_rate"], given["weight_decay"],
        given["weight_decay_mask"],
    )  # fmt: skip
    rate = given["learning_rate"] if given["adam_learning_rate"] is None else given["adam_learning_rate"]
    adam = gdjax.adamw(rate, **ADAM.get(optimizer, {}), mu_dtype=given.get("mu_dtype"), weight_decay=0.0)
    return [*rules(matrices), *rules(adam)]


@pytest.mark.parametrize(
    "name", "soap kl_soap soap_muon shampoo kl_shampoo psgd_kron normuon dion dion2 apollo".split()
)
def test_each_argument_goes_where_its_name_says(name):
    optimizer = getattr(gdjax, name)
    defaults = {k: p.default for k, p in inspect.signature(optimizer).parameters.items()} | {"learning_rate": 0.1}
    for argument, default in defaults.items():
        value = OTHER.get(argument, not default if isinstance(default, bool) else 0.3)
        if argument not in ("weight_decay_mask", "others"):
            given = rules(optimizer(**defaults | {argument: value}))
            wanted = composed(name, defaults | {argument: value})
            if name == "soap_muon":  # which multiplies its direction by a factor besides
                assert [xs.pop("by_shape") for xs in given[0][1] if "by_shape" in xs] == [True]
                assert [xs.pop("by_shape") for xs in wanted[0][1] if "by_shape" in xs] == [False]
            assert given == wanted, argument
            assert given != rules(optimizer(0.1)) or argument == "learning_rate", argument


def test_each_argument_of_muon_goes_where_its_name_says():
    optimizer, scale_by = gdjax.muon, gdjax.scale_by_muon
    own = {k: p.default for k, p in inspect.signature(optimizer).parameters.items()} | {"learning_rate": 0.1}
    renamed = {"muon_weight_dimension_numbers": "weight_dimension_numbers"}
    numbers = gdjax.contrib.MuonDimensionNumbers()
    for argument, default in own.items():
        value = OTHER.get(
            argument, not default if isinstance(default, bool) else numbers if "numbers" in argument else 0.3
        )
        given = own | {argument: value}
        if argument in ("like", "weight_decay_mask", "others"):
            continue
        direction = {renamed.get(k, k): x for k, x in given.items()}
        direction |= {"weight_dimension_numbers": given["muon_weight_dimension_numbers"] or numbers}
        known = inspect.signature(scale_by).parameters
        wanted = rules(scale_by(**{k: x for k, x in direction.items() if k in known}))
        for xs in wanted[0][1]:
            xs |= {"scaled": True, "consistent_rms": given["consistent_rms"]} if "scaled" in xs else {}
        rate = given["learning_rate"] if given["adam_learning_rate"] is None else given["adam_learning_rate"]
        adam = gdjax.adamw(
            rate, given["adam_b1"], given["adam_b2"], given["eps"], given["adam_eps_root"], given["mu_dtype"],
            given["adam_weight_decay"], nesterov=given["nesterov"],
        )  # fmt: skip
        decay = gdjax.add_decayed_weights(given["weight_decay"])
        wanted = [*wanted, *rules(decay), *rules(gdjax.scale_by_learning_rate(given["learning_rate"])), *rules(adam)]
        assert rules(optimizer(**given)) == wanted, argument


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
