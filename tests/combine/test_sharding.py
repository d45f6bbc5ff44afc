"""The state divided over the devices: `gdjax.state_sharding` for every transform."""

import contextlib
import math
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
from tests.cases import CASES, Case
from tests.declare import by_rank
from tests.trees import assert_close, random_tree

TYPED = hasattr(jax.lax, "pcast")  # this JAX has meshes of explicit axes, whose types tell what follows a parameter
typed = pytest.mark.skipif(not TYPED, reason="this JAX has no types of arrays on meshes")
SHAPES = {"kernel": (16, 8), "bias": (8,), "scale": (), "table": (8, 2, 3)}
SPECS = {"kernel": P(None, "model"), "bias": P(), "scale": P(), "table": P()}
# With explicit axes: those whose rule, or wrapper, once met a state that lies otherwise than its gradient.
ORDINARY = {
    "Auto": "adamw adafactor muon MultiSteps partition schedule_free galore flatten".split(),
    "Explicit": "sm3 adan lookahead mechanize".split(),
}
# These take matrices only.
LEFT_OUT = {f"scale_by_{x}" for x in "muon soap kl_soap kl_shampoo soap_muon shampoo psgd_kron".split()}
# Of the longer side the factor of few gradients has null directions, along which rounding decides.
SHORT = {"soap", "soap_muon", "kl_soap", "shampoo", "shampoo/qr", "shampoo/newton"}
SEARCHES = {"scale_by_zoom_linesearch"}  # counts steps until a condition holds that rounding decides


def of_axes(kind: str, shape: tuple[int, ...] = (4, 2), names: tuple[str, ...] = ("data", "model")) -> Mesh:
    if kind == "Auto":
        return Mesh(np.asarray(jax.devices()[: math.prod(shape)]).reshape(shape), names)
    return jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Explicit,) * len(names))


def placed(tree: Any, mesh: Mesh) -> Any:
    return {k: jax.device_put(x, NamedSharding(mesh, SPECS[k])) for k, x in tree.items()}


def every_kind() -> Any:
    return [
        pytest.param(
            case,
            kind,
            id=f"{case.name}-{kind}",
            marks=([] if case.name in ORDINARY[kind] else [pytest.mark.slow]) + ([] if kind == "Auto" else [typed]),
        )
        for case in CASES
        if case.name not in LEFT_OUT
        for kind in ORDINARY
    ]


def test_which_axis_is_divided():
    """One that follows the parameter, the longest, the first; none that is divided already or does not divide."""
    of, mesh = sharding._Axis(True, ()), {"data": 4, "model": 2}
    new, taken = sharding._Axis(False, ()), sharding._Axis(True, ("model",))
    divided = lambda shape, axes, axis="data": sharding._divided(shape, axes, mesh, axis)
    assert divided((8, 16), [of, of]) == [None, "data"] and divided((8, 8), [of, of]) == ["data", None]
    assert divided((8, 16), [of, new]) == ["data", None]
    assert divided((8, 15), [of, of]) == ["data", None] and divided((6, 15), [of, of]) == [None, None]
    assert divided((8, 16), [of, taken]) == ["data", "model"] and divided((8, 15), [of, taken]) == ["data", None]
    assert divided((8,), [of], None) == [None] and divided((8, 8), [of, of], "model") == ["model", None]
    both = sharding._Axis(True, ("model", "data"))
    assert divided((16, 8), [both, of]) == [("model", "data"), None]


