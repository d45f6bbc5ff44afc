"""Another batch size, and longer runs: the numbers that change."""

import pickle
from typing import Any

import jax.numpy as jnp
import pytest

import gdjax

X = jnp.ones(3)


def numbers(tx: Any, params: Any = X) -> dict[str, float]:
    return {name: float(x) for name, x in gdjax.get_hyperparams(tx, tx.init(params)).items()}


ADAM = gdjax.adamw(0.1, b1=0.8, b2=0.81, eps=1e-2, eps_root=1e-4, weight_decay=0.5)


@pytest.mark.parametrize(
    ("rule", "changed"),
    [
        ("sde", {"learning_rate": 0.2, "b2": 0.81**4, "eps": 5e-3, "eps_root": 2.5e-5}),
        ("linear", {"learning_rate": 0.4}),
        ("decay", {"weight_decay": 1.0, "b2": 1 - 2 * 0.19}),
    ],
)
def test_a_larger_batch(rule: Any, changed: dict[str, float]):
    assert numbers(gdjax.for_batch(ADAM, 32, 8, rule)) == pytest.approx(numbers(ADAM) | changed)
    smaller = gdjax.for_batch(gdjax.for_batch(ADAM, 32, 8), 8, 32)
    assert numbers(smaller) == pytest.approx(numbers(ADAM))


def test_the_gradient_itself_takes_the_quotient():
    tx = gdjax.chain(gdjax.add_decayed_weights(0.5), gdjax.sgd(gdjax.linear_schedule(0.1, 0.0, 9), momentum=0.9))
    found = numbers(gdjax.for_batch(tx, 32, 8))
    assert found == pytest.approx(numbers(tx) | {"learning_rate": 0.4})
    both, labels = {"a": X, "b": X}, {"a": "a", "b": "b"}
    groups = gdjax.partition({"a": gdjax.sgd(0.1), "b": gdjax.lion(0.1)}, labels)
    found = numbers(gdjax.for_batch(groups, 32, 8), both)
    assert (found["a/learning_rate"], found["b/learning_rate"]) == pytest.approx((0.4, 0.2))
    shared = gdjax.partition({"a": gdjax.scale_by_adam(), "b": gdjax.trace(0.9)}, labels)
    with pytest.raises(ValueError, match="one learning_rate is that of the gradient itself and of another method"):
        gdjax.for_batch(gdjax.chain(shared, gdjax.scale_by_learning_rate(0.1)), 32, 8)


def test_a_longer_run():
    found = numbers(gdjax.for_length(ADAM, 16, 1, exponent=0.5))
    assert found == pytest.approx(numbers(ADAM) | {"learning_rate": 0.025})
    assert numbers(gdjax.for_length(ADAM, 4, 1))["learning_rate"] == pytest.approx(0.1 * 4**-0.32)


def test_factors_for_leaves_and_injected_numbers_stay():
    tx = gdjax.for_batch(gdjax.sgd(gdjax.per_leaf(0.1, {"w": 3.0})), 2, 1)
    params = {"w": X, "b": X}
    updates, _ = tx.update(params, tx.init(params))
    assert (float(updates["w"][0]), float(updates["b"][0])) == pytest.approx((-0.6, -0.2))
    injected = gdjax.for_batch(gdjax.inject_hyperparams(gdjax.adam)(0.1), 4, 1)
    state = injected.init(X)
    state.hyperparams["learning_rate"] = jnp.asarray(0.5)
    updates, _ = injected.update(X, state)
    assert float(updates[0]) == pytest.approx(-1.0, rel=1e-4)


def test_it_is_a_value_and_a_batch_alike_changes_nothing():
    tx = gdjax.for_batch(ADAM, 32, 8)
    assert pickle.loads(pickle.dumps(tx)) == tx == gdjax.for_batch(ADAM, 32, 8)
    assert numbers(gdjax.for_batch(ADAM, 8, 8)) == numbers(ADAM) == numbers(gdjax.for_length(ADAM, 8, 8))


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"rule='decay' makes b2 -0.52: the batch grows too much"):
        gdjax.for_batch(ADAM, 64, 1, "decay")
    with pytest.raises(ValueError, match="cocob does not say how its updates of a leaf grow"):
        gdjax.for_batch(gdjax.cocob(), 2, 1)
