"""`quantize_state` around any transform: what is kept as codes, and that whatever a state meets knows them."""

import pickle
import warnings
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from gdjax.codes import formats
from gdjax.codes.blocks import BlockCodes, FourBitCodes
from gdjax.codes.formats import LogCodes, LogCodesOfSquares, NarrowCodes
from gdjax.codes.words import InWord, Word
from tests.cases import Case, every
from tests.combine.test_sharding import TYPED, of_axes, typed
from tests.declare import by_rank
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, random_tree, signature

# Some transforms keep nothing that may be coded, and one test is of all.
pytestmark = pytest.mark.filterwarnings("ignore:gdjax.quantize_state. the state is as large")
SHAPES = {"kernel": (128, 16), "bias": (16,), "stack": (2, 64, 8)}
WAYS: dict[str, dict[str, Any]] = {
    "words": {}, "blocks": {"moments": "blocks"}, "log": {"moments": "log"}, "4bits": {"bits": 4},
    "fp8": {"moments": "fp8"},
    "bfloat16": {"moments": "bfloat16", "squares": "bfloat16"}, "dynamic": {"moments": "dynamic", "squares": "dynamic"},
}  # fmt: skip
# The ordinary suite runs the default, the slow sweeps all.
CHOSEN = [pytest.param(x, marks=[] if x == "words" else [pytest.mark.slow]) for x in WAYS]
every_way = pytest.mark.parametrize("way", CHOSEN)


def quantized(tx: Any = None, way: str = "words", **changes: Any) -> Any:
    return gdjax.quantize_state(tx or gdjax.adamw(0.01), **{"min_size": 0, **WAYS[way], **changes})


def problem(seed: int = 0) -> tuple[Any, Any]:
    return random_tree(seed, shapes=SHAPES), random_tree(seed + 1, shapes=SHAPES)


def steps(tx: Any, params: Any, g: Any, n: int = 3, state: Any = None) -> tuple[Any, Any]:
    state = tx.init(params) if state is None else state
    for _ in range(n):
        u, state = tx.update(g, state, params)
        params = gdjax.apply_updates(params, u)
    return params, state


def mu(state: Any) -> Any:
    return gdjax.tree.get(state, "mu")


def test_which_arrays_are_kept_as_codes():
    """Those of `min_size` numbers or more, of the leaves that are not exempt."""
    params = {"a": jnp.zeros(8), "b": jnp.zeros(7), "c": jnp.zeros(9)}
    mu = gdjax.quantize_state(gdjax.trace(0.9), moments="log", min_size=8, exempt="c").init(params).inner_state.trace
    assert [name for name, x in mu.items() if formats.is_codes(x)] == ["a"]
    assert [x.shape for x in (mu["b"], mu["c"])] == [(7,), (9,)]


@pytest.mark.full
@every(lambda case: case.covers != "quantize_state", thin=3)
def test_every_transform_keeps_the_form_of_its_state(case: Case):
    tx = quantized(case.make())
    params, g = random_tree(0), random_tree(1)
    start = jax.eval_shape(tx.init, params)
    u, after = jax.eval_shape(tx.update, g, start, params)
    assert signature(after) == signature(start) and signature(u) == signature(jax.eval_shape(lambda x: x, g))


# Yogi's nu starts at a number between two codes; `quantize_state` keeps no codes of codes.
UNLIKE = "yogi", "scale_by_yogi", "quantize_state"


@pytest.mark.full
@every(
    lambda case: case.covers not in UNLIKE,
    sampled=True,
    but=["lbfgs", "mechanize", "sam", "schedule_free", "partition", "chain"],
)
def test_what_is_exact_at_first_is_updated_as_without_codes(case: Case):
    """The first update is computed from a state of zeros, before that is encoded."""
    params, g = random_tree(0), random_tree(1)
    plain, coded = case.make(), quantized(case.make())
    wanted = jax.jit(lambda: plain.update(g, plain.init(params), params)[0])()
    assert_close(jax.jit(lambda: coded.update(g, coded.init(params), params)[0])(), wanted, 1e-5, 1e-7)


@pytest.mark.full
@pytest.mark.parametrize("make", [optax.adamw, optax.lion, optax.adabelief, optax.amsgrad, optax.rmsprop])
def test_transforms_of_optax(make: Any):
    kept = {
        optax.adamw: {"mu": LogCodes, "nu": LogCodesOfSquares},
        optax.lion: {"mu": LogCodes},
        optax.adabelief: {"mu": jax.Array, "nu": LogCodesOfSquares},
        optax.amsgrad: {"mu": LogCodes, "nu": jax.Array, "nu_max": jax.Array},
        optax.rmsprop: {"nu": LogCodesOfSquares},
    }[make]
    params, g = problem()
    with relaxed():
        tx = quantized(make(0.01), "log")
        new, state = steps(tx, params, g)
        wanted, _ = steps(make(0.01), params, g)
    for field, codes in kept.items():
        assert all(isinstance(x, codes) for x in gdjax.tree.get(state, field).values())
    assert_close(new, wanted, 0.1, 0.02)


