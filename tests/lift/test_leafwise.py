"""The lift: a rule for one array, and what it becomes."""

import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import EmptyState, ScaleByScheduleState, ScheduledState, Shared, TraceState, leafwise
from gdjax.lift.one_leaf import kernel_of
from tests.trees import assert_close, assert_equal, precision, random_tree, signature, steps

PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in (1, 2, 3)]


class Average(NamedTuple):
    count: Any
    mean: Any


@leafwise(Average, mean=gdjax.first_moment)
def average(g: Any, s: Any, p: Any, t: Any, gain: Any = 1.0) -> Any:
    """The mean of the gradients so far."""
    mean = s.mean + (g - s.mean) / t
    return gain * mean, s._replace(mean=mean)


@leafwise(TraceState)
def summed(g: Any, s: Any, p: Any, t: Any, gain: Any = 1.0) -> Any:
    total = s.trace + g
    return gain * total, TraceState(total)


SEEN: list[Any] = []


@leafwise()
def spy(g: Any, s: Any, p: Any, t: Any, gain: Any = 1.0) -> Any:
    SEEN.append((g.dtype, None if p is None else p.dtype, s, None if t is None else t.dtype))
    return gain * g, s


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


@pytest.mark.parametrize("schedule", [None, gdjax.constant_schedule(1.0)])
def test_which_states_there_are(schedule: Any):
    hyper = [] if schedule is None else [schedule]
    assert type(spy(*hyper).init(PARAMS)) is (EmptyState if schedule is None else ScaleByScheduleState)
    assert type(summed(*hyper).init(PARAMS)) is (TraceState if schedule is None else ScheduledState)
    assert type(average(*hyper).init(PARAMS)) is Average
    assert_close(steps(summed(*hyper), PARAMS, GRADIENTS)[0], steps(summed(), PARAMS, GRADIENTS)[0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_rule_sees_float32(dtype: str):
    SEEN.clear()
    x = {"a": jnp.ones(2, dtype)}
    u, _ = spy().update(x, EmptyState(), x)
    spy(gdjax.constant_schedule(1.0)).update(x, ScaleByScheduleState(jnp.int32(0)))
    # The step is there where a schedule makes the state count.
    assert SEEN == [(jnp.float32, jnp.float32, EmptyState(), None), (jnp.float32, None, EmptyState(), jnp.float32)]
    assert u["a"].dtype == dtype


def test_a_chain_does_not_round_between_its_rules():
    tiny, x = 2.0**-20, {"a": jnp.ones(3, "float16")}
    tx = gdjax.chain(gdjax.scale(tiny), gdjax.scale(tiny), gdjax.scale(1 / tiny), gdjax.scale(1 / tiny))
    assert_equal(tx.update(x, tx.init(x))[0], x)


def test_leaves_of_one_shape_share_a_trace():
    SEEN.clear()
    tree = {str(i): jnp.ones(4) for i in range(10)} | {"other": jnp.ones(5)}
    jax.jit(spy(3.0).update)(tree, EmptyState())
    assert len(SEEN) == 2
    jax.jit(gdjax.chain(spy(3.0)).update)(tree, (EmptyState(),))
    assert len(SEEN) == 2  # and so does the next transform of equal rules


def test_kernels_are_shared_by_value():
    kernel = spy(4.0).update.made.fn.__self__.kernel
    assert kernel_of((kernel,)) is kernel_of((spy(4.0).update.made.fn.__self__.kernel,))
    assert kernel_of((kernel,)) is not kernel_of((spy(5.0).update.made.fn.__self__.kernel,))


def test_names_in_profiles():
    text = (
        jax.jit(gdjax.scale_by_adam().update).lower(PARAMS, gdjax.scale_by_adam().init(PARAMS)).as_text(debug_info=True)
    )
    assert "scale_by_adam" in text


class Furthest(NamedTuple):
    count: Any
    top: Any
    start: Any


@leafwise(Furthest, top=Shared("first"), start=lambda p, hyper: jnp.asarray(p))
def distance(g: Any, s: Any, p: Any, t: Any, rate: Any, first: Any = 0.25) -> Any:
    top = jnp.maximum(s.top, rate * gdjax.largest(jnp.max(jnp.abs(p - s.start))))
    return (top - s.top) * g, s._replace(top=top)


@pytest.mark.parametrize("rate", [2.0, gdjax.constant_schedule(2.0)])
def test_a_number_of_the_whole_tree_in_the_state(rate: Any):
    tx = distance(rate)
    params = {"a": jnp.zeros((2, 3), "bfloat16"), "b": jnp.zeros(4), "int": jnp.arange(3)}
    g = {"a": jnp.ones((2, 3), "bfloat16"), "b": jnp.ones(4), "int": np.zeros(3, jax.dtypes.float0)}
    state = tx.init(params)
    assert (state.top.dtype, float(state.top), state.start["a"].dtype) == (jnp.float32, 0.25, jnp.bfloat16)
    moved = {**params, "b": jnp.array([0.0, -3.0, 1.0, 0.0])}
    u, new = tx.update(g, state, moved)
    assert signature(new) == signature(state) and float(new.top) == 6.0
    assert_equal({k: u[k] for k in "ab"}, {"a": jnp.full((2, 3), 5.75, "bfloat16"), "b": jnp.full(4, 5.75)})
    u, new = tx.update(g, new, params)
    assert float(new.top) == 6.0 and float(u["b"][0]) == 0.0
    # In double precision with double parameters.
    with precision("float64"):
        assert tx.init({"a": jnp.zeros(2, "float64")}).top.dtype == jnp.float64


class Sums(NamedTuple):
    sums: Any  # for each leaf the tuple of its sums along each axis


@leafwise(Sums, sums=lambda p, hyper: tuple(jnp.zeros(n) for n in p.shape))
def sums_along_axes(g: Any, s: Any, p: Any, t: Any) -> Any:
    axes = range(g.ndim)
    new = tuple(s.sums[i] + jnp.sum(g, axis=tuple(a for a in axes if a != i)) for i in axes)
    return g, Sums(new)


def test_a_slot_may_be_a_tree():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(()), "c": jnp.ones(4, "bfloat16")}
    _, state = steps(sums_along_axes(), params, [params, params])
    assert state.sums["b"] == () and len(state.sums["a"]) == 2
    assert_equal(state.sums["a"], (jnp.full(2, 6.0), jnp.full(3, 4.0)))
    assert_equal(state.sums["c"], (jnp.full(4, 2.0),))


def test_slots_start_as_declared():
    class Two(NamedTuple):
        wide: Any
        filled: Any

    @leafwise(Two, wide=gdjax.Moment(wide=True), filled=gdjax.Moment("mu_dtype", fill="start"))
    def rule(g: Any, s: Any, p: Any, t: Any, start: float = 2.0, mu_dtype: Any = None) -> Any:
        return g, s

    state = rule().init({"x": jnp.ones(2, "bfloat16")})
    assert (state.wide["x"].dtype, state.filled["x"].dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_array_equal(state.filled["x"].astype("float32"), [2, 2])
    assert rule(mu_dtype="float32").init({"x": jnp.ones(2, "bfloat16")}).filled["x"].dtype == jnp.float32
    # What a parameter of integers, which is not trained, has in Optax.
    state = rule().init({"x": jnp.ones(2, int)})
    assert (state.wide["x"].dtype, state.filled["x"].dtype) == (jnp.int32, jnp.int32) and state.wide["x"].shape == (2,)
    assert rule(mu_dtype="float32").init({"x": jnp.ones(2, int)}).filled["x"].dtype == jnp.float32


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


def test_a_rule_is_traced_anew_in_another_context():
    @leafwise()
    def turned(g: Any, s: Any, p: Any, t: Any) -> Any:
        return g @ g, s

    tx, x = turned(), jnp.ones((3, 3))
    text = lambda: str(jax.make_jaxpr(lambda g: tx.update(g, EmptyState())[0])(x))
    assert "HIGHEST" not in text()
    with jax.default_matmul_precision("highest"):
        assert "HIGHEST" in text()
    assert "HIGHEST" not in text()