@pytest.mark.filterwarnings(
    "ignore:gdjax.*its Adam trains these leaves at the learning rate"
)  # the table, of three axes
@pytest.mark.parametrize(("case", "kind"), every_kind())
def test_every_transform(case: Case, kind: str):
    tx, mesh = case.make(**({"sides": "short"} if case.name in SHORT else {})), of_axes(kind)
    params, g = random_tree(0, shapes=SHAPES), random_tree(1, shapes=SHAPES)

    def two(g: Any, state: Any, params: Any) -> Any:
        for _ in range(2):
            u, state = tx.update(g, state, params)
            params = gdjax.apply_updates(params, u)
        return params, state

    wanted = tx.init(params)
    end = None if case.name in SEARCHES else jax.jit(two)(g, wanted, params)
    with contextlib.nullcontext() if kind == "Auto" else jax.set_mesh(mesh):
        there, g_there = placed(params, mesh), placed(g, mesh)
        shardings = gdjax.state_sharding(tx, there, mesh, min_bytes=0)
        state = jax.jit(tx.init, out_shardings=shardings)(there)
        assert jax.tree.structure(state) == jax.tree.structure(shardings) == jax.tree.structure(wanted)
        assert_close(state, wanted)
        for x, s in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
            assert x.sharding.is_equivalent_to(s, x.ndim)
            assert math.prod(x.shape) < 16 or s.spec != P() or 185 in x.shape  # all of SHAPES in a row
        if end is not None:
            lie = jax.tree.map(lambda x: x.sharding, there)
            got = jax.jit(two, out_shardings=(lie, shardings))(g_there, state, there)
            assert_close(got, end, 2e-5, 2e-6)


@pytest.mark.full
@typed
def test_arrays_that_lie_on_no_mesh_in_the_context_of_one():
    tx, g = gdjax.scale_by_soap(precondition_frequency=2), random_tree(1, shapes=dict.fromkeys("abc", (3, 4)))
    state = tx.init(g)
    wanted = jax.jit(tx.update)(g, state)
    with jax.set_mesh(of_axes("Explicit")):
        assert_close(jax.jit(lambda g, s: tx.update(g, s))(g, state), wanted)


GPT2 = {
    "adamw": lambda: gdjax.adamw(1e-3),
    "muon": lambda: gdjax.muon(1e-3),
    "adafactor": lambda: gdjax.adafactor(1e-3, momentum=0.9),
    "MultiSteps": lambda: gdjax.MultiSteps(gdjax.adamw(1e-3), 4),
    "schedule_free_adamw": lambda: gdjax.schedule_free_adamw(1e-3),
    "chain": lambda: gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.lion(1e-3)),
    "partition": lambda: gdjax.partition({"matrix": gdjax.muon(1e-3), "vector": gdjax.adamw(1e-3)}, by_rank),
    "lbfgs": lambda: gdjax.lbfgs(),
    "sm3": lambda: gdjax.sm3(1e-3),
    "galore": lambda: gdjax.galore(1e-3),
    "flatten": lambda: gdjax.flatten(gdjax.adamw(1e-3)),
    "prodigy": lambda: gdjax.prodigy(),
    "mechanize": lambda: gdjax.mechanize(gdjax.lion(1e-3)),
}
COMPILED = "adamw schedule_free_adamw partition".split()


@pytest.mark.filterwarnings(
    "ignore:gdjax.muon. it trains these leaves as hidden"
)  # wte: the most momentum that Muon keeps
@pytest.mark.parametrize("name", [n if n in COMPILED else pytest.param(n, marks=pytest.mark.slow) for n in GPT2])
def test_an_eighth_of_the_state_of_gpt2_on_each_of_8_devices(name: str):
    tx, mesh, params = GPT2[name](), of_axes("Auto", (8,), ("data",)), trees.shapes(trees.gpt2_small())
    shardings = gdjax.state_sharding(tx, params, mesh)
    state = jax.eval_shape(tx.init, params)
    pairs = list(zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True))
    each = sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in pairs)
    whole = trees.size(state)[1]
    assert whole / 8 <= each <= whole * (1 / 8 + 0.01)
    memory = jax.jit(tx.init, out_shardings=shardings).lower(params).compile().memory_analysis()
    assert memory.output_size_in_bytes <= each + 8 * len(pairs)  # beside the arrays a table of where they are
    assert memory.temp_size_in_bytes < 2**14


def test_factors_of_gpt2_are_small():
    """Adafactor without momentum keeps 0.3 % of the parameters: nearly all of it in arrays under 16 kB."""
    tx, mesh, params = gdjax.adafactor(1e-3), of_axes("Auto", (8,), ("data",)), trees.shapes(trees.gpt2_small())
    state = jax.eval_shape(tx.init, params)
    assert trees.size(state)[1] < 0.003 * trees.size(params)[1]
    shardings = gdjax.state_sharding(tx, params, mesh, min_bytes=2**11)
    for x, s in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert (s.spec == P("data")) == (x.size * 4 >= 2**11 and x.shape != (50257,))  # which 8 does not divide


