"""Slots with types: what they start as, which axes they have, and numbers that are kept as codes."""

import contextlib
import pickle
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from gdjax import Factor, Integer, Key, Moment, New, Stored, bfloat16_with_error, leafwise
from gdjax.xla.loops import writes_several
from tests.combine.test_sharding import of_axes
from tests.trees import assert_close, assert_equal, random_tree, signature

TREE = {"w": jnp.zeros((4, 6, 2)), "v": jnp.zeros(3), "s": jnp.zeros(())}
CODED = {"mu_dtype": bfloat16_with_error, "nu_dtype": bfloat16_with_error}


class One(NamedTuple):
    x: Any


def made(slot: Any, params: Any = TREE, **hyper: Any) -> Any:
    @leafwise(One, x=slot)
    def rule(
        g: Any, s: Any, p: Any, t: Any, rank: int = 2, first: float = 0.5, seed: int = 3, dtype: Any = None
    ) -> Any:
        return g, s

    return rule(**hyper).init(params).x


def test_factors():
    w = {"w": TREE["w"]}
    for axes, shape in (
        ((), ()), ((1,), (6,)), ((2, 0), (2, 4)), ((0, 0), (4, 4)), ((-1, New(5)), (2, 5)), ((New(1),), (1,)),
        (lambda shape, hyper: (0, New(min(hyper["rank"], shape[1]))), (4, 2)),
    ):  # fmt: skip
        assert_equal(made(Factor(axes), w), {"w": jnp.zeros(shape)})
    several = made(Factor(lambda shape, hyper: [(i, i) for i in range(len(shape))] or [()], fill="first"))
    shapes = [(4, 4), (6, 6), (2, 2)], [(3, 3)], [()]
    assert_equal(several, {k: [jnp.full(s, 0.5) for s in x] for k, x in zip("wvs", shapes, strict=True)})
    assert made(Factor(), {"w": jnp.zeros(3, "bfloat16")})["w"].dtype == jnp.float32
    assert made(Factor(), {"w": jnp.zeros(3, "complex64")})["w"].dtype == jnp.float32
    with pytest.raises(
        ValueError, match=r"rule: params\['v'\]: gdjax.Factor: a parameter of shape \(3,\) has no axis 1"
    ):
        made(Factor((1,)), {"v": TREE["v"]})


def test_integers_and_booleans():
    assert_equal(made(Integer(7)), {k: jnp.asarray(7, jnp.int32) for k in TREE})
    assert_equal(made(Integer(True, bool, each=True)), {k: jnp.ones(x.shape, bool) for k, x in TREE.items()})
    assert_equal(made(Integer("rank", jnp.int8)), {k: jnp.asarray(2, jnp.int8) for k in TREE})


class Two(NamedTuple):
    a: Any
    b: Any


def test_each_leaf_has_a_key_of_its_own():
    @leafwise(Two, a=Key(), b=Key())
    def noisy(g: Any, s: Any, p: Any, t: Any) -> Any:
        key, now = jax.random.split(s.a)
        return g + jax.random.normal(now, g.shape), s._replace(a=key)

    tx = noisy()
    state = tx.init(TREE)
    assert len({tuple(jax.random.key_data(k).tolist()) for k in jax.tree.leaves(state)}) == 6
    updates, new = tx.update(TREE, state)
    assert signature(new) == signature(state)
    assert_equal(new.b, state.b)
    assert not np.array_equal(updates["v"], tx.update(TREE, new)[0]["v"])
    assert_equal(made(Key(3)), made(Key("seed")))
    assert not np.array_equal(*(jax.random.key_data(made(Key(seed))["v"]) for seed in (0, 3)))


@pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")
def test_slots_follow_the_axes_of_their_parameter():
    mesh = Mesh(np.asarray(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
    w = jax.ShapeDtypeStruct((64, 32, 8), jnp.float32, sharding=NamedSharding(mesh, P(None, "model")))

    @leafwise(
        Two,
        a=Factor(lambda shape, hyper: [(1, 1), (0, New(512)), (New(3), 1)]),
        b=Stored(Moment(), bfloat16_with_error),
    )
    def rule(g: Any, s: Any, p: Any, t: Any) -> Any:
        return g, s

    found = gdjax.state_sharding(rule(), w, mesh, min_bytes=0)
    assert [s.spec for s in found.a] == [P("model", "data"), P("data", None), P(None, "model")]
    assert found.b.value.spec == found.b.error.spec == P("data", "model", None)


@pytest.mark.full
@pytest.mark.optimized
def test_what_24_bits_keep():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(100_000) * 10.0 ** rng.uniform(-30, 37, 100_000)).astype(np.float32)
    encode, decode = jax.jit(bfloat16_with_error.encode), jax.jit(bfloat16_with_error.decode)
    codes = encode(x)
    back = np.asarray(decode(codes))
    assert codes.value.dtype == jnp.bfloat16 and codes.error.dtype == jnp.int8
    assert np.max(np.abs(back - x) / np.abs(x)) <= 1.01 * 2.0**-16
    assert np.max(np.abs(np.asarray(codes.value, np.float32) - x) / np.abs(x)) <= 2.0**-8
    assert_close(decode(encode(back)), back, 1.02 * 2.0**-16)
    back = lambda *xs: np.asarray(decode(encode(np.array(xs, "float32"))))
    odd = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, 1 - 2.0**-20]
    assert_close(back(*odd), np.float32(odd), 1.01 * 2.0**-16)
    assert list(np.signbit(back(0.0, -0.0))) == [False, True]
    ends = np.finfo(np.float32).max, -np.finfo(np.float32).max, 1e-37
    np.testing.assert_allclose(back(*ends), np.float32(ends), 2.0**-8)


def trained(tx: Any, steps: int = 200) -> tuple[Any, Any]:
    """A regression by a small network; the losses, and the last state."""
    params = random_tree(0, shapes=[(8, 16), (16, 1)])
    x = random_tree(1, shapes=[(64, 8)])[0]
    y = jnp.sin(jnp.sum(x, axis=1, keepdims=True))

    def loss(params: Any) -> Any:
        return jnp.mean((jnp.tanh(x @ params[0]) @ params[1] - y) ** 2)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        value, g = jax.value_and_grad(loss)(params)
        updates, state = tx.update(g, state, params)
        return (gdjax.apply_updates(params, updates), state), value

    (_, state), losses = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), length=steps))()
    return np.asarray(losses), state


SLOW = pytest.mark.slow


@pytest.mark.full
@pytest.mark.optimized
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda **k: gdjax.adam(1e-2, **k), id="adam"),
        pytest.param(lambda **k: gdjax.lion(1e-3, mu_dtype=k.get("mu_dtype")), id="lion"),
        pytest.param(lambda **k: gdjax.sgd(1e-2, 0.9, accumulator_dtype=k.get("mu_dtype")), id="momentum", marks=SLOW),
        pytest.param(lambda **k: gdjax.muon(1e-2, mu_dtype=k.get("mu_dtype")), id="muon", marks=SLOW),
        pytest.param(
            lambda **k: gdjax.adan(1e-2) if not k else gdjax.apply_if_finite(gdjax.adan(1e-2), 3), id="adan", marks=SLOW
        ),
    ],
)
def test_training_with_codes_is_training(make: Any):
    """200 steps: the loss within 1 % throughout; bfloat16 moments without the error are 25 times as far off."""
    wanted, got = trained(make())[0], trained(make(**CODED))[0]
    assert wanted[-1] < 0.3 * wanted[0]
    assert np.max(np.abs(got / wanted - 1)) < 0.01


@pytest.mark.full
@pytest.mark.optimized
def test_the_error_is_what_keeps_the_second_moment_going():
    """b2 = 0.9999 changes a moment by less than bfloat16 can round to: without the error it never decays."""
    g = jnp.ones(64)

    def after(dtype: Any) -> Any:
        tx = gdjax.scale_by_adam(b2=0.9999, nu_dtype=dtype)
        step = lambda state, scale: (tx.update(scale * g, state)[1], None)
        state = jax.lax.scan(step, tx.init(g), jnp.concatenate([jnp.ones(1), jnp.zeros(3000)]))[0]
        return state.nu

    wanted = after(None)
    assert_close(bfloat16_with_error.decode(after(bfloat16_with_error)), wanted, 0.05)
    assert np.all(np.asarray(after(jnp.bfloat16), np.float32) > 1.2 * wanted)


