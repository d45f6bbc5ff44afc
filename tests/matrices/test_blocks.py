"""The matrices of a tree as stacks of blocks, and back."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.matrices.blocks import BlockLayout, blocks_for

X = {name: jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape) for name, shape in
     {"a": (2, 3), "b": (3, 2), "c": (2, 3)}.items()}  # fmt: skip


def members(arguments: Any, tree: Any = X) -> dict[str, list[tuple[int, int, int, bool]]]:
    return {shape[0]: [tuple(x) for x in xs] for shape, xs in blocks_for("x", tree, arguments).members.items()}


def test_blocks_of_one_shape_are_one_stack_and_tall_ones_lie_on_their_side():
    assert members({}) == {"2x3": [(0, 0, 1, False), (1, 0, 1, True), (2, 0, 1, False)]}
    assert members({"sides": "rows"}) == {"2x3": [(0, 0, 1, False), (2, 0, 1, False)], "3x2": [(1, 0, 1, False)]}
    assert members({}, {"a": X["a"], "z": X["a"].astype("complex64")}).keys() == {"2x3", "2x3 complex"}


@pytest.mark.whole
@pytest.mark.parametrize("arguments", [{}, {"sides": "rows"}, {"block_size": 2}, {"block_size": 1}])
def test_what_is_cut_into_stacks_is_put_together_again(arguments: Any):
    found = blocks_for("x", X, arguments)
    gs = [X[name] for name in "abc"]
    stacks = {shape[0]: found.stack(shape, gs) for shape in found.members}
    assert {name: len(x) for name, x in stacks.items()} == found.numbers
    for x, y in zip(gs, found.leaves(stacks), strict=True):
        np.testing.assert_array_equal(x, y)
    assert sum(x.size for x in stacks.values()) == (
        24 if arguments == {"block_size": 2} else 18
    )  # filled up with zeros


def test_a_stack_has_the_matrices_in_the_order_of_the_leaves():
    found = blocks_for("x", X, {})
    (shape,) = found.members
    stack = found.stack(shape, [X["a"], X["b"], None])
    np.testing.assert_array_equal(stack, [X["a"], X["b"].T, np.zeros((2, 3))])


def test_blocks_without_a_gradient_stay_as_they_were():
    found = blocks_for("x", X, {})
    old, new = ({"L": {"2x3": jnp.full((3, 2, 2), value)}} for value in (1.0, 2.0))
    kept = found.only_there([X["a"], None, X["c"]], new, old)
    np.testing.assert_array_equal(kept["L"]["2x3"][:, 0, 0], [2, 1, 2])


@pytest.mark.whole
@pytest.mark.parametrize(
    ("sides", "most", "wide", "tall"),
    [("both", None, (True, True), (True, True)), ("short", None, (True, False), (False, True)),
     ("rows", None, (True, False), (True, False)), ("columns", None, (False, True), (False, True)),
     ("both", 2, (True, False), (False, True))],
)  # fmt: skip
def test_which_sides_have_factors(sides: str, most: int | None, wide: Any, tall: Any):
    layout = BlockLayout(None, sides, most)
    assert (layout.has(2, 3), layout.has(3, 2)) == (wide, tall)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="^x: sides must be one of both, short, rows, columns, got 'left'"):
        blocks_for("x", X, {"sides": "left"})
    with pytest.raises(ValueError, match="^x: block_size must be at least 1, got 0"):
        blocks_for("x", X, {"block_size": 0})
    with pytest.raises(ValueError, match=r"x: params\['v'\]"):
        blocks_for("x", {"v": jnp.ones(3)}, {})
    with pytest.raises(ValueError, match="the state has 1 blocks of 2x3, the gradients are 3 blocks of 2x3"):
        tx = gdjax.scale_by_soap()
        tx.update(X, tx.init({"a": X["a"]}))