@pytest.mark.full
@every_way
def test_jit_scan_and_eager_agree_in_one_trace(way: str):
    tx, (params, g) = quantized(way=way), problem()
    traces = []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        traces.append(1)
        u, state = tx.update(g, state, params)
        return gdjax.apply_updates(params, u), state

    here = params, tx.init(params)
    for _ in range(3):
        here = step(*here)
    assert len(traces) == 1
    scanned = jax.jit(lambda: jax.lax.scan(lambda c, _: (step(*c), None), (params, tx.init(params)), length=3)[0])()
    eager = steps(tx, params, g)
    assert signature(scanned) == signature(eager) == signature(here)
    assert_close(scanned[0], here[0], 1e-5, 1e-6)
    assert_close(eager[0], here[0], 1e-5, 1e-6)
    mean = np.mean([np.mean(np.abs(x - y)) for x, y in zip(*map(jax.tree.leaves, (here[0], params)), strict=True)])
    assert 0.01 < mean < 0.04  # three steps of 0.01


@pytest.mark.full
@every_way
def test_as_well_as_without_codes(way: str):
    """A quadratic, of gradients with noise: the loss falls to where that of float32 falls."""
    target = random_tree(3, shapes=SHAPES)

    def trained(tx: Any) -> Any:
        def step(carry: Any, key: Any) -> Any:
            params, state = carry
            noise = gdjax.tree.random_like(key, params)
            g = jax.tree.map(lambda p, t, n: p - t + 0.3 * n, params, target, noise)
            u, state = tx.update(g, state, params)
            return (gdjax.apply_updates(params, u), state), None

        params = random_tree(0, shapes=SHAPES)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(jax.random.key(0), 400))
        return gdjax.tree.norm(gdjax.tree.sub(params, target), squared=True) / gdjax.tree.norm(target, squared=True)

    coded, exact = jax.jit(lambda: trained(quantized(way=way)))(), jax.jit(lambda: trained(gdjax.adamw(0.01)))()
    assert coded < 1.5 * exact < 0.06


SIZED = [gdjax.adam, gdjax.adabelief, gdjax.adan, gdjax.soap]
SIZED_OTHERWISE = {("4bits", gdjax.adam), ("bfloat16", gdjax.adabelief)}


@pytest.mark.full
@pytest.mark.parametrize(
    ("way", "make"),
    [
        pytest.param(w, f, marks=[] if w == "blocks" or (w, f) in SIZED_OTHERWISE else [pytest.mark.slow])
        for w in ("blocks", "4bits", "bfloat16")
        for f in SIZED
    ],
)
def test_gradients_of_any_size_give_updates_of_the_length_of_float32(way: str, make: Any):
    """Neither moments nor squares end before the others: that would lengthen or shorten the updates."""
    params = {"w": jnp.zeros((64, 16)), "n": jnp.zeros((63, 8)), "b": jnp.zeros(16)}

    def lengths(tx: Any, size: Any, spike: Any) -> Any:
        def step(state: Any, i: Any) -> Any:
            noise = gdjax.tree.random_like(jax.random.fold_in(jax.random.key(0), i), params)
            at_10 = jnp.where(i == 10, spike, 0)
            g = jax.tree.map(lambda x: (size * x).ravel().at[3].add(at_10).reshape(x.shape), noise)
            u, state = tx.update(g, state, params)
            return state, jnp.stack([jnp.linalg.norm(x) for x in jax.tree.leaves(u)])

        return jax.lax.scan(step, tx.init(params), jnp.arange(30))[1][15:].mean(0)

    # Not of SOAP: of a spike the codes of its bases turn a part, 1 %, into coordinates of small squares.
    spike = 0.0 if make is gdjax.soap else 1e15
    given = jnp.asarray([1.0, 1e4, 1e8, 1e12, 1.0]), jnp.asarray([0.0] * 4 + [spike])
    coded, exact = (
        jax.jit(jax.vmap(lambda size, spike, tx=tx: lengths(tx, size, spike)))(*given)
        for tx in (quantized(make(1.0), way), make(1.0))
    )
    np.testing.assert_allclose(coded / exact, 1, atol=0.25)


@pytest.mark.full
def test_under_vmap():
    tx = quantized()
    both = [problem(seed) for seed in (0, 5)]
    params, g = jax.tree.map(lambda *xs: jnp.stack(xs), *both)
    got = jax.jit(jax.vmap(lambda p, g: steps(tx, p, g, 2)))(params, g)
    for i, (p, g) in enumerate(both):
        assert_close(
            jax.tree.map(lambda x, i=i: x[i], got[0]), jax.jit(lambda p=p, g=g: steps(tx, p, g, 2)[0])(), 1e-5, 1e-6
        )


@pytest.mark.skipif(not TYPED, reason="this JAX has no types of arrays on meshes")
@every_way
def test_inside_shard_map(way: str):
    tx, (params, g) = quantized(way=way), problem()
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    state = tx.init(params)

    def run(g: Any, params: Any) -> Any:
        return steps(tx, params, jax.lax.pmean(g, "d"), 2, state)

    got = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=(P(), P()), out_specs=P()))(g, params)
    assert_close(got[0], steps(tx, params, g, 2)[0], 1e-5, 1e-6)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_under_pmap():
    tx, (params, g) = quantized(), problem()
    both = jax.tree.map(lambda x: jnp.stack([x, x]), (params, g))
    got = jax.pmap(lambda p, g: steps(tx, p, jax.lax.pmean(g, "i"), 2), axis_name="i")(*both)
    assert_close(jax.tree.map(lambda x: x[1], got[0]), steps(tx, params, g, 2)[0], 1e-5, 1e-6)


