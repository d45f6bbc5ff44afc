"""Rules of the whole tree: what they get, and what becomes of what they return."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import Shared, first_moment, numerics
from gdjax.lift.leafwise import treewise
from gdjax.lift.slots import Planned, Whole
from tests.trees import assert_equal, signature


class Around(NamedTuple):
    count: Any
    mu: Any
    names: Any
    total: Any
    inner: Any


@treewise(
    Around, total=Shared(dtype=jnp.int32), inner=Whole(lambda params, given: given["tx"].init(params), "tx"),
    names=Planned(lambda params, given: [jnp.full(3, i, jnp.int32) for i, _ in enumerate(jax.tree.leaves(params))]),
)  # fmt: skip
def around(gs, s, tree, t, scale=1.0, mu_dtype=None, tx=None):
    assert tree.of_each([x.shape for x in jax.tree.leaves(tree.unflattened(gs))]) == [(2,), (3,)]
    assert tree.params is not None and t.dtype == numerics.widest_real(gs)
    us, inner = tree.updated(tx, gs, s.inner, tree.params)
    mu = [m + g.astype(m.dtype) for m, g in zip(s.mu, gs, strict=True)]
    return [(scale * t).astype(u.dtype) * u for u in us], s._replace(mu=mu, total=s.total + len(gs), inner=inner)


PARAMS = {"a": jnp.ones(2, "bfloat16"), "b": jnp.ones((1, 2)), "n": jnp.arange(2), "o": jnp.ones(3)}
GRADS = {"a": jnp.ones(2, "bfloat16"), "b": None, "n": np.zeros(2, jax.dtypes.float0), "o": jnp.ones(3)}


@pytest.mark.parametrize("scale", [2.0, jnp.float32(2.0), gdjax.constant_schedule(2.0)])
def test_in_a_chain_with_leaves_that_have_no_gradient(scale):
    sgd = gdjax.sgd(0.1, momentum=0.5)
    tx = gdjax.chain(gdjax.scale(1.0), around(scale, tx=sgd), gdjax.scale(2.0))
    state = tx.init(PARAMS)
    assert [state[1].names[k][0] for k in "abn"] == [0, 1, 2]
    u, new = jax.jit(tx.update)(GRADS, state, PARAMS)
    want, inner = sgd.update(GRADS, sgd.init(PARAMS), PARAMS)
    assert_equal({k: u[k] for k in "ao"}, {k: 4 * want[k] for k in "ao"})
    assert u["b"] is None and u["n"].dtype == jax.dtypes.float0
    assert signature(new) == signature(state) and new[1].total == 2 and new[1].count == 1
    assert_equal(new[1].inner, inner)
    assert_equal(new[1].mu, {**state[1].mu, "a": GRADS["a"], "o": GRADS["o"]})
    assert float(tx.update(GRADS, new, PARAMS)[0]["o"][0]) == float(2 * 2 * 2 * 1.5 * want["o"][0])


def test_its_slots_and_settings():
    tx = around(tx=gdjax.adam(0.1), mu_dtype=gdjax.bfloat16_with_error)
    state = tx.init(PARAMS)
    _, new = tx.update(GRADS, state, PARAMS)
    assert signature(new) == signature(state)
    np.testing.assert_array_equal(gdjax.bfloat16_with_error.decode(new.mu["o"]), 1)
    assert gdjax.get_hyperparams(tx, state)["scale"] == 1.0
    assert "tx" not in gdjax.get_hyperparams(tx, state)


def test_it_is_masked_as_a_whole():
    tx = gdjax.masked(around(2.0, tx=gdjax.sgd(0.5)), {"a": True, "b": False, "n": False, "o": True})
    params = {**PARAMS, "b": jnp.ones((1, 2))}
    u, _ = tx.update({**GRADS, "b": params["b"]}, tx.init(params), params)
    np.testing.assert_array_equal(u["o"], -1)
    np.testing.assert_array_equal(u["b"], 1)

    @treewise(gdjax.EmptyState)
    def counted(gs, s, tree, t):
        return [g * len(gs) for g in gs], s

    two = gdjax.masked(counted(), {"a": True, "b": False, "n": False, "o": True})
    assert_equal(two.update(params, two.init(params))[0], {**params, "a": 2 * params["a"], "o": 2 * params["o"]})


def test_a_wrapper_around_it_is_a_pass_of_its_own():
    tx = gdjax.cautious(around(3.0, tx=gdjax.sgd(0.5)))
    u, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(u["o"], -1.5)


@pytest.mark.parametrize("result, message", [
    (lambda gs, s: ([g[:1] for g in gs], s), r"rule: params\['a'\]: the rule returned bfloat16 \(1,\) as the update"),
    (lambda gs, s: (gs[:1], s), r"zip\(\) argument 2 is shorter"),
    (lambda gs, s: (gs, s._replace(mu=s.mu[1:])), "different lengths of list"),
])  # fmt: skip
def test_errors(result, message):
    class State(NamedTuple):
        mu: Any

    @treewise(State, mu=first_moment)
    def rule(gs, s, tree, t, rate=1.0):
        return result(gs, s)

    with pytest.raises(ValueError, match=message):
        rule().update(GRADS, rule().init(PARAMS), PARAMS)
    with pytest.raises(TypeError, match="^rule: rate must be one number for the whole tree, which this method"):
        rule(gdjax.per_leaf(1.0, {"a": 2.0}))
