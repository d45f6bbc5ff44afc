"""`tabulate` and `state_bytes`: what `init` will allocate, from shapes alone."""

from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gdjax
from gdjax import state_bytes, tabulate
from tests.cases import Case, every
from tests.support import relaxed

P = {"w": jnp.ones((8, 4)), "b": jnp.ones(4, jnp.bfloat16)}  # 128 + 8 bytes


def allocated(state: Any) -> int:
    """The bytes of a real state."""
    keys = [jax.random.key_data(x) if gdjax.numerics.is_key(x) else x for x in jax.tree.leaves(state)]
    return sum(x.nbytes for x in keys)


@every(thin=4)
def test_the_sum_is_what_init_allocates(case: Case):
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones((2, 3))}
    tx = case.make()
    table = tabulate(tx, params)
    *rows, total = table
    assert total.transform == "total"
    assert sum(row.bytes for row in rows) == total.bytes == state_bytes(tx, params) == allocated(tx.init(params))
    assert np.isclose(total.percent_of_params, 100 * total.bytes / (18 * 4))
    assert total.arrays == f"{len(jax.tree.leaves(tx.init(params)))} arrays"


def test_adamw():
    count, mu, nu, total = tabulate(gdjax.chain(gdjax.clip(1.0), gdjax.adamw(0.1)), P)
    assert count == ("1/0", "ScaleByAdam", "count", "()", "int32", 4, 100 * 4 / 136, None)
    assert mu == ("1/0", "ScaleByAdam", "mu", "2 arrays", "bfloat16, float32", 136, 100.0, None)
    assert nu == ("1/0", "ScaleByAdam", "nu", "2 arrays", "float32", 144, 100 * 144 / 136, None)
    assert total == ("", "total", "", "5 arrays", "", 284, 100 * 284 / 136, None)


def names(tx: Any, params: Any = P) -> list[str]:
    return [f"{row.at}:{row.transform}.{row.field}" for row in tabulate(tx, params).rows[:-1]]


def test_names_of_groups_and_wrappers():
    tx = gdjax.partition({"x": gdjax.sgd(0.1, momentum=0.9), "y": gdjax.scale_by_rms()}, {"w": "x", "b": "y"})
    assert names(tx) == ["x/0:Trace.trace", "y:ScaleByRms.nu"]
    assert names(gdjax.MultiSteps(gdjax.scale_by_rms(), 2)) == [
        ":MultiSteps.mini_step", ":MultiSteps.gradient_step", ":ScaleByRms.nu", ":MultiSteps.acc_grads",
    ]  # fmt: skip
    assert names(gdjax.inject_hyperparams(gdjax.sgd)(0.1)) == [
        ":InjectStatefulHyperparams.count", ":InjectStatefulHyperparams.hyperparams",
    ]  # fmt: skip
    assert names(gdjax.named_chain(("opt", gdjax.scale_by_rms()))) == ["opt:ScaleByRms.nu"]


class Model(NamedTuple):
    w: Any
    b: Any


@pytest.mark.parametrize(
    "params",
    [jnp.ones((8, 4)), [jnp.ones(8), jnp.ones(4)], Model(jnp.ones(8), {"mu": jnp.ones(3)}), {"mu": jnp.ones(2)}],
    ids=["array", "list", "NamedTuple", "mu"],
)
def test_whatever_the_tree_of_parameters_is(params: Any):
    tx = gdjax.adam(0.1)
    assert names(tx, params) == ["0:ScaleByAdam.count", "0:ScaleByAdam.mu", "0:ScaleByAdam.nu"]
    sizes = [2 * x.nbytes for x in jax.tree.leaves(params)]
    assert gdjax.explain(tx, params)["state_bytes"] == sizes


def test_optax():
    with relaxed():
        assert names(optax.adam(0.1)) == ["0:ScaleByAdam.count", "0:ScaleByAdam.mu", "0:ScaleByAdam.nu"]
        assert state_bytes(optax.adam(0.1), P) == 4 + 2 * 136
        hidden = optax.masked(optax.scale_by_rms(), {"w": True, "b": False})
        assert state_bytes(hidden, P) == 128
        assert gdjax.explain(hidden, P)["state_bytes"] == [0, 128]


def by_hand(fields: Any) -> Any:
    return gdjax.GradientTransformation(lambda params: fields(params), lambda u, s, p=None, **_: (u, s))


class Mixed(NamedTuple):
    key: Any
    keys: Any
    nothing: Any
    moment: Any


def test_keys_float0_and_what_is_missing():
    params = {"w": jnp.ones(3), "n": None, "m": gdjax.MaskedNode(), "k": jax.random.key(0), "i": jnp.arange(2)}
    key = jax.random.key(1)
    float0 = np.zeros(5, jax.dtypes.float0)
    tx = by_hand(lambda p: Mixed(key, jax.random.split(key, 3), (None, gdjax.MaskedNode()), p))
    rows = {row.field: row.bytes for row in tabulate(tx, params).rows}
    assert rows == {"key": 8, "keys": 24, "moment": 12 + 8 + 8, "": 60}
    assert state_bytes(tx, params) == allocated(tx.init(params))
    from_float0 = by_hand(lambda p: (p,))
    assert state_bytes(from_float0, {"w": jnp.ones(3), "f": float0}) == 12