def specs(tree: Any) -> Any:
    return jax.tree.map(lambda s: s.spec, tree, is_leaf=lambda s: isinstance(s, NamedSharding))


def shape(mesh: Mesh, spec: P, *sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=NamedSharding(mesh, spec))


def test_the_longest_axis_that_divides():
    mesh = of_axes("Auto")
    params = {"a": jnp.zeros((64, 96)), "b": jnp.zeros((64, 1026)), "c": jnp.zeros((4095,)), "d": jnp.zeros((3, 4096))}
    mu = specs(gdjax.state_sharding(gdjax.scale_by_adam(), params, mesh)).mu
    assert mu == {"a": P(None, "data"), "b": P("data", None), "c": P(None), "d": P(None, "data")}
    tall = {"a": jnp.zeros((96, 64)), "square": jnp.zeros((64, 64))}
    assert specs(gdjax.state_sharding(gdjax.trace(0.9), tall, mesh)).trace == {
        "a": P("data", None), "square": P("data", None)
    }  # fmt: skip


def test_small_arrays_scalars_and_keys_are_whole():
    mesh, params = of_axes("Auto"), {"small": jnp.zeros(4095), "large": jnp.zeros(4096)}
    found = specs(gdjax.state_sharding(gdjax.scale_by_adam(), params, mesh))
    assert found.mu == {"small": P(None), "large": P("data")} and found.count == P()

    class Keys(NamedTuple):
        keys: Any

    tx = gdjax.GradientTransformation(lambda p: Keys(jax.random.split(jax.random.key(0), 4096)), lambda g, s, p: (g, s))
    assert specs(gdjax.state_sharding(tx, params, mesh, min_bytes=0)) == Keys(P(None))


@typed
def test_the_division_of_the_parameter_stays():
    mesh = of_axes("Auto")
    params = {
        "columns": shape(mesh, P(None, "model"), 64, 128),
        "rows": shape(mesh, P("model"), 128, 64),
        "both": shape(mesh, P(("data", "model")), 128, 64),
        "small": shape(mesh, P("model"), 8),
    }
    mu = specs(gdjax.state_sharding(gdjax.scale_by_adam(), params, mesh)).mu
    assert mu == {
        "columns": P("data", "model"), "rows": P("model", "data"), "both": P(("data", "model"), None),
        "small": P("model"),
    }  # fmt: skip
    factors = specs(gdjax.state_sharding(gdjax.scale_by_factored_rms(min_dim_size_to_factor=8), params, mesh))
    assert factors.v_col["columns"] == P("model") and factors.v_col["rows"] == P("model")
    covers = specs(gdjax.state_sharding(gdjax.scale_by_sm3(), params, mesh, min_bytes=0)).mu
    assert covers["columns"] == [P("data"), P("model")] and covers["both"] == [P(("data", "model")), P("data")]
    pairs = specs(gdjax.state_sharding(gdjax.scale_by_lbfgs(256), params, mesh)).diff_params_memory
    assert pairs["columns"] == P(None, "data", "model")  # not along the 256 pairs


def test_a_parameter_on_another_mesh_is_refused():
    params = {"w": shape(of_axes("Auto"), P("model"), 8)}
    mesh = of_axes("Auto", (8,), ("data",))
    with pytest.raises(ValueError, match=r"params\['w'\] is divided over 'model', but the axes of the mesh are 'data'"):
        gdjax.state_sharding(gdjax.adam(1e-3), params, mesh)


def test_errors():
    mesh, params = of_axes("Auto"), jnp.zeros(8)
    with pytest.raises(ValueError, match=r"state_sharding: got axis='batch', but the axes of the mesh are 'data', 'mo"):
        gdjax.state_sharding(gdjax.adam(1e-3), params, mesh, "batch")
    with pytest.raises(TypeError, match=r"state_sharding: mesh must be a jax.sharding.Mesh, got 8"):
        gdjax.state_sharding(gdjax.adam(1e-3), params, 8)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"state_sharding: argument tx is"):
        gdjax.state_sharding(gdjax.adam, params, mesh)  # type: ignore[arg-type]


