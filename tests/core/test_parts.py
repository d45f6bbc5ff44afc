"""What parts of optimizers say of themselves: one written from the class alone, all of this library, and guesses."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import GetAttrKey

import gdjax
from gdjax.combine.sharding import _by_types
from gdjax.core.part import Part
from gdjax.core.parts import Guess, holds_states, known, state_arrays
from gdjax.core.parts import every as every_part
from tests.cases import Case, every

PARAMS = {"w": jnp.ones((8, 4)), "b": jnp.ones(4)}
SHAPES = {"w": jnp.ones((16, 8)), "b": jnp.ones(8), "t": jnp.ones((8, 2, 4)), "s": jnp.ones(())}
# They keep what a function of the user's makes of the updates: nobody knows whether that is like the parameters.
MEASURED = {"monitor", "snapshot", "measure_with_ema"}
# No state, and so nothing to say.
STATELESS = {"identity", "set_to_zero", "stateless", "stateless_with_tree_map", "keep_params_nonnegative"}


def test_numbers_of_the_whole_tree_stay_where_the_parameters_are_one_array():
    State = collections.namedtuple("State", "mu total")

    @gdjax.leafwise(State, total=gdjax.Shared(1.0))
    def halved(g: Any, s: Any, p: Any, t: Any) -> Any:
        return g, State(g, s.total / 2)

    for params in (jnp.ones(2), {"w": jnp.ones(2)}):
        _, state = halved().update(params, halved().init(params), params)
        again = gdjax.reset(halved(), state, params, where="")
        assert again.total == 0.5 and not np.any(jax.tree.leaves(again.mu))


def own_parts(tx: Any, state: Any) -> list[Part]:
    """The parts of this library in an optimizer."""
    calls = [(part, getattr(part, "calls", None)) for part, *_ in every_part(tx, state)]
    return [part for part, made in calls if made is None or made and made[-1].factory.__module__.startswith("gdjax.")]


@pytest.mark.filterwarnings("ignore:gdjax.*its Adam trains these leaves at the learning rate")  # of three axes
@every()
def test_every_part_says_whose_its_arrays_are(case: Case):
    """As what stands for the parameters in `init` shows it; its axes as the types of explicit axes show them."""
    tx = case.make()
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), SHAPES)
    try:
        state = jax.eval_shape(tx.init, shapes)
    except ValueError:  # it takes matrices only
        shapes = {"w": shapes["w"]}
        state = jax.eval_shape(tx.init, shapes)
    for part in own_parts(tx, state):
        assert not isinstance(part, Guess) or part.calls[-1].name in MEASURED | STATELESS
        # `state_to_dict` has no transform, and goes by the names of fields.
        assert all(holds_states(key.name) for x in part.inside() for key in x.path if isinstance(key, GetAttrKey))
    found, leaves = state_arrays(tx, state, shapes), jax.tree.leaves(shapes)
    assert [x.array for x in found] == jax.tree.leaves(state)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    places = [x.path for x in Guess(tx, state).places(paths) if x.of == "each"]
    typed = _by_types(tx, shapes, [[()] * len(p.shape) for p in leaves])
    for i, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(state)):
        start = next((place for place in places if path[: len(place)] == place), None)
        rest = path[len(start) :] if start is not None else ()
        owner = next((n for n, leaf in enumerate(paths) if start is not None and rest[: len(leaf)] == leaf), None)
        assert found[i].leaf == owner
        assert start is None or found[i].field == start
        if typed is not None and found[i].axes is not None:
            assert [a is not None for a in found[i].axes] == [axis.follows for axis in typed[i]]
        for n, a in enumerate(found[i].axes or ()):
            assert a is None or found[i].array.shape[n] == leaves[found[i].leaf or 0].shape[a]


def test_axes_of_factors_moments_codes_and_functions():
    State = collections.namedtuple("State", "rows square mu each mine")
    mine = lambda p, hyper: jnp.zeros(p.shape[:1])

    @gdjax.leafwise(
        State, rows=gdjax.Factor([(0,), (1, gdjax.New(3))]), square=gdjax.Factor((-1, -1)),
        mu=gdjax.Stored(gdjax.Moment(), gdjax.bfloat16_with_error), each=gdjax.Integer(), mine=mine,
    )  # fmt: skip
    def rule(g: Any, s: Any, p: Any, t: Any) -> Any:
        return g, s

    shapes = {"w": jax.ShapeDtypeStruct((6, 4), jnp.float32)}
    found = state_arrays(rule(), jax.eval_shape(rule().init, shapes), shapes)
    assert [x.axes for x in found] == [(0,), (1, None), (1, None), (0, 1), (0, 1), (), None]
    assert {x.leaf for x in found} == {0}


def test_stacks_are_of_several_parameters():
    shapes = {k: jax.ShapeDtypeStruct((4, 4), jnp.float32) for k in "ab"}
    for tx in (gdjax.scale_by_soap(), gdjax.scale_by_psgd_kron()):
        found = state_arrays(tx, jax.eval_shape(tx.init, shapes), shapes)
        several = {x.field[-1].name for x in found if x.of_several}
        assert several and several == {x.field[-1].name for x in found if x.array.ndim == 3}


def test_what_a_projected_transform_keeps_is_of_its_parameter_but_not_along_it():
    tx = gdjax.scale_by_galore(4, base_optimizer=gdjax.trace(0.9))
    shapes = {"w": jax.ShapeDtypeStruct((64, 32), jnp.float32)}
    state = jax.eval_shape(tx.init, shapes)
    (trace,) = [x for x in state_arrays(tx, state, shapes) if x.field[-1].name == "trace"]
    assert (trace.leaf, trace.axes, trace.array.shape) == (0, None, (4, 32))


def test_a_vector_of_all_parameters_is_of_none():
    params = jnp.ones((2, 3))
    tx = gdjax.flatten(gdjax.trace(0.9))
    (trace,) = state_arrays(tx, tx.init(params), params)
    assert (trace.leaf, trace.axes) == (None, (None,))
    told = gdjax.tree.map_params(tx, lambda x: "own", tx.init(params), transform_non_params=lambda x: "whole")
    assert told.trace == "whole"


def test_what_a_memory_keeps_of_a_parameter_lies_along_it():
    tx, params = gdjax.scale_by_lbfgs(memory_size=3), {"w": jnp.ones((4, 2))}
    found = {x.field[-1].name: (x.leaf, x.axes) for x in state_arrays(tx, tx.init(params), params)}
    assert found["updates"] == (0, (0, 1)) and found["diff_params_memory"] == (0, (None, 0, 1))
    assert found["weights_memory"] == (None, (None,))


@gdjax.transform
def logged(tx: Any) -> gdjax.GradientTransformation:
    """A wrapper of a user's, whose state is that of what it wraps."""
    return gdjax.GradientTransformation(tx.init, lambda u, s, p=None, **extra: tx.update(u, s, p, **extra))


