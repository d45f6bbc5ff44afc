"""`leafwise(reduce=...)` of version 0.2: a function of the lists of all leaves, which returns numbers for the rule."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import EmptyState, Shared, leafwise, numerics
from gdjax.lift.leafwise import INFERRED
from tests.trees import assert_close, assert_equal, signature

PARAMS = {"a": jnp.ones((2, 3), "bfloat16"), "b": {"c": jnp.array([3.0, -4.0])}, "none": None}


def reduced(reduce: Any, rule: Any, *args: Any, **slots: Any) -> Any:
    with pytest.warns(DeprecationWarning, match=r"^gdjax\.leafwise: reduce is deprecated: call gdjax\.total"):
        return leafwise(*args, reduce=reduce, **slots)(rule)


def test_numbers_for_the_rule():
    def largest(gs: Any, s: Any, ps: Any, t: Any, gain: Any, value: Any) -> Any:
        assert (s, t, gain) == (EmptyState(), None, 1.0)
        return {"top": value * jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in gs]))}

    def normalised(g: Any, s: Any, p: Any, t: Any, gain: Any = 1.0, *, top: Any = None) -> Any:
        return gain * g / top, s

    made = reduced(largest, normalised)
    assert list(inspect.signature(made).parameters) == ["gain", "top"]
    u, _ = jax.jit(made().update)(PARAMS, EmptyState(), value=2.0)
    assert_close(u, jax.tree.map(lambda x: x / 8, PARAMS))
    with pytest.raises(ValueError, match=r"normalised: this transform needs value=\.\.\.: call update\(updates, state"):
        made().update(PARAMS, EmptyState())


def test_a_rule_as_0_2_wrote_it():
    def norm(gs: Any, s: Any, ps: Any, t: Any) -> Any:
        return {"norm": gdjax.global_norm(gs)}

    def unit(g: Any, s: Any, p: Any, t: Any, gain: Any = 1.0, *, norm: gdjax.Reduced = None) -> Any:
        return gain * g / norm + p, s

    flags: Any = dict(zip(INFERRED, (True, False), strict=True))
    with pytest.warns(DeprecationWarning) as told:
        made = leafwise(reduce=norm, **flags)(unit)
    said = [f"{name} is deprecated: it is inferred from the rule" in str(x.message) for x in told for name in INFERRED]
    assert said == [True, False, False, True, False, False]
    x = jnp.array([3.0, 4.0])
    assert_close(made(2.0).update(x, EmptyState(), x)[0], x * 1.4)
    with pytest.raises(ValueError, match=r"params"):
        made().update(x, EmptyState())


class Furthest(NamedTuple):
    count: Any
    top: Any
    start: Any


def furthest(gs: Any, s: Any, ps: Any, t: Any, rate: Any) -> Any:
    ps, start = numerics.widen((ps, s.start), s.top.dtype)
    ours = jnp.max(jnp.stack([jnp.max(jnp.abs(x - y)) for x, y in zip(ps, start, strict=True)]))
    return {"top": jnp.maximum(s.top, rate * ours), "before": s.top + 0 * t}


def distance(g: Any, s: Any, p: Any, t: Any, rate: Any, first: Any = 0.25, *, before: Any = None) -> Any:
    return (s.top - before) * g, s


@pytest.mark.parametrize("rate", [2.0, jnp.float32(2.0), gdjax.constant_schedule(2.0)])
def test_a_number_of_the_state(rate: Any):
    start = lambda p, hyper: jnp.asarray(p)
    tx = reduced(furthest, distance, Furthest, top=Shared("first"), start=start)(rate)
    tx = gdjax.chain(gdjax.scale(1.0), tx, gdjax.scale(2.0))
    state = tx.init(PARAMS)
    moved = {**PARAMS, "b": {"c": jnp.array([3.0, -1.0])}}
    u, new = tx.update(PARAMS, state, moved)
    assert signature(new) == signature(state) and float(new[1].top) == 6.0
    assert_equal(u["b"]["c"], 2 * 5.75 * PARAMS["b"]["c"])
    u, new = tx.update(PARAMS, new, PARAMS)
    assert float(new[1].top) == 6.0
    np.testing.assert_array_equal(u["b"]["c"], 0)
    with pytest.raises(ValueError, match="^distance: this transform needs params"):
        tx.update(PARAMS, state)


def test_a_number_that_leaves_do_not_share_is_refused():
    def scaled(gs: Any, s: Any, ps: Any, t: Any, rate: Any) -> Any:
        return {"n": rate * len(gs)}

    tx = reduced(scaled, lambda g, s, p, t, rate, n=None: (n * g, s))(gdjax.per_leaf(1.0, {"c": 2.0}))
    with pytest.raises(TypeError, match=r"an argument by name of gdjax\.reduce is one number for the whole tree"):
        tx.update(PARAMS, EmptyState())
