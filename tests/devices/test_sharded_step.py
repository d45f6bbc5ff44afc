"""`gdjax.sharded_step` on eight devices: one device's updates on every layout, its collectives counted, its errors."""

import collections
import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from benchmarks import trees
from gdjax.combine import sharding
from tests.cases import CASES
from tests.trees import assert_close

pytestmark = pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")
LAYERS, WIDTH = 3, 32


class Layout(NamedTuple):
    mesh: dict[str, int]
    matrices: P
    explicit: bool = False
    parts: int = 1


ONE, TWO = {"data": 8}, {"data": 4, "model": 2}
LAYOUTS = {
    "data": Layout(ONE, P()),
    "tensor": Layout(TWO, P(None, "model")),
    "fsdp": Layout(ONE, P("data")),
    "both": Layout(TWO, P("data", "model")),
    "one axis of both": Layout(TWO, P(("model", "data"))),
    "parts": Layout(TWO, P(None, "model"), parts=2),
    "explicit": Layout(ONE, P(), explicit=True),
    "explicit, tensor": Layout(TWO, P(None, "model"), explicit=True, parts=2),
    "explicit, both": Layout(TWO, P("data", "model"), explicit=True),
}


def mesh_of(layout: str) -> Mesh:
    mesh, kind = LAYOUTS[layout].mesh, jax.sharding.AxisType.Explicit if LAYOUTS[layout].explicit else None
    kinds = (kind or jax.sharding.AxisType.Auto,) * len(mesh)
    return Mesh(np.asarray(jax.devices()).reshape(*mesh.values()), tuple(mesh), axis_types=kinds)


def made(tx: Any, params: Any, layout: str) -> gdjax.ShardedStep:
    parts = LAYOUTS[layout].parts
    return gdjax.sharded_step(loss, tx, params, mesh_of(layout), min_bytes=1024, micro_batches=parts)


def first() -> Any:
    keys = jax.random.split(jax.random.key(0), LAYERS)
    draw = lambda key: jax.random.normal(key, (WIDTH, WIDTH)) * WIDTH**-0.5
    return {f"layer{i}": {"kernel": draw(key), "bias": jnp.zeros(WIDTH)} for i, key in enumerate(keys)}


def batch() -> Any:
    x = jax.random.normal(jax.random.key(1), (64, WIDTH))
    return {"x": x, "y": jnp.sin(3 * x)}


def loss(params: Any, batch: Any) -> Any:
    x = batch["x"]
    for layer in params.values():
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"][None])
    return jnp.mean((x - batch["y"]) ** 2)


def placed(params: Any, layout: str) -> Any:
    mesh, matrices = mesh_of(layout), LAYOUTS[layout].matrices
    how = lambda p: NamedSharding(mesh, matrices if p.ndim == 2 else P())
    return jax.tree.map(lambda p: jax.device_put(p, how(p)), params)


def on_one_device(tx: Any, steps: int) -> Any:
    params, given = first(), batch()
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, given)
        extra = {"value": value} if isinstance(tx, gdjax.GradientTransformationExtraArgs) else {}
        updates, state = tx.update(grads, state, params, **extra)
        return gdjax.apply_updates(params, updates), state, value

    for _ in range(steps):
        params, state, value = step(params, state)
    return params, state, value


def counted(step: Any, params: Any, state: Any, in_loop: bool = False) -> dict[str, int]:
    rows = gdjax.collectives(step.lower(params, state, batch()).compile())
    return dict(collections.Counter(row.kind for row in rows if row.in_loop == in_loop))