def on_devices(kind: str, spec: Any, way: str, n: int = 8, **changes: Any) -> tuple[Any, Any]:
    """Three steps with a kernel that is divided, and its state."""
    mesh, tx, (params, g) = of_axes(kind, (n, 1)), quantized(way=way, **changes), problem()
    params, g = ({k: x for k, x in tree.items() if k != "stack"} for tree in (params, g))  # its blocks would be cut
    with jax.sharding.use_mesh(mesh) if not hasattr(jax, "set_mesh") else jax.set_mesh(mesh):
        where = {"kernel": NamedSharding(mesh, spec), "bias": NamedSharding(mesh, P())}
        params, g = jax.device_put(params, where), jax.device_put(g, where)
        shardings = gdjax.state_sharding(tx, params, mesh, min_bytes=0)
        state = jax.jit(tx.init, out_shardings=shardings)(params)
        u = g
        step = jax.jit(tx.update, out_shardings=(jax.tree.map(lambda x: x.sharding, params), shardings))
        for _ in range(3):
            u, state = step(g, state, params)
        return u, state


# The ordinary suite tries these, the slow sweeps the others.
TRIED = ("log", P("data"), "Auto"), ("blocks", P("data"), "Auto"), ("blocks", P(None, "data"), "Explicit")


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("way", "spec", "kind"),
    [
        pytest.param(
            way,
            spec,
            kind,
            id=f"{way}-{spec}-{kind}",
            marks=[] if (way, spec, kind) in TRIED else [pytest.mark.slow, *([] if kind == "Auto" else [typed])],
        )
        for way in WAYS
        if way != "dynamic"  # its blocks are of the flattened array: devices agree on them to rounding
        for spec in (P("data"), P(None, "data"))
        for kind in ("Auto", "Explicit")
    ],
)
def test_one_device_and_eight_agree_to_the_bit(way: str, spec: Any, kind: str):
    """Blocks of 64 of 128 rows do not lie inside the shards of eight devices along the rows; of two they do."""
    n = 2 if spec == P("data") and way != "log" else 8
    assert_equal(on_devices(kind, spec, way, n), on_devices(kind, spec, way, 1))


@pytest.mark.full
@pytest.mark.parametrize("kind", ["Auto", pytest.param("Explicit", marks=pytest.mark.skipif(not TYPED, reason="old"))])
@pytest.mark.parametrize("way", ["blocks", "4bits"])
def test_blocks_that_an_axis_of_the_mesh_cuts(way: str, kind: str):
    assert_close(on_devices(kind, P("data"), way, 8)[0], on_devices(kind, P("data"), way, 1)[0], 1e-5, 1e-6)


@pytest.mark.full
@pytest.mark.optimized
@pytest.mark.parametrize("kind", ["Auto", pytest.param("Explicit", marks=typed)])
@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this XLA rounds in another order on a mesh")
@pytest.mark.parametrize(
    "way, spec",
    [
        ("blocks", P(None, "data")),
        pytest.param("4bits", P("data"), marks=pytest.mark.slow),
        pytest.param("4bits", P(None, "data"), marks=pytest.mark.slow),
    ],
)
def test_rows_that_are_blocks_are_the_same_on_one_device_and_eight(way: str, spec: Any, kind: str):
    wide = {"block_size": 12}  # which does not divide 128 rows, of 16 columns
    assert_equal(on_devices(kind, spec, way, 8, **wide), on_devices(kind, spec, way, 1, **wide))


def test_shardings_of_codes_and_scales():
    mesh, (params, _) = of_axes("Auto", (2, 4)), problem()
    spec = lambda **kwargs: jax.tree.map(lambda x: x.spec, gdjax.state_sharding(*of(**kwargs), min_bytes=0))

    def of(spec: Any, way: str) -> Any:
        there = params | {"kernel": jax.device_put(params["kernel"], NamedSharding(mesh, spec))}
        return quantized(way=way), there, mesh

    assert mu(spec(spec=P(None, "model"), way="log"))["kernel"] == LogCodes(P("data", "model"))
    assert mu(spec(spec=P("data"), way="blocks"))["kernel"] == BlockCodes(P("data", None), P("data", None))
    assert mu(spec(spec=P("data"), way="4bits"))["kernel"] == FourBitCodes(P("data", None), P("data", None))
    four = mu(spec(spec=P("model"), way="blocks"))["kernel"]  # two blocks, four devices
    assert four == BlockCodes(P("model", "data"), P(None, "data"))


@pytest.mark.full
def test_a_step_donates_its_codes():
    tx, (params, g) = quantized(way="blocks"), problem()
    state = tx.init(params)
    step = jax.jit(lambda s, p: tx.update(g, s, p)[1], donate_argnums=0)
    old = mu(state)["kernel"].codes
    step(state, params)
    assert old.is_deleted()


