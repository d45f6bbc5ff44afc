"""The loss on a mesh is the loss: masked tokens, counts, keys and empty parts, however a step takes gradients."""

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from gdjax.core import meshes
from gdjax.training import sharded_step as module
from tests.support import slow
from tests.trees import assert_close

pytestmark = pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")
ROWS, WIDTH = 32, 16
# Devices, micro-batches, and whether the compiler makes the sums, as on a TPU.
WAYS = {
    "8": (8, 1, False),
    "8 x 4": (8, 4, False),
    "4 x 2": (4, 2, False),
    "2": (2, 1, False),
    "as on a TPU": (8, 1, True),
}
# The programs differ in two ways: a loop over micro-batches under `shard_map`, or sums that the compiler makes.
TWO_WAYS = "8 x 4", "as on a TPU"
two_ways = pytest.mark.parametrize("way", [*TWO_WAYS, *slow(way for way in WAYS if way not in TWO_WAYS)])


def mesh_of(devices: int, explicit: bool = False) -> Mesh:
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    return Mesh(np.asarray(jax.devices()[:devices]), ("data",), axis_types=(kind,))


def start(dtype: Any = jnp.float32) -> Any:
    w = jax.random.normal(jax.random.key(0), (WIDTH, WIDTH)) / 4
    return {"w": w.astype(dtype), "b": jnp.zeros(WIDTH, dtype)}


def batch() -> Any:
    """9 of 32 rows are valid; of eight parts three have none."""
    x = jax.random.normal(jax.random.key(1), (ROWS, WIDTH))
    valid = np.zeros(ROWS, np.int32)
    valid[[0, 1, 2, 3, 4, 13, 17, 22, 31]] = 1
    return {"x": x, "y": jnp.cos(x), "valid": jnp.asarray(valid)}


def of_rows(params: Any, rows: Any) -> Any:
    return jnp.mean((jnp.tanh(rows["x"] @ params["w"] + params["b"][None]) - rows["y"]) ** 2, axis=1)


def masked(params: Any, rows: Any) -> Any:
    return jnp.sum(of_rows(params, rows) * rows["valid"].astype(jnp.float32)), jnp.sum(rows["valid"])


def divided(params: Any, rows: Any) -> Any:
    total, weight = masked(params, rows)
    return total / jnp.maximum(weight, 1).astype(jnp.float32)


def with_aux(params: Any, rows: Any) -> Any:
    found, aux = counted(params, rows)
    small = jnp.sum(rows["valid"]).astype(jnp.uint8) * 40  # of all parts beyond 255
    return found, aux | {"small": small, "rows": len(rows["x"])}


def counted(params: Any, rows: Any) -> Any:
    return masked(params, rows), {"correct": jnp.sum(rows["valid"]), "loss": divided(params, rows)}


def made(way: str, monkeypatch: pytest.MonkeyPatch, loss: Any, tx: Any = None, params: Any = None, **how: Any) -> Any:
    devices, parts, constraints = WAYS[way]
    monkeypatch.setattr(module, "REDUCES_AND_DIVIDES", ("cpu",) if constraints else ())
    params = start() if params is None else params
    tx = gdjax.sgd(1.0) if tx is None else tx
    return gdjax.sharded_step(loss, tx, params, mesh_of(devices), micro_batches=parts, min_bytes=512, **how)


def gradient_of(step: Any, params: Any, *given: Any) -> Any:
    new, _, found = step(*step.init(params), *given)
    return found, jax.tree.map(lambda p, q: np.asarray(p) - np.asarray(q), params, new)


@pytest.mark.full
@pytest.mark.parametrize("way", WAYS)
def test_masked_tokens_are_those_of_one_device(way: str, monkeypatch: pytest.MonkeyPatch):
    value, grads = gradient_of(made(way, monkeypatch, masked, weighted=True), start(), batch())
    assert_close((value, grads), jax.value_and_grad(divided)(start(), batch()), 1e-5, 1e-6)


@pytest.mark.parametrize("explicit", [False, True])
def test_masked_tokens_where_parameters_are_divided(explicit: bool):
    mesh = mesh_of(8, explicit)
    params = {"w": jax.device_put(start()["w"], NamedSharding(mesh, P("data"))), "b": start()["b"]}
    step = gdjax.sharded_step(masked, gdjax.sgd(1.0), params, mesh, min_bytes=512, weighted=True)
    value, grads = gradient_of(step, params, batch())
    assert_close((value, grads), jax.value_and_grad(divided)(start(), batch()), 1e-5, 1e-6)


