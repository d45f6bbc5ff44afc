"""The contract on states: what other libraries look for in them; and on the trees that init and update take."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests.cases import Case, by_name, every
from tests.declare import matrices
from tests.schedules.cases import CASES as SCHEDULES
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, finite, is_key, random_tree, signature, steps

PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in (1, 2)]


def states_in(tree: Any) -> list[Any]:
    """Every NamedTuple in a state, the outer before the inner."""
    own = [tree] if hasattr(tree, "_fields") else []
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ()
    return own + [s for x in inner for s in states_in(x)]


def test_c16_a_chain_is_a_tuple_with_empty_states():
    state = gdjax.chain(gdjax.clip(1.0), gdjax.trace(0.9), gdjax.scale(-0.1)).init(PARAMS)
    assert type(state) is tuple
    assert [type(s).__name__ for s in state] == ["EmptyState", "TraceState", "EmptyState"]
    assert state[0] == () and jax.tree.leaves(state[0]) == []
    theirs = gdjax.to_optax(gdjax.chain(gdjax.clip(1.0), gdjax.trace(0.9))).init(PARAMS)
    assert isinstance(theirs[0], optax.EmptyState)  # by which Tunix finds the end of what it reads


@pytest.mark.parametrize("make", [gdjax.adam, gdjax.adamw, gdjax.nadam, gdjax.nadamw], ids=lambda f: f.__name__)
def test_c17_the_moments_of_adam(make: Callable[..., Any]):
    state = make(0.1).init(PARAMS)
    assert (type(state[0]).__name__, state[0]._fields) == ("ScaleByAdamState", ("count", "mu", "nu"))
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    changed = state[0]._replace(mu=ones)
    assert changed.mu is ones and changed.nu is state[0].nu
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert "[0].mu['dense']['kernel']" in paths and "[0].nu['dense']['kernel']" in paths  # as MaxText looks them up
    assert isinstance(gdjax.to_optax(make(0.1)).init(PARAMS)[0], optax.ScaleByAdamState)


def test_c18_the_state_of_momentum_can_be_built_by_hand():
    # MaxText's DiLoCo does so.
    tx = gdjax.sgd(0.1, momentum=0.9, nesterov=True)
    state = (gdjax.TraceState(trace=jax.tree.map(jnp.zeros_like, PARAMS)), gdjax.EmptyState())
    assert signature(tx.init(PARAMS)) == signature(state)
    theirs = (optax.TraceState(trace=state[0].trace), optax.EmptyState())
    assert signature(gdjax.to_optax(tx).init(PARAMS)) == signature(theirs)
    wanted, new = tx.update(GRADIENTS[0], state)
    updates, their_new = tx.update(GRADIENTS[0], theirs)  # it takes Optax's as it is
    assert_equal(updates, wanted)
    assert_equal(their_new[0].trace, new[0].trace)


def test_c19_hyperparameters_set_in_place_inside_scan():
    # As Brax does it: the state is a tuple with a mutable dict, and the new number keeps its dtype.
    tx = gdjax.chain(gdjax.clip(10.0), gdjax.inject_hyperparams(gdjax.sgd)(0.1))

    def step(carry: Any, rate: Any) -> Any:
        params, state = carry
        assert isinstance(state[-1], tuple) and hasattr(state[-1], "hyperparams")
        state[-1].hyperparams["learning_rate"] = rate
        updates, state = tx.update(GRADIENTS[0], state, params)
        return (gdjax.apply_updates(params, updates), state), None

    rates = jnp.array([0.1, 0.2, 0.3])
    run = jax.jit(lambda params, state: jax.lax.scan(step, (params, state), rates)[0])
    params, state = run(PARAMS, tx.init(PARAMS))
    assert_close(params, jax.tree.map(lambda p, g: p - 0.6 * g, PARAMS, GRADIENTS[0]))
    assert float(state[-1].hyperparams["learning_rate"]) == pytest.approx(0.3)
    assert finite(state) and signature(state) == signature(tx.init(PARAMS))
    assert type(state[-1].hyperparams) is dict and state[-1].hyperparams.keys() == {
        "learning_rate"
    }  # Levanter logs them
    their_state = gdjax.to_optax(tx).init(PARAMS)[-1]
    assert isinstance(their_state, optax.InjectStatefulHyperparamsState)


# Optax's fields for counters that are not called count, and ours: the step of the last perturbation, averages taken;
# Flax's for the steps since a loss scale changed.
OTHER_COUNTERS = set(
    "t count_m2 plateau_count cooldown_count num_linesearch_steps mini_step gradient_step notfinite_count "
    "total_notfinite step steps_since_sync step_count last_noise skip_state averaged pairs update_counter "
    "fin_steps total_skipped".split()
)


@every()
def test_c20_step_counters_are_named_count(case: Case):
    state = jax.eval_shape(case.make().init, PARAMS)
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        name = next(getattr(k, "name", "") for k in reversed(path) if hasattr(k, "name")) if path else ""
        if (x.shape, x.dtype) == ((), jnp.int32):
            assert name == "count" or name in OTHER_COUNTERS, jax.tree_util.keystr(path)
        elif name == "count":
            raise AssertionError(f"{jax.tree_util.keystr(path)} is {x}")


def test_c21_what_gpjax_reads_of_lbfgs():
    def loss(p: Any) -> Any:
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(p))

    tx = gdjax.lbfgs()
    with relaxed():
        value_and_grad = optax.value_and_grad_from_state(loss)

        @jax.jit
        def step(params: Any, state: Any) -> Any:
            value, grad = value_and_grad(params, state=state)
            updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
            return optax.apply_updates(params, updates), state

        params, state = PARAMS, tx.init(PARAMS)
        for _ in range(2):
            params, state = step(params, state)
        assert int(optax.tree.get(state, "count")) == 2
        value, grad = value_and_grad(params, state=state)  # kept in the state: the function is not called
        assert float(value) == pytest.approx(float(loss(params)), abs=1e-6)
        assert_close(optax.tree.get(state, "grad"), grad)


@every()
def test_c22_c23_classes_have_optax_names(case: Case):
    # What Optax has no class for is told apart by a name that Optax does not use.
    state = jax.eval_shape(case.make().init, PARAMS)
    theirs = {type(s).__name__: type(s) for s in states_in(gdjax.state_to_optax(state))}
    for s in states_in(state):
        assert theirs[type(s).__name__]._fields == s._fields
    names = {name for name, cls in theirs.items() if cls.__module__.split(".")[0] == "gdjax"}
    ours = "CautiousState EscapeSaddlesState HyperballState MetricsState ParamsEmaState SWAState PSGDKronState"
    ours += " GrokfastState MarsState ScaleByLapropState"
    ours += " ScaleByBFGSState ScaleByNorMuonState ScaleByScionState ScaleByDionState ScaleByDion2State ScheduledState"
    ours += " QuantizedState BlockCodes BlockCodesOfSquares NarrowCodes Word InWord"
    ours += " SoapState SoapMuonState KLShampooState KLSoapState ShampooState"
    ours += " AccumulateState DynamicLossScaleState KahanSummationState MasterWeightsState StochasticRoundingState"
    ours += " TailEmaState EmaNesterovState GPAState ScheduleFreePlusState"
    ours += " ScaleByCameState ScaleByAdamMiniState ScaleByApolloState ScaleByNadamState"
    ours += " SGLDState PSGLDState SGHMCState SkipSpikesState ZClipState UpdateFloorState RadialBrakeState"
    ours += " GaussNewtonState SnooState MuownState ScaleByAdanaState SpectralState"
    names -= set(ours.split())
    assert names == set()


def test_c22_optax_finds_our_states_by_name():
    tx = gdjax.chain(gdjax.clip(1.0), gdjax.adam(0.1))
    _, state = steps(tx, PARAMS, GRADIENTS)
    assert int(optax.tree.get(state, "count")) == 2
    assert optax.tree.get(state, "ScaleByAdamState") is state[1][0]
    assert_equal(optax.tree.get(state, "mu"), state[1][0].mu)
    changed = optax.tree.set(state, count=jnp.int32(7))
    assert int(changed[1][0].count) == 7


def test_c23_masked_leaves_are_masked_nodes():
    state = gdjax.masked(gdjax.trace(0.9), matrices).init(PARAMS)
    hidden = state.inner_state.trace["dense"]["bias"]
    assert (type(hidden).__name__, hidden, jax.tree.leaves(hidden)) == ("MaskedNode", (), [])
    theirs = gdjax.to_optax(gdjax.masked(gdjax.trace(0.9), matrices)).init(PARAMS)
    assert isinstance(theirs.inner_state.trace["dense"]["bias"], optax.MaskedNode)


# Each leaf is known by its shape.
SHAPES = {"dense": {"kernel": (3, 4)}, "offset": (5,), "scale": (7,)}
SIZED = jax.tree.map(lambda n: jax.ShapeDtypeStruct(n, "float32"), SHAPES, is_leaf=lambda x: type(x) is tuple)


# `flatten` keeps one vector: nothing to map, as in Optax; of `quantize_state` Optax would map the parts of codes.
@every(lambda case: case.covers not in ("flatten", "quantize_state"), thin=4)
def test_c24_c25_optax_maps_over_what_is_shaped_like_the_parameters(case: Case):
    # It calls init with a placeholder that has no leaves.
    tx = case.make()
    with relaxed():
        state = jax.eval_shape(tx.init, SIZED)
        marked = optax.tree.map_params(tx, lambda x: "mine", state, transform_non_params=lambda x: "other")
        ours = gdjax.tree_map_params(tx, lambda x: "mine", state, transform_non_params=lambda x: "other")
    assert jax.tree.structure(ours) == jax.tree.structure(state)
    # Optax marks the stacks of all matrices of one shape, which are like no parameter, at once.
    theirs = jax.tree.map(lambda mark, part: jax.tree.map(lambda _: mark, part), marked, state)
    assert jax.tree.leaves(theirs) == jax.tree.leaves(ours)
    like = {x.shape for x in jax.tree.leaves(SIZED)}
    for x, mark in zip(jax.tree.leaves(state), jax.tree.leaves(ours), strict=True):
        assert x.shape not in like or mark == "mine"


@every(sampled=True)
def test_c24_none_leaves(case: Case):
    # What `eqx.filter` leaves of a model.
    tx = case.make()
    state, wanted = (jax.eval_shape(tx.init, p) for p in ({"f": None, **PARAMS}, PARAMS))
    assert signature(jax.tree.leaves(state)) == signature(jax.tree.leaves(wanted))
    g = {"f": None, **GRADIENTS[0]}
    updates, _ = jax.eval_shape(tx.update, g, state, {"f": None, **PARAMS})
    assert updates["f"] is None and jax.tree.structure(updates) == jax.tree.structure(g)


# A list of vectors stands for each leaf, as in Optax, or codes.
@every(lambda case: case.covers not in ("sm3", "scale_by_sm3", "quantize_state"))
def test_c26_moments_are_shaped_and_named_like_the_parameters(case: Case):
    paths = {x.shape: jax.tree_util.keystr(path) for path, x in jax.tree_util.tree_leaves_with_path(SIZED)}
    for path, x in jax.tree_util.tree_leaves_with_path(jax.eval_shape(case.make().init, SIZED)):
        assert jax.tree_util.keystr(path).endswith(paths.get(x.shape, ""))


def test_c26_moments_have_the_type_of_the_model():
    @functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=[])
    class Model:
        def __init__(self, w: Any):
            self.w = w

    for make in (gdjax.adam, gdjax.lion, gdjax.adagrad):
        state = make(0.1).init(Model(jnp.ones(3)))
        assert isinstance(next(x for x in state[0] if not isinstance(x, jax.Array)), Model)


@every(sampled=True)
def test_c27_every_leaf_of_the_state_can_be_selected(case: Case):
    # Levanter and Haiku skip a step with jnp.where over the whole state.
    state = case.make().init(PARAMS)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    kept = jax.tree.map(lambda x, y: jnp.where(jnp.bool_(False), x, y), state, state)
    assert_equal(kept, state)


@pytest.mark.parametrize("name", SCHEDULES)
def test_c30_schedules_take_any_integer(name: str):
    schedule = SCHEDULES[name].make()
    values = [jnp.asarray(schedule(t)) for t in (3, np.int64(3), jnp.int32(3), jnp.uint32(3))]
    abstract = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), "int32"))
    assert {(x.shape, x.dtype) for x in (*values, abstract)} == {((), jnp.dtype("float32"))}
    assert len(set(map(float, values))) == 1


# These call a function of all the parameters, of their own in the cases; see below.
CALLING = "scale_by_zoom_linesearch scale_by_backtracking_linesearch sophia hutchinson_estimator_diag_hessian".split()
CALLED = (*CALLING, "scale_by_sophia", "sam/opaque")


def calls(case: Case) -> bool:
    return case.name in CALLED or case.covers in CALLED


# The function of `stateless` sees the tree as it is.
@every(lambda case: not calls(case) and case.name != "stateless", sampled=True)
def test_c31_integer_parameters_with_float0_gradients(case: Case):
    tx = case.make()
    params = {**PARAMS, "n": jnp.arange(2)}
    state = jax.eval_shape(tx.init, params)

    def update(g: Any, state: Any, params: Any) -> Any:
        updates, state = tx.update({**g, "n": np.zeros(2, jax.dtypes.float0)}, state, params)
        got = updates.pop("n")
        assert (got.shape, got.dtype) == ((2,), jax.dtypes.float0)
        return updates, state

    updates, new = jax.eval_shape(update, GRADIENTS[0], state, params)
    assert signature(new) == signature(state)
    assert signature(updates) == signature(jax.eval_shape(lambda: GRADIENTS[0]))


ESTIMATOR = gdjax.hutchinson_estimator_diag_hessian()


def table(params: Any) -> Any:
    """A function whose integer parameter is an index."""
    return jnp.sum(params["table"][params["n"]] ** 2) + jnp.sum(params["w"] ** 2)


@pytest.mark.parametrize(
    "tx",
    [
        gdjax.lbfgs(),
        gdjax.chain(gdjax.sgd(0.1), gdjax.scale_by_backtracking_linesearch(5)),
        gdjax.sophia(0.1),
        ESTIMATOR,
    ],
    ids=CALLING,
)
def test_c31_integer_parameters_of_a_function_that_the_update_calls(tx: Any):
    params = {"table": jnp.ones((4, 2)), "w": jnp.ones(3), "n": jnp.array([0, 2])}

    def step(params: Any) -> Any:
        value, grad = jax.value_and_grad(table, allow_int=True)(params)
        extra = {"value": value, "grad": grad, "value_fn": table, "obj_fn": table}
        updates, state = tx.update(grad, tx.init(params), params, **extra)
        assert updates["n"].dtype == jax.dtypes.float0
        assert signature(state) == signature(jax.eval_shape(tx.init, params))
        return gdjax.apply_updates(params, updates)

    assert signature(jax.eval_shape(step, params)) == signature(params)


def assert_updated_as_if_alone(case: Case) -> None:
    tx = case.make()
    g, params = {**GRADIENTS[0], "n": np.zeros(2, jax.dtypes.float0)}, {**PARAMS, "n": jnp.arange(2)}
    updates, _ = tx.update(g, tx.init(params), params)
    wanted, _ = tx.update(GRADIENTS[0], tx.init(PARAMS), PARAMS)
    new = gdjax.apply_updates(params, updates)
    assert_equal(new.pop("n"), params["n"])
    assert_close(new, gdjax.apply_updates(PARAMS, wanted))


@pytest.mark.parametrize("name", ["chain", "prodigy", "MultiSteps"])
def test_c31_the_others_are_updated_as_if_alone(name: str):
    assert_updated_as_if_alone(by_name(name))


@pytest.mark.slow
@every(lambda case: not case.random and not calls(case) and case.name != "stateless")
def test_c31_the_others_are_updated_as_if_alone_in_every_case(case: Case):
    assert_updated_as_if_alone(case)


def test_c32_complex_parameters():
    # The caller conjugates. Adam divides by the modulus; on its two parts apart by each one's own size.
    z = jnp.asarray(3 + 4j, jnp.complex64)
    whole, apart = gdjax.adam(0.1), gdjax.split_real_and_imaginary(gdjax.adam(0.1))
    np.testing.assert_allclose(whole.update(z, whole.init(z))[0], -0.06 - 0.08j, rtol=1e-5)
    np.testing.assert_allclose(apart.update(z, apart.init(z))[0], -0.1 - 0.1j, rtol=1e-5)
    with relaxed():
        theirs = optax.adam(0.1)
        np.testing.assert_allclose(whole.update(z, whole.init(z))[0], theirs.update(z, theirs.init(z))[0], rtol=1e-5)
    assert not is_key(whole.init(z)[0].nu) and whole.init(z)[0].nu.dtype == jnp.float32
