"""Numbers that differ by leaf: base times factor, each hyperparameter with its own."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest

import gdjax
from gdjax.lift import factors

TREE = {"a": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones(2)}
FACTORS = {"a": 2.0, "b": 0.0, "c": 2.0}


class State(NamedTuple):
    count: Any


@gdjax.leafwise(State)
def two_numbers(g: Any, s: State, p: Any, t: Any, x: float = 0.0, y: float = 0.0) -> Any:
    return 0 * g + x + 100 * y, s


@pytest.mark.parametrize("schedule", [False, True])
def test_two_hyperparameters_with_equal_factors_have_products_of_their_own(schedule: bool):
    x, y = (gdjax.per_leaf(gdjax.constant_schedule(n) if schedule else n, FACTORS) for n in (3.0, 7.0))
    tx = two_numbers(x, y)
    updates, _ = tx.update(TREE, tx.init(TREE))
    for name, factor in FACTORS.items():
        got, wanted = float(updates[name][0]), factor * (3 + 100 * 7)
        assert got == wanted, f"leaf {name}: x + 100 y is {got}, not {wanted}: a per_leaf has another one's product"


def test_leaves_with_equal_factors_share_a_product_and_hyperparameters_do_not():
    bases = {"x": jnp.asarray(3.0), "y": jnp.asarray(7.0)}
    rows = factors.of_each({name: gdjax.per_leaf(base, FACTORS) for name, base in bases.items()}, bases, TREE)
    numbers = [{name: float(x) for name, x in row.items()} for row in rows]
    assert numbers == [{"x": 6, "y": 14}, {"x": 0, "y": 0}, {"x": 6, "y": 14}], "not base times factor, each of its own"
    assert rows[0]["x"] is rows[2]["x"], "leaves with the same factor compute the product twice"
