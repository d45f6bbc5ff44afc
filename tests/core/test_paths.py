"""Choosing leaves by path."""

import dataclasses
import pickle
import re
import warnings
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import pytest

import gdjax

TREE = {"layers": [{"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}] * 2, "norm": {"scale": jnp.ones(2)}}


def is_vector(path: str, leaf: Any) -> bool:
    return leaf.ndim == 1


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["bias"], ["layers/0/bias", "layers/1/bias"]),
        (["^layers/0"], ["layers/0/bias", "layers/0/kernel"]),
        (["bias", "norm"], ["layers/0/bias", "layers/1/bias", "norm/scale"]),
        ([re.compile("KERNEL", re.IGNORECASE)], ["layers/0/kernel", "layers/1/kernel"]),
        ([is_vector], ["layers/0/bias", "layers/1/bias", "norm/scale"]),
        ([r"layers/\d+/kernel$"], ["layers/0/kernel", "layers/1/kernel"]),
    ],
)
def test_mask_by_path(patterns: Any, chosen: Any):
    mask = gdjax.mask_by_path(*patterns)(TREE)
    flags, _ = jax.tree_util.tree_flatten_with_path(mask)
    found = [jax.tree_util.keystr(path, simple=True, separator="/") for path, flag in flags if flag]
    assert sorted(found) == chosen
    assert {type(flag) for _, flag in flags} == {bool}
    assert jax.tree.structure(mask) == jax.tree.structure(TREE)


def test_the_first_rule_labels():
    labels = gdjax.label_by_path({"0/bias": "first", "bias|scale": "vector", ".*": "rest"})(TREE)
    layers = [{"kernel": "rest", "bias": "first"}, {"kernel": "rest", "bias": "vector"}]
    assert labels == {"layers": layers, "norm": {"scale": "vector"}}


def test_strings_and_predicates_mix():
    labels = gdjax.label_by_path({"0/bias": "first", is_vector: "vector", ".*": "rest"})(TREE)
    assert labels["layers"][1] == {"kernel": "rest", "bias": "vector"}


def test_rules_in_another_order_are_another_value():
    assert gdjax.label_by_path({"bias": 1, ".*": 2}) != gdjax.label_by_path({".*": 2, "bias": 1})


def test_they_are_values():
    for make in (lambda: gdjax.mask_by_path("a", is_vector), lambda: gdjax.label_by_path({"a": 1, ".*": 2})):
        assert make() == make() and hash(make()) == hash(make()) and pickle.loads(pickle.dumps(make())) == make()
    assert gdjax.mask_by_path("a") != gdjax.mask_by_path("b")
    assert repr(gdjax.mask_by_path("a")) == "mask_by_path('a')"
    assert gdjax.label_by_path({"a": 1}) != gdjax.label_by_path({"a": 2})


def test_of_an_empty_tree():
    assert gdjax.mask_by_path("a")({}) == {}
    assert gdjax.label_by_path({"a": 1})({"x": None}) == {"x": None}


def warned(rules: Any, tree: Any = TREE) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gdjax.label_by_path(rules)(tree)
    return [str(w.message) for w in caught]


def test_a_rule_that_labels_no_leaf_is_a_warning():
    (typo,) = warned({"bais$": "vector", "scale": "vector", ".*": "rest"})
    assert typo.startswith("gdjax.label_by_path: no leaf is labelled 'vector' by the rule 'bais$': it matches none of")
    assert typo.endswith("norm/scale; the labels in use are 'vector', 'rest'")
    (order,) = warned({".*": "rest", "scale": "vector"})
    assert "by the rule 'scale': rules before it match norm/scale; the labels in use are 'rest'" in order


