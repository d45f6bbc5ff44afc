"""One leaf: the function that applies a row of rules to one array."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax import EmptyState, ScaleByScheduleState, leafwise
from gdjax.lift.one_leaf import kernel_of
from tests.trees import assert_equal

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
