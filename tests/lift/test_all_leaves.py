"""What the leaves of one pass share."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.lift.all_leaves import Selection
from tests.trees import precision

TREE = {"a": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones(2)}


class Size(NamedTuple):
    norm: Any  # ()


@gdjax.leafwise(Size, norm=gdjax.Shared())
def sized(g: Any, s: Any, p: Any, t: Any) -> Any:
    return g, s._replace(norm=gdjax.total(jnp.sum(jnp.abs(g) ** 2)))


@pytest.mark.whole
@pytest.mark.parametrize("narrow", ["bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("names", ["ab", "ba"])
def test_a_number_of_the_tree_is_that_of_the_leaf_with_the_widest_dtype(narrow: str, names: str):
    with precision("float64"):
        tree = dict(zip(names, (jnp.full(2, 1 + 2**-40, "float64"), jnp.ones(3, narrow)), strict=True))
        tx = sized()
        _, state = tx.update(tree, tx.init(tree), tree)
        np.testing.assert_array_equal(state.norm, 2 * np.float64(1 + 2**-40) ** 2 + 3)


@gdjax.leafwise(gdjax.TraceState)
def summed(g: Any, s: Any, p: Any, t: Any) -> Any:
    total = s.trace + g
    return total, gdjax.TraceState(total)


def test_each_rule_of_a_pass_sees_the_leaves_that_its_mask_shows():
    doubled, tripled = gdjax.scale(2.0), gdjax.masked(gdjax.scale(3.0), {"a": True, "b": False, "c": True})
    tx = gdjax.chain(doubled, tripled)
    updates, _ = tx.update(TREE, tx.init(TREE), TREE)
    assert {k: float(u[0]) for k, u in updates.items()} == {"a": 6, "b": 2, "c": 6}


def test_a_leaf_without_a_gradient_keeps_its_slot():
    tx, g = summed(), {**TREE, "b": None}
    state = tx.init(TREE)._replace(trace={k: 5.0 + x for k, x in TREE.items()})
    updates, new = tx.update(g, state, TREE)
    assert updates["b"] is None
    assert {k: float(x[0]) for k, x in new.trace.items()} == {"a": 7, "b": 6, "c": 7}


def test_a_parameter_is_there_for_the_leaf_that_it_fits():
    read = gdjax.add_decayed_weights(0.5)
    updates, _ = read.update({"a": jnp.ones(2)}, read.init(TREE), {"a": jnp.full(2, 4.0)})
    assert updates["a"].tolist() == [3, 3]
    for params, message in (
        (None, "this transform needs params"),
        ({"a": jnp.ones(3)}, r"params\['a'\]: gradient shape \(2,\) does not match parameter shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            read.update({"a": jnp.ones(2)}, read.init(TREE), params)


def test_a_selected_array_is_known_with_the_slot_that_it_replaces():
    selection, new, old = Selection(jnp.array(True), {}), jnp.ones(2), jnp.zeros(2)
    selection.add(new, old)
    assert selection.has(new, old) and not selection.has(new) and not selection.has(old, new)
    selection.add(old)
    assert selection.has(old) and not selection.has(old, new)
