"""What slots hold: moments, integers, booleans, PRNG keys, and numbers of the whole tree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import Shared, leafwise
from gdjax.lift import slots
from tests.lift.test_rule_checks import told, update
from tests.trees import assert_close, assert_equal, is_key, precision, signature, steps


class Exact(NamedTuple):
    m: Any  # like params
    n: Any  # like params, int32
    seen: Any  # () bool
    key: Any
    total: Any  # () int32, for the whole tree


BIG = 2**24 + 1  # which float32 has not


SEEN: list[Any] = []


@leafwise(
    Exact,
    n=lambda p, hyper: jnp.full(p.shape, BIG, jnp.int32),
    seen=lambda p, hyper: jnp.zeros((), bool),
    key=lambda p, hyper: jax.random.key(0),
    total=Shared(BIG, jnp.int32),
)
def exact(g: Any, s: Any, p: Any, t: Any, scale: Any = 0.5) -> Any:
    SEEN.append([x if is_key(x) else x.dtype for x in s])
    key, noise = jax.random.split(s.key)
    total = s.total + 1
    n = jnp.where(s.seen, s.n + 2, s.n) + (total - BIG)
    return g + scale * jax.random.uniform(noise, g.shape, g.dtype), Exact(s.m + g, n, ~s.seen, key, total)


TREE = {"a": jnp.ones((2, 2)), "b": jnp.ones(3, "bfloat16")}


def key_after(count: int) -> Any:
    """The key after so many steps."""
    key = jax.random.key(0)
    for _ in range(count):
        key, _ = jax.random.split(key)
    return key


AROUND = {
    "alone": exact(),
    "chain": gdjax.chain(gdjax.scale(1.0), gdjax.chain(exact(), gdjax.trace(0.0)), gdjax.scale(1.0)),
    "fused": gdjax.chain(exact(), gdjax.scale(1.0), gdjax.trace(0.0)),
    "MultiSteps": gdjax.MultiSteps(exact(), 1).gradient_transformation(),
    "apply_if_finite": gdjax.apply_if_finite(exact(), 3),
    "unchecked": gdjax.apply_if_finite(exact(), 3, check_outputs=False),
    "conditionally_mask": gdjax.conditionally_mask(exact(), lambda step: step >= 0),
    "masked": gdjax.masked(exact(), lambda p: jax.tree.map(lambda _: True, p)),
    "inject": gdjax.inject_hyperparams(exact)(0.5),
}


@pytest.mark.full
@pytest.mark.parametrize("name", AROUND)
def test_integers_booleans_and_keys_reach_a_rule_as_they_are(name: str):
    tx = AROUND[name]
    SEEN.clear()
    params, state = steps(tx, TREE, [TREE] * 3)
    for m, n, seen, key, total in SEEN:
        assert (m, n, seen, total) == (jnp.float32, jnp.int32, jnp.bool, jnp.int32) and is_key(key)
    assert signature(state) == signature(tx.init(TREE))
    found = gdjax.tree.get(state, "Exact")
    key = key_after(3)
    for leaf, p in TREE.items():
        assert_equal(found.n[leaf], jnp.full(p.shape, BIG + 1 + 2 + 3 + 2, jnp.int32))  # the second step adds 2
        assert_equal((found.key[leaf], found.seen[leaf], found.m[leaf]), (key, jnp.array(True), 3 * p))
    assert int(found.total) == BIG + 3

    # Under scan, donated: the state is a fixed point.
    def step(carry: Any, g: Any) -> Any:
        u, state = tx.update(g, carry[1], carry[0])
        return (gdjax.apply_updates(carry[0], u), state), None

    run = jax.jit(lambda carry, gs: jax.lax.scan(step, carry, gs)[0], donate_argnums=0)
    stacked = jax.tree.map(lambda x: jnp.stack([x] * 3), TREE)
    scanned = run((jax.tree.map(jnp.copy, TREE), tx.init(TREE)), stacked)
    assert_equal(scanned[1], state)


@pytest.mark.parametrize(
    "tx", [gdjax.MultiSteps(exact(), 2).gradient_transformation(), gdjax.apply_if_finite(exact(), 3)]
)
def test_keys_and_integers_stay_in_a_call_that_is_skipped(tx: Any):
    state = tx.init(TREE)
    _, new = tx.update(jax.tree.map(lambda x: x / 0, TREE), state, TREE)
    assert_equal(gdjax.tree.get(new, "Exact"), gdjax.tree.get(state, "Exact"))


def test_a_key_as_a_hyperparameter():
    @leafwise()
    def rule(g: Any, s: Any, p: Any, t: Any, key: Any = None) -> Any:
        return jax.random.uniform(key, g.shape), s

    x = {"a": jnp.ones(3)}
    assert_equal(update(rule(jax.random.key(1)), x)[0], {"a": jax.random.uniform(jax.random.key(1), (3,))})


@pytest.mark.full
def test_keys_and_integers_under_vmap():
    tx, many = exact(), jax.tree.map(lambda x: jnp.stack([x, 2 * x]), TREE)
    states = jax.vmap(tx.init)(many)
    assert states.key["a"].shape == (2,)
    u, states = jax.jit(jax.vmap(tx.update))(many, states, many)
    one, state = tx.update(TREE, tx.init(TREE), TREE)
    assert_equal(jax.tree.map(lambda x: x[0], (u, states)), (one, state))


def test_keys_and_integers_without_jit():
    u, new = exact().update(TREE, state := exact().init(TREE), TREE)
    with jax.disable_jit():
        assert_close(exact().update(TREE, state, TREE), (u, new))


def test_keys_and_integers_with_map_params():
    tx = gdjax.chain(exact(), gdjax.scale(2.0))
    state = tx.init(TREE)
    kinds = gdjax.tree_map_params(tx, lambda x: str(x.dtype), state, transform_non_params=lambda _: "shared")
    assert kinds[0].key == dict.fromkeys("ab", "key<fry>") and kinds[0].n == dict.fromkeys("ab", "int32")
    assert kinds[0].total == "shared"


@pytest.mark.parametrize("shares", [True, False])
def test_keys_and_integers_where_slots_are_written_after_the_parameters(shares: bool):
    @leafwise(
        Exact,
        n=lambda p, hyper: jnp.full(p.shape, BIG, jnp.int32),
        seen=lambda p, hyper: jnp.zeros((), bool),
        key=lambda p, hyper: jax.random.key(0),
        total=Shared(0, jnp.int32),
    )
    def rule(g: Any, s: Any, p: Any, t: Any) -> Any:
        key, noise = jax.random.split(s.key)
        u = s.m + jax.random.uniform(noise, g.shape)
        return u, Exact(jnp.sqrt(jnp.abs(u)) if shares else u, s.n + s.seen.astype(jnp.int32), ~s.seen, key, s.total)

    _, state = steps(rule(), TREE, [TREE] * 2)
    assert_equal(state.n["a"], jnp.full((2, 2), BIG + 1, jnp.int32))
    assert_equal(state.key["a"], key_after(2))


def test_a_key_gives_way_to_a_key_only():
    class Keyed(NamedTuple):
        key: Any

    @leafwise(Keyed, key=lambda p, hyper: jax.random.key(0))
    def rule(g: Any, s: Any, p: Any, t: Any, result: Any = None) -> Any:
        return g, Keyed(result(g, s))

    for result, got in (
        (lambda g, s: g, r"float32 \(\)"),
        (lambda g, s: jax.random.split(s.key), r"key<fry> \(2,\)"),
        (lambda g, s: jax.random.key_data(s.key)[0], r"uint32 \(\)"),
    ):
        with pytest.raises((ValueError, TypeError), match=rf"returned {got} for state\.key, expected key<fry> \(\)"):
            update(rule(told(result)), {"a": jnp.ones(())})
    # Keys of another implementation, and raw ones, are of other dtypes.
    x = {"a": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"returned key<rbg> \(\) for state\.key, expected key<fry> \(\); integers"):
        update(rule(told(lambda g, s: jax.random.key(0, impl="rbg"))), x)


def test_integers_of_a_made_state_are_of_a_definite_dtype():
    class Numbers(NamedTuple):
        x: Any
        n: Any

    @leafwise(Numbers, x=lambda p, hyper: 0.0, n=lambda p, hyper: 0)
    def rule(g: Any, s: Any, p: Any, t: Any) -> Any:
        return g, s

    state = rule().init({"a": jnp.ones(2)})
    assert signature(update(rule(), {"a": jnp.ones(2)})[1]) == signature(state)
    assert (state.x["a"].dtype, state.n["a"].dtype) == (jnp.float32, jnp.int32)


def test_narrow_integers():
    class Codes(NamedTuple):
        code: Any

    @leafwise(Codes, code=lambda p, hyper: jnp.zeros(p.shape, jnp.int8))
    def rule(g: Any, s: Any, p: Any, t: Any, result: Any = None) -> Any:
        return g, Codes(result(g, s))

    x = {"a": jnp.full(2, 300.0)}
    with pytest.raises(TypeError, match=r"int32 \(2,\) for state\.code, expected int8 \(2,\); integers"):  # not 44
        update(rule(told(lambda g, s: g.astype(jnp.int32))), x)
    u, state = update(rule(told(lambda g, s: jnp.where(g > 0, 1, 0))), x)  # Python's integers have no width
    assert_equal(state.code["a"], jnp.ones(2, jnp.int8))
    with precision("float64"):
        wide = {"a": jnp.ones(2, "float64")}
        _, state = update(rule(told(lambda g, s: s.code + jnp.int8(1))), wide)
        assert state.code["a"].dtype == jnp.int8


class Furthest(NamedTuple):
    count: Any
    top: Any
    start: Any


@leafwise(Furthest, top=Shared("first"), start=lambda p, hyper: jnp.asarray(p))
def distance(g: Any, s: Any, p: Any, t: Any, rate: Any, first: Any = 0.25) -> Any:
    top = jnp.maximum(s.top, rate * gdjax.largest(jnp.max(jnp.abs(p - s.start))))
    return (top - s.top) * g, s._replace(top=top)


@pytest.mark.parametrize("rate", [2.0, gdjax.constant_schedule(2.0)])
def test_a_number_of_the_whole_tree_in_the_state(rate: Any):
    tx = distance(rate)
    params = {"a": jnp.zeros((2, 3), "bfloat16"), "b": jnp.zeros(4), "int": jnp.arange(3)}
    g = {"a": jnp.ones((2, 3), "bfloat16"), "b": jnp.ones(4), "int": np.zeros(3, jax.dtypes.float0)}
    state = tx.init(params)
    assert (state.top.dtype, float(state.top), state.start["a"].dtype) == (jnp.float32, 0.25, jnp.bfloat16)
    moved = {**params, "b": jnp.array([0.0, -3.0, 1.0, 0.0])}
    u, new = tx.update(g, state, moved)
    assert signature(new) == signature(state) and float(new.top) == 6.0
    assert_equal({k: u[k] for k in "ab"}, {"a": jnp.full((2, 3), 5.75, "bfloat16"), "b": jnp.full(4, 5.75)})
    u, new = tx.update(g, new, params)
    assert float(new.top) == 6.0 and float(u["b"][0]) == 0.0
    # In double precision with double parameters.
    with precision("float64"):
        assert tx.init({"a": jnp.zeros(2, "float64")}).top.dtype == jnp.float64


class Sums(NamedTuple):
    sums: Any  # for each leaf the tuple of its sums along each axis


@leafwise(Sums, sums=lambda p, hyper: tuple(jnp.zeros(n) for n in p.shape))
def sums_along_axes(g: Any, s: Any, p: Any, t: Any) -> Any:
    axes = range(g.ndim)
    new = tuple(s.sums[i] + jnp.sum(g, axis=tuple(a for a in axes if a != i)) for i in axes)
    return g, Sums(new)


def test_a_slot_may_be_a_tree():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(()), "c": jnp.ones(4, "bfloat16")}
    _, state = steps(sums_along_axes(), params, [params, params])
    assert state.sums["b"] == () and len(state.sums["a"]) == 2
    assert_equal(state.sums["a"], (jnp.full(2, 6.0), jnp.full(3, 4.0)))
    assert_equal(state.sums["c"], (jnp.full(4, 2.0),))


def test_slots_start_as_declared():
    class Two(NamedTuple):
        wide: Any
        filled: Any

    @leafwise(Two, wide=gdjax.Moment(wide=True), filled=gdjax.Moment("mu_dtype", fill="start"))
    def rule(g: Any, s: Any, p: Any, t: Any, start: float = 2.0, mu_dtype: Any = None) -> Any:
        return g, s

    state = rule().init({"x": jnp.ones(2, "bfloat16")})
    assert (state.wide["x"].dtype, state.filled["x"].dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_array_equal(state.filled["x"].astype("float32"), [2, 2])
    assert rule(mu_dtype="float32").init({"x": jnp.ones(2, "bfloat16")}).filled["x"].dtype == jnp.float32
    # What a parameter of integers, which is not trained, has in Optax.
    state = rule().init({"x": jnp.ones(2, int)})
    assert (state.wide["x"].dtype, state.filled["x"].dtype) == (jnp.int32, jnp.int32) and state.wide["x"].shape == (2,)
    assert rule(mu_dtype="float32").init({"x": jnp.ones(2, int)}).filled["x"].dtype == jnp.float32


P = jnp.ones((3, 2), jnp.bfloat16)


def test_the_dtype_of_a_moment():
    dtype = lambda slot, p=P, **hyper: slot(p, hyper).dtype
    assert dtype(gdjax.Moment("mu_dtype")) == jnp.bfloat16
    assert dtype(gdjax.Moment("mu_dtype"), mu_dtype=jnp.float16) == jnp.float16
    assert dtype(gdjax.Moment(wide=True)) == jnp.float32
    complex_p = jnp.ones(2, jnp.complex64)
    assert (
        dtype(gdjax.Moment(), complex_p) == jnp.complex64 and dtype(gdjax.Moment(real=True), complex_p) == jnp.float32
    )
    assert dtype(gdjax.Moment("mu_dtype"), complex_p, mu_dtype=jnp.bfloat16) == jnp.complex64
    assert dtype(gdjax.Moment(), jnp.arange(2)) == jnp.int32


def test_where_a_slot_starts():
    assert gdjax.Moment(fill="start")(P, {"start": 2.0}).tolist() == [[2, 2]] * 3
    assert gdjax.Integer("start")(P, {"start": lambda count: count + 4}).tolist() == 4  # a schedule at its first value
    assert gdjax.Integer(7, jnp.int8, each=True)(P, {}).dtype == jnp.int8
    assert gdjax.Shared(0.5)([P], {}).dtype == jnp.float32 and gdjax.Shared(1, jnp.int32)([P], {}).dtype == jnp.int32
    first = slots.initial_parameter(P, {})
    assert first is not P and first.tolist() == P.tolist()
    assert slots.initial_parameter(jax.ShapeDtypeStruct((2,), jnp.float32), {}).tolist() == [0, 0]


def test_the_axes_of_a_factor():
    factor = gdjax.Factor((0, gdjax.New(4), -1), fill=1.5)
    assert (factor(P, {}).shape, factor(P, {}).dtype, float(factor(P, {})[0, 0, 0])) == ((3, 4, 2), jnp.float32, 1.5)
    assert factor._followed((3, 2), {}) == (0, None, 1)
    assert gdjax.Factor((0, 0))._followed((3, 2), {}) == (0, None)  # an axis is followed once
    several = gdjax.Factor(lambda shape, hyper: [(0,), (1,), ()])
    assert [x.shape for x in several(P, {})] == [(3,), (2,), ()] and several._followed((3, 2), {}) == [(0,), (1,), ()]
    with pytest.raises(ValueError, match=r"gdjax.Factor: a parameter of shape \(3, 2\) has no axis 2"):
        gdjax.Factor((2,))(P, {})


def test_each_leaf_has_a_key_of_its_own():
    class Keyed(NamedTuple):
        key: Any

    @leafwise(Keyed, key=gdjax.Key("seed"))
    def rule(g: Any, s: Any, p: Any, t: Any, seed: Any = 0) -> Any:
        return g, s

    keys = [tuple(jax.random.key_data(k).tolist()) for k in jax.tree.leaves(rule(5).init({"a": P, "b": P, "c": P}).key)]
    assert len(set(keys)) == 3
    assert keys == [tuple(jax.random.key_data(jax.random.fold_in(jax.random.key(5), i)).tolist()) for i in range(3)]


def test_codes_of_a_slot():
    coded = gdjax.Stored(gdjax.Moment(fill=1.5), gdjax.bfloat16_with_error)
    assert gdjax.bfloat16_with_error.decode(coded(P, {})).tolist() == [[1.5, 1.5]] * 3
    with pytest.raises(TypeError, match="keeps real numbers of 32 bits or less, got int32"):
        gdjax.Stored(gdjax.Integer(), gdjax.bfloat16_with_error)(P, {})
    found = slots.resolved(gdjax.Moment("mu_dtype"), {"mu_dtype": gdjax.bfloat16_with_error})
    assert found == gdjax.Stored(gdjax.Moment("mu_dtype"), gdjax.bfloat16_with_error)
    assert slots.resolved(gdjax.first_moment, {}) is gdjax.first_moment


def test_a_parameter_that_is_not_trained_has_slots_of_its_size_alone():
    paths = [((), jnp.arange(3))]
    kept = lambda slot: slots.first("f", [slot], paths, {}, 0)[0]
    for slot in (gdjax.Moment(), gdjax.Integer(), gdjax.Factor((0,)), gdjax.Factor(())):
        assert kept(slot).dtype == jnp.int32
    for slot in (gdjax.Factor((0, 0)), gdjax.Factor((0, gdjax.New(2))), lambda p, hyper: p):
        assert kept(slot) == gdjax.MaskedNode()


def test_a_moment_is_bounded_by_the_root_where_it_fades_faster():
    declared = {"mu": gdjax.first_moment, "nu": gdjax.second_moment}
    bounded = lambda b1, b2: slots.bounded_by(declared["nu"], declared, {"b1": b1, "b2": b2})
    assert (bounded(0.9, 0.999), bounded(0.99, 0.999), bounded(0.9, 0.86)) == ("mu", "", "mu")  # up to 0.975 sqrt(b2)
    assert bounded(0.9, 0.85) == "" and bounded(lambda count: 0.99, 0.999) == "mu"
    assert slots.bounded_by(declared["mu"], declared, {}) == ""
    assert [slots.kind_of(x) for x in (*declared.values(), gdjax.Integer())] == ["moment", "square", "exact"]