# The dynamic map has no -1, so that a block shrinks whose largest number is below 0.
@pytest.mark.full
@pytest.mark.parametrize("way", [x for x in CHOSEN if x.values != ("dynamic",)])
def test_idle_steps_leave_codes_as_they_are(way: str):
    params, g = problem()
    tx = quantized(gdjax.MultiSteps(gdjax.adamw(0.01), 3).gradient_transformation(), way)
    _, state = steps(tx, params, g, 3)
    before, step = formats_of(state), jax.jit(tx.update)
    assert before
    for _ in range(2):
        _, state = step(g, state, params)
        assert_equal(formats_of(state), before)
    assert any(np.any(x != y) for x, y in zip(formats_of(step(g, state, params)[1]), before, strict=True))


def formats_of(state: Any) -> list[Any]:
    codes = [x for x in jax.tree.leaves(state, is_leaf=formats.is_codes) if formats.is_codes(x)]
    return [np.asarray(x, np.float32) for x in jax.tree.leaves(codes)]


INSIDE = {
    "chain": lambda: gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(0.01)),
    "masked": lambda: gdjax.masked(gdjax.adamw(0.01), {"kernel": True, "bias": False, "stack": True}),
    "partition": lambda: gdjax.partition({"matrix": gdjax.adamw(0.01), "vector": gdjax.sgd(0.01)}, by_rank),
    "inject": lambda: gdjax.inject_hyperparams(gdjax.adamw)(0.01),
    "schedule": lambda: gdjax.adamw(gdjax.linear_schedule(0.0, 0.01, 3)),
    "MultiSteps": lambda: gdjax.MultiSteps(gdjax.adamw(0.01), 2),
    "apply_if_finite": lambda: gdjax.apply_if_finite(gdjax.adamw(0.01), 2),
    "params_ema": lambda: gdjax.params_ema(gdjax.adamw(0.01), 0.9),
    "schedule_free": lambda: gdjax.schedule_free_adamw(0.01),
    "with_metrics": lambda: gdjax.with_metrics(gdjax.adamw(0.01)),
    "muon": lambda: gdjax.muon(0.01),
    "soap": lambda: gdjax.soap(0.01),
}
AROUND = {
    "chain": lambda tx: gdjax.chain(gdjax.clip_by_global_norm(1.0), tx),
    "masked": lambda tx: gdjax.masked(tx, {"kernel": True, "bias": False, "stack": True}),
    "partition": lambda tx: gdjax.partition({"matrix": tx, "vector": gdjax.sgd(0.01)}, by_rank),
    "inject": lambda tx: gdjax.inject_hyperparams(lambda learning_rate: quantized(gdjax.adamw(learning_rate)))(0.01),
    "MultiSteps": lambda tx: gdjax.MultiSteps(tx, 2),
    "apply_if_finite": lambda tx: gdjax.apply_if_finite(tx, 2),
    "params_ema": lambda tx: gdjax.params_ema(tx, 0.9),
    "schedule_free": lambda tx: gdjax.schedule_free(tx, 0.01),
    "with_metrics": lambda tx: gdjax.with_metrics(tx),
    "cautious": lambda tx: gdjax.cautious(tx),
    "flatten": lambda tx: gdjax.flatten(tx),
}


EVERY_PART = [*(f"{name} inside" for name in INSIDE), *(f"{name} around" for name in AROUND)]
FEW_PARTS = (
    "chain inside",
    "MultiSteps inside",
    "muon inside",
    "partition around",
    "inject around",
    "schedule_free around",
)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:gdjax.*its Adam trains these leaves")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FEW_PARTS else pytest.mark.slow) for name in EVERY_PART]
)
def test_parts_inside_and_around(name: str):
    which, _, where = name.partition(" ")
    tx = quantized(INSIDE[which]()) if where == "inside" else AROUND[which](quantized())
    params, g = problem()
    new, state = jax.jit(lambda: steps(tx, params, g, 4))()
    assert signature(state) == signature(jax.eval_shape(tx.init, params)) and formats_of(state)
    away = [float(jnp.max(jnp.abs(x - y))) for x, y in zip(*map(jax.tree.leaves, (new, params)), strict=True)]
    assert 0.001 < min(away) < 0.3  # masked leaves move by the gradient
    assert gdjax.state_bytes(tx, params) == sum(x.nbytes for x in jax.tree.leaves(state))
    table = gdjax.tabulate(tx, params)
    assert any("int" in x and " " in x for x in table["dtype"]) and sum(table["bytes"][:-1]) == table["bytes"][-1]
    gdjax.explain(tx, params, state)
    rates = [x for k, x in gdjax.get_hyperparams(tx, state).items() if k.endswith("learning_rate")]
    assert rates and all(abs(float(x) - 0.01) < 1e-6 for x in rates)
    again = gdjax.state_from_dict(tx, gdjax.state_to_dict(state), params)
    assert_equal(again, state)


@pytest.mark.full
def test_lookahead_inside_and_around():
    params, g = problem()
    pair = gdjax.LookaheadParams.init_synced(params)
    for tx in (gdjax.lookahead(quantized(), 2, 0.5), quantized(gdjax.lookahead(gdjax.adamw(0.01), 2, 0.5))):
        state = tx.init(pair)
        u, state = tx.update(g, state, pair)
        assert formats_of(state) and jax.tree.structure(u) == jax.tree.structure(pair)