def narrow() -> Any:
    """The shapes of a model of a quarter of the width."""
    shape = lambda x: jax.ShapeDtypeStruct([n // 4 for n in x.shape], x.dtype)
    return jax.tree.map(shape, jax.eval_shape(first))


METHODS = {
    "sgd": lambda: gdjax.sgd(0.5, momentum=0.9),  # the others do not see the size of a gradient
    "adamw": lambda: gdjax.adamw(1e-2, weight_decay=0.1),
    "clipped": lambda: gdjax.chain(gdjax.clip_by_global_norm(0.01), gdjax.sgd(1.0, momentum=0.9)),
    "muon": lambda: gdjax.muon(1e-2, weight_decay=0.1),
    "transferred": lambda: gdjax.transfer(gdjax.adamw(1e-2, weight_decay=0.1), narrow()),
}


# In `make test` each layout has a method, and each method layouts of one axis and of two, automatic and explicit.
ORDINARY = {
    "sgd": ("data", "both", "one axis of both", "explicit", "explicit, tensor"),
    "muon": ("data", "tensor", "fsdp", "parts", "explicit, both"),
    "transferred": ("both", "explicit, tensor"),
}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        pytest.param(name, layout, marks=[] if layout in ORDINARY.get(name, ()) else [pytest.mark.slow])
        for name in METHODS
        for layout in LAYOUTS
    ],
)
def test_the_updates_are_those_of_one_device(name: str, layout: str):
    tx = METHODS[name]()
    params = placed(first(), layout)
    step = made(tx, params, layout)
    params, state = step.init(params)
    for _ in range(3):
        params, state, value = step(params, state, batch())
    assert_close((params, state, value), on_one_device(tx, 3), 2e-4, 2e-5)
    for tree, wanted in ((params, step.params_sharding), (state, step.state_sharding)):
        lie = jax.tree.map(
            lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) and x.sharding.mesh == s.mesh, tree, wanted
        )
        assert all(jax.tree.leaves(lie))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_transform(case: Any, layout: str):
    tx, params = case.make(), placed(first(), layout)
    step = made(tx, params, layout)
    params, state = step.init(params)
    params, state, value = step(params, state, batch())
    wanted = on_one_device(tx, 1)
    assert_close((params, value), (wanted[0], wanted[2]), 1e-3, 1e-4)
    # To the size of the array: a basis has numbers that are rounding, beside numbers of 1.
    for x, y in zip(jax.tree.leaves(step.saved(state)), jax.tree.leaves(wanted[1]), strict=True):
        if jnp.issubdtype(y.dtype, jax.dtypes.prng_key):
            x, y = map(jax.random.key_data, (x, y))
        x, y = (np.asarray(a, np.float64) for a in (x, y))
        assert np.abs(x - y).max(initial=0) <= 1e-3 * np.abs(y).max(initial=0) + 1e-9


@pytest.mark.parametrize("parts", [1, 4])
def test_one_reduction_and_one_gather_of_each_divided_leaf_and_none_in_a_loop(parts: int):
    tx, params = METHODS["sgd"](), placed(first(), "data")
    step = gdjax.sharded_step(loss, tx, params, mesh_of("data"), min_bytes=1024, micro_batches=parts)
    params, state = step.init(params)
    # The three biases and the value go together.
    assert counted(step, params, state) == {"reduce-scatter": LAYERS, "all-reduce": 1, "all-gather": LAYERS}
    assert counted(step, params, state, in_loop=True) == {}
    params, state, _ = step(params, state, batch())
    assert_close(params, on_one_device(tx, 1)[0], 1e-5, 1e-6)


@pytest.mark.parametrize(
    ("name", "automatic", "explicit"), [("adamw", "data", "explicit"), ("muon", "tensor", "explicit, tensor")]
)
def test_explicit_axes_exchange_what_automatic_ones_do(name: str, automatic: str, explicit: str):
    found = []
    for layout in (automatic, explicit):
        params = placed(first(), layout)
        step = gdjax.sharded_step(loss, METHODS[name](), params, mesh_of(layout), min_bytes=1024)
        found.append(counted(step, *step.init(params)))
    assert found[0] == found[1]


@pytest.mark.parametrize("in_context", [True, False])
def test_the_loss_sees_the_types_of_explicit_axes(in_context: bool):
    mesh, seen = mesh_of("explicit, tensor"), []

    def typed(params: Any, batch: Any) -> Any:
        seen.append((str(jax.typeof(params["w"])), str(jax.typeof(batch))))
        w = jax.sharding.reshard(params["w"], P("model"))
        return jnp.mean(jnp.dot(batch, w, out_sharding=P()) ** 2)

    params = {"w": jax.device_put(jnp.ones((64, 64)), NamedSharding(mesh, P(None, "model")))}
    step = gdjax.sharded_step(typed, gdjax.sgd(1.0), params, mesh)
    given = np.ones((16, 64), np.float32)
    with jax.set_mesh(mesh) if in_context else contextlib.nullcontext():
        new, _, value = step(*step.init(params), given)
    assert ("float32[64,64@model]{V:data}", "float32[4,64]{V:data}") in seen
    assert value == 64**2 and str(jax.typeof(new["w"])) == "float32[64,64@model]"
    np.testing.assert_array_equal(new["w"], 1 - 2 * 64 / 64)