def test_a_wrapper_of_a_users_around_a_state_whose_field_has_the_name_of_one():
    tx = gdjax.scale_by_sophia(b1=0.5)
    assert gdjax.get_hyperparams(logged(tx), tx.init(PARAMS)) == gdjax.get_hyperparams(tx, tx.init(PARAMS))


def test_the_three_parts_of_an_aggregation():
    mean = gdjax.experimental.aggregating.average_per_element_updates()
    tx = gdjax.experimental.aggregating.process(gdjax.trace(0.5), mean, gdjax.adam(0.1))
    found = gdjax.get_hyperparams(tx, tx.init(PARAMS))
    assert (found["decay"], found["learning_rate"]) == (0.5, 0.1)
    assert gdjax.explain(tx, PARAMS)["rate"] == [0.1, 0.1]


def test_what_is_known_of_a_transform_of_someone_else():
    def init(params: Any) -> Any:
        return {"mine": params, "inner_state": gdjax.sgd(0.5, momentum=0.9).init(params)}

    tx = gdjax.GradientTransformation(init, lambda u, s, p=None: (u, s))
    part = known(tx, tx.init(PARAMS))
    assert isinstance(part, Guess) and [x.path[0].key for x in part.inside()] == ["mine", "inner_state"]
    assert [x.leaf for x in state_arrays(tx, tx.init(PARAMS), PARAMS)] == [0, 1, 0, 1]
