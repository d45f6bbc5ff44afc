"""The lift: a rule for one array, and what it becomes."""

import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax import Shared, leafwise
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


@pytest.mark.full
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


class Count(NamedTuple):
    count: Any


def test_the_class_of_the_count_of_a_scheduled_rule():
    @leafwise(scheduled=Count)
    def times(g: Any, s: Any, p: Any, t: Any, by: Any = 1.0) -> Any:
        return by * g, s

    tx = times(gdjax.linear_schedule(1.0, 3.0, 2))
    u, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
    assert type(state) is Count and state.count == 1 and float(u[0]) == 1
    assert float(tx.update(jnp.ones(1), state)[0][0]) == 2


def test_a_count_of_another_name():
    class Called(NamedTuple):
        steps: Any

    @leafwise(Called, count=lambda s: s.steps, steps=Shared(0, jnp.int32))
    def rule(g: Any, s: Any, p: Any, t: Any, by: Any = 1.0) -> Any:
        return by * g, Called(s.steps + 2)

    tx = rule(lambda count: count.astype(jnp.float32))
    state = tx.init(jnp.ones(1))
    for wanted in (0, 2, 4):  # the schedule sees the steps so far
        u, state = tx.update(jnp.ones(1), state)
        assert float(u[0]) == wanted


def test_facts_about_leaves_and_arguments_of_update():
    @leafwise(static={"axes": lambda tree, given: [given + len(path) for path in tree.paths]}, extra="value")
    def rule(g: Any, s: Any, p: Any, t: Any, value: Any, axes: Any = 10) -> Any:
        return g * axes + value, s

    g = {"a": jnp.ones(1), "b": {"c": jnp.ones(1)}}
    u, _ = rule().update(g, rule().init(g), value=0.5)
    assert (float(u["a"][0]), float(u["b"]["c"][0])) == (11.5, 12.5)
    with pytest.raises(ValueError, match="this transform needs value=..."):
        rule().update(g, rule().init(g))
    with pytest.raises(TypeError, match="gdjax.leafwise: static: the rule has no argument axis"):
        leafwise(static={"axis": lambda tree, given: []})(lambda g, s, p, t, axes=0: (g, s))
