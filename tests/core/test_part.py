"""The answers of a part written from the class alone, and how a part of two functions finds its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey, GetAttrKey, SequenceKey

import gdjax
from gdjax.core.part import HIDDEN, Inside, Kept, Pair, Part, all_axes, keywords, lookup, numbers_of
from gdjax.core.parts import calls_of

PARAMS = {"w": jnp.ones((8, 4)), "b": jnp.ones(4)}


class AveragedState(NamedTuple):
    of: Any  # the transform's: no name tells that
    mean: Any
    norms: Any  # () for each parameter
    calls: Any  # (2,) of the whole tree


class Averaged(Part):
    """The mean of the updates of a transform and of those before it, its share a hyperparameter."""

    def __init__(self, tx: Any, share: float):
        self.tx, self.share = tx, share

    def init(self, params: Any) -> AveragedState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AveragedState(self.tx.init(params), zeros, jax.tree.map(lambda p: jnp.zeros(()), params), jnp.zeros(2))

    def update(self, updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        updates, of = self.tx.update(updates, state.of, params, **extra_args)
        mean = jax.tree.map(lambda m, u: m + self.share * (u - m), state.mean, updates)
        return mean, state._replace(of=of, mean=mean, calls=state.calls + 1)

    def inside(self) -> list[Inside]:
        return [Inside(self.tx, (GetAttrKey("of"),))]

    def hyperparams(self, state: Any, at: Any = None) -> dict[str, Any]:
        return {"share": self.share}

    def kept(self) -> list[Kept]:
        return [Kept((GetAttrKey("mean"),), all_axes), Kept((GetAttrKey("norms"),), lambda shape, layers: ())]


@gdjax.transform
def averaged(tx: Any, share: float) -> Any:
    return Averaged(tx, share)


def tx_of(wrapped: bool) -> Any:
    inner = gdjax.sgd(gdjax.linear_schedule(1.0, 0.0, 4), momentum=0.9)
    return gdjax.chain(gdjax.clip(5.0), averaged(inner, 0.25) if wrapped else Averaged(inner, 0.25))


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_part_written_from_the_class_alone(wrapped: bool):
    tx = tx_of(wrapped)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    found = {k: round(float(x), 3) for k, x in gdjax.get_hyperparams(tx, state).items()}
    assert found == {"max_delta": 5.0, "share": 0.25, "decay": 0.9, "learning_rate": 0.75}
    assert float(gdjax.get_hyperparams(tx, state, step="last")["learning_rate"]) == 1.0
    table = gdjax.explain(tx, PARAMS)
    assert table["state_bytes"] == [2 * 16 + 4, 2 * 128 + 4]
    assert [row.split(", ")[-2:] for row in table["steps"]] == [["trace", "rate"]] * 2
    table = gdjax.tabulate(tx, PARAMS)
    assert dict(zip(table["field"], table["at"], strict=True)) == {
        "trace": "1/0", "count": "1/1", "mean": "1", "norms": "1", "calls": "1", "": "",
    }  # fmt: skip
    rows = {row.field: (row.arrays, row.bytes) for row in table.rows[:-1]}
    moment = ("2 arrays", 144)
    assert rows == {"trace": moment, "count": ("()", 4), "mean": moment, "norms": ("2 arrays", 8), "calls": ("(2,)", 8)}
    told = gdjax.tree.map_params(tx, lambda x: "own", state, transform_non_params=lambda x: "whole")
    both = {"w": "own", "b": "own"}
    assert (told[1].mean, told[1].norms, told[1].of[0].trace, told[1].calls) == (both, both, both, "whole")


def test_its_state_over_devices_follows_the_parameters():
    mesh = Mesh(np.asarray(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
    params = {"w": jax.device_put(PARAMS["w"], NamedSharding(mesh, PartitionSpec(None, "model"))), "b": PARAMS["b"]}
    shardings = gdjax.state_sharding(tx_of(True), params, mesh, min_bytes=0)[1]
    assert shardings.mean["w"].spec == shardings.of[0].trace["w"].spec == PartitionSpec("data", "model")
    assert (shardings.norms["w"].spec, shardings.calls.spec) == (PartitionSpec(), PartitionSpec(None))


def test_a_part_is_reset_for_some_parameters():
    tx = tx_of(True)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    again = gdjax.reset(tx, state, PARAMS, where="w")[1]
    assert not again.mean["w"].any() and again.mean["b"].all() and again.calls.all()


def test_the_extra_arguments_of_an_update():
    def plain(updates: Any, state: Any, params: Any = None) -> Any: ...

    def named(updates: Any, state: Any, params: Any, value: Any, *, loss: Any = 0) -> Any: ...

    def any_other(updates: Any, state: Any, params: Any = None, **rest: Any) -> Any: ...

    assert keywords(plain) == (frozenset(), False)
    assert keywords(named) == ({"value", "loss"}, False)
    assert keywords(any_other) == (frozenset(), True)


def test_a_part_of_two_functions_finds_its_inner_transform_in_its_call():
    inner, other = gdjax.scale(2.0), gdjax.trace(0.9)

    @gdjax.transform
    def around_both(txs: Any, by: float) -> Any:
        return gdjax.chain(*txs.values(), gdjax.scale(by))

    calls = calls_of(around_both({"a": inner, "b": other}, 2.0))
    part = Pair((len, len), [Inside(inner, ()), Inside(other, ())], calls=tuple(calls))
    renewed = part.around(lambda i, tx: gdjax.clip(float(i + 1)))
    assert renewed == around_both({"a": gdjax.clip(1.0), "b": gdjax.clip(2.0)}, 2.0)
    with pytest.raises(ValueError, match="^around_both cannot be made around another one"):
        Pair((len, len), [Inside(gdjax.adam(0.1), ())], calls=tuple(calls)).around(lambda i, tx: tx)


def test_hyperparameters_of_a_part_of_two_functions():
    calls = tuple(calls_of(gdjax.sgd(0.1)))
    assert numbers_of(calls)["learning_rate"] == 0.1 and numbers_of(()) == {}
    hidden = numbers_of(tuple(calls_of(gdjax.sgd(lambda count: 0.1))))
    assert hidden["sgd"] is HIDDEN  # the count is not known
    assert Pair((len, len), calls=calls).hyperparams(()) == numbers_of(calls)
    assert Pair((len, len), [Inside(gdjax.sgd(0.1), ())], calls=calls).hyperparams(()) == {}


def test_a_value_at_a_path_of_a_state():
    state = ({"a": AveragedState(1, 2, [3, 4], 5)},)
    path = SequenceKey(0), DictKey("a"), GetAttrKey("norms"), SequenceKey(1)
    assert [lookup(state, path[:n]) for n in (4, 3)] == [4, [3, 4]] and lookup(state, ()) is state
    assert all_axes((3, 4)) == (0, 1) and all_axes(()) == ()


def test_what_a_part_that_answers_nothing_is_taken_for():
    part = Averaged(gdjax.identity(), 0.5)
    part.label = "gdjax.averaged"
    assert (part.steps(()), list(part.asks()), part.labelled("x") is part) == (None, [], True)
    with pytest.raises(ValueError, match="^gdjax.averaged cannot be made around another transform"):
        part.around(lambda i, tx: tx)
