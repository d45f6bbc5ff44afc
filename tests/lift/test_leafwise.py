"""The lift: a rule for one array, and what it becomes."""

import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax import leafwise
from tests.trees import assert_close, assert_equal, random_tree, steps

PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in (1, 2, 3)]


class Average(NamedTuple):
    count: Any
    mean: Any


@leafwise(Average, mean=gdjax.first_moment)
def average(g: Any, s: Any, p: Any, t: Any, gain: Any = 1.0) -> Any:
    """The mean of the gradients so far."""
    mean = s.mean + (g - s.mean) / t
    return gain * mean, s._replace(mean=mean)


def test_a_rule_becomes_a_transform():
    got, state = steps(average(0.5), PARAMS, GRADIENTS)
    wanted, mean = PARAMS, jax.tree.map(jnp.zeros_like, PARAMS)
    for t, g in enumerate(GRADIENTS, 1):
        mean = jax.tree.map(lambda m, g, t=t: m + (g - m) / t, mean, g)
        wanted = jax.tree.map(lambda p, m: p + 0.5 * m, wanted, mean)
    assert_close(got, wanted)
    assert_close(state.mean, mean)
    assert state.count == 3 and type(state) is Average


def test_the_factory_has_the_signature_of_its_hyperparameters():
    assert repr(average(2.0)) == "average(gain=2.0)"
    assert average.__doc__ == "The mean of the gradients so far."
    assert pickle.loads(pickle.dumps(average(2.0))) == average(2.0)
    with pytest.raises(TypeError, match=r"average: .*its arguments are gain"):
        average(loss=1.0)


def test_an_update_that_reads_an_old_slot_is_the_same_in_any_order():
    # For such a rule the slots are tied behind the parameters: the numbers must not notice, not even NaN and 0.
    params = {"zero": jnp.zeros(3), "nan": jnp.array([jnp.nan, 1.0]), "empty": jnp.zeros((0,)), "scalar": jnp.ones(())}
    g = jax.tree.map(jnp.ones_like, params)
    tx = gdjax.scale_by_lion()
    with_params, without = tx.update(g, tx.init(params), params), tx.update(g, tx.init(params))
    assert_equal(with_params, without)


@leafwise()
def matrices_only(g: Any, s: Any, p: Any, t: Any) -> Any:
    if g.ndim != 2:
        raise ValueError(f"matrices_only: shape {g.shape} is no matrix")
    return g, s


def test_an_error_of_a_rule_tells_the_leaf():
    tx, g = matrices_only(), {"a": jnp.ones((2, 2)), "b": [jnp.ones(3)]}
    with pytest.raises(ValueError, match="is no matrix") as e:
        tx.update(g, tx.init(g))
    assert "matrices_only: in the rule for params['b'][0]" in e.value.__notes__
