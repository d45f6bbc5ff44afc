"""Numbers that differ by leaf as values, and kinds of leaves: missing, hidden, in boxes."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import meta

from gdjax import MaskedNode, per_leaf
from gdjax.core import types


def test_patterns():
    types.check_patterns("f", ["a|b", re.compile("a"), lambda path, leaf: True])
    with pytest.raises(ValueError, match=r"^f: the pattern '\*b' is no regular expression: .*write '\.\*', not '\*'"):
        types.check_patterns("f", ["*b"])
    with pytest.raises(ValueError, match=r"^f: the pattern '\(' is no regular expression: [^;]*$"):
        types.check_patterns("f", ["("])
    with pytest.raises(TypeError, match="^f: 3 is neither a regular expression nor a function of"):
        types.check_patterns("f", [3])
    with pytest.raises(TypeError, match="no regular expression$"):
        types.check_patterns("f", [len], functions=False)


def test_factors_around_factors():
    inner = per_leaf(0.5, {"a": 2.0})
    outer = per_leaf(inner, {"b": 4.0, "c": jnp.ones(2)})
    assert outer.number == types.base_of(outer) == 0.5 and types.base_of(3) == 3
    assert outer.levels() == [outer, inner]
    assert outer.constants() == [4.0, 2.0]  # not the array
    other = outer.with_base(0.25)
    assert (other.number, other.constants(), outer.number) == (0.25, [4.0, 2.0], 0.5)


def test_factors_are_values_and_trees():
    one, same, other = (per_leaf(0.5, {"a": x}) for x in (2.0, 2.0, 3.0))
    assert one == same != other and hash(one) == hash(same) and one != 0.5
    doubled = jax.tree.map(lambda x: 2 * x, one)
    assert (doubled.base, doubled.factors, doubled.patterns) == (1.0, (4.0,), ("a",))
    assert repr(one) == "per_leaf(0.5, {'a': 2.0})"


def test_which_factors_are_patterns():
    assert per_leaf(1.0, {"a": 2.0}).patterns == ("a",)
    assert per_leaf(1.0, {"a": [2.0]}).patterns is None  # a tree
    tree_of = lambda params: params
    assert per_leaf(1.0, tree_of).factors is tree_of
    for base in (None, "0.1", True, float):
        with pytest.raises(TypeError, match="^gdjax.per_leaf: base must be a number, a scalar array or a schedule"):
            per_leaf(base, {})


def test_missing_and_hidden_leaves():
    nodes = {"ours": MaskedNode(), "theirs": optax.MaskedNode(), "none": None, "array": jnp.ones(1)}
    assert [k for k, x in nodes.items() if types.is_hidden(x)] == ["ours", "theirs"]
    assert [k for k, x in nodes.items() if types.is_skipped(x)] == ["ours", "theirs", "none"]


def test_parameters_without_those_of_missing_gradients():
    params = {"a": 1.0, "b": 2.0, "c": 3.0}
    hidden = MaskedNode()
    assert types.without_skipped({"a": 0.0, "b": None, "c": hidden}, params) == {"a": 1.0, "b": None, "c": hidden}
    assert types.without_skipped({"a": 0.0, "b": 0.0, "c": 0.0}, params) is params
    assert types.without_skipped({"a": None}, params) is params  # of another structure
    assert types.without_skipped({"a": None}, None) is None


def test_parameters_left_out_are_found_in_the_update():
    updates, params = {"a": None, "b": jnp.ones(1)}, {"a": jnp.ones(2), "b": jnp.ones(1)}
    assert types.left_out(updates) == {}
    with types.fitted(updates, params) as fit:
        assert fit == {"a": None, "b": params["b"]}
        assert list(types.left_out(updates).values()) == [params["a"]]
        with types.fitted(updates, fit):  # the outermost counts
            assert list(types.left_out(updates).values()) == [params["a"]]
    assert types.left_out(updates) == {}


@pytest.mark.parametrize("box", [lambda x: meta.Partitioned(x, ("rows",)), nnx.Param], ids=["linen", "nnx"])
def test_boxes(box: Any):
    tree = {"w": box(jnp.ones(2)), "b": jnp.zeros(1)}
    assert types.is_box(tree["w"]) and not types.is_box(tree["b"])
    assert types.is_variable(tree["w"]) == (box is nnx.Param)
    plain = types.unboxed(tree)
    assert isinstance(plain["w"], jax.Array) and plain["b"] is tree["b"]
    again = types.boxed_like(tree, {"w": 2 * plain["w"], "b": plain["b"]})
    assert type(again["w"]) is type(tree["w"])
    np.testing.assert_array_equal(types.unboxed(again)["w"], [2, 2])
    other = {"w": plain["w"]}
    assert types.boxed_like(tree, other) is other and types.boxed_like(plain, other) is other