@pytest.mark.full
def test_a_skipped_step_leaves_codes_as_they_are():
    params, g = problem()
    bad = jax.tree.map(lambda x: x * jnp.nan, g)
    for tx in (gdjax.apply_if_finite(quantized(), 3), quantized(gdjax.apply_if_finite(gdjax.adamw(0.01), 3))):
        _, state = steps(tx, params, g)
        assert_equal(formats_of(jax.jit(tx.update)(bad, state, params)[1]), formats_of(state))


def test_without_parameters_and_with_leaves_that_are_not_trained():
    tx = quantized(gdjax.adam(0.01))
    params = {"w": jnp.ones((64, 2)), "n": jnp.ones((64, 64), int), "no": None, "mask": gdjax.MaskedNode()}
    g = {"w": jnp.ones((64, 2)), "n": np.zeros((64, 64), jax.dtypes.float0), "no": None, "mask": gdjax.MaskedNode()}
    u, state = tx.update(g, tx.init(params))
    assert_close(u["w"], jnp.full((64, 2), -0.01))
    assert isinstance(mu(state)["w"], Word) and mu(state)["n"].dtype == jnp.int32


def test_what_stays_as_it_is():
    params = {
        "large": jnp.ones((64, 64)), "small": jnp.ones((63, 65)), "embedding": jnp.ones((128, 64)),
        "complex": jnp.ones((64, 64), "complex64"), "half": jnp.ones((64, 64), "bfloat16"),
    }  # fmt: skip
    state = gdjax.quantize_state(gdjax.adam(0.1), exempt="embed").init(params)
    kinds = {k: type(x).__name__ for k, x in mu(state).items()}
    assert kinds.pop("large") == kinds.pop("half") == "Word" and not any("Codes" in x for x in kinds.values())
    nu = gdjax.tree.get(state, "nu")
    assert isinstance(nu["complex"], NarrowCodes)  # which is real
    for patterns in ([r"embed", lambda path, x: x.ndim > 1], (), ["large"]):
        state = gdjax.quantize_state(gdjax.adam(0.1), exempt=patterns).init(params)
        assert isinstance(mu(state)["large"], Word) == (patterns == ())
    everything = gdjax.quantize_state(gdjax.adam(0.1), moments="float32", squares="float32").init(params)
    assert not formats_of(everything)


def test_it_is_said_where_nothing_is_coded():
    params = {"large": jnp.ones((64, 64)), "small": jnp.ones(3)}
    with pytest.warns(UserWarning, match=r"^gdjax\.quantize_state: the state .*: mu, nu must stay exact"):
        gdjax.quantize_state(gdjax.adana(0.1)).init(params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tx in (gdjax.sgd(0.1), gdjax.adam(0.1), gdjax.chain(gdjax.ema(0.9), gdjax.scale_by_adana())):
            gdjax.quantize_state(tx).init(params)
        gdjax.quantize_state(gdjax.adana(0.1), exempt="large").init(params)
        gdjax.quantize_state(gdjax.adam(0.1), moments="float32", squares="float32").init(params)


FACTORS = {
    "float32": ["float32", "float32"],
    "blocks": ["int8 rows", "int8 blocks of 64"],  # 64 does not divide 96
    "bfloat16": ["bfloat16", "bfloat16"],
}


@pytest.mark.programs
def test_kronecker_factors():
    params = {"w": jax.random.normal(jax.random.key(0), (128, 96))}
    g = jax.tree.map(lambda p: p * jnp.linspace(0.01, 1, 96)[None], params)
    soap = gdjax.scale_by_soap(precondition_frequency=2)

    def after(tx: Any) -> Any:
        state, step = tx.init(params), jax.jit(tx.update)
        for _ in range(4):
            state = step(g, state, params)[1]
        return [np.asarray(formats.decoded(gdjax.tree.get(state, field))["96x128"]) for field in ("L", "R")]

    wanted = after(soap)
    for way, told in FACTORS.items():
        kinds: Any = {"moments": "float32", "squares": "float32", "bases": "float32", "factors": way}
        coded = gdjax.quantize_state(soap, **kinds)
        table = gdjax.tabulate(coded, params)
        assert [x for f, x in zip(table["field"], table["dtype"], strict=True) if f in ("L", "R")] == told
        for x, y, kept in zip(after(coded), wanted, told, strict=True) if way != "float32" else ():
            most = 0.015 if kept == "int8 rows" else 0.006  # 96 numbers share a scale, of which one is the diagonal's
            assert 0 < np.linalg.norm(x[0] - y[0], 2) < most * np.linalg.norm(y[0], 2)


@pytest.mark.slow
def test_soap_with_coded_factors_trains_as_well():
    """A network learns another of its shape, whose inputs differ by three decades in size: means of eight seeds."""
    n, count = 64, 600
    matrices = lambda key: dict(zip("abc", jax.random.normal(key, (3, n, n)) / 8, strict=True))
    net = lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]
    inputs = lambda key, rows: jax.random.normal(key, (rows, n)) * (30 * jnp.logspace(0, -3, n))[None]
    teacher = jax.tree.map(lambda x: 1.5 * x, matrices(jax.random.key(99)))
    loss = lambda p, x: jnp.mean((net(p, x) - net(teacher, x)) ** 2)

    def losses(tx: Any) -> Any:
        rate = gdjax.warmup_cosine_decay_schedule(1e-3, 1e-2, 30, count, 1e-4)
        tx = gdjax.chain(tx, gdjax.scale_by_learning_rate(rate))

        def step(carry: Any, key: Any) -> Any:
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, inputs(key, 64)), state, params)
            return (gdjax.apply_updates(params, updates), state), None

        def run(key: Any) -> Any:
            params, keys = matrices(key), jax.random.split(jax.random.fold_in(key, 1), count)
            params, _ = jax.lax.scan(step, (params, tx.init(params)), keys)[0]
            return loss(params, inputs(jax.random.key(5), 2048))

        return jax.jit(lambda keys: jax.lax.map(run, keys))(jax.random.split(jax.random.key(0), 8))

    soap = gdjax.scale_by_soap()
    exact, *coded = (
        losses(tx) for tx in (soap, *(gdjax.quantize_state(soap, factors=x) for x in ("blocks", "bfloat16")))
    )
    for found in coded:
        over = np.log(np.asarray(found) / np.asarray(exact))
        assert abs(over.mean()) < 0.04 and over.std() < 0.1, over