def own(init: Any) -> gdjax.GradientTransformation:
    return gdjax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


def test_a_transform_that_explicit_axes_refuse_goes_by_path_and_shape():
    """Its product would be divided in two ways, so that no types tell anything."""
    mesh = of_axes("Auto")
    params = {"w": shape(mesh, P("model"), 64, 64), "b": jnp.zeros(4096)}
    tx = own(lambda p: {"gram": p["w"].T @ p["w"], "mu": {k: jnp.zeros(x.shape) for k, x in p.items()}})
    found = specs(gdjax.state_sharding(tx, params, mesh))
    assert found == {"gram": P("data", None), "mu": {"w": P("model", "data"), "b": P("data")}}


def test_an_error_of_init_is_shown_as_it_is():
    def init(p: Any) -> Any:
        raise RuntimeError("no such parameters")

    with pytest.raises(RuntimeError, match="^no such parameters"):
        gdjax.state_sharding(own(init), jnp.zeros(8), of_axes("Auto"))


def test_without_types_of_divided_arrays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gdjax.core.meshes, "explicit", lambda names: None)
    mesh = of_axes("Auto")
    params = {"w": shape(mesh, P("model"), 64, 128), "b": jnp.zeros(4096)}
    found = specs(gdjax.state_sharding(gdjax.chain(gdjax.clip(1.0), gdjax.scale_by_adam()), params, mesh))[1]
    assert found.mu == found.nu == {"w": P("model", "data"), "b": P("data")} and found.count == P()


def test_the_state_of_optax():
    optax = pytest.importorskip("optax")
    mesh, params = of_axes("Auto"), {"w": jnp.zeros((64, 128))}
    found = specs(gdjax.state_sharding(optax.adam(1e-3), params, mesh))[0]
    assert found.mu == found.nu == {"w": P(None, "data")}


@pytest.mark.full
@pytest.mark.parametrize("kind", ["Auto", pytest.param("Explicit", marks=typed)])
def test_a_training_run_is_that_of_one_device(kind: str):
    """Parameters and batch of the data-parallel way; each device makes its eighth of the moments and of the step."""
    mesh, tx = of_axes(kind, (8,), ("data",)), gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(1e-2))
    start = random_tree(0, shapes={"w": (64, 32), "b": (32,)})
    x, y = (random_tree(i, shapes=[(16, n)])[0] for i, n in ((1, 64), (2, 32)))

    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        grads = jax.grad(lambda p: jnp.mean((x @ p["w"] + p["b"][None] - y) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    def run(compiled: Any, params: Any, state: Any, *batch: Any) -> Any:
        for _ in range(5):
            params, state = compiled(params, state, *batch)
        return params, state

    wanted = run(jax.jit(step), start, tx.init(start), x, y)
    with contextlib.nullcontext() if kind == "Auto" else jax.set_mesh(mesh):
        whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
        params, batch = jax.device_put(start, whole), jax.device_put((x, y), rows)
        shardings = gdjax.state_sharding(tx, params, mesh)
        assert specs(shardings)[1][0].mu == {"w": P(None, None), "b": P(None)}  # small
        shardings = gdjax.state_sharding(tx, params, mesh, min_bytes=0)
        state = jax.jit(tx.init, out_shardings=shardings)(params)
        places = (jax.tree.map(lambda _: whole, params), shardings)
        compiled = jax.jit(step, out_shardings=places, donate_argnums=(0, 1))
        got = run(compiled, params, state, *batch)
    assert_close(got, wanted, 2e-5, 2e-6)
    assert got[1][1][0].mu["w"].addressable_shards[0].data.shape == (8, 32)
    assert got[0]["w"].addressable_shards[0].data.shape == (64, 32)


def test_equal_calls_give_equal_shardings():
    mesh, params = of_axes("Auto"), {"w": jnp.zeros((64, 128))}
    first, second = (gdjax.state_sharding(gdjax.adam(1e-3), params, mesh) for _ in range(2))
    assert first == second
