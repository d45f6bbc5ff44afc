"""What a rule must look like, and what it returns, is checked."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import leafwise
from gdjax.lift import rule_checks
from tests.trees import assert_equal, signature

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


def test_the_shape_counts_and_not_the_number_of_axes():
    for wrong in (lambda g, s: (g[:, :1], s), lambda g, s: (g, s._replace(m=g.T))):
        with pytest.raises(ValueError, match=r"returned float32 \((3, 1|2, 3)\)"):
            update(odd(told(wrong)))


def test_what_a_dtype_can_hold():
    fits = lambda x, dtype: rule_checks._fits(x, jnp.dtype(dtype))
    assert fits(jnp.float32(1), "bfloat16") and fits(1.5, "float16") and fits(True, "float32")
    assert fits(jnp.complex64(1), "complex64") and not fits(jnp.complex64(1), "float32")
    assert fits(jnp.int8(1), "int32") and not fits(jnp.int32(1), "int8") and fits(1, "int8")
    assert fits(np.array(True), "bool") and not fits(1, "bool") and not fits(1.0, "int32")
    key = jax.random.key(0)
    assert fits(key, "float32") is False and rule_checks._fits(key, key.dtype)


def test_how_a_result_is_shown():
    x = jnp.ones((2, 3))
    assert rule_checks.shown(x) == "float32 (2, 3)"
    assert rule_checks.shown((x, [1.5])) == "tuple(float32 (2, 3), list(1.5))"
    assert rule_checks.shown({"a": None}) == "dict(None)"


def test_arguments_that_come_by_name():
    def rule(g: Any, s: Any, p: Any, t: Any, rate: Any, *rest: Any, eps: Any = 0, **more: Any) -> Any: ...

    assert [p.name for p in rule_checks.named(rule, 4)] == ["rate", "eps"]
    found = rule_checks.arguments_of("leafwise", rule, 4, rule_checks.Special(extra=["eps"], settings=["rate"]))
    assert ([p.name for p in found.of_factory], found.settings, found.unnamed) == (
        ["rate"],
        {"rate"},
        ["*rest", "**more"],
    )
    with pytest.raises(TypeError, match="^gdjax.leafwise: extra: the rule has no argument value"):
        rule_checks.arguments_of("leafwise", rule, 4, rule_checks.Special(extra=["value"]))


def test_the_place_of_a_rule_that_fails():
    with pytest.raises(ValueError, match="here") as e, rule_checks.raised_by(3):
        raise ValueError("here")
    assert rule_checks.culprit(e.value) == 3 and rule_checks.culprit(ValueError()) is None


def test_only_what_is_exact_is_said_not_to_be_cast():
    for result, end in (
        (lambda g, s: (g, s._replace(m=g.astype("complex64"))), r"expected bfloat16 \(3, 2\)"),
        (lambda g, s: (g, s._replace(n=1.5)), r"expected int32 \(\); integers, booleans and keys are not cast"),
    ):
        with pytest.raises(TypeError, match=rf"{end}(\n|$)"):
            update(odd(told(result)))