@pytest.mark.parametrize("parts", [1, 4])
def test_where_parameters_are_divided_the_update_moves_nothing(parts: int):
    params = placed(first(), "fsdp")
    step = gdjax.sharded_step(loss, METHODS["adamw"](), params, mesh_of("fsdp"), min_bytes=1024, micro_batches=parts)
    # The gathers are those of the loss.
    assert counted(step, *step.init(params)) == {"reduce-scatter": LAYERS, "all-reduce": 1, "all-gather": LAYERS}


@pytest.mark.parametrize("steps", [3, 6])
def test_exchanges_of_polar_factors_do_not_grow(steps: int):
    params = placed(first(), "data")
    tx = gdjax.muon(1e-2, ns_steps=steps)
    step = gdjax.sharded_step(loss, tx, params, mesh_of("data"), min_bytes=1024)
    assert counted(step, *step.init(params)) == {
        "reduce-scatter": LAYERS, "all-reduce": 1, "all-gather": LAYERS, "all-to-all": 2
    }  # fmt: skip


SHAPES = {"wide": (16, 48), "tall": (32, 16), "square": (16, 16)}
NUMBERS = {"wide": 9, "tall": 3, "square": 4}  # of the last round of 8 one, and three, and four


def mixed(params: Any, x: Any) -> Any:
    """A least-squares problem of each matrix, stacked or by itself."""
    outputs = [jnp.einsum("bi,...io->b...o", x[:, : p.shape[-2]], p) for p in params.values()]
    return sum(
        (jnp.mean((y - jnp.sin(3 * x[:, :1].reshape(-1, *[1] * (y.ndim - 1)))) ** 2) for y in outputs), jnp.zeros(())
    )


@pytest.mark.full
@pytest.mark.parametrize(
    ("layout", "preconditioning"),
    [(layout, "frobenius") for layout in ("data", "tensor", "fsdp", "explicit, both")] + [("data", "aol")],
)
def test_what_is_left_of_stacks_shares_a_round(preconditioning: Any, layout: str):
    keys = jax.random.split(jax.random.key(2), 16)
    params = {
        f"{name}{i}": jax.random.normal(keys[i], SHAPES[name]) for name, n in NUMBERS.items() for i in range(n)
    } | {"stack": jax.random.normal(keys[-1], (2, 8, 16))}
    x = jax.random.normal(jax.random.key(3), (64, 32))
    numbers = jax.tree.map(lambda p: gdjax.Matrix(), params)
    tx = gdjax.scale_by_muon(preconditioning=preconditioning, weight_dimension_numbers=numbers)
    matrices = LAYOUTS[layout].matrices
    put = lambda p: jax.device_put(p, NamedSharding(mesh_of(layout), P(*[None] * (p.ndim - 2), *matrices)))
    there = jax.tree.map(put, params)
    step = gdjax.sharded_step(mixed, tx, there, mesh_of(layout), min_bytes=512)
    there, state = step.init(there)
    if layout == "data":
        # In and out: the whole round, what is left of each of three shapes, and the stack.
        rows = gdjax.collectives(step.lower(there, state, x).compile())
        assert sum(row.kind == "all-to-all" for row in rows) == 2 + 3 * 2 + 2
        planned = gdjax.plan(tx, there, mesh_of(layout), min_bytes=512).exchanges
        of = lambda rows: sum(row.wire_bytes for row in rows if row.kind == "all-to-all")
        assert of(planned) == of(rows)
    there, state, _ = step(there, state, x)
    updates, _ = tx.update(jax.grad(mixed)(params, x), tx.init(params), params)
    assert_close(there, gdjax.apply_updates(params, updates), 1e-3, 1e-4)


@pytest.mark.parametrize("parts", [1, 2])
def test_16_bit_parameters_on_two_axes(parts: int):
    """A CPU aborts at a sum of bfloat16 over one axis of two."""
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), placed(first(), "tensor"))
    given = jax.tree.map(lambda x: x.astype(jnp.bfloat16), batch())
    step = gdjax.sharded_step(loss, METHODS["adamw"](), params, mesh_of("tensor"), min_bytes=1024, micro_batches=parts)
    params, state, _ = step(*step.init(params), given)
    wanted = on_one_device(METHODS["adamw"](), 1)[0]
    assert_close(jax.tree.map(lambda p: p.astype(jnp.float32), params), wanted, 2e-2, 2e-2)