def test_who_gets_words():
    """A moment whose size the root of the squares bounds; other numbers have 16 bits each."""
    params = {"w": jnp.ones((64, 64))}
    for tx in (gdjax.adamw(0.1), gdjax.nadam(0.1), gdjax.stable_adamw(0.1)):
        kept = jax.tree.leaves(gdjax.quantize_state(tx).init(params), is_leaf=formats.is_codes)
        assert {type(x) for x in kept if formats.is_codes(x)} == {Word, InWord}, tx
    state = gdjax.quantize_state(gdjax.ademamix(0.1)).init(params)
    assert isinstance(gdjax.tree.get(state, "m1")["w"], Word) and isinstance(gdjax.tree.get(state, "nu")["w"], InWord)
    for tx in (
        gdjax.acprop(0.1), gdjax.adan(0.1), optax.adamw(0.1), gdjax.adopt(0.1), gdjax.laprop(0.1), gdjax.lion(0.1),
        gdjax.rmsprop(0.1), gdjax.adabelief(0.1), gdjax.amsgrad(0.1), gdjax.adamax(0.1), gdjax.muon(0.1),
        gdjax.yogi(0.1), gdjax.lamb(0.1), gdjax.update_floor(gdjax.adam(0.1), 0.1),
    ):  # fmt: skip
        kept = jax.tree.leaves(gdjax.quantize_state(tx).init(params), is_leaf=formats.is_codes)
        assert {type(x) for x in kept if formats.is_codes(x)} == {NarrowCodes}, tx


@pytest.mark.full
def test_a_moment_that_fades_as_slowly_as_the_root_is_kept_apart():
    """m / sqrt(v) fades by b1 / sqrt(b2). Where nobody knows these, in words; a state of before goes on."""
    params = {"w": jnp.ones((64, 64))}
    how = lambda *decays: type(mu(gdjax.quantize_state(gdjax.adamw(0.1, *decays)).init(params))["w"])
    for decays in ((), (0.9, 0.95), (0.95, 0.95), (0.95, 0.99), (lambda t: 0.99, 0.9), (jnp.float32(0.99), 0.9)):
        assert how(*decays) is Word, decays
    for decays in ((0.95, 0.9), (0.95, 0.92), (0.99, 0.98), (0.99, 0.999), (0.9, 0.5), (0.9, 0.0)):
        assert how(*decays) is NarrowCodes, decays
    apart = gdjax.quantize_state(gdjax.adamw(0.1, 0.95, 0.9))
    for state in (gdjax.quantize_state(gdjax.adamw(0.1)).init(params), apart.init(params)):
        for tx in (apart, gdjax.quantize_state(gdjax.adamw(0.1, jnp.float32(0.95), 0.9))):
            assert signature(tx.update(params, state, params)[1]) == signature(state)


@pytest.mark.full
@pytest.mark.parametrize("name", ["lion", "rmsprop", "adopt", "muon"])
def test_a_state_in_blocks_of_before_goes_on_as_it_is(name: str):
    params, g = problem()
    inner = getattr(gdjax, name)(0.01)
    ways: Any = ({}, {"block_size": 32, "scale_dtype": "bfloat16"})
    for how in ({**way, "min_size": 0} for way in ways):
        blocks, now = (gdjax.quantize_state(inner, **way, **how) for way in ({"moments": "blocks"}, {}))
        _, state = steps(blocks, params, g, 1)
        u, on = now.update(g, state, params)
        assert signature(on) == signature(state)
        assert_close(u, blocks.update(g, state, params)[0], 1e-5, 1e-7)
        made, _ = gdjax.migrate(state, blocks, now, params)
        assert signature(made) == signature(now.init(params)) != signature(state)


@pytest.mark.full
def test_a_state_in_blocks_of_before_goes_on_and_becomes_words():
    params, g = problem()
    before, now = quantized(way="blocks"), quantized()
    _, state = steps(before, params, g)
    u, on = now.update(g, state, params)
    assert signature(on) == signature(state)
    assert_close(u, before.update(g, state, params)[0], 1e-5, 1e-7)
    words, _ = gdjax.migrate(state, before, now, params)
    assert signature(words) == signature(now.init(params))
    assert_close(now.update(g, words, params)[0], u, 0.3, 0.002)


