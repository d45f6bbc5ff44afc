"""One leaf: the function that applies a row of rules to one array."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax import EmptyState, ScaleByScheduleState, Shared, leafwise
from gdjax.lift.one_leaf import Kernel, _stored, kernel_of, stored
from tests.trees import assert_equal, precision

SEEN: list[Any] = []


@leafwise()
def spy(g: Any, s: Any, p: Any, t: Any, gain: Any = 1.0) -> Any:
    SEEN.append((g.dtype, None if p is None else p.dtype, s, None if t is None else t.dtype))
    return gain * g, s


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_rule_sees_float32(dtype: str):
    SEEN.clear()
    x = {"a": jnp.ones(2, dtype)}
    u, _ = spy().update(x, EmptyState(), x)
    spy(gdjax.constant_schedule(1.0)).update(x, ScaleByScheduleState(jnp.int32(0)))
    # The step is there where a schedule makes the state count.
    assert SEEN == [(jnp.float32, jnp.float32, EmptyState(), None), (jnp.float32, None, EmptyState(), jnp.float32)]
    assert u["a"].dtype == dtype


def test_a_chain_does_not_round_between_its_rules():
    tiny, x = 2.0**-20, {"a": jnp.ones(3, "float16")}
    tx = gdjax.chain(gdjax.scale(tiny), gdjax.scale(tiny), gdjax.scale(1 / tiny), gdjax.scale(1 / tiny))
    assert_equal(tx.update(x, tx.init(x))[0], x)


def test_leaves_of_one_shape_share_a_trace():
    SEEN.clear()
    tree = {str(i): jnp.ones(4) for i in range(10)} | {"other": jnp.ones(5)}
    jax.jit(spy(3.0).update)(tree, EmptyState())
    assert len(SEEN) == 2
    jax.jit(gdjax.chain(spy(3.0)).update)(tree, (EmptyState(),))
    assert len(SEEN) == 2  # and so does the next transform of equal rules


def test_kernels_are_shared_by_value():
    kernel = spy(4.0).update.made.fn.__self__.kernel
    assert kernel_of((kernel,)) is kernel_of((spy(4.0).update.made.fn.__self__.kernel,))
    assert kernel_of((kernel,)) is not kernel_of((spy(5.0).update.made.fn.__self__.kernel,))


def test_names_in_profiles():
    x = jnp.ones(2)
    text = jax.jit(gdjax.scale_by_adam().update).lower(x, gdjax.scale_by_adam().init(x)).as_text(debug_info=True)
    assert "scale_by_adam" in text


def test_a_rule_is_traced_anew_in_another_context():
    @leafwise()
    def turned(g: Any, s: Any, p: Any, t: Any) -> Any:
        return g @ g, s

    tx, x = turned(), jnp.ones((3, 3))
    text = lambda: str(jax.make_jaxpr(lambda g: tx.update(g, EmptyState())[0])(x))
    assert "HIGHEST" not in text()
    with jax.default_matmul_precision("highest"):
        assert "HIGHEST" in text()
    assert "HIGHEST" not in text()


def test_a_rule_computes_in_the_widest_real_dtype():
    with precision("float64"):
        SEEN.clear()
        wide, narrow = jnp.ones(2, "float64"), jnp.ones(2, "float32")
        for g, p in ((narrow, wide), (wide, narrow), (wide, None)):
            spy().update(g, EmptyState(), p)
        spy().update(jnp.ones(2, "complex64"), EmptyState(), jnp.ones(2, "complex64"))
    assert [(g, p) for g, p, *_ in SEEN] == [
        (jnp.float64, jnp.float64), (jnp.float64, jnp.float64), (jnp.float64, None), (jnp.complex64, jnp.complex64),
    ]  # fmt: skip


class Kept(NamedTuple):
    half: Any
    number: Any
    flag: Any


def test_new_slots_have_the_dtypes_of_the_old_ones():
    old = Kept(jnp.ones(2, jnp.bfloat16), jnp.int32(1), jnp.array(False))
    new = _stored(Kept(jnp.full(2, 1 + 1 / 512), 7, True), old)
    assert [x.dtype for x in new] == [jnp.bfloat16, jnp.int32, jnp.bool_]
    assert new.half.tolist() == [1, 1] and new.number == 7 and new.flag
    as_dict = _stored(Kept(1.0, 2.0, 3.0), {"flag": jnp.zeros(()), "half": jnp.zeros(()), "number": jnp.zeros(())})
    assert {k: float(x) for k, x in as_dict.items()} == {"flag": 3, "half": 1, "number": 2}  # sorted by name
    key = jax.random.key(0)
    assert stored(key, jax.random.key(1)) is key


def test_the_state_of_a_rule_is_widened_where_it_is_real():
    seen = []

    @leafwise(Kept, number=lambda p, hyper: jnp.int8(3), flag=lambda p, hyper: jnp.array(True))
    def rule(g: Any, s: Any, p: Any, t: Any) -> Any:
        seen.extend(x.dtype for x in s)
        return g, s

    x = jnp.ones(2, jnp.bfloat16)
    rule().update(x, rule().init(x))
    assert seen == [jnp.float32, jnp.int8, jnp.bool_]


def test_a_number_of_the_tree_is_not_made_of_one_leaf():
    @leafwise(Kept, half=Shared(1.0), number=Shared(0.0), flag=Shared(0.0))
    def rule(g: Any, s: Any, p: Any, t: Any, by: Any = 1.0) -> Any:
        return g, Kept(s.half / 2, by * s.number, jnp.sum(g))

    x = jnp.ones(2)
    with pytest.raises(TypeError, match="state.flag is one number for the whole tree, and made of one array: take the"):
        rule().update(x, rule().init(x))


class OneSlot(NamedTuple):
    mu: Any


def test_a_rule_of_a_stack_widens_its_slots_itself():
    """One after the other: all of a stack of 16 bits at once would be a temporary of its size."""
    dtypes: list[Any] = []

    def rule(g: Any, s: Any, p: Any, t: Any) -> Any:
        dtypes.append(s.mu.dtype)
        return g, s._replace(mu=s.mu + 1)

    g, mu = jnp.ones((2, 3, 4)), jnp.ones((2, 3, 4), jnp.bfloat16)
    for of_stack in (False, True):
        one_leaf = kernel_of((Kernel("rule", rule, OneSlot, (), of_stack=of_stack),))
        done = one_leaf([], [], g, None, [(mu,)], [None], [{}], [{}], [None], None)
        assert done.slots[0][0].dtype == jnp.bfloat16
    assert {*dtypes} == {jnp.dtype("float32"), jnp.dtype("bfloat16")} and dtypes[-1] == jnp.bfloat16
