"""The matrix methods written by hand for the benchmarks are those of the library."""

import importlib
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.cost.test_benchmarks import distance, trees
from tests.support import relaxed
from tests.trees import precision

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
matrix = importlib.import_module("hand.matrix")

SQUARE = {"attn": {"qkv": (16, 48), "out": (16, 16)}}
TREE = {**SQUARE, "mlp": {"up": (16, 32), "down": (32, 16)}}
EVERY_TEN = {"precondition_frequency": lambda count: 10}  # all in one step, as by hand
# Of a long matrix R has a null space at first, in which eigenvectors are anyone's choice.
CASES = {
    "muon": (matrix.muon(), gdjax.muon(1e-3), TREE),
    "normuon": (matrix.normuon(), gdjax.normuon(1e-3, ns_coeffs="jordan"), TREE),
    "soap": (matrix.soap(), gdjax.soap(1e-3, **EVERY_TEN), SQUARE),
    "shampoo": (matrix.shampoo(8), gdjax.shampoo(1e-3, b1=0.9, grafting="sgd", block_size=8, **EVERY_TEN), TREE),
}


def of_library(tx: Any) -> Any:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    return tx.init, step


def moved(init: Any, step: Any, tree: Any, steps: int = 12) -> Any:
    first = params = trees.arrays(tree, 0, 0.1, jnp.float64)
    state, step = init(params), jax.jit(step)
    for i in range(steps):
        params, state = step(params, state, trees.arrays(tree, i + 1, 1.0, jnp.float64))
    return jax.tree.map(jnp.subtract, params, first)


def test_every_method_has_a_case():
    assert set(CASES) == set(matrix.STEPS)


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_the_step_by_hand_is_the_step_of_the_library(name: str):
    by_hand, tx, tree = CASES[name]
    with relaxed(), precision("float64"):  # in float32 a root of a small eigenvalue has two digits
        by_hand, ours = moved(*by_hand, tree), moved(*of_library(tx), tree)
    assert distance(by_hand, ours) < 1e-5  # by hand the corrections of averages are float32


@pytest.mark.full
def test_stacks_have_an_inverse():
    params = trees.arrays(TREE, 0, 1.0)
    for how in ({}, {"most": 8}, {"apart": False}):
        again = matrix.tree_of(matrix.stacks(params, **how), params, **how)
        assert jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), again, params))
    assert {k: len(x) for k, x in matrix.stacks(params).items()} == {(16, 16): 4, (16, 32): 2}


def test_a_method_beside_adamw():
    hidden, rest = {"h0": SQUARE}, {"h0": {"ln": (16,)}, "wte": (48, 16)}
    tree = {"h0": SQUARE | rest["h0"], "wte": rest["wte"]}
    params, grads = trees.arrays(tree, 0, 0.1), trees.arrays(tree, 1, 1.0)
    methods = (matrix.muon(), hidden), (matrix.leaf.step_of(matrix.leaf.HAND["adamw"]), rest)
    init, step = matrix.beside_adamw(matrix.muon())
    new, _ = step(params, init(params), grads)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    for (start, own), part in methods:
        expected, _ = own(_inside(part, params), start(_inside(part, params)), _inside(part, grads))
        jax.tree.map(np.testing.assert_array_equal, _inside(part, new), expected)


def _inside(part: Any, tree: Any) -> Any:
    """The leaves of a tree that are in another."""
    return {k: _inside(v, tree[k]) for k, v in part.items()} if isinstance(part, dict) else tree
