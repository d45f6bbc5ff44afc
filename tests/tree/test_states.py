"""Parts of optimizer states by name: the results of Optax, on states of both libraries."""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import gdjax
from gdjax import tree, tree_utils
from gdjax.tree.states import NamedTupleKey

LIBRARIES = {"gdjax": gdjax, "optax": optax}
PARAMS = {"a": jnp.ones(3), "b": {"c": jnp.ones(2)}}
SPECS = {"a": "A", "b": {"c": "C"}}
MASK = {"a": True, "b": {"c": False}}


class Point(NamedTuple):
    x: object
    y: object


def schedule(count):
    return 0.1 * jnp.exp(-count.astype(jnp.float32))


def transforms(lib):
    return {
        "adamw": lib.adamw(1e-3),
        "chain": lib.chain(lib.clip(1.0), lib.trace(0.9), lib.scale_by_adam()),
        "named": lib.named_chain(("first", lib.trace(0.9)), ("second", lib.scale_by_adam())),
        "injected": lib.inject_hyperparams(lib.adam)(schedule),
        "masked": lib.masked(lib.adam(1e-3), MASK),
        "partition": lib.partition({"x": lib.adam(1.0), "y": lib.sgd(0.1, 0.9)}, {"a": "x", "b": {"c": "y"}}),
    }


def paths(found) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in found]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", list(transforms(gdjax)))
@pytest.mark.parametrize(
    "key", ["count", "mu", "trace", "learning_rate", "ScaleByAdamState", "inner_state", "c", "none"]
)
def test_everything_under_a_name(key: str, name: str, library: str):
    state = transforms(LIBRARIES[library])[name].init(PARAMS)
    got, wanted = tree.get_all_with_path(state, key), optax.tree.get_all_with_path(state, key)
    assert paths(got) == paths(wanted)
    assert [id(x) for _, x in got] == [id(x) for _, x in wanted]


def test_paths_know_the_names_of_tuples():
    state = {"s": [Point(1, {"y": 2})]}
    found = tree.get_all_with_path(state, "y")
    DictKey, SequenceKey = jax.tree_util.DictKey, jax.tree_util.SequenceKey
    start = DictKey("s"), SequenceKey(0)
    assert found == [
        ((*start, NamedTupleKey("Point", "y")), {"y": 2}),
        ((*start, NamedTupleKey("Point", "y"), DictKey("y")), 2),
    ]
    assert paths(found)[1] == "['s'][0]Point.y['y']"
    assert tree_utils.NamedTupleKey is NamedTupleKey


def test_the_outermost_come_first():
    state = [Point({"x": 1}, 2), Point(3, 4)]
    found = tree.get_all_with_path(state, "x")
    assert [x for _, x in found] == [x for _, x in optax.tree.get_all_with_path(state, "x")] == [{"x": 1}, 3, 1]


def test_get():
    state = gdjax.chain(gdjax.trace(0.9), gdjax.scale_by_adam()).init(PARAMS)
    assert tree.get(state, "mu") is state[1].mu
    assert tree.get(state, "TraceState") is state[0]
    assert tree.get(state, "absent") is None and tree.get(state, "absent", 5) == 5
    assert tree.get({"a": None}, "a", 5) is None
    assert tree.get({1: "one"}, 1) == "one"


def test_get_of_what_is_not_unique():
    state = gdjax.chain(gdjax.scale_by_adam(), gdjax.scale_by_schedule(schedule)).init(PARAMS)
    with pytest.raises(KeyError, match="multiple values for 'count', at 0/ScaleByAdamState.count, 1/ScaleBySch") as e:
        tree.get(state, "count")
    assert "get_hyperparams" not in str(e.value)

    def of_adam(path, value):
        return isinstance(path[-1], NamedTupleKey) and path[-1].tuple_name == "ScaleByAdamState"

    assert tree.get(state, "count", filtering=of_adam) is state[0].count


@pytest.mark.parametrize("library", LIBRARIES)
def test_get_of_a_scheduled_rate_says_what_reads_it(library: str):
    lib = LIBRARIES[library]
    state = lib.chain(lib.clip(1.0), lib.inject_hyperparams(lib.adam)(schedule)).init(PARAMS)
    where = "1/InjectStatefulHyperparamsState.hyperparams"
    listed = f"at {where}/learning_rate, {where}_states/learning_rate; choose one with filtering; gdjax.get_hyperparams"
    with pytest.raises(KeyError, match=listed):
        tree.get(state, "learning_rate")
    # The way that Optax's own documentation shows.
    assert tree.get(state, "learning_rate", filtering=lambda path, x: isinstance(x, jax.Array)) == jnp.float32(0.1)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["adamw", "chain", "named", "masked", "partition"])