@pytest.mark.full
def test_codes_are_those_of_one_device_to_the_bit():
    """Gradients without rounding: of integers, in a sum of few."""
    tx = gdjax.quantize_state(gdjax.adam(1e-2), min_size=0)
    params = {"w": jnp.zeros((64, 64))}
    exact = lambda params, x: jnp.mean(jnp.sum(params["w"][None] * x, (1, 2)))
    x = jnp.asarray(np.random.default_rng(0).integers(-8, 9, (16, 64, 64)), jnp.float32)
    step = gdjax.sharded_step(exact, tx, params, mesh_of("data"))
    there, state = step.init(params)
    here, own = params, tx.init(params)
    one = jax.jit(lambda g, state, params: tx.update(g, state, params))
    for _ in range(3):
        there, state, _ = step(there, state, x)
        updates, own = one(jax.grad(exact)(here, x), own, here)
        here = gdjax.apply_updates(here, updates)
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), (there, state), (here, own))
    assert all(jax.tree.leaves(same))


def test_an_eighth_of_gpt2s_state():
    params = trees.shapes(trees.gpt2_small())
    step = gdjax.sharded_step(lambda params, x: 0.0, gdjax.adamw(1e-3), params, mesh_of("data"))
    lie, shares = sharding.shares("", params, mesh_of("data"), "data", 2**14)
    for p, s, own in zip(*map(jax.tree.leaves, (params, shares, lie)), strict=True):
        divided = p.size * 4 >= 2**14
        assert np.prod(s.shard_shape(p.shape)) == p.size // (8 if divided else 1) and own.spec == P(*[None] * p.ndim)
    moments = gdjax.tree.get(step.state_sharding, "mu")
    assert jax.tree.leaves(jax.tree.map(lambda a, b: a.spec == b.spec, moments, shares)) == [True] * 148


def test_aux_and_the_value_are_means():
    params = {"w": jnp.ones((64, 64))}
    of = lambda params, x: (jnp.mean(x @ params["w"]), {"largest": jnp.max(x)})
    x = jnp.arange(16.0)[:, None] * jnp.ones((1, 64))
    for parts in (1, 2):
        step = gdjax.sharded_step(of, gdjax.polyak_sgd(), params, mesh_of("data"), has_aux=True, micro_batches=parts)
        _, _, (value, aux) = step(*step.init(params), x)
        assert value == 64 * 7.5 and aux["largest"] == (8.0 if parts == 1 else 7.5)


def test_what_is_wrong_is_named():
    params, tx, mesh = first(), gdjax.adam(1e-3), mesh_of("data")
    with pytest.raises(ValueError, match=r"sharded_step: got axis='model', but the axes of the mesh are 'data'"):
        gdjax.sharded_step(loss, tx, params, mesh, "model")
    with pytest.raises(TypeError, match="mesh must be a jax.sharding.Mesh"):
        gdjax.sharded_step(loss, tx, params, "data")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"micro_batches must be at least 1"):
        gdjax.sharded_step(loss, tx, params, mesh, micro_batches=0)
    with pytest.raises(TypeError, match="mesh must be a jax.sharding.Mesh, of devices"):
        gdjax.sharded_step(loss, tx, params, jax.sharding.AbstractMesh((8,), ("data",)))  # type: ignore[arg-type]
    for step in (
        lambda p: gdjax.sharded_step(loss, tx, p, mesh),
        lambda p: gdjax.diloco_step(loss, tx, p, mesh, "data", every=2),
    ):
        with pytest.raises(TypeError, match=r"_step: params\['n'\] has dtype int32, and takes no gradient"):
            step(params | {"n": jnp.arange(3)})
    with pytest.raises(ValueError, match=r"sharded_step: tx asks for value_fn=, which one step cannot give"):
        gdjax.sharded_step(loss, gdjax.lbfgs(), params, mesh)
    divided = placed(params, "tensor")
    with pytest.raises(ValueError, match=r"sharded_step: params\['layer0'\]\['kernel'\] is divided over 'model'"):
        gdjax.sharded_step(loss, tx, divided, mesh)

    step = gdjax.sharded_step(loss, tx, params, mesh, min_bytes=1024, micro_batches=2)
    there, state = step.init(params)
    short = jax.tree.map(lambda x: x[:24], batch())
    with pytest.raises(
        ValueError, match=r"batch\['x'\] has shape \(24, 32\).*8 devices of 'data' times 2 micro-batches"
    ):
        step(there, state, short)
    with pytest.raises(ValueError, match="params has another structure than the one the step was made for"):
        step({"other": there["layer0"]}, state, batch())
    whole = jax.device_put(tx.init(params), NamedSharding(mesh, P()))
    with pytest.raises(ValueError, match=r"state\[0\].mu\['layer0'\]\['kernel'\] lies as.*step.state_sharding"):
        step(there, whole, batch())
    other = placed(params, "tensor")
    with pytest.raises(ValueError, match=r"params\['layer0'\]\['kernel'\] lies as.*'model': 2"):
        step(other, state, batch())
    step = gdjax.sharded_step(loss, tx, params, mesh, min_bytes=1024)
    typed = placed(params, "explicit")
    explicit = gdjax.sharded_step(loss, tx, typed, mesh_of("explicit"), min_bytes=1024).init(typed)
    with pytest.raises(
        ValueError, match=r"params\['layer0'\]\['bias'\] lies as.*Explicit.*the step was made for.*Auto"
    ):
        step(*explicit, batch())
    step(there, state, batch())  # nothing was lost


