"""Which numbers of an optimizer change, and the same optimizer with others in their place."""

from typing import Any

import jax.numpy as jnp
import pytest

import gdjax
from gdjax.combine.sites import sites
from gdjax.transfer_laws.edits import Edited, changed, edited, tuned_numbers
from tests.trees import assert_equal

X = jnp.ones(3)


def numbers(tx: Any, role: str = "matrix") -> dict[str, tuple[str, float]]:
    """The kind and the power of each number."""
    return {x.name: (x.kind, x.power) for x in tuned_numbers("tune", list(sites(tx)), role, "a leaf")[0]}


def test_the_numbers_of_adamw():
    assert numbers(gdjax.adamw(0.1)) == {
        "eps": ("eps", 1), "eps_root": ("eps", 2), "b2": ("slow", 1), "weight_decay": ("decay", 1),
        "learning_rate": ("rate", 1),
    }  # fmt: skip


def test_numbers_behind_a_direction_stay():
    assert "eps" not in numbers(gdjax.chain(gdjax.scale_by_sign(), gdjax.adam(0.1)))
    assert numbers(gdjax.sgd(0.1)) == {"learning_rate": ("rate", 1)}
    late = gdjax.chain(gdjax.adam(0.1), gdjax.add_decayed_weights(0.5))
    assert "weight_decay" not in numbers(late)  # behind the rate, which it is no factor of
    of_gradient = gdjax.chain(gdjax.add_decayed_weights(0.5), gdjax.scale_by_adam(), gdjax.scale_by_learning_rate(0.1))
    assert list(numbers(of_gradient)) == ["eps", "eps_root", "b2", "learning_rate"]
    assert numbers(gdjax.psgd_kron(0.1, precond_init_scale=1.0))["precond_init_scale"] == ("start", -0.5)
    assert numbers(gdjax.set_to_zero()) == {}


def test_what_has_no_law_or_no_rate():
    with pytest.raises(ValueError, match="tune: cocob does not say how its updates of a leaf grow"):
        numbers(gdjax.cocob())
    with pytest.raises(ValueError, match="tune: a leaf goes through scale_by_adam, where no learning rate is"):
        numbers(gdjax.scale_by_adam())


def test_other_numbers_in_a_chain_and_a_wrapper():
    inner = gdjax.chain(gdjax.clip(0.5), gdjax.sgd(gdjax.linear_schedule(0.1, 0.2, 9)))
    for tx in (inner, gdjax.apply_if_finite(inner, 3), gdjax.accumulate(inner, 1)):
        (rate,) = tuned_numbers("tune", list(sites(tx)), "matrix", "a leaf")[0]
        twice = Edited("gdjax.twice", edited(tx, {(rate.place, rate.name): changed(lambda x: 2 * x)}))
        state = twice.init(X)
        assert_equal(state, tx.init(X))
        updates, _ = twice.update(X, state, X)
        assert_equal(updates, 2 * tx.update(X, state, X)[0])
    assert edited(inner, {}) is inner


def test_factors_for_leaves_stay():
    tx = gdjax.sgd(gdjax.per_leaf(0.1, {"w": 3.0}))
    (rate,) = tuned_numbers("tune", list(sites(tx)), "matrix", "a leaf")[0]
    twice = edited(tx, {(rate.place, rate.name): changed(lambda x: 2 * x)})
    updates, _ = twice.update({"w": X, "b": X}, twice.init({"w": X, "b": X}))
    assert (float(updates["w"][0]), float(updates["b"][0])) == pytest.approx((-0.6, -0.2))
