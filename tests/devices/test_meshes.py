"""Every transform on meshes: inside `shard_map` with its default checks, and on meshes of explicit axes.

Most of these programs are traced and not run: that shows whether JAX accepts them, and what types come out.
"""

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from tests.cases import SAMPLE, Case, by_name, every
from tests.trees import assert_close, random_tree

sharding = jax.sharding
P = sharding.PartitionSpec
pytestmark = pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")

N = 4
WAYS = ["local", "replicated", "varying"]  # the hardest first: what meets in it varies or does not
# With numbers, in `make test`: those whose loops, conditions or places were once in the way.
RUN = "clip_by_global_norm normalize dog MultiSteps lookahead sam muon adafactor".split()
RUN_EXPLICIT = "lion adan MultiSteps muon prodigy galore adafactor sm3 scale_by_lbfgs mechanize flatten".split()


def chosen(names: list[str]) -> Any:
    """`make test` runs these cases, the slow sweeps the others."""
    return [
        pytest.param(by_name(name), id=name, marks=[] if name in names else [pytest.mark.slow])
        for name in dict.fromkeys([*names, *SAMPLE])
    ]


def mapped(case: Case, way: str) -> tuple[Any, Any]:
    """Two updates of a transform inside `shard_map`, and their arguments.

    - "replicated": gradients averaged over the devices; the state and the parameters are one for all.
    - "varying": each device has parameters, gradients and a state of its own.
    - "local": the parameters and the state are one for all, the gradients are not, as where each device clips its own.
    """
    tx = case.make()
    params, g = random_tree(0), random_tree(1, lead=(N,))
    state = tx.init(params)
    if way == "varying":
        params, state = jax.tree.map(lambda x: jnp.stack([x] * N), (params, state))

    def run(params: Any, state: Any, g: Any) -> Any:
        g = jax.tree.map(lambda x: x[0], g)
        if way == "varying":
            params, state = jax.tree.map(lambda x: x[0], (params, state))
        if way == "replicated":
            g = jax.lax.pmean(g, "d")
        for _ in range(2):
            u, state = tx.update(g, state, params)
        out = (u, state) if way == "replicated" else gdjax.core.meshes.varying((u, state), frozenset("d"))
        return out if way == "replicated" else jax.tree.map(lambda x: x[None], out)

    mesh = jax.make_mesh((N,), ("d",), axis_types=(sharding.AxisType.Auto,))
    inside, outside = P("d") if way == "varying" else P(), P() if way == "replicated" else P("d")
    program = jax.shard_map(run, mesh=mesh, in_specs=(inside, inside, P("d")), out_specs=outside)
    return jax.jit(program), (params, state, g)


@every(thin=4, way=WAYS)
def test_every_transform_inside_shard_map(case: Case, way: str):
    program, args = mapped(case, way)
    jax.eval_shape(program, *args)


@every(sampled=True, but=RUN)
def test_every_transform_is_lowered_inside_shard_map(case: Case):
    program, args = mapped(case, "local")
    program.lower(*args)


@pytest.mark.full
@pytest.mark.parametrize("case", chosen(RUN))
def test_numbers_inside_shard_map(case: Case):
    tx = case.make()

    @jax.jit
    def alone(g: Any) -> Any:
        params = random_tree(0)
        state = tx.init(params)
        for _ in range(2):
            u, state = tx.update(g, state, params)
        return u, state

    each = [jax.tree.map(lambda x, i=i: x[i], random_tree(1, lead=(N,))) for i in range(N)]
    mean = jax.tree.map(lambda *xs: sum(xs) / N, *each)
    program, args = mapped(case, "replicated")
    assert_close(program(*args), alone(mean), 2e-5, 2e-6)
    wanted = list(map(alone, each))
    for way in ("varying", "local"):
        program, args = mapped(case, way)
        got = program(*args)
        for i, one in enumerate(wanted):
            assert_close(jax.tree.map(lambda x, i=i: x[i], got), one, 2e-5, 2e-6)


def test_norms_inside_shard_map():
    mesh = jax.make_mesh((N,), ("d",), axis_types=(sharding.AxisType.Auto,))
    x = jnp.arange(8.0)
    for norm in (gdjax.global_norm, gdjax.tree.norm, lambda g: gdjax.safe_norm(g, 0.0)):
        program = jax.shard_map(lambda g, norm=norm: norm(g)[None], mesh=mesh, in_specs=P("d"), out_specs=P("d"))
        assert_close(jax.jit(program)(x), jnp.sqrt(x[::2] ** 2 + x[1::2] ** 2))


def test_a_norm_of_what_varies_and_what_does_not():
    mesh = jax.make_mesh((N,), ("d",), axis_types=(sharding.AxisType.Auto,))
    program = jax.shard_map(
        lambda a, b: gdjax.global_norm((a, b))[None], mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d")
    )
    assert_close(jax.jit(program)(jnp.arange(4.0), jnp.full(3, 2.0)), jnp.sqrt(jnp.arange(4.0) ** 2 + 12))