def test_a_loss_that_is_no_mean_is_one_number_on_every_way(monkeypatch: pytest.MonkeyPatch):
    """It sees the rows of one part on all of them."""
    of = {way: gradient_of(made(way, monkeypatch, divided), start(), batch()) for way in ("8", "as on a TPU", "4 x 2")}
    assert_close(of["8"], of["as on a TPU"], 1e-6, 1e-7)
    assert_close(of["8"], of["4 x 2"], 1e-6, 1e-7)  # the parts are the same
    assert abs(of["8"][0] - divided(start(), batch())) > 0.1


@two_ways
def test_integers_add_up_and_floats_are_weighted_means(way: str, monkeypatch: pytest.MonkeyPatch):
    step = made(way, monkeypatch, with_aux, has_aux=True, weighted=True)
    (value, aux), _ = gradient_of(step, start(), batch())
    assert aux["correct"] == 9 and aux["correct"].dtype == jnp.int32
    assert aux["small"] == 360 and aux["small"].dtype == jnp.uint32 and aux["rows"] == ROWS
    assert_close(aux["loss"], value, 1e-6, 0)

    plain = made(way, monkeypatch, lambda p, b: (divided(p, b), with_aux(p, b)[1]), has_aux=True)
    (value, aux), _ = gradient_of(plain, start(), batch())
    assert aux["correct"] == 9
    assert_close(aux["loss"], value, 1e-6, 0)


@two_ways
@pytest.mark.parametrize("weighted", [True, False])
def test_each_part_tells_its_own(weighted: bool, way: str, monkeypatch: pytest.MonkeyPatch):
    def loss(params: Any, rows: Any) -> Any:
        found = masked(params, rows) if weighted else divided(params, rows)
        return found, {"any": jnp.any(rows["valid"] > 0), "first": rows["x"][0]}

    step = made(way, monkeypatch, loss, has_aux=True, weighted=weighted, aux="stack")
    (_, aux), _ = gradient_of(step, start(), batch())
    parts = WAYS[way][0] * WAYS[way][1]
    rows = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch())
    np.testing.assert_array_equal(aux["any"], (rows["valid"] > 0).any(axis=1))
    np.testing.assert_array_equal(aux["first"], rows["x"][:, 0])


@pytest.mark.full
@pytest.mark.parametrize("raw", [False, True])
def test_each_part_has_its_key_however_parts_are_dealt(raw: bool, monkeypatch: pytest.MonkeyPatch):
    def loss(params: Any, rows: Any, key: Any) -> Any:
        drawn = jax.random.normal(key, (3,))
        return jnp.mean(of_rows(params, rows)), drawn

    key = jax.random.PRNGKey(7) if raw else jax.random.key(7)
    drawn = {}
    for way in ("8", "4 x 2", "as on a TPU", "8 x 4"):
        step = made(way, monkeypatch, loss, has_aux=True, aux="stack")
        drawn[way] = np.asarray(gradient_of(step, start(), batch(), key)[0][1])
    np.testing.assert_array_equal(drawn["8"], [jax.random.normal(k, (3,)) for k in jax.random.split(key, 8)])
    np.testing.assert_array_equal(drawn["8"], drawn["4 x 2"])
    np.testing.assert_array_equal(drawn["8"], drawn["as on a TPU"])
    assert len(np.unique(drawn["8 x 4"])) == 3 * 32


@two_ways
def test_a_part_of_weight_0_counts_nothing_whatever_it_is(way: str, monkeypatch: pytest.MonkeyPatch):
    def loss(params: Any, rows: Any) -> Any:
        total, weight = masked(params, rows)
        empty = jnp.where(weight == 0, jnp.nan, 1.0)
        return (total * empty, weight), {"nan": empty}

    step = made(way, monkeypatch, loss, has_aux=True, weighted=True)
    (value, aux), grads = gradient_of(step, start(), batch())
    assert_close((value, grads), jax.value_and_grad(divided)(start(), batch()), 1e-5, 1e-6)
    assert aux["nan"] == 1


def test_no_weight_at_all_is_a_loss_and_a_gradient_of_0(monkeypatch: pytest.MonkeyPatch):
    step = made("8 x 4", monkeypatch, masked, weighted=True)
    found = gradient_of(step, start(), batch() | {"valid": jnp.zeros(ROWS, jnp.int32)})
    assert all((x == 0).all() for x in jax.tree.leaves(found))


@pytest.mark.parametrize("way", ["8", "8 x 4"])
def test_totals_beyond_what_16_bits_hold(way: str, monkeypatch: pytest.MonkeyPatch):
    """The gradient of the total is 1e7, and that of the mean 1."""

    def loss(params: Any, rows: Any) -> Any:
        return 1e7 * jnp.sum(params["b"].astype(jnp.float32)) / 4, jnp.asarray(1e7) / 4

    params = start(jnp.float16)
    value, grads = gradient_of(made(way, monkeypatch, loss, params=params, weighted=True), params, batch())
    assert value == 0 and (grads["b"] == 1).all() and (grads["w"] == 0).all()