def test_float64_and_narrow_parameters():
    params = {"w": jnp.ones((64, 2), "bfloat16")}
    tx = quantized(gdjax.adamw(0.01), "blocks")
    u, state = jax.jit(tx.update)(params, tx.init(params), params)
    assert u["w"].dtype == jnp.bfloat16 and signature(state) == signature(tx.init(params))
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        wide = {"w": jnp.ones((64, 2), "float64")}
        assert not formats_of(quantized().init(wide))


@pytest.mark.full
def test_arrays_that_blocks_do_not_divide():
    params = {"w": jnp.ones((63, 64)), "n": jnp.ones((63, 8)), "v": jnp.ones(64), "k": jnp.ones((128, 2))}
    state = quantized(way="blocks").init(params)
    assert [type(mu(state)[k]).__name__ for k in "wnvk"] == ["BlockCodes", "NarrowCodes", "NarrowCodes", "BlockCodes"]
    assert repr(mu(state)["w"].format) == "int8 rows" and "int8 rows" in str(
        gdjax.tabulate(quantized(way="blocks"), params)
    )
    odd = quantized(way="4bits", block_size=21).init(params)
    assert [type(mu(odd)[k]).__name__ for k in "wnvk"] == ["NarrowCodes"] * 4


def test_gpt2_in_4_bits():
    """Blocks do not divide its vocabulary, a third of it."""
    shapes = {"tokens": (50257, 768), "layers": (12, 9216, 768)}
    params = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in shapes.items()}
    size = gdjax.state_bytes(gdjax.quantize_state(gdjax.adamw(1e-3), bits=4), params) / sum(
        x.size for x in params.values()
    )
    assert size < 1.6


@pytest.mark.full
def test_seeds():
    params, g = problem()
    run = lambda seed: formats_of(steps(quantized(seed=seed), params, g)[1])
    one = run(0)
    assert_equal(run(0), one)
    for other in (1, jax.random.key(0)):
        assert any(np.any(x != y) for x, y in zip(run(other), one, strict=True))


@pytest.mark.full
def test_traced_hyperparameters():
    params, g = problem()
    step = jax.jit(lambda rate: steps(quantized(gdjax.adamw(rate)), params, g)[0])
    assert_close(step(0.01), steps(quantized(), params, g)[0], 1e-5, 1e-6)


def test_a_value():
    tx = quantized(way="log")
    assert tx == quantized(way="log") != quantized() and hash(tx) == hash(quantized(way="log"))
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert repr(tx).startswith("quantize_state(inner=adamw(")


@every_way
def test_states_survive_pickle_flax_and_dicts(way: str):
    params, g = problem()
    tx = quantized(way=way)
    _, state = steps(tx, params, g)
    start = tx.init(params)
    assert_equal(pickle.loads(pickle.dumps(state)), state)
    assert_equal(flax.serialization.from_bytes(start, flax.serialization.to_bytes(state)), state)
    assert_equal(gdjax.state_from_dict(tx, gdjax.state_to_dict(state), params), state)
    saved = jax.tree.map(np.asarray, gdjax.state_to_dict(state))
    assert_equal(gdjax.state_from_dict(tx, saved, params), state)


@pytest.mark.full
def test_a_saved_state_of_another_format_is_not_read_as_one_of_this():
    params, g = problem()
    for one, other in map(str.split, ("log blocks", "blocks log", "blocks 4bits", "bfloat16 log", "dynamic log")):
        saved = gdjax.state_to_dict(steps(quantized(way=one), params, g)[1])
        with pytest.warns(UserWarning, match="starts anew"):
            state = gdjax.state_from_dict(quantized(way=other), saved, params)
        assert not np.any(formats.decoded(mu(state))["kernel"])  # no blocks divide the bias


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(one, other, marks=[] if {one, other} <= {None, "log", "blocks"} else [pytest.mark.slow])
        for one in (None, *WAYS)
        for other in (None, *WAYS)
    ],
)
def test_migration(one: str | None, other: str | None):
    params, g = problem()
    old, new = (gdjax.adamw(0.01) if way is None else quantized(way=way) for way in (one, other))
    _, state = steps(old, params, g)
    made, report = gdjax.migrate(state, old, new, params)
    assert signature(made) == signature(new.init(params))
    assert not {x for x in (*report.anew, *report.dropped) if not x.endswith("quantized/count")}
    before, after = (formats.decoded(gdjax.tree.get(x, "ScaleByAdamState")) for x in (state, made))
    assert_close(after, before, 0.45 if "4bits" in (one, other) else 0.2, 0.03)
    steps(new, params, g, 1, made)


@pytest.mark.full
def test_reset_map_params_and_metrics():
    params, g = problem()
    tx = gdjax.with_metrics(quantized(way="blocks"))
    _, state = steps(tx, params, g)
    back = gdjax.reset(tx, state, params, where="kernel")
    assert not any(np.any(x) for x in formats_of(mu(back)["kernel"])) and np.any(mu(back)["stack"].codes)
    assert not any(np.any(x) for x in formats_of(mu(gdjax.reset(tx, state, params, fields="mu"))))
    shapes = gdjax.tree.map_params(tx, lambda x, name: name, state, {k: k for k in params}, transform_non_params=str)
    assert mu(shapes) == {k: k for k in params}
    doubled = gdjax.tree.map_params(tx, lambda x: x, state)
    assert_equal(doubled, state)
    assert all(np.isfinite(x) for x in jax.tree.leaves(gdjax.tree.get(state, "metrics")))