@pytest.mark.parametrize(
    "tx", [gdjax.conditionally_transform(gdjax.scale(2.0), lambda step: step < 1), gdjax.MultiSteps(gdjax.adam(0.1), 2)]
)
def test_what_a_condition_chooses_is_replicated_where_both_are(tx: Any):
    mesh = jax.make_mesh((N,), ("d",), axis_types=(sharding.AxisType.Auto,))
    specs, g = {"w": P("d"), "b": P()}, {"w": jnp.ones((N, 2)), "b": jnp.ones(3)}
    update = lambda g: tx.update(g, tx.init(g), g)[0]
    got = jax.jit(jax.shard_map(update, mesh=mesh, in_specs=(specs,), out_specs=specs))(g)
    assert_close(got, update(g))


# Explicit axes: parameters divided over two of them.
SHAPES = {"kernel": (4, 8), "bias": (8,), "scale": (), "tall": (8, 2)}
SPECS = {"kernel": P("x", "y"), "bias": P("y"), "scale": P(), "tall": P(("x", "y"))}


@pytest.fixture
def explicit_mesh() -> Iterator[Any]:
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(sharding.AxisType.Explicit,) * 2)
    with sharding.set_mesh(mesh):
        yield mesh


def shardings(mesh: Any) -> dict[str, Any]:
    return {k: sharding.NamedSharding(mesh, spec) for k, spec in SPECS.items()}


def divided(mesh: Any, seed: int) -> Any:
    return jax.device_put(random_tree(seed, shapes=SHAPES), shardings(mesh))


def types(tree: Any) -> list[str]:
    return [str(jax.typeof(x)) for x in jax.tree.leaves(tree)]


@every(thin=4)
def test_every_transform_on_explicit_axes(case: Case, explicit_mesh: Any):
    how = shardings(explicit_mesh)
    params = {k: jax.ShapeDtypeStruct(shape, "float32", sharding=how[k]) for k, shape in SHAPES.items()}
    jax.eval_shape(two_updates(case.make()), params, params)


def two_updates(tx: Any) -> Any:
    def two(g: Any, params: Any) -> Any:
        state = tx.init(params)
        for _ in range(2):
            before = types(state)
            u, state = tx.update(g, state, params)
            assert types(u) == types(g)
            assert types(state) == before
        return u, state

    return two


@pytest.mark.full
@every(sampled=True)
def test_a_state_on_explicit_axes_is_placed_as_its_shapes_say(case: Case, explicit_mesh: Any):
    tx, params = case.make(), divided(explicit_mesh, 0)
    assert types(jax.eval_shape(tx.init, params)) == types(tx.init(params))
    jax.jit(two_updates(tx)).lower(params, params)


@pytest.mark.parametrize("case", chosen(RUN_EXPLICIT))
def test_numbers_on_explicit_axes(case: Case, explicit_mesh: Any):
    tx, params, g = case.make(), random_tree(0, shapes=SHAPES), random_tree(1, shapes=SHAPES)

    def two(g: Any, params: Any) -> Any:
        state = tx.init(params)
        for _ in range(2):
            u, state = tx.update(g, state, params)
        return u, state

    assert_close(
        jax.jit(two)(divided(explicit_mesh, 1), divided(explicit_mesh, 0)), jax.jit(two)(g, params), 2e-5, 2e-6
    )


@pytest.mark.programs
def test_without_a_mesh_in_context():
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(sharding.AxisType.Explicit,) * 2)
    for name in ("lion", "muon", "adafactor", "scale_by_lbfgs", "galore"):
        tx, params, g = by_name(name).make(), divided(mesh, 0), divided(mesh, 1)
        state = tx.init(params)
        u, new = jax.block_until_ready(tx.update(g, state, params))
        assert types(u) == types(g) and types(new) == types(state)


def collectives(program: Any, *args: Any) -> list[str]:
    text = jax.jit(program).lower(*args).compile().as_text()
    return re.findall(r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text)


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
@pytest.mark.parametrize("name", ["adamw", "lion", "adan", "schedule_free_adamw", "MultiSteps", "adadelta"])
def test_no_collective_for_an_ordering(name: str, kind: str):
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(getattr(sharding.AxisType, kind),) * 2)
    with sharding.set_mesh(mesh):
        tx, params, g = by_name(name).make(), divided(mesh, 0), divided(mesh, 1)
        assert not collectives(tx.update, g, tx.init(params), params)


def test_a_norm_has_the_collectives_of_its_sums(explicit_mesh: Any):
    def by_hand(tree: Any) -> Any:
        return jnp.sqrt(sum(jnp.sum(x * x) for x in jax.tree.leaves(tree)))

    tree = divided(explicit_mesh, 0)
    assert collectives(gdjax.global_norm, tree) == collectives(by_hand, tree) != []