@pytest.mark.full
def test_a_state_of_codes_is_a_fixed_point_of_three_bytes_a_number():
    tx, params = gdjax.adam(1e-3, **CODED), random_tree(0)
    state, traces = tx.init(params), []

    @jax.jit
    def step(g: Any, state: Any) -> Any:
        traces.append(1)
        return tx.update(g, state)

    first = state
    for seed in range(3):
        _, state = step(random_tree(seed), state)
        assert signature(state) == signature(first)
    assert len(traces) == 1
    numbers = sum(x.size for x in jax.tree.leaves(params))
    assert sum(x.nbytes for x in jax.tree.leaves(state)) == 4 + 2 * 3 * numbers
    assert signature(jax.eval_shape(tx.init, params)) == signature(first)
    restored = pickle.loads(pickle.dumps((tx, jax.device_get(state))))
    assert restored[0] == tx
    assert_equal(restored[0].update(params, restored[1]), tx.update(params, state))


def compiled(tx: Any, device: Any = None) -> Any:
    """A donated step on a matrix of 2^20 numbers."""

    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return gdjax.apply_updates(params, updates), state

    there = device and NamedSharding(Mesh(np.array([device]), "all"), P())
    p = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    put = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there)
    args = jax.tree.map(put, (p, jax.eval_shape(tx.init, p), p))
    return jax.jit(step, donate_argnums=(0, 1)).lower(*args).compile()


LOOPS = pytest.mark.skipif(writes_several(), reason="of the mode with a loop for each output")
by_bytes = pytest.mark.parametrize(
    ("make", "state"),
    [(lambda c: gdjax.adam(0.1, mu_dtype=c, nu_dtype=c), 6), (lambda c: gdjax.lion(0.1, mu_dtype=c), 3)],
    ids=["adam", "lion"],
)


@pytest.mark.full
@pytest.mark.optimized
@LOOPS
@by_bytes
def test_bytes_on_a_cpu(make: Any, state: int):
    """XLA:CPU has a loop for each output, and so for each of the two codes, which both read both: it copies them."""
    program = compiled(make(bfloat16_with_error))
    assert program.memory_analysis().temp_size_in_bytes <= (state + 0.01) * 2**20
    assert program.memory_analysis().argument_size_in_bytes <= (8 + state + 0.01) * 2**20


@dataclass(frozen=True)
class Hundredths(gdjax.Codec):
    """One array of codes."""

    def encode(self, x: Any) -> Any:
        return jnp.clip(jnp.round(x * 100), -127, 127).astype(jnp.int8)

    def decode(self, codes: Any) -> Any:
        return codes.astype(jnp.float32) / 100


@pytest.mark.optimized
@LOOPS
@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this XLA counts bytes otherwise")
def test_one_pass_on_a_cpu_where_the_codes_are_one_array():
    for tx, most in (
        (gdjax.adam(0.1, mu_dtype=Hundredths(), nu_dtype=Hundredths()), 14 + 6 + 6),  # the loops of p, mu and nu
        (gdjax.lion(0.1, mu_dtype=Hundredths()), 13 + 6),
    ):
        program = compiled(tx)
        assert program.cost_analysis()["bytes accessed"] <= (most + 0.01) * 2**20
        assert program.memory_analysis().temp_size_in_bytes <= 0.01 * 2**20


@pytest.mark.optimized
@pytest.mark.slow
@by_bytes
def test_one_pass_on_a_tpu(make: Any, state: int, monkeypatch: pytest.MonkeyPatch):
    """Of the codes, the parameters and the gradient each is read once, and each but the gradient written once."""
    pytest.importorskip("libtpu", exc_type=ImportError)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    program = compiled(make(bfloat16_with_error), topologies.get_topology_desc("v5e:2x2x1", "tpu").devices[0])
    assert program.cost_analysis()["bytes accessed"] <= (4 + 4 + 4 + 2 * state + 0.1) * 2**20
    assert program.memory_analysis().temp_size_in_bytes == 0