def test_a_weight_has_no_gradient(monkeypatch: pytest.MonkeyPatch):
    loss = lambda params, rows: (jnp.sum(of_rows(params, rows)), 32 + jnp.sum(params["b"]))
    _, grads = gradient_of(made("8", monkeypatch, loss, weighted=True), start(), batch())
    wanted = jax.grad(lambda params: jnp.mean(of_rows(params, batch())))(start())
    assert_close(grads, jax.tree.map(lambda g: g / 8, wanted), 1e-5, 1e-6)


def test_weights_are_one_number_more_in_the_one_reduction(monkeypatch: pytest.MonkeyPatch):
    step = made("8 x 4", monkeypatch, masked, weighted=True)
    found = gdjax.collectives(step.lower(*step.init(start()), batch()).compile())
    kinds = {row.kind: row.arrays for row in found}  # the biases, the value and the weight go together
    assert len(found) == 3 and kinds == {"reduce-scatter": 1, "all-reduce": 3, "all-gather": 1}
    planned = gdjax.plan(gdjax.sgd(1.0), start(), mesh_of(8), min_bytes=512, micro_batches=4, weighted=True)
    assert planned.wire_bytes == round(sum(row.wire_bytes for row in found))


@pytest.mark.full
def test_check_tells_what_differs_and_why(monkeypatch: pytest.MonkeyPatch):
    adam = gdjax.adam(1e-2)
    for way in TWO_WAYS:
        step = made(way, monkeypatch, lambda p, b: jnp.mean(of_rows(p, b)), adam)
        params, state = step.init(start())
        table = step.check(params, state, batch())
        assert table["what"] == ["loss", "update of params['b']", "update of params['w']"]
        assert not any(table["differs"]) and not table.warnings and max(table["difference"]) < 1e-3

        step = made(way, monkeypatch, divided, adam)
        table = step.check(params, state, batch())
        assert table["differs"][0] and "weighted=True" in str(table)
        assert abs(table["one_device"][0] - divided(start(), batch())) < 1e-6

        step = made(way, monkeypatch, counted, adam, has_aux=True, weighted=True)
        table = step.check(params, state, batch())
        assert len(table) == 5 and not table.warnings
        params, state, _ = step(params, state, batch())  # nothing was taken


def test_check_tells_statistics_counts_and_keys_apart(monkeypatch: pytest.MonkeyPatch):
    def check(loss: Any, *key: Any, **how: Any) -> Any:
        step = made("8", monkeypatch, loss, gdjax.sgd(0.1), **how)
        return step.check(*step.init(start()), batch(), *key)

    mean = lambda p, b: jnp.mean(of_rows(p, b))
    statistics = lambda p, b: (jnp.sum((of_rows(p, b) - mean(p, b)) ** 2), len(b["x"]))
    counts = lambda p, b: (mean(p, b), {"n": 1.0 * len(b["x"])})
    drawn = lambda p, b, key: mean(p, b) * jax.random.normal(key)
    assert "not the sums of those of its parts" in check(statistics, weighted=True).warnings[0]
    table = check(counts, has_aux=True)
    assert [row.what for row in table if row.differs] == ["aux['n']"]
    assert (table["mesh"][1], table["one_device"][1]) == (4, 32) and "aux does not" in table.warnings[0]
    exact = check(lambda p, b: (mean(p, b), 4000 * len(b["x"]) + 1), has_aux=True)
    assert [(row.mesh, row.one_device) for row in exact if row.differs] == [(128008, 128001)]
    weighted = check(lambda p, b: (masked(p, b), counts(p, b)[1]), has_aux=True, weighted=True)
    assert "aux does not" in weighted.warnings[0]
    assert not check(counts, has_aux=True, aux="stack").warnings
    assert "a key of its own" in check(drawn, jax.random.key(0)).warnings[0]
    assert "\n" in str(table) and "aux['n']" in str(table)


def test_check_on_explicit_axes_and_of_divided_parameters():
    mesh = mesh_of(8, explicit=True)
    params = {"w": jax.device_put(start()["w"], NamedSharding(mesh, P("data"))), "b": start()["b"]}
    for loss, same in ((lambda p, b: jnp.mean(of_rows(p, b)), True), (divided, False)):
        step = gdjax.sharded_step(loss, gdjax.muon(1e-2), params, mesh, min_bytes=512)
        assert bool(step.check(*step.init(params), batch()).warnings) != same


