"""What a rule returns is checked; its integers, booleans and PRNG keys reach it as they are."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import Shared, leafwise
from tests.trees import assert_close, assert_equal, is_key, precision, signature, steps

PARAMS = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones((3, 2), "bfloat16")}, "scale": jnp.ones((3, 2))}


class Mean(NamedTuple):
    count: Any
    m: Any  # like params
    n: Any  # () int32 for each array


class Other(NamedTuple):
    m: Any


@leafwise(Mean, n=lambda p, hyper: jnp.zeros((), jnp.int32))
def odd(g: Any, s: Any, p: Any, t: Any, result: Any = None) -> Any:
    """Returns what it is told to."""
    return result(g, s)


@leafwise()
def stateless(g: Any, s: Any, p: Any, t: Any, result: Any = None) -> Any:
    return result(g, s)


def update(tx: Any, params: Any = PARAMS, **extra_args: Any) -> Any:
    return tx.update(params, tx.init(params), params, **extra_args)


def told(result: Any) -> type:
    """A hyperparameter that is a function: in a class, or it would be taken for a schedule."""
    return type("told", (), {"__new__": lambda cls, g, s: result(g, s)})


EXPECTED = r"expected two things, the update and Mean\(count, m, n\): return u, s\._replace\(m=\.\.\., n=\.\.\.\)"
RETURNED = {
    "update alone": (lambda g, s: g, rf"returned float32 \(3, 2\) alone, {EXPECTED}"),
    "state alone": (lambda g, s: s, rf"returned Mean\(int32 \(\), float32 \(3, 2\), int32 \(\)\) alone, {EXPECTED}"),
    "nothing": (lambda g, s: None, rf"returned None alone, {EXPECTED}"),
    "three things": (lambda g, s: (g, s.m, s.n), rf"returned tuple\(float32 .*\) alone, {EXPECTED}"),
    "array as state": (
        lambda g, s: (g, g),
        r"returned float32 \(3, 2\) as its state, expected Mean\(count, m, n\): ret",
    ),
    "tuple as state": (lambda g, s: (g, tuple(s)), r"returned tuple\(int32 \(\), .*\) as its state, expected Mean\("),
    "other class": (lambda g, s: (g, Other(g)), r"returned Other\(float32 \(3, 2\)\) as its state, expected Mean\("),
    "no state": (lambda g, s: (g, None), r"returned None as its state, expected Mean\("),
    "swapped": (lambda g, s: (s, g), r"returned Mean\(.*\) as the update, expected float32 \(3, 2\)"),
    "field shape": (
        lambda g, s: (g, s._replace(m=g[0])),
        r"returned float32 \(2,\) for state\.m, expected (float32|bfloat16) \(3, 2\)",
    ),
    "field scalar": (
        lambda g, s: (g, s._replace(m=jnp.mean(g))),
        r"returned float32 \(\) for state\.m, expected .* \(3, 2\)",
    ),
    "field number": (lambda g, s: (g, s._replace(m=0.0)), r"returned 0\.0 for state\.m, expected .* \(3, 2\)"),
    "field complex": (
        lambda g, s: (g, s._replace(m=g.astype("complex64"))),
        r"returned complex64 \(3, 2\) for state\.m, expected (float32|bfloat16) \(3, 2\)",
    ),
    "field None": (lambda g, s: (g, s._replace(m=None)), r"returned None for state\.m, expected .* \(3, 2\)"),
    "field text": (lambda g, s: (g, s._replace(m="m")), r"returned 'm' for state\.m, expected .* \(3, 2\)"),
    "field key": (
        lambda g, s: (g, s._replace(m=jax.random.split(jax.random.key(0), (3, 2)))),
        r"returned key<fry> \(3, 2\) for state\.m, expected .* \(3, 2\)",
    ),
    "float for integer": (
        lambda g, s: (g, s._replace(n=jnp.mean(g))),
        r"returned float32 \(\) for state\.n, expected int32 \(\); integers, booleans and keys are not cast",
    ),
    "number for integer": (
        lambda g, s: (g, s._replace(n=1.5)),
        r"returned 1\.5 for state\.n, expected int32 \(\); int",
    ),
    "unsigned": (
        lambda g, s: (g, s._replace(n=jnp.uint32(1))),
        r"returned uint32 \(\) for state\.n, expected int32 \(\); int",
    ),
    "update shape": (lambda g, s: (g[0], s), r"returned float32 \(2,\) as the update, expected float32 \(3, 2\)"),
    "update number": (lambda g, s: (0.0, s), r"returned 0\.0 as the update, expected float32 \(3, 2\)"),
    "update complex": (
        lambda g, s: (g.astype("complex64"), s),
        r"returned complex64 \(3, 2\) as the update, expected float32 \(3, 2\)",
    ),
    "update None": (lambda g, s: (None, s), r"returned None as the update, expected float32 \(3, 2\)"),
    "update list": (lambda g, s: ([g], s), r"returned list\(float32 \(3, 2\)\) as the update, expected"),
}


@pytest.mark.parametrize("name", RETURNED)
def test_what_a_rule_returns_is_checked(name: str):
    result, message = RETURNED[name]
    # The first leaf, and so the first error, is the bias; a chain says which of its rules it was.
    alone = odd(told(result))
    for tx in (alone, gdjax.chain(gdjax.scale(2.0), alone, gdjax.scale(0.5))):
        with pytest.raises((ValueError, TypeError), match=rf"^odd: params\['dense'\]\['bias'\]: the rule {message}"):
            update(tx)
    kernel = {"dense": {"kernel": PARAMS["dense"]["kernel"]}}
    with pytest.raises((ValueError, TypeError), match=rf"^odd: params\['dense'\]\['kernel'\]: the rule {message}"):
        jax.jit(functools.partial(update, alone, kernel)).lower()


def test_a_state_made_without_its_other_fields():
    message = (
        r"^odd: params\['dense'\]\['bias'\]: Mean\.__new__\(\) missing 2 required positional arguments: 'm' and 'n'; "
        r"to keep the other fields of the state write s\._replace\(m=\.\.\., n=\.\.\.\)"
    )
    with pytest.raises(TypeError, match=message):
        update(odd(told(lambda g, s: (g, type(s)(g)))))
    with pytest.raises(TypeError, match=r"Other\.__new__\(\) missing") as e:  # that of another class
        update(odd(told(lambda g, s: (g, Other()))))
    assert "_replace" not in str(e.value)


def test_a_rule_without_state_returns_it():
    x = {"a": jnp.ones((2, 2))}
    message = (
        r"stateless: params\['a'\]: the rule returned float32 \(2, 2\) alone, expected two things, the update and "
    )
    with pytest.raises(TypeError, match=message + r"EmptyState\(\): return u, s(\n|$)"):  # not the rows of the update
        update(stateless(told(lambda g, s: g)), x)
    # A new moment without a slot to go to would be forgotten.
    with pytest.raises(TypeError, match=r"the rule returned float32 \(2, 2\) as its state, expected EmptyState\(\)"):
        update(stateless(told(lambda g, s: (g, g))), x)
    # Nor is a state of two fields the pair.
    pair = leafwise(NamedTuple("Two", [("a", Any), ("b", Any)]))(lambda g, s, p, t: s)
    with pytest.raises(TypeError, match=r"the rule returned Two\(.*\) alone, expected two things"):
        update(pair(), x)
    for empty in ((), None):
        assert_equal(update(stateless(told(lambda g, s, empty=empty: (g, empty))), x), (x, gdjax.EmptyState()))


def test_what_harms_nothing_is_let_in():
    class Slots(NamedTuple):
        m: Any
        z: Any
        flag: Any
        n: Any
        pair: Any

    class Same(NamedTuple):  # a class made again in a notebook, while the rule still has the old one
        m: Any
        z: Any
        flag: Any
        n: Any
        pair: Any

    @leafwise(
        Slots,
        z=lambda p, hyper: jnp.zeros(p.shape, "complex64"),
        flag=lambda p, hyper: jnp.zeros((), bool),
        n=lambda p, hyper: jnp.zeros((), "int32"),
        pair=lambda p, hyper: (jnp.zeros(()), jnp.zeros(())),
    )
    def rule(g: Any, s: Any, p: Any, t: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            m = {0: 1, 1: np.ones(3), 2: jnp.ones((2, 2), bool)}[g.ndim]  # a number, an array of NumPy, booleans
            return [jnp.sign(g).astype("int32"), Same(m, g * 1j, True, jnp.int8(3), [1.0, np.float32(2)])]

    params = {"a": jnp.ones(()), "b": jnp.ones(3, "bfloat16"), "c": jnp.ones((2, 2))}
    tx = rule()
    u, state = update(tx, params)
    assert_equal(u, params)
    assert signature(state) == signature(tx.init(params))
    assert_equal(state.m, params)
    assert_equal(state.z["a"], jnp.complex64(1j))
    assert_equal((state.flag["a"], state.n["a"], state.pair["a"]), (np.array(True), np.int32(3), (1.0, 2.0)))


def test_a_rule_may_return_a_number_for_a_scalar_gradient():
    x = {"a": jnp.ones((), "bfloat16")}
    u, _ = update(gdjax.chain(stateless(told(lambda g, s: (2, s))), gdjax.scale(3.0)), x)
    assert u["a"] == 6 and u["a"].dtype == jnp.bfloat16


@pytest.mark.parametrize("slot", [False, True])
def test_a_rule_reads_what_it_was_not_given(slot: bool):
    State = Other if slot else gdjax.EmptyState

    @leafwise(State)
    def steps_taken(g: Any, s: Any, p: Any, step: Any) -> Any:
        return g / (1 - 0.9**step), s

    @leafwise(State)
    def of_params(g: Any, s: Any, x: Any, t: Any) -> Any:
        return g + 2 * x, s

    @leafwise(State)
    def of_their_shape(g: Any, s: Any, p: Any, t: Any) -> Any:
        return g / p.size, s

    @leafwise(State)
    def inside(g: Any, s: Any, p: Any, t: Any) -> Any:
        return jax.tree.map(lambda g: g + jnp.square(p), g), s

    def missing_name(g: Any, s: Any, p: Any, t: Any, name: Any = None) -> Any:
        return g * p * name, s

    x = {"a": jnp.ones(2)}
    reason = r"the rule uses `step`, which is None, since its state has no field `count`: add one(\n|$)"
    with pytest.raises(TypeError, match=rf"^steps_taken: params\['a'\]: unsupported operand.*NoneType'; {reason}"):
        update(steps_taken(), x)
    for tx in (of_params(), of_their_shape(), inside()):
        update(tx, x)
        with pytest.raises(ValueError, match=r"^(of_params|of_their_shape|inside): this transform needs params"):
            tx.update(x, tx.init(x))
    # What is None for another reason gets none of these.
    with pytest.raises(TypeError, match=r"NoneType'(\n|$)"):
        update(leafwise(State)(missing_name)(), x)


def test_leafwise_is_called():
    def rule(g: Any, s: Any, p: Any, t: Any, gain: Any = 1.0) -> Any:
        return g, s

    with pytest.raises(
        TypeError, match=r"leafwise: got the rule rule in the place of State: write @gdjax\.leafwise\(\) a"
    ):
        leafwise(rule)

    class Plain:
        m: Any

    for State in (Plain, Mean(0, 0, 0), None, 1.0, tuple, lambda: Mean, {"m": 0}):
        with pytest.raises(
            TypeError, match="leafwise: State must be a NamedTuple class, or a function from the hyperpa"
        ):
            leafwise(State)
    with pytest.raises(TypeError, match=r"^rule: the function given as State returned None, not a NamedTuple class"):
        leafwise(lambda hyper: None)(rule)()
    with pytest.raises(TypeError, match=r"leafwise: Mean has no field nu, mu; its fields are count, m, n"):
        leafwise(Mean, nu=gdjax.first_moment, m=gdjax.first_moment, mu=gdjax.first_moment)


# --- Slots that are no real numbers -----------------------------------------------------------------------------------


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