def test_an_init_that_only_takes_real_parameters():
    """Its arrays are found by their paths."""
    tx = by_hand(lambda p: Mixed(jnp.zeros(()), {}, (), {"w": p["w"] * 0, "b": p["b"] * 0}))
    assert names(tx) == [":Mixed.key", ":Mixed.moment"]
    assert gdjax.explain(tx, P)["state_bytes"] == [8, 128]


def test_codes_belong_to_their_leaf():
    tx = gdjax.adam(0.1, mu_dtype=gdjax.bfloat16_with_error, nu_dtype=gdjax.bfloat16_with_error)
    assert gdjax.explain(tx, P)["state_bytes"] == [2 * 3 * 4, 2 * 3 * 32]


def test_nothing_is_made():
    huge = {"w": jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32)}
    assert state_bytes(gdjax.adam(0.1), huge) == 4 + 8 * 2**40
    assert tabulate(gdjax.adafactor(0.1), huge)["bytes"][-1] < 2**24


def test_no_parameters():
    (total,) = tabulate(gdjax.sgd(0.1), {})
    assert total.bytes == 0 and total.percent_of_params == 0


@pytest.mark.parametrize("function", [tabulate, state_bytes])
def test_errors(function: Any):
    name = f"gdjax.{function.__name__}"
    with pytest.raises(TypeError, match=rf"{name}: argument tx is .*a list; of its transforms make one"):
        function([gdjax.adam(0.1)], P)
    with pytest.raises(ValueError, match=f"{name}: params is None"):
        function(gdjax.adam(0.1), None)
    with pytest.raises(TypeError, match=rf"{name}: params\['f'\] is 'relu' \(str\), not an array"):
        function(gdjax.adam(0.1), {"f": "relu"})


def on_eight() -> Mesh:
    return Mesh(np.asarray(jax.devices()[:8]).reshape(4, 2), ("data", "model"))


def on_busiest_device(arrays: Any) -> int:
    sizes = Counter[Any]()
    for x in jax.tree.leaves(arrays):
        for shard in x.addressable_shards:
            sizes[shard.device] += shard.data.nbytes
    return max(sizes.values())


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor", "galore"])
def test_bytes_of_one_device(name: str):
    """As many as the shards of a real state have, from a tree of shardings and from the state itself."""
    mesh, tx = on_eight(), getattr(gdjax, name)(0.1)
    params = {"w": jnp.ones((16, 8)), "b": jnp.ones(4)}
    shardings = gdjax.state_sharding(tx, params, mesh, axis="data", min_bytes=16)
    state = jax.jit(tx.init, out_shardings=shardings)(params)
    for given in (shardings, state):
        table = tabulate(tx, params, given)
        *rows, total = table
        assert table.columns[-1] == "bytes_per_device"
        assert total.bytes_per_device == state_bytes(tx, params, given) == on_busiest_device(state)
        assert sum(row.bytes_per_device for row in rows) == total.bytes_per_device < total.bytes
    assert [row[:-1] for row in rows] == [row[:-1] for row in tabulate(tx, params).rows[:-1]]
    assert tabulate(tx, params).columns[-1] == "percent_of_params"


def test_bytes_of_one_device_from_one_sharding_shapes_and_a_mesh_without_devices():
    tx, shapes = gdjax.trace(0.9), {"w": jax.ShapeDtypeStruct((16, 8), jnp.bfloat16)}
    mesh = on_eight()
    for kind in (mesh, mesh.abstract_mesh):
        assert state_bytes(tx, shapes, NamedSharding(kind, PartitionSpec("data"))) == 16 * 8 * 2 // 4
        assert state_bytes(tx, shapes, NamedSharding(kind, PartitionSpec("data", "model"))) == 16 * 8 * 2 // 8
    apart = [jnp.zeros((), device=device).sharding for device in jax.devices()[:2]]
    two = {"a": jnp.ones(10), "b": jnp.ones(4)}
    places = gdjax.TraceState(dict(zip("ab", apart, strict=True)))
    assert state_bytes(tx, two, places) == 40
    assert state_bytes(tx, two, None) == state_bytes(tx, two, gdjax.TraceState(None)) == 56


def test_wrong_shardings():
    mesh, tx = on_eight(), gdjax.trace(0.9)
    with pytest.raises(
        ValueError, match=r"gdjax.tabulate: state.trace\['b'\] has shape \(2,\), which .* does not divide"
    ):
        tabulate(tx, {"b": jnp.ones(2)}, NamedSharding(mesh, PartitionSpec("data")))
    with pytest.raises(ValueError, match="gdjax.state_bytes: shardings is no prefix of the state that init makes"):
        state_bytes(tx, P, {"w": NamedSharding(mesh, PartitionSpec())})
    with pytest.raises(TypeError, match="state.trace.*shardings has str, neither a sharding nor an array"):
        state_bytes(tx, P, gdjax.TraceState("data"))


def test_the_older_name_of_a_column():
    [*_, total] = tabulate(gdjax.trace(0.9), P)
    with pytest.warns(DeprecationWarning, match="share is now percent_of_params"):
        assert total.share == total.percent_of_params == 100