def test_an_array_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch):
    step = made("8", monkeypatch, divided, gdjax.adam(1e-2))
    params, state = step.init(start())
    new, new_state, _ = step(params, state, batch())
    with pytest.raises(ValueError, match=r"sharded_step: params\['b'\] is gone: a step writes over its arguments"):
        step(params, new_state, batch())
    with pytest.raises(ValueError, match=r"sharded_step: state\[0\].count is gone"):
        step(new, state, batch())
    with pytest.raises(ValueError, match=r"sharded_step: params\['b'\] is gone"):
        step.init(params)
    step(new, new_state, batch())


def test_a_loss_that_returns_something_else(monkeypatch: pytest.MonkeyPatch):
    def raises(text: str, loss: Any, **how: Any) -> None:
        step = made("8", monkeypatch, loss, **how)
        with pytest.raises(TypeError, match=text):
            step(*step.init(start()), batch())

    raises(r"the loss returned a pair; pass has_aux=True for \(loss, aux\), weighted=True", masked)
    raises(r"the loss returned a pair; pass weighted=True for \(total, weight\)", with_aux, has_aux=True)
    raises(r"with weighted=True the loss returns \(total, weight\); got", divided, weighted=True)
    raises("with has_aux=True the loss returns a pair, the loss and more; got", divided, has_aux=True)
    raises(
        r"\(total, weight\), a real number and its weight; got float32 of shape \(4,\)",
        lambda p, b: (of_rows(p, b), jnp.sum(b["valid"])), weighted=True,
    )  # fmt: skip
    raises(
        r"aux\['any'\] is bool, of which parts of a batch have neither a mean nor a sum.*aux=\"stack\"",
        lambda p, b: (divided(p, b), {"any": jnp.any(b["valid"] > 0)}), has_aux=True,
    )  # fmt: skip
    raises("missing 1 required positional argument: 'key'", lambda params, batch, key: divided(params, batch))
    with pytest.raises(ValueError, match="sharded_step: aux must be 'reduce' or 'stack', got 'mean'"):
        made("8", monkeypatch, divided, aux="mean")


def test_homes_are_those_of_one_thread():
    """What another thread traces beside a step gets no mesh of it."""
    m = jax.random.normal(jax.random.key(0), (8, 8))
    tx, found = gdjax.muon(0.1), []

    def plain() -> None:
        found.append((meshes.mesh(), "sharding_constraint" in traced()))

    def traced() -> str:
        return str(jax.make_jaxpr(lambda m, state: tx.update(m, state, m))(m, tx.init(m)))

    with meshes.owned_by(mesh_of(8)):
        other = threading.Thread(target=plain)
        other.start()
        other.join()
        assert "sharding_constraint" in traced()
        with meshes.owned_by(None):
            assert meshes.mesh() is None
        assert meshes.mesh() == mesh_of(8)
    assert found == [(None, False)] and meshes.mesh() is None


@pytest.mark.parametrize("aux", ["reduce", "stack"])
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("parts", [*slow([1]), 2])
def test_all_of_it_beside_tensor_parallel(parts: int, explicit: bool, aux: Any):
    """Weights, keys and aux where another axis divides the parameters."""
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("data", "model"), axis_types=(kind,) * 2)
    place = lambda p: NamedSharding(mesh, P(None, "model") if p.ndim == 2 else P())
    params = jax.tree.map(lambda p: jax.device_put(p, place(p)), start())

    def loss(params: Any, rows: Any, key: Any) -> Any:
        if explicit:
            params = jax.tree.map(lambda p: jax.sharding.reshard(p, P()), params)
        return masked(params, rows), {"drawn": jax.random.normal(key), "n": jnp.sum(rows["valid"])}

    step = gdjax.sharded_step(
        loss, gdjax.sgd(1.0), params, mesh, micro_batches=parts, min_bytes=512, has_aux=True, weighted=True, aux=aux
    )
    key = jax.random.key(5)
    (value, found), grads = gradient_of(step, params, batch(), key)
    assert_close((value, grads), jax.value_and_grad(divided)(start(), batch()), 1e-5, 1e-6)
    counts = batch()["valid"].reshape(4 * parts, -1).sum(axis=1)
    drawn = jnp.stack([jax.random.normal(k) for k in jax.random.split(key, 4 * parts)])
    if aux == "stack":
        assert_close(found, {"drawn": drawn, "n": counts}, 1e-6, 1e-7)
    else:
        assert_close(
            found, {"drawn": jnp.average(drawn, weights=counts.astype(jnp.float32)), "n": jnp.asarray(9)}, 1e-5, 1e-6
        )
