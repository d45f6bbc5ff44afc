"""Masks and groups."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import MaskedNode
from gdjax.combine import masking
from tests.declare import by_rank, matrices
from tests.trees import assert_close, assert_equal, random_tree, signature, steps

PARAMS = {"w": random_tree(0)["dense"]["kernel"], "b": random_tree(0)["dense"]["bias"]}
GRADIENTS = [{"w": t["dense"]["kernel"], "b": t["dense"]["bias"]} for t in map(random_tree, (1, 2))]


def only(key: str, tree: Any) -> Any:
    return {key: tree[key]}


@pytest.mark.parametrize("mask", [{"w": True, "b": False}, {"w": np.bool_(True), "b": np.False_}, matrices])
def test_masked_applies_to_some_and_passes_the_others(mask: Any):
    tx = gdjax.masked(gdjax.adam(0.1), mask)
    got, state = steps(tx, PARAMS, GRADIENTS)
    assert_close(only("w", got), steps(gdjax.adam(0.1), only("w", PARAMS), [only("w", g) for g in GRADIENTS])[0])
    assert_close(got["b"], PARAMS["b"] + GRADIENTS[0]["b"] + GRADIENTS[1]["b"])
    assert state.inner_state[0].mu["b"] == MaskedNode() == state.inner_state[0].nu["b"]


def test_a_mask_may_be_a_prefix():
    params = {"net": {"a": jnp.ones(2), "b": jnp.ones(3)}, "head": jnp.ones(4)}
    tx = gdjax.masked(gdjax.scale(2.0), {"net": True, "head": False})
    u, _ = tx.update(params, tx.init(params))
    assert_equal(u, {"net": {"a": 2 * jnp.ones(2), "b": 2 * jnp.ones(3)}, "head": jnp.ones(4)})
    assert_equal(
        gdjax.masked(gdjax.scale(2.0), True).update(params, tx.init(params))[0], jax.tree.map(lambda x: 2 * x, params)
    )
    assert_equal(gdjax.masked(gdjax.scale(2.0), False).update(params, tx.init(params))[0], params)


def test_masks_nest():
    params = {"a": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones(4)}
    inner = gdjax.masked(
        gdjax.adam(0.1), lambda tree: {k: k == "a" if type(x) is not MaskedNode else x for k, x in tree.items()}
    )
    tx = gdjax.masked(inner, {"a": True, "b": True, "c": False})
    state = tx.init(params)
    u, new = tx.update(params, state, params)
    assert signature(new) == signature(state)
    assert_equal((u["b"], u["c"]), (params["b"], params["c"]))
    assert_close(u["a"], gdjax.adam(0.1).update(params["a"], gdjax.adam(0.1).init(params["a"]))[0])


def test_masks_of_a_rule_nest():
    params = {"a": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones(4)}
    tx = gdjax.masked(gdjax.masked(gdjax.scale(3.0), gdjax.mask_by_path("a")), gdjax.mask_by_path("a|b"))
    u, _ = tx.update(params, tx.init(params), params)
    assert [float(u[k][0]) for k in "abc"] == [3, 1, 1]


def test_a_masked_rule_in_a_chain_is_still_one_call_a_leaf():
    tx = gdjax.adamw(0.1, mask=matrices)
    jaxpr = jax.make_jaxpr(tx.update)(PARAMS, tx.init(PARAMS), PARAMS).jaxpr
    assert sum(eqn.params.get("name", "").startswith("adamw") for eqn in jaxpr.eqns) == 2
    got, state = steps(tx, PARAMS, GRADIENTS)
    for key, decay in (("w", 1e-4), ("b", 0.0)):
        alone = steps(gdjax.adamw(0.1, weight_decay=decay), PARAMS[key], [g[key] for g in GRADIENTS])[0]
        assert_close(got[key], alone)
    assert type(state[1]) is gdjax.MaskedState


def test_extra_arguments_are_masked_on_request():
    def update(updates: Any, state: Any, params: Any = None, *, other: Any, **extra_args: Any) -> Any:
        return jax.tree.map(lambda u, o: u + o, updates, other), state

    inner = gdjax.GradientTransformation(lambda params: gdjax.EmptyState(), update)
    tx = gdjax.masked(inner, matrices, mask_compatible_extra_args=True)
    u, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, other=PARAMS)
    assert_equal(u, {"w": 2 * PARAMS["w"], "b": PARAMS["b"]})
    tx = gdjax.partition({"matrix": inner, "vector": gdjax.identity()}, by_rank, mask_compatible_extra_args=True)
    assert_equal(tx.update(PARAMS, tx.init(PARAMS), PARAMS, other=PARAMS)[0], u)


@pytest.mark.parametrize("first", ["b", "w"])
@pytest.mark.parametrize("absent", [None, MaskedNode()], ids=["None", "MaskedNode"])
def test_a_mask_made_of_what_another_mask_leaves(first: str, absent: Any):
    # As in Levanter: the function sees nodes without leaves, before a leaf or after it, and leaves them as they are.
    rest = next(key for key in PARAMS if key != first)
    everywhere = lambda tree: jax.tree.map(lambda x: True, tree)
    tx = gdjax.chain(gdjax.add_decayed_weights(0.5, everywhere), gdjax.scale(-1.0))
    groups = gdjax.partition({"x": tx, "y": gdjax.sgd(0.1)}, {first: "y", rest: "x"})
    u, _ = groups.update(PARAMS, groups.init(PARAMS), PARAMS)
    assert_close(u, {first: -0.1 * PARAMS[first], rest: -1.5 * PARAMS[rest]})
    some = PARAMS | {first: absent}
    u, _ = tx.update(some, tx.init(some), PARAMS)
    assert u[first] == absent
    assert_close(u[rest], -1.5 * PARAMS[rest])


@pytest.mark.parametrize("inner", [gdjax.scale(2.0), gdjax.adam(0.1)], ids=["rule", "chain"])
def test_a_mask_that_is_false_everywhere(inner: Any):
    nowhere = lambda tree: jax.tree.map(lambda x: False, tree)
    tx = gdjax.masked(inner, nowhere)
    with pytest.warns(UserWarning, match=r"^gdjax.masked: the mask is False everywhere"):
        tx.init(PARAMS)
    # Nothing is there, or hidden by a mask around; nothing need be frozen, decayed or a matrix.
    tx.init({})
    gdjax.masked(tx, {"w": True, "b": False}).init(PARAMS)
    gdjax.freeze(nowhere).init(PARAMS)
    gdjax.selective_transform(inner, freeze_mask=nowhere).init(PARAMS)
    gdjax.adamw(0.1, mask=nowhere).init(PARAMS)
    gdjax.muon(0.1).init({"b": PARAMS["b"]})


NONE = {
    "mask": lambda: gdjax.masked(gdjax.adam(0.1), lambda tree: None),
    "mask of a rule": lambda: gdjax.adamw(0.1, mask=lambda tree: None),
    "freeze_mask": lambda: gdjax.selective_transform(gdjax.adam(0.1), freeze_mask=lambda tree: None),
    "labels": lambda: gdjax.partition({"a": gdjax.sgd(0.1)}, lambda tree: None),
}


@pytest.mark.parametrize("make", NONE.values(), ids=NONE)
def test_a_function_that_returns_none(make: Any):
    with pytest.raises(TypeError, match=r"^gdjax\.\w+: the (\w*mask|labels)'s? function returned None, not a tree"):
        make().init(PARAMS)


def test_freeze_zeroes_what_came_before():
    tx = gdjax.chain(gdjax.adam(0.1), gdjax.freeze(gdjax.mask_by_path("^b$")))
    u, _ = tx.update(GRADIENTS[0], tx.init(PARAMS), PARAMS)
    assert_equal(u["b"], jnp.zeros_like(PARAMS["b"]))
    assert_close(u["w"], gdjax.adam(0.1).update(GRADIENTS[0], gdjax.adam(0.1).init(PARAMS))[0]["w"])


def of_no_tree(tree: Any) -> Any:
    return tree["nope"]


FUNCTIONS = {  # from an argument to its transform; what errors begin with
    "masked": (lambda f: gdjax.masked(gdjax.adam(0.1), f), "gdjax.masked: mask"),
    "adamw": (lambda f: gdjax.adamw(0.1, mask=f), "gdjax.adamw: mask"),
    "selective": (
        lambda f: gdjax.selective_transform(gdjax.adam(0.1), freeze_mask=f), "gdjax.selective_transform: freeze_mask",
    ),
    "partition": (lambda f: gdjax.partition({"a": gdjax.sgd(0.1)}, f), "gdjax.partition: param_labels"),
    "muon": (
        lambda f: gdjax.muon(0.1, muon_weight_dimension_numbers=f), "gdjax.muon: muon_weight_dimension_numbers",
    ),
    "soap": (lambda f: gdjax.soap(0.1, roles=f), "gdjax.soap: roles"),
    "per_leaf": (lambda f: gdjax.sgd(gdjax.per_leaf(0.1, f)), "gdjax.per_leaf: factors"),
}  # fmt: skip
SLIPS = {
    "no argument": (lambda: True, TypeError, "is called with the whole tree, but it takes no argument; write lambda"),
    "path and leaf": (lambda path, leaf: True, TypeError, "takes path, leaf; a function of .* of gdjax.mask_by_path"),
    "of a leaf": (lambda x: x.ndim > 1, ValueError, "'dict' object has no attribute 'ndim'; if it is for one leaf"),
    "raises": (of_no_tree, ValueError, "of_no_tree is called with the whole tree, a dict of 2 entries, and raised Key"),
}


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_the_tree_that_fail(name: str, slip: str):
    (make, start), (f, kind, text) = FUNCTIONS[name], SLIPS[slip]
    with pytest.raises(kind, match=f"^{start}: the function .*{text}") as caught:
        make(f).init(PARAMS)
    assert isinstance(caught.value.__cause__, Exception)  # the user's line is in the traceback


def test_errors_of_masks_by_path_stay_what_they_are():
    with pytest.raises(ValueError, match="^gdjax.mask_by_path: 'kernel' matches none of"):
        gdjax.masked(gdjax.adam(0.1), gdjax.mask_by_path("kernel")).init(PARAMS)


def test_a_whole_tree_has_leaves_and_none_is_hidden():
    assert masking.is_whole(PARAMS) and masking.is_whole(jnp.ones(2))
    assert not any(map(masking.is_whole, ({}, {"w": None}, {"w": jnp.ones(2), "b": MaskedNode()})))


def test_what_a_mask_hides():
    assert masking.hide({"w": True, "b": False}, {"w": 1, "b": [2, 3]}) == {"w": 1, "b": MaskedNode()}
    assert masking.hide({"w": True}, {}) == {}
    value = masking._of_the_seen(lambda p, by: by * (p["w"] + 10 * p["b"]), {"w": True, "b": False}, {"w": 1, "b": 2})
    assert value({"w": 3, "b": MaskedNode()}, 2) == 2 * (3 + 20)