def test_a_rest_of_nothing_and_leaves_that_a_mask_hides_are_no_warning():
    assert warned({"bias|scale|kernel": "all", ".*": "rest"}) == []
    assert warned({"a": 1, "b": 2}, {"a": jnp.ones(2), "b": gdjax.MaskedNode()}) == []
    assert warned({"a": 1}, {}) == []
    # The same groups inside a mask, at init and in an update.
    groups = gdjax.partition({1: gdjax.sgd(0.1), 2: gdjax.sgd(0.2)}, gdjax.label_by_path({"a": 1, "b": 2}))
    tx, params = gdjax.masked(groups, {"a": True, "b": False}), {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx.update(params, tx.init(params), params)


def test_errors_show_predicates_by_name():
    with pytest.raises(ValueError, match="^gdjax.mask_by_path: is_vector matches none of x$"):
        gdjax.mask_by_path(is_vector)({"x": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="^gdjax.label_by_path: no rule matches x; the rules are is_vector; end with"):
        gdjax.label_by_path({is_vector: 1})({"x": jnp.ones((2, 2))})


def test_attributes_and_indices_are_keys_too():
    state = gdjax.ScaleByAdamState(jnp.zeros(()), [jnp.ones(2)], {"x": jnp.ones(3)})
    assert gdjax.mask_by_path("^mu/0$")(state) == gdjax.ScaleByAdamState(False, [True], {"x": False})


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    value: Any  # no box: the name of a parameter
    bias: Any


def test_dataclasses_and_modules():
    tree = {"first": Layer(jnp.ones((2, 2)), jnp.ones(2))}
    assert gdjax.mask_by_path("first/value$")(tree) == {"first": Layer(True, False)}
    model = equinox.nn.MLP(2, 2, 3, 1, key=jax.random.key(0))
    labels = gdjax.label_by_path({r"layers/\d/bias$": "bias", ".*": "rest"})(equinox.filter(model, equinox.is_array))
    assert jax.tree.leaves(labels) == ["rest", "bias"] * 2


@pytest.mark.parametrize("make", [
    gdjax.mask_by_path, lambda f: gdjax.label_by_path({f: 0, ".*": 1}), lambda f: gdjax.matrices_by_role({f: "matrix"}),
    lambda f: gdjax.label_by_role({f: "matrix"}),
])  # fmt: skip
@pytest.mark.parametrize("f, kind, message", [
    (lambda: True, TypeError, "is called with (path, leaf), but it takes no argument; write lambda path, leaf"),
    (lambda path: True, TypeError, "is called with (path, leaf), but it takes path; write lambda path, leaf"),
    (lambda path, x: x.nope, ValueError, "here 'w' and an array of shape (2, 3), and raised AttributeError"),
    (lambda path, x: x > 0, TypeError, "returned an array of shape (2, 3) for 'w', which is neither true nor false"),
])  # fmt: skip
def test_predicates_that_fail(make, f, kind, message):
    with pytest.raises(kind, match=r"^gdjax\.(mask|label|matrices)_by_(path|role): the pattern <lambda> ") as caught:
        make(f)({"w": jnp.ones((2, 3))})
    assert message in str(caught.value)


def test_leaves_that_are_not_there_may_be_those_of_a_pattern():
    """A mask around hides them, or they have no gradient: then no pattern is idle."""
    hidden = {"emb": gdjax.MaskedNode(), "w": jnp.ones(2)}
    no_gradient = {"emb": None, "w": jnp.ones(2)}
    for tree in (hidden, no_gradient):
        assert gdjax.mask_by_path("emb")(tree) == {**tree, "w": False}
        with pytest.raises(ValueError, match="'emd' matches none of emb, w"):
            gdjax.mask_by_path("emd")(tree)
    of_embedding = gdjax.mask_by_path(lambda path, leaf: leaf.ndim > 1)
    assert of_embedding(hidden) == {**hidden, "w": False}
    with pytest.raises(ValueError, match="matches none of emb, w"):  # a None may stand for no array at all
        of_embedding(no_gradient)
    params = {"emb": jnp.ones((2, 2)), "w": jnp.ones(2)}
    decayed = gdjax.adamw(0.1, mask=gdjax.mask_by_path("emb"))
    tx = gdjax.partition({"a": decayed, "b": decayed}, {"emb": "a", "w": "b"})
    tx.update(params, tx.init(params), params)