def keyed(params: Any, batch: Any, key: Any = None) -> Any:
    drawn = jnp.zeros(()) if key is None else jax.random.normal(key)
    return sum((jnp.mean(x @ params["w"]) for x in jax.tree.leaves(batch) if x.shape[1]), 0 * drawn)


def keyed_steps() -> dict[str, Any]:
    params, mesh = {"w": jnp.ones((4, 4))}, mesh_of("data")
    return {
        "sharded_step": gdjax.sharded_step(keyed, gdjax.sgd(0.1), params, mesh),
        "diloco_step": gdjax.diloco_step(keyed, gdjax.sgd(0.1), params, mesh, "data", every=2),
    }


@pytest.mark.parametrize("name", ["sharded_step", "diloco_step"])
def test_what_is_no_key_is_named(name: str):
    step, x = keyed_steps()[name], jnp.ones((16, 4))
    no_keys = [3, 0.5, True, "key", [1, 2], np.int32(3), jnp.zeros(2), jnp.zeros(2, jnp.int32), object()]
    no_keys += [jax.random.split(jax.random.key(0), 1), jnp.zeros((3, 2), jnp.uint32), jnp.zeros(3, jnp.uint32)]
    for key in no_keys:
        for how in filter(None, (step, step.lower, getattr(step, "check", None))):
            params, state = step.init({"w": jnp.ones((4, 4))})
            with pytest.raises(
                TypeError, match=rf"gdjax.{name}: key must be one PRNG key, such as jax.random.key\(0\)"
            ):
                how(params, state, x, key)
    for key in (jax.random.key(0), jax.random.PRNGKey(0), np.asarray(jax.random.PRNGKey(0)), None):
        step(*step.init({"w": jnp.ones((4, 4))}), x, key)


@pytest.mark.parametrize("name", ["sharded_step", "diloco_step"])
def test_a_batch_without_rows_is_named(name: str):
    step, x = keyed_steps()[name], jnp.ones((16, 4))
    for batch, where in ((x[:0], "batch"), ({"x": x, "y": x[:0]}, r"batch\['y'\]"), ((x[:0, :0],), r"batch\[0\]")):
        for how in filter(None, (step, step.lower, getattr(step, "check", None))):
            params, state = step.init({"w": jnp.ones((4, 4))})
            with pytest.raises(ValueError, match=rf"gdjax.{name}: {where} has shape \(0, [04]\), no rows"):
                how(params, state, batch)
    for batch in ({"x": x, "none": None, "narrow": x[:, :0]}, {"x": x, "empty": x[:0, :0]}):
        assert bool(jnp.isfinite(step(*step.init({"w": jnp.ones((4, 4))}), batch)[2]).all())


@pytest.mark.parametrize("axis", ["däta", "軸", "a\\b"])
def test_a_name_of_an_axis_at_which_xla_aborts_is_refused(axis: str):
    params, tx = {"w": jnp.ones((4, 4))}, gdjax.sgd(0.1)
    makers = {
        "sharded_step": lambda *where: gdjax.sharded_step(keyed, tx, params, *where),
        "diloco_step": lambda *where: gdjax.diloco_step(keyed, tx, params, *where, every=2),
        "state_sharding": lambda *where: gdjax.state_sharding(tx, params, *where),
        "plan": lambda *where: gdjax.plan(tx, params, *where),
    }
    for names in ((axis, "model"), ("data", axis)):
        mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), names)
        for name, made in makers.items():
            with pytest.raises(
                ValueError, match=rf"gdjax.{name}: the compiler ends the process at an axis .* a name in ASCII"
            ):
                made(mesh, names[0])