def test_tables_tell_the_format():
    params = {"w": jax.ShapeDtypeStruct((256, 128), jnp.float32)}
    log = gdjax.tabulate(quantized(way="log"), params)
    assert log["dtype"] == ["int32", "int32", "int8 log", "uint8 log", ""]
    blocks = gdjax.tabulate(quantized(bits=4, scale_dtype="bfloat16", block_size=32), params)
    assert blocks["dtype"][2:4] == [f"{x} blocks of 32 with bfloat16 scales" for x in ("4-bit", "uint8")]
    assert blocks["bytes"][2:4] == [256 * 128 // 2 + 8 * 128 * 2, 256 * 128 + 8 * 128 * 2]
    stacks = gdjax.tabulate(quantized(gdjax.soap(0.01)), params)
    assert dict(zip(stacks["field"], stacks["dtype"], strict=True))["QL"] == "int8 blocks of 64"
    assert gdjax.explain(quantized(way="log"), params)["state_bytes"] == [2 * 256 * 128]


@pytest.mark.full
def test_a_note_tells_the_codes():
    params = {"w": jnp.ones((128, 64)), "odd": jnp.ones((63, 128)), "bias": jnp.ones(64)}

    def notes(tx: Any, state: Any = None) -> str:
        return " ".join(gdjax.explain(tx, params, state).notes)

    adamw = gdjax.quantize_state(gdjax.adamw(0.01), moments="blocks")
    each = [f"{x} {how} (1 of 3 arrays)" for x in ("mu as int8", "nu as uint8") for how in ("rows", "blocks of 64")]
    told = f"kept in codes: {', '.join(each)}"
    for tx in (adamw, gdjax.chain(gdjax.clip(1.0), adamw)):
        assert notes(tx) == notes(tx, tx.init(params)) == told
    words = notes(gdjax.quantize_state(gdjax.adamw(0.01)))
    assert words == "kept in codes: mu as uint16 word with squares (2 of 3 arrays)"
    everywhere = gdjax.quantize_state(gdjax.soap(0.01), min_size=0)
    assert "QR as int8 blocks of 64" in notes(everywhere)  # in stacks: of several parameters each
    for tx in (gdjax.adamw(0.01), gdjax.quantize_state(gdjax.adamw(0.01), min_size=10**6)):
        assert notes(tx) == ""


def test_numbers_are_checked_beforehand():
    params, g = problem()
    tx = quantized()
    assert (
        gdjax.check_numerics(tx, params, g)["verdict"] == gdjax.check_numerics(gdjax.adamw(0.01), params, g)["verdict"]
    )


def test_errors():
    adam, (params, g) = gdjax.adam(0.1), problem()
    for changes, text in (
        ({"bits": 2}, "quantize_state: bits must be one of 8, 4, got 2"),
        ({"moments": "int8"}, "moments must be one of log, blocks, fp8, .*, None, got 'int8'"),
        ({"squares": "4 bits"}, "squares can be kept as 'log', .*got '4 bits'"),
        ({"moments": "blocks", "squares": "log"}, "moments as 'blocks' and squares as 'log': 'log' ends at a largest"),
        ({"moments": "log", "squares": "bfloat16"}, "moments as 'log' and squares as 'bfloat16': 'log' ends"),
        ({"bits": 4, "squares": "log"}, "moments as '4 bits' and squares as 'log'"),
        ({"factors": "4 bits"}, "factors can be kept as 'blocks', 'bfloat16', 'float32', got '4 bits'"),
        ({"bases": "log"}, "bases can be kept as 'blocks', .*got 'log'"),
        ({"block_size": 0}, "block_size"),
        ({"scale_dtype": "float16"}, "scale_dtype must be one of float32, bfloat16, got 'float16'"),
    ):
        with pytest.raises(ValueError, match=text):
            gdjax.quantize_state(adam, **changes)
    with pytest.raises(TypeError, match="quantize_state"):
        gdjax.quantize_state(gdjax.adam)  # not called
    with pytest.raises(ValueError, match="keeps codes already"):
        quantized(gdjax.chain(quantized())).init(params)
    with pytest.raises(ValueError, match="nothing"):
        quantized(exempt="nothing").init(params)
    log, blocks = quantized(way="log"), quantized(way="blocks")
    wrong = (
        r"quantize_state: state.inner_state\[0\].nu\['kernel'\] is kept as uint8 blocks of 64, not as int8 log.*migrate"
    )
    with pytest.raises(ValueError, match=wrong):
        log.update(g, blocks.init(params), params)
    wrong = (
        r"state.inner_state\[0\].mu\['kernel'\] is kept as uint16 word with squares, not as int8 blocks of 64.*migrate"
    )
    with pytest.raises(ValueError, match=wrong):
        blocks.update(g, quantized(min_size=2000).init(params), params)
    with pytest.raises(ValueError, match="state has type tuple, expected QuantizedState.*migrate"):
        log.update(g, gdjax.adamw(0.01).init(params), params)
    with pytest.raises(ValueError, match=r"adamw: params\['bias'\]: state.mu is a LogCodes of"):
        gdjax.adamw(0.01).update(g, log.init(params).inner_state, params)