def test_set(name: str, library: str):
    state = transforms(LIBRARIES[library])[name].init(PARAMS)
    got, wanted = tree.set(state, count=7, nu="n"), optax.tree.set(state, count=7, nu="n")
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    assert all(x is y for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True))
    assert {x for key in ("count", "nu") for _, x in tree.get_all_with_path(got, key)} == {7, "n"}


def test_set_with_a_filter_and_by_the_name_of_a_tuple():
    state = gdjax.inject_hyperparams(gdjax.adam)(schedule).init(PARAMS)
    number = tree.set(state, lambda path, x: isinstance(x, jax.Array), learning_rate=0.5)
    assert number.hyperparams["learning_rate"] == 0.5
    assert number.hyperparams_states == state.hyperparams_states
    assert tree.set(state, ScaleByAdamState="gone").inner_state[0] == "gone"


def test_set_reaches_what_is_nested_under_another_match():
    # Optax stops at the first tuple below a match: the inner count would stay 0.
    state = gdjax.inject_hyperparams(gdjax.adam)(0.1).init(PARAMS)
    new = tree.set(state, count=7)
    assert (new.count, new.inner_state[0].count) == (7, 7)
    assert len(tree.get_all_with_path(new, "count")) == 2


def test_set_of_what_is_not_there():
    state = gdjax.adam(1e-3).init(PARAMS)
    with pytest.raises(KeyError, match=r"gdjax\.tree\.set: found no value for 'absent' in PyTreeDef"):
        tree.set(state, absent=1)
    with pytest.raises(KeyError, match="found no value for 'count' that the filtering keeps"):
        tree.set(state, lambda path, x: False, count=1)


def test_set_under_jit_and_in_every_container():
    state = [{"x": 1.0, "rest": (None, Point(2.0, [3.0]))}]
    new = jax.jit(lambda s: tree.set(s, x=s[0]["x"] + 1))(state)
    assert new == [{"x": 2.0, "rest": (None, Point(2.0, [3.0]))}]


def masks(x) -> bool:
    return type(x).__name__ == "MaskedNode"


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", list(transforms(gdjax)))
def test_map_params(name: str, library: str):
    tx = transforms(LIBRARIES[library])[name]
    state = tx.init(PARAMS)
    for options in ({}, {"transform_non_params": lambda x: None}):
        wanted = optax.tree.map_params(tx, lambda x, spec: spec, state, SPECS, is_leaf=masks, **options)
        for initable in (tx, tx.init):
            assert tree.map_params(initable, lambda x, spec: spec, state, SPECS, is_leaf=masks, **options) == wanted


@pytest.mark.parametrize("name", list(transforms(gdjax)))
def test_map_params_without_optax(name: str, monkeypatch):
    tx = transforms(gdjax)[name]
    state = tx.init(PARAMS)
    with_optax = tree.map_params(tx, lambda x: x.shape, state)
    monkeypatch.delitem(sys.modules, "optax.tree_utils._state_utils")
    assert tree.map_params(tx, lambda x: x.shape, state) == with_optax


def test_map_params_passes_over_what_a_mask_hides():
    tx = gdjax.masked(gdjax.scale_by_adam(), MASK)
    got = tree.map_params(tx, lambda x, spec: spec, tx.init(PARAMS), SPECS)
    assert got.inner_state.mu == {"a": "A", "b": {"c": gdjax.MaskedNode()}}


def test_map_params_has_whole_numbers_as_optax_does():
    tx, params = gdjax.adam(1e-3), {"w": jnp.ones(2), "n": jnp.arange(2)}
    got = tree.map_params(tx, lambda x, spec: spec, tx.init(params), {"w": "W", "n": "N"})
    assert got[0].mu == {"w": "W", "n": "N"}


def test_map_params_makes_shardings():
    mesh = jax.sharding.Mesh(jax.devices()[:2], "x")
    tx = gdjax.adam(1e-3)
    state = jax.eval_shape(tx.init, {"w": jnp.ones((4, 2))})
    P = jax.sharding.PartitionSpec
    specs = tree.map_params(tx, lambda _, spec: spec, state, {"w": P("x")}, transform_non_params=lambda _: P())
    assert specs[0].mu == specs[0].nu == {"w": P("x")} and specs[0].count == P()
    shardings = jax.tree.map(lambda s: jax.sharding.NamedSharding(mesh, s), specs, is_leaf=lambda s: isinstance(s, P))
    placed = jax.jit(tx.init, out_shardings=shardings)({"w": jnp.ones((4, 2))})
    assert placed[0].mu["w"].sharding.spec == P("x")
