"""Factors that fall from the head of a model to its embeddings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.combine.test_per_leaf import PARAMS, trained
from tests.trees import assert_close, assert_equal

STACK = {
    "embed": jnp.ones((3, 2)),
    "blocks": {"w": jnp.arange(12.0).reshape(3, 2, 2), "b": jnp.ones((3, 2))},
    "head": jnp.ones(2),
}


@pytest.mark.full
def test_layerwise_decay():
    rate = gdjax.per_leaf(0.125, gdjax.layerwise_decay(0.5, r"layers/(\d+)/"))
    by_hand = gdjax.per_leaf(0.125, {"embed": 0.125, "layers/0": 0.25, "layers/1": 0.5})
    assert_equal(trained(gdjax.adamw(rate)), trained(gdjax.adamw(by_hand)))
    depth = {"e": 0, "h": 3}
    own = gdjax.layerwise_decay(0.5, lambda path: depth.get(path[0], int(path[7]) + 1 if path[0] == "l" else 3), 2)
    assert own(PARAMS) == gdjax.layerwise_decay(0.5, r"layers/(\d+)/")(PARAMS)
    assert own(PARAMS)["head"] == 1.0 and own(PARAMS)["embed"] == 0.125
    assert gdjax.layerwise_decay(0.5, "a") == gdjax.layerwise_decay(0.5, "a") != gdjax.layerwise_decay(0.5, "b")
    both = gdjax.per_leaf(rate, {"head": 4.0})
    assert_close(trained(gdjax.adamw(both))["head"], trained(gdjax.adamw(0.5))["head"], rtol=1e-6)


def test_layerwise_decay_of_a_stack():
    rate, g = gdjax.per_leaf(1.0, gdjax.layerwise_decay(0.5, "^blocks/")), jax.tree.map(jnp.ones_like, STACK)
    updates, _ = gdjax.sgd(rate).update(g, gdjax.sgd(rate).init(STACK), STACK)
    assert float(updates["embed"][0, 0]) == -(0.5**4) and float(updates["head"][0]) == -1.0
    for x in jax.tree.leaves(updates["blocks"]):
        powers = np.asarray([0.125, 0.25, 0.5]).reshape(-1, *[1] * (x.ndim - 1))
        np.testing.assert_array_equal(x, -np.broadcast_to(powers, x.shape))
    in_group = gdjax.partition(
        {1: gdjax.sgd(gdjax.per_leaf(1.0, gdjax.layerwise_decay(0.5, "^blocks/", 3))), 2: gdjax.sgd(1.0)},
        gdjax.label_by_path({"blocks|embed": 1, ".*": 2}),
    )
    assert_equal(in_group.update(g, in_group.init(STACK), STACK)[0], updates)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gdjax.layerwise_decay(0.0, "a"), "factor must be finite and above 0, got 0.0"),
        (
            lambda: gdjax.layerwise_decay(0.5, r"layers/(\d)", 1)(PARAMS),
            "layers/1/b has depth 2, not in 0, ..., 1",
        ),
        (lambda: gdjax.layerwise_decay(0.5, r"lyers/(\d)")(PARAMS), "depth_of finds no layer in embed, head"),
        (lambda: gdjax.layerwise_decay(0.5, r"s/(\d)")({"s": [gdjax.MaskedNode(), jnp.ones(2)]}), "give num_layers"),
        (lambda: gdjax.layerwise_decay(0.5, "a")({"a": jnp.ones(())}), "a is a scalar, no stack of layers"),
        (lambda: gdjax.layerwise_decay(0.5, lambda path: [0, 1])({"a": jnp.ones(3)}), "a has 2 depths along an axis"),
    ],
)
def test_errors_of_layerwise_decay(make: Any, message: str):
    with pytest.raises(ValueError, match=f"^gdjax.layerwise_decay: {message}"):
        make()
