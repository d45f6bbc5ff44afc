"""Hyperparameters as numbers, traced scalars, schedules and entries of the state."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import schedules
from tests.cases import WRAPPERS, Case, every
from tests.support import relaxed
from tests.trees import assert_close, random_tree, signature, steps

PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in (1, 2)]


@pytest.mark.full
@every(lambda case: bool(case.hyper) and case.scheduled, sampled=True, but=WRAPPERS)
def test_every_number_may_be_traced(case: Case):
    wanted = steps(case.make(), PARAMS, GRADIENTS)
    traced = jax.jit(lambda hyper: steps(case.make(**hyper), PARAMS, GRADIENTS))
    assert_close(traced(dict(case.hyper)), wanted)
    arrays = {k: jnp.float32(x) for k, x in case.hyper.items()}
    assert_close(steps(case.make(**arrays), PARAMS, GRADIENTS), wanted)


def with_schedules(case: Case) -> Any:
    """The transform with a schedule for each of its numbers, but those that the state starts at."""
    scheduled = {k: x for k, x in case.hyper.items() if not k.startswith("initial")}
    return case.make(**{k: gdjax.constant_schedule(x) for k, x in scheduled.items()})


@pytest.mark.full
@every(lambda case: bool(case.hyper) and case.scheduled, thin=3)
def test_every_number_may_be_a_schedule(case: Case):
    tx = with_schedules(case)
    got, state = jax.eval_shape(functools.partial(steps, tx), PARAMS, GRADIENTS)
    assert signature((got, state)) == signature((PARAMS, tx.init(PARAMS)))


@pytest.mark.full
@every(lambda case: bool(case.hyper) and case.scheduled, sampled=True)
def test_a_constant_schedule_is_a_number(case: Case):
    assert_close(steps(with_schedules(case), PARAMS, GRADIENTS)[0], steps(case.make(), PARAMS, GRADIENTS)[0])


@every(lambda case: bool({"initial_accumulator_value", "initial_scale"} & set(case.hyper)))
def test_a_number_the_state_starts_at_may_be_a_schedule(case: Case):
    name = next(k for k in case.hyper if k.startswith("initial"))
    tx = case.make(**{name: gdjax.constant_schedule(case.hyper[name])})
    assert_close(steps(tx, PARAMS, GRADIENTS)[0], steps(case.make(), PARAMS, GRADIENTS)[0])


@pytest.mark.full
@every(lambda case: "learning_rate" in case.hyper, sampled=True, but=WRAPPERS)
def test_vmap_over_the_learning_rate(case: Case):
    rates = jnp.array([0.0, 0.01, 0.1])
    run = jax.jit(lambda rate: steps(case.make(learning_rate=rate), PARAMS, GRADIENTS)[0])
    many = jax.jit(jax.vmap(run))(rates)
    for i, rate in enumerate(rates):
        assert_close(jax.tree.map(lambda x, i=i: x[i], many), run(rate))


@pytest.mark.full
@every(lambda case: "learning_rate" in case.hyper, sampled=True, but=WRAPPERS)
def test_derivatives_by_the_learning_rate(case: Case):
    def loss(rate: Any, g: Any) -> Any:
        tx = case.make(learning_rate=rate)
        state, p = tx.init(PARAMS), PARAMS
        for _ in range(2):
            updates, state = tx.update(g, state, p)
            p = gdjax.apply_updates(p, updates)
        return sum(jnp.sum(x) for x in jax.tree.leaves(p))

    both = jax.jit(jax.value_and_grad(loss))
    assert np.isfinite(both(0.1, jax.tree.map(jnp.zeros_like, PARAMS))[1])
    (above, _), (below, _), (_, slope) = (both(rate, GRADIENTS[0]) for rate in (0.11, 0.09, 0.1))
    if not case.random:
        np.testing.assert_allclose(slope, (above - below) / 0.02, rtol=2e-2, atol=2e-2)


def test_a_schedule_sees_the_count():
    for make in (gdjax.sgd, gdjax.adam, lambda f: gdjax.sgd(f, 0.9), gdjax.inject_hyperparams(gdjax.sgd)):
        seen: list[int] = []

        def rate(count: Any, seen: list[int] = seen) -> Any:
            assert count.dtype == jnp.int32 and count.shape == ()
            jax.debug.callback(lambda c: seen.append(int(c)), count, ordered=True)
            return 0.1

        tx = make(rate)
        state = tx.init(PARAMS)
        seen.clear()
        for g in GRADIENTS:
            jax.block_until_ready(tx.update(g, state, PARAMS))
            _, state = tx.update(g, state, PARAMS)
        jax.effects_barrier()
        assert sorted(set(seen)) == [0, 1]


def test_hyperparams_are_in_the_state_and_can_be_changed():
    tx = gdjax.inject_hyperparams(gdjax.sgd)(0.1, momentum=0.5)
    state = tx.init(PARAMS)
    assert isinstance(state, gdjax.InjectStatefulHyperparamsState)
    assert {k: float(x) for k, x in state.hyperparams.items()} == pytest.approx({"learning_rate": 0.1, "momentum": 0.5})
    traces = 0

    @jax.jit
    def step(g: Any, state: Any) -> Any:
        nonlocal traces
        traces += 1
        return tx.update(g, state)

    first, state = step(GRADIENTS[0], state)
    state.hyperparams["learning_rate"] = 0.2
    state.hyperparams["momentum"] = jnp.float32(0.0)
    second, state = step(GRADIENTS[0], tx.init(PARAMS)._replace(hyperparams=state.hyperparams))
    assert_close(second, jax.tree.map(lambda u: 2 * u, first))
    assert traces <= 2  # a Python number in the place of an array


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_hyperparams_stay_float32_with_narrow_parameters(dtype: str):
    params = random_tree(0, dtype)
    tx = gdjax.inject_hyperparams(gdjax.adam)(0.1)
    state = tx.init(params)
    assert {x.dtype for x in state.hyperparams.values()} == {jnp.dtype("float32")}
    assert float(state.hyperparams["b2"]) == pytest.approx(0.999, abs=1e-7)
    assert_close(steps(tx, params, [params])[0], steps(gdjax.adam(0.1), params, [params])[0])


@pytest.mark.full
def test_static_args_and_hyperparam_dtype():
    tx = gdjax.inject_hyperparams(gdjax.perturbed_gradient_descent, static_args=("wait", "key"))(0.1)
    state = tx.init(PARAMS)
    assert set(state.hyperparams) == {"learning_rate", "radius", "threshold"}
    steps(tx, PARAMS, GRADIENTS)
    tx = gdjax.inject_hyperparams(gdjax.adam, static_args="b1", hyperparam_dtype="bfloat16")(0.1)
    assert "b1" not in tx.init(PARAMS).hyperparams
    assert {x.dtype for x in tx.init(PARAMS).hyperparams.values()} == {jnp.dtype("float32")}


class HalvesOnPlateau:
    """A stateful schedule: halves the rate when the value it is told rises, and for a value above 3.5."""

    def init(self) -> Any:
        return {"rate": jnp.float32(0.1), "value": jnp.float32(jnp.inf)}

    def update(self, state: Any, *, value: Any, **extra_args: Any) -> Any:
        return {"rate": jnp.where(value > state["value"], state["rate"] / 2, state["rate"]), "value": value}

    def __call__(self, state: Any, *, value: Any = 0.0, **extra_args: Any) -> Any:
        return jnp.where(jnp.asarray(value) > 3.5, state["rate"] / 2, state["rate"])


def test_a_stateful_schedule():
    tx = gdjax.inject_hyperparams(gdjax.sgd)(HalvesOnPlateau())
    state = tx.init(PARAMS)
    rates = []
    for value in (3.0, 2.0, 4.0, 1.0):
        _, state = tx.update(GRADIENTS[0], state, PARAMS, value=jnp.float32(value))
        rates.append(float(state.hyperparams["learning_rate"]))
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.05, 0.05], rtol=1e-6)


def test_a_stateful_schedule_as_in_optax():
    assert isinstance(HalvesOnPlateau(), schedules.StatefulSchedule)
    assert isinstance(gdjax.WrappedSchedule(lambda count: 0.1), schedules.StatefulSchedule)
    assert not isinstance(gdjax.linear_schedule(1.0, 0.0, 10), schedules.StatefulSchedule)
    arguments = {"learning_rate": HalvesOnPlateau(), "momentum": gdjax.linear_schedule(0.9, 0.5, 3)}
    ours = schedules.inject_stateful_hyperparams(gdjax.sgd)(**arguments)
    with relaxed():
        theirs = optax.inject_hyperparams(optax.sgd)(**arguments)
        their_state: Any = theirs.init(PARAMS)
    state: Any = ours.init(PARAMS)
    for value in (3.0, 2.0, 4.0, 1.0):
        got, state = ours.update(GRADIENTS[0], state, PARAMS, value=jnp.float32(value))
        with relaxed():
            wanted, their_state = theirs.update(GRADIENTS[0], their_state, PARAMS, value=jnp.float32(value))
        assert_close(got, wanted)
        for field in ("count", "hyperparams", "hyperparams_states"):
            assert_close(jax.tree.leaves(getattr(state, field)), jax.tree.leaves(getattr(their_state, field)))
    assert state._fields == their_state._fields


def test_names_of_optax():
    assert schedules.inject_stateful_hyperparams is gdjax.inject_hyperparams
    for name in ("InjectHyperparamsState", "InjectStatefulHyperparamsState"):
        assert getattr(schedules, name)._fields == getattr(optax.schedules, name)._fields


def test_the_count_of_a_wrapped_schedule_stays_at_its_largest():
    schedule = gdjax.WrappedSchedule(lambda count: count)
    last = gdjax.WrappedScheduleState(jnp.int32(2**31 - 1))
    assert schedule(schedule.update(last)) == 2**31 - 1


def test_get_hyperparams():
    schedule = gdjax.linear_schedule(1.0, 0.0, 10)
    tx = gdjax.chain(gdjax.clip_by_global_norm(2.0), gdjax.adamw(schedule, weight_decay=0.01))
    state = tx.init(PARAMS)
    for count in range(2):
        found = gdjax.get_hyperparams(tx, state)
        assert float(found["learning_rate"]) == pytest.approx(1.0 - count / 10)
        assert found["max_norm"] == 2.0 and found["b1"] == 0.9 and found["weight_decay"] == 0.01
        _, state = tx.update(GRADIENTS[0], state, PARAMS)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: gdjax.MultiSteps(tx, 2),
        lambda tx: gdjax.apply_if_finite(tx, 2),
        lambda tx: gdjax.conditionally_transform(tx, lambda **extra_args: True),
        lambda tx: gdjax.schedule_free(tx, 0.1),
        lambda tx: gdjax.sam(tx, gdjax.sgd(0.2)),
        lambda tx: gdjax.mechanize(tx),
    ],
)
def test_get_hyperparams_inside_wrappers(wrap: Any):
    tx = wrap(gdjax.sgd(gdjax.constant_schedule(0.25), momentum=0.5))
    found = gdjax.get_hyperparams(tx, tx.init(PARAMS))
    assert (float(found["learning_rate"]), found["decay"]) == (0.25, 0.5)


def test_get_hyperparams_names_what_occurs_twice():
    tx = gdjax.partition({"matrix": gdjax.sgd(0.1), "vector": gdjax.sgd(gdjax.linear_schedule(0.2, 0.0, 10))}, by_rank)
    found = gdjax.get_hyperparams(tx, tx.init(PARAMS))
    rates = {k: float(x) for k, x in found.items() if k.endswith("learning_rate")}
    assert len(rates) == 2
    assert {k.split("/")[0] for k in rates} == {"matrix", "vector"}
    assert sorted(rates.values()) == pytest.approx([0.1, 0.2])
    tx = gdjax.masked(gdjax.inject_hyperparams(gdjax.sgd)(0.3), lambda tree: jax.tree.map(lambda x: True, tree))
    assert float(gdjax.get_hyperparams(tx, tx.init(PARAMS))["learning_rate"]) == pytest.approx(0.3)


def by_rank(tree: Any) -> Any:
    return jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "vector", tree)


CHAINED = "optax.chain cannot be read: a transform of another library or written by hand keeps its numbers in a closure"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: optax.adam(1e-3), CHAINED),
        (lambda: gdjax.from_optax(optax.adam(1e-3)), CHAINED),
        (lambda: gdjax.masked(optax.adam(1e-3), True), CHAINED),
        (lambda: optax.chain(optax.clip(1.0), gdjax.adam(1e-3)), CHAINED),
        (lambda: optax.MultiSteps(gdjax.adam(1e-3), 2), "0/a transform with ScaleByAdamState, 1/a transform with"),
        (
            lambda: optax.partition({"a": gdjax.adam(1e-3)}, "a"),
            "a/0/a transform with ScaleByAdamState, a/1/a transform",
        ),
        (lambda: gdjax.GradientTransformation(lambda p: (), by_rank), "tests.by_rank cannot be read"),
    ],
)
def test_get_hyperparams_of_a_closure_is_an_error(make: Any, named: str):
    with relaxed():
        tx = make()
        state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=f"^gdjax.get_hyperparams: {named}.*; make it with gdjax.inject_hyperparams"):
        gdjax.get_hyperparams(tx, state)


def test_get_hyperparams_beside_a_closure():
    with relaxed():
        ours = gdjax.chain(optax.clip(1.0), gdjax.adam(1e-3))
        theirs = gdjax.chain(gdjax.clip(1.0), optax.adam(1e-3))
        injected = optax.chain(optax.clip(1.0), optax.inject_hyperparams(optax.adam)(1e-3))
        states = [tx.init(PARAMS) for tx in (ours, theirs, injected)]
    assert gdjax.get_hyperparams(ours, states[0])["learning_rate"] == 1e-3  # no warning
    assert float(gdjax.get_hyperparams(injected, states[2])["learning_rate"]) == pytest.approx(1e-3)
    with pytest.warns(UserWarning, match="^gdjax.get_hyperparams: 1/optax.chain cannot be read"):
        assert gdjax.get_hyperparams(theirs, states[1]) == {"max_delta": 1.0}


def test_get_hyperparams_of_what_has_none_or_shows_them_in_its_call():
    for tx in (gdjax.identity(), gdjax.chain(), gdjax.freeze(lambda p: True), gdjax.scale_by_sign()):
        assert gdjax.get_hyperparams(tx, tx.init(PARAMS)) == {}
    for tx in (
        gdjax.flatten(gdjax.sgd(0.25)),
        gdjax.to_optax(gdjax.sgd(0.25)),
        gdjax.sam(gdjax.sgd(0.25), gdjax.sgd(9.0)),
    ):
        assert gdjax.get_hyperparams(tx, tx.init(PARAMS))["learning_rate"] == 0.25
    tx = gdjax.differentially_private_aggregate(0.5, 2.0, 0)
    assert gdjax.get_hyperparams(tx, tx.init(PARAMS))["l2_norm_clip"] == 0.5


@gdjax.transform
def opaque(learning_rate: Any) -> Any:
    """A transform that no chain can look into."""
    return gdjax.GradientTransformation(lambda p: gdjax.EmptyState(), lambda u, s, p=None, **extra: (u, s))


def test_get_hyperparams_of_a_schedule_in_a_closure():
    assert gdjax.get_hyperparams(opaque(0.5), gdjax.EmptyState()) == {"learning_rate": 0.5}
    with pytest.raises(ValueError, match="^gdjax.get_hyperparams: opaque cannot be read"):
        gdjax.get_hyperparams(opaque(gdjax.constant_schedule(0.5)), gdjax.EmptyState())


def test_get_hyperparams_is_of_the_next_update():
    tx = gdjax.sgd(gdjax.linear_schedule(1.0, 0.0, 4))
    before = tx.init(PARAMS)
    updates, after = tx.update(GRADIENTS[0], before, PARAMS)
    assert_close(updates, jax.tree.map(lambda g: -float(rate(tx, before)) * g, GRADIENTS[0]))
    assert (float(rate(tx, before)), float(rate(tx, after))) == (1.0, 0.75)


def rate(tx: Any, state: Any) -> Any:
    return gdjax.get_hyperparams(tx, state)["learning_rate"]


def test_masks_and_dtypes_are_left_alone():
    matrices = lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    g = jax.tree.map(jnp.zeros_like, params)
    tx = gdjax.inject_hyperparams(gdjax.adamw)(0.1, weight_decay=0.5, mask=matrices, mu_dtype=jnp.float32)
    state = tx.init(params)
    assert "mask" not in state.hyperparams and "mu_dtype" not in state.hyperparams
    u, _ = tx.update(g, state, params)
    assert_close(u, {"w": jnp.full((2, 2), -0.05), "b": jnp.zeros(2)})


@pytest.mark.parametrize("factory", [gdjax.clip_by_global_norm, gdjax.sgd, optax.clip_by_global_norm, optax.sgd])
def test_a_stateless_factory_needs_no_params(factory: Any):
    """Optax's getting-started page calls init(None)."""
    tx = gdjax.inject_hyperparams(factory)(0.5)
    state = tx.init(None)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(PARAMS))
    with relaxed():
        updates, _ = tx.update({"a": jnp.full(3, 2.0)}, state)
        expected, _ = factory(0.5).update({"a": jnp.full(3, 2.0)}, factory(0.5).init(None))
    assert_close(updates, expected)


def test_a_factory_with_a_state_needs_them():
    with pytest.raises(ValueError, match="gdjax.trace: params is None; pass the tree of parameters"):
        gdjax.inject_hyperparams(gdjax.trace)(0.5).init(None)


@pytest.mark.parametrize("factory, arguments", [
    (gdjax.accumulate, {"inner": gdjax.sgd(0.5), "every": 2}),
    (gdjax.quantize_state, {"inner": gdjax.adam(0.5)}),
    (gdjax.offload_state, {"inner": gdjax.adam(0.5)}),
    (gdjax.transformer_optimizer, {"learning_rate": 0.5, "steps": 9}),
])  # fmt: skip
def test_what_a_factory_declares_as_int_is_left_alone(factory: Any, arguments: dict[str, Any]):
    integers = {name for name, p in inspect.signature(factory).parameters.items() if p.annotation in (int, int | None)}
    given = {**dict.fromkeys(integers, 3), **arguments}
    tx = gdjax.inject_hyperparams(factory)(**given)
    assert integers and not integers & set(tx.init({"w": jnp.ones((2, 3))}).hyperparams)