@pytest.mark.full
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_codes_on_a_mesh(kind: str):
    if kind == "Explicit" and not hasattr(jax.lax, "pcast"):
        pytest.skip("this JAX has no types of arrays on meshes")
    mesh = of_axes(kind, (8,), ("data",))
    tx, params, g = gdjax.adam(1e-3, **CODED), random_tree(0, shapes=[(16, 8)]), random_tree(1, shapes=[(16, 8)])
    with jax.set_mesh(mesh) if kind == "Explicit" else contextlib.nullcontext():
        there, g_there = jax.device_put((params, g), NamedSharding(mesh, P()))
        shardings = gdjax.state_sharding(tx, there, mesh, min_bytes=0)
        state = jax.jit(tx.init, out_shardings=shardings)(there)
        got = jax.jit(tx.update, out_shardings=(jax.tree.map(lambda x: x.sharding, there), shardings))(g_there, state)
    assert {x.addressable_shards[0].data.shape for x in jax.tree.leaves(got[1]) if x.ndim} == {(2, 8)}
    assert_close(got, jax.jit(tx.update)(g, tx.init(params)))


def test_codes_of_any_rule():
    """A rule of one's own, a codec of one's own, and a slot that the rule leaves as it is."""

    @dataclass(frozen=True)
    class Tenths(gdjax.Codec):
        def encode(self, x: Any) -> Any:
            return {"tenths": jnp.round(x * 10).astype(jnp.int8)}

        def decode(self, codes: Any) -> Any:
            return codes["tenths"].astype(jnp.float32) / 10

    @leafwise(Two, a=Stored(Factor((0,)), Tenths()), b=Stored(Moment(fill=0.5), Tenths()))
    def rule(g: Any, s: Any, p: Any, t: Any) -> Any:
        assert s.a.shape == g.shape[:1] and s.b.dtype == jnp.float32
        return g + s.b, s._replace(a=s.a + jnp.sum(g, 1))

    tx, g = rule(), {"w": jnp.full((2, 3), 0.26)}
    state = tx.init(g)
    u, new = tx.update(g, state)
    assert_equal(new.a["w"], {"tenths": jnp.full(2, 8, jnp.int8)})
    assert_equal(new.b, state.b)
    assert_close(u, {"w": jnp.full((2, 3), 0.76)})
    with pytest.raises(ValueError, match=r"returned float32 \(1,\) for state.x, expected float32 \(2,\)"):
        replaced = leafwise(One, x=Stored(Factor((0,)), Tenths()))(wrong)()
        replaced.update(g, replaced.init(g))


def wrong(g: Any, s: Any, p: Any, t: Any) -> Any:
    return g, One(s.x[:1])


def test_a_meeting_reads_numbers():
    @leafwise(One, x=Stored(Moment(fill=2.0), bfloat16_with_error))
    def rule(g: Any, s: Any, p: Any, t: Any) -> Any:
        return g * gdjax.total(jnp.sum(s.x)), s

    assert_equal(rule().update(jnp.ones(3), rule().init(jnp.ones(3)))[0], jnp.full(3, 6.0))


def test_what_a_codec_does_not_keep():
    for dtype in ("complex64", "int32"):
        slot = Stored(Moment() if dtype == "complex64" else Integer(), bfloat16_with_error)
        params = {"w": jnp.zeros(2, dtype if dtype == "complex64" else "float32")}
        with pytest.raises(TypeError, match=rf"params\['w'\]: gdjax.bfloat16_with_error keeps real .* got {dtype}"):
            made(slot, params)
    with pytest.raises(TypeError, match="gdjax.MultiSteps: accumulator_dtype must be a dtype"):
        gdjax.MultiSteps(gdjax.adam(1e-3), 2, accumulator_dtype=bfloat16_with_error)
    with pytest.raises(TypeError, match=r"^gdjax.adam: params\['w'\]: .*got complex64"):
        gdjax.adam(1e-3, mu_dtype=bfloat16_with_error).init({"w": jnp.zeros(2, "complex64")})
    # The second moment of complex numbers is real.
    gdjax.adam(1e-3, nu_dtype=bfloat16_with_error).init({"w": jnp.zeros(2, "complex64")})
    with jax.experimental.enable_x64() if hasattr(jax.experimental, "enable_x64") else jax.enable_x64(True):
        with pytest.raises(TypeError, match="got float64"):
            gdjax.adam(1e-3, mu_dtype=bfloat16_with_error).init(jnp.zeros(2, "float64"))
