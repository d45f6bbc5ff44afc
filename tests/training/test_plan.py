"""`plan`: what a compiled step of `sharded_step` takes, told from shapes alone."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

import gdjax

L, D, F = 4, 64, 256
TREE = {"up": (L, D, F), "down": (L, F, D), "b": (L, D)}  # two leaves of 256 kB, and one of 1 kB
TXS = {
    "adamw": lambda: gdjax.adamw(1e-3),
    "adamw in 8 bits": lambda: gdjax.quantize_state(gdjax.adamw(1e-3)),
    "adamw in 16 bits": lambda: gdjax.quantize_state(gdjax.adamw(1e-3), moments="bfloat16", squares="bfloat16"),
    "adamw in logarithms": lambda: gdjax.quantize_state(gdjax.adamw(1e-3), moments="log"),
    "muon": lambda: gdjax.muon(
        1e-3, muon_weight_dimension_numbers=gdjax.matrices_by_role(), adam_learning_rate=1e-3
    ),
    "normuon": lambda: gdjax.normuon(1e-3, roles=gdjax.matrices_by_role(), adam_learning_rate=1e-3),
    "soap": lambda: gdjax.soap(1e-3),
}  # fmt: skip
new_jax = pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="sharded_step asks for a newer JAX")


def shapes(mesh: Any = None, **specs: Any) -> Any:
    def shape(name: str) -> Any:
        how = None if mesh is None else NamedSharding(mesh, specs.get(name, PartitionSpec()))
        return jax.ShapeDtypeStruct(TREE[name], jnp.float32, sharding=how)

    return {name: shape(name) for name in TREE}


def loss(params: Any, x: jax.Array) -> jax.Array:
    def layer(h: jax.Array, p: Any) -> tuple[jax.Array, None]:
        return h + jax.nn.relu((h * p["b"][None]) @ p["up"]) @ p["down"], None

    return jnp.mean(jax.lax.scan(layer, x, params)[0] ** 2)


def on_eight(shape: Any = (8,), names: Any = ("data",)) -> Mesh:
    return jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(shape))


def compiled(tx: Any, params: Any, mesh: Mesh, **kwargs: Any) -> tuple[Any, int]:
    """A compiled step, and the bytes that a device has of the batch."""
    step = gdjax.sharded_step(loss, tx, params, mesh, **kwargs)
    batch = jax.ShapeDtypeStruct((16, D), jnp.float32)
    program = step.lower(params, jax.eval_shape(step.init, params)[1], batch).compile()
    return program, 16 * D * 4 // mesh.shape["data"]


def percents(table: Any) -> dict[str, float]:
    return {row.what: row.percent for row in table if row.percent is not None}


@pytest.mark.full
@new_jax
@pytest.mark.parametrize("name", TXS)
def test_a_compiled_step(name: str):
    """Arguments to the byte, temporaries within 5 %, exchanges to the byte, but for what the notes leave out."""
    tx, mesh = TXS[name](), on_eight()
    program, batch = compiled(tx, shapes(), mesh)
    plan = gdjax.plan(tx, shapes(), mesh)
    table = plan.check(program)
    arguments = table.rows[0]
    assert arguments.planned + batch == arguments.compiled == program.memory_analysis().argument_size_in_bytes
    wire = {row.what: (row.planned, row.compiled) for row in table.rows[2:]}
    assert wire["reduce-scatter on the wire"] == (2 * 2**18 * 7 // 8,) * 2
    found = percents(table)
    temporaries = found["gradients, temporaries and activations"]
    if name == "soap":
        assert "turns of factors" in plan.notes[1] and -60 < temporaries < 0  # one matrix on each device
    else:
        assert abs(temporaries) < (7 if name == "normuon" else 5) and len(plan.notes) == 1
    assert {a - b for a, b in wire.values()} == {0}
    assert ("all-to-all on the wire" in wire) == (name in ("muon", "normuon", "soap"))


@new_jax
def test_the_norms_of_normuon():
    tx, mesh = TXS["normuon"](), on_eight()
    table = gdjax.plan(tx, shapes(), mesh).check(compiled(tx, shapes(), mesh)[0])
    assert {row.what: row.planned - row.compiled for row in table.rows[2:]} == {row.what: 0 for row in table.rows[2:]}


@new_jax
def test_numbers_of_a_compiled_step_are_printed_as_those_of_its_plan():
    """Not 458,752 beside 4.588e+05."""
    mesh = on_eight()
    program, _ = compiled(gdjax.adamw(1e-3), shapes(), mesh)
    for table in (gdjax.plan(gdjax.adamw(1e-3), shapes(), mesh).check(program), gdjax.collectives(program)):
        assert "458,752" in str(table) or "229,376" in str(table)
        assert "e+" not in str(table)


@new_jax
def test_a_state_in_blocks():
    """The plan says more than a step takes, which decodes leaf by leaf; scales that devices cut are gathered."""
    tx, mesh = gdjax.quantize_state(gdjax.adamw(1e-3), moments="blocks"), on_eight()
    program, batch = compiled(tx, shapes(), mesh)
    table = gdjax.plan(tx, shapes(), mesh).check(program)
    assert table.rows[0].planned + batch == table.rows[0].compiled
    assert 0 < percents(table)["gradients, temporaries and activations"] < 25
    wire = {row.what: row.compiled / row.planned for row in table.rows[2:]}
    assert wire["reduce-scatter on the wire"] == 1 and abs(wire["all-gather on the wire"] - 1) < 0.005


@new_jax
@pytest.mark.parametrize("fsdp", [False, True], ids=["whole", "FSDP"])
def test_micro_batches_and_fsdp(fsdp: bool):
    tx, mesh = gdjax.adamw(1e-3), on_eight()
    along = PartitionSpec(None, None, "data")
    params = shapes(mesh, up=along, down=along) if fsdp else shapes()
    batches = 1 if fsdp else 2
    program, batch = compiled(tx, params, mesh, micro_batches=batches)
    layer = 0 if fsdp else 2 * 4 * D * F  # the gradients of a layer, before the scan writes them into its stacks
    plan = gdjax.plan(tx, params, mesh, micro_batches=batches, activations=layer)
    table = plan.check(program)
    assert table.rows[0].planned + batch == table.rows[0].compiled
    assert all(abs(percent) < 5 for percent in percents(table).values())
    assert [row.of for row in plan.exchanges if row.kind == "all-gather"] == [
        "parameters for the loss" if fsdp else "new parameters"
    ]


@new_jax
def test_two_axes():
    """What matrices exchange over an axis that divides no parameter: nothing on the way home, all on the way back."""
    tx, mesh = TXS["muon"](), on_eight((4, 2), ("data", "model"))
    program, _ = compiled(tx, shapes(), mesh)
    plan = gdjax.plan(tx, shapes(), mesh)
    assert {row.kind: row.number for row in plan.exchanges if row.of == "matrices 64x256"} == {
        "all-to-all": 2, "all-gather": 1,
    }  # fmt: skip
    found = percents(plan.check(program))
    assert [found[f"{kind} on the wire"] for kind in ("reduce-scatter", "all-gather", "all-to-all")] == [0, 0, 0]


WIDE = {"kernel": (2, 16, 4, 4)}  # of Flax's attention: divided along the rows of its matrices
DEEP = {"kernel": (2, 4, 4, 16)}  # and along their columns
MIXED = {
    "attention": ({"key": WIDE, "out": DEEP, "query": WIDE, "value": WIDE}, 512, 1792 + 224 + 896),
    "the other first": ({"a": {"out": DEEP}, "key": WIDE, "query": WIDE, "value": WIDE}, 512, 1792 + 3 * 224 + 896),
    "with others": ({"out": DEEP, "query": WIDE, "up": (2, 16, 64)}, 512, 1792 + 224 + 448 + 7168),
    "small ones whole": ({"query": WIDE, "up": (2, 16, 64), "down": (2, 64, 16)}, 4096, 7168),
    "all whole": ({"query": WIDE, "up": (2, 16, 64)}, 2**14, 0),
}


@new_jax
@pytest.mark.parametrize("name", MIXED)
def test_leaves_of_a_stack_that_lie_differently(name: str):
    tree, min_bytes, wire = MIXED[name]
    shape = lambda size: jax.ShapeDtypeStruct(size, jnp.float32)
    params = jax.tree.map(shape, tree, is_leaf=lambda x: isinstance(x, tuple))
    mesh, tx = on_eight(), TXS["muon"]()
    squares = lambda params, x: sum((jnp.mean(p**2) for p in jax.tree.leaves(params)), jnp.mean(x))
    step = gdjax.sharded_step(squares, tx, params, mesh, min_bytes=min_bytes)
    program = step.lower(params, jax.eval_shape(step.init, params)[1], shape((16, 64))).compile()
    table = gdjax.plan(tx, params, mesh, min_bytes=min_bytes).check(program)
    sent = {row.what: (row.planned, row.compiled) for row in table.rows[2:]}
    assert sent.get("all-to-all on the wire", (0, 0))[0] == wire
    assert all(planned == round(compiled) for planned, compiled in sent.values())


@new_jax
def test_matrices_at_home():
    """Eight matrices of 64 x 256, one on each device, thrice; activations are gone by then."""
    muon = TXS["muon"]()
    without, few, many = (gdjax.plan(muon, shapes(), {"data": 8}, activations=a) for a in (0, 2**16, 2**20))
    assert [row.bytes for row in without.exchanges if row.kind == "all-to-all"] == [2 * 64 * 256 * 4]
    assert without.part("temporaries") - many.part("temporaries") == 3 * 64 * 256 * 4
    assert without.bytes_per_device == few.bytes_per_device
    assert many.part("temporaries") == many.part("parameters")


@pytest.mark.full
@new_jax
def test_the_state_is_that_of_tabulate():
    mesh = AbstractMesh((16,), ("data",))
    for name, make in TXS.items():
        plan = gdjax.plan(make(), shapes(), mesh)
        if name == "soap":  # of eight matrices a device has one or none, in an array with room for sixteen
            own = 4 * (2 * 64 * 256 + 2 * 64**2 + 2 * 256**2)
            assert plan.part("state") == own + 2 * L * D * 4 + 4 + 4
            continue
        where = gdjax.state_sharding(make(), shapes(), mesh)
        assert plan.part("state") == gdjax.state_bytes(make(), shapes(), where), name
        assert sum(x.bytes for x in plan.memory if x.part == "state") == gdjax.state_bytes(make(), shapes())
        assert plan.bytes_per_device == sum(plan.memory["bytes_per_device"][:-1])


def test_meshes_without_devices():
    """Sizes by name, an abstract mesh, and of more devices than there are."""
    tx, few, many = gdjax.adam(1e-3), *(gdjax.plan(gdjax.adam(1e-3), shapes(), {"data": n}) for n in (8, 64))
    assert gdjax.plan(tx, shapes(), AbstractMesh((8,), ("data",))) == few
    assert (few.devices, many.devices) == (8, 64)
    assert few.part("state") > many.part("state") and few.part("parameters") == many.part("parameters")
    on_cpu = gdjax.plan(tx, shapes(), {"data": 8}, platform="cpu")
    assert on_cpu.part("gradients") == on_cpu.part("parameters") > few.part("gradients")
    alone = gdjax.plan(tx, shapes(), {"data": 1})
    assert alone.wire_bytes == 0 and alone.part("state") == gdjax.state_bytes(tx, shapes())


def test_fits_and_what_is_printed():
    tx = gdjax.adamw(1e-3)
    plan = gdjax.plan(tx, shapes(), {"data": 4, "model": 2}, activations=1000)
    assert plan.fits is None and plan.part("activations") == 1000 and not plan.notes
    size = plan.bytes_per_device
    fits, not_fits = (gdjax.plan(tx, shapes(), {"data": 4}, activations=1000, memory=m) for m in (size, size - 1))
    assert fits.fits and not not_fits.fits
    assert repr(plan).startswith("8 devices (4 data x 2 model): ") and "0/ScaleByAdam.mu" in repr(plan)
    assert "does not fit" in repr(not_fits) and "note: activations" in repr(gdjax.plan(tx, shapes(), {"data": 4}))


def test_errors():
    tx = gdjax.adamw(1e-3)
    with pytest.raises(ValueError, match=r"gdjax.plan: got axis='batch', but the axes of the mesh are 'data'"):
        gdjax.plan(tx, shapes(), {"data": 8}, "batch")
    with pytest.raises(ValueError, match=r"gdjax.plan: params\['up'\] is divided over 'model', but the axes of the me"):
        divided = shapes(AbstractMesh((2,), ("model",)), up=PartitionSpec(None, "model"))
        gdjax.plan(tx, divided, {"data": 8})
    with pytest.raises(TypeError, match=r"gdjax.plan: mesh must be a jax.sharding.Mesh or the sizes of its axes .* 8"):
        gdjax.plan(tx, shapes(), 8)
    with pytest.raises(ValueError, match=r"gdjax.plan: mesh\['data'\] must be at least 1, got 0"):
        gdjax.plan(tx, shapes(), {"data": 0})
    with pytest.raises(ValueError, match=r"gdjax.plan: platform must be one of cpu, gpu, tpu, got 'npu'"):
        gdjax.plan(tx, shapes(), {"data": 8}, platform="npu")
    with pytest.raises(ValueError, match=r"gdjax.plan: memory must be a number of bytes, at least 1, got '16 GB'"):
        gdjax.plan(tx, shapes(), {"data": 8}, memory="16 GB")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"gdjax.plan: activations must be a number of bytes, at least 0, got -1"):
        gdjax.plan(tx, shapes(), {"data": 8}, activations=-1)
    with pytest.raises(TypeError, match=r"gdjax.plan: argument tx is"):
        gdjax.plan(gdjax.adam, shapes(), {"data": 8})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"gdjax.plan: params is None"):
        gdjax.plan(tx, None, {"data": 8})
    with pytest.raises(TypeError, match=r"gdjax.collectives: takes jax.jit"):
        gdjax.plan(tx, shapes(), {"data": 8}).check(jax.jit(jnp.sum).lower(jnp.ones(3)))


@pytest.mark.skipif(not hasattr(jax, "memory"), reason="the CPU of this JAX has one memory")
def test_what_the_host_keeps_is_told():
    plan = gdjax.plan(gdjax.offload_state(gdjax.adam(1e-3)), shapes(), {"data": 8})
    kept = 2 * (2 * L * D * F // 8) * 4  # what is small stays on the device
    assert plan.part("state") == kept + 2 * L * D * 4 + 4
    assert f"the host keeps {kept / 1000:.4g} kB a device between steps" in plan.notes[-1]
