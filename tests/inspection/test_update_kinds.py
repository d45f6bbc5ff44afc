"""What trying an update shows of each leaf, whoever wrote the update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax import explain

P = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
FROZEN, SAME, MOVES = (
    (True, "its update is always 0"),
    (False, "no step changes its gradient, which is added as it is"),
    (False, ""),
)


def each(f: Callable[[Any, Any], Any]) -> Any:
    """A transform written by hand: `f` of each gradient and of the count of updates."""

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        return jax.tree.map(lambda g: f(g, state), updates), state + 1

    return gdjax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


CASES: dict[str, tuple[Any, Any]] = {
    "zeros": (lambda g, t: jnp.zeros_like(g), FROZEN),
    "itself": (lambda g, t: g, SAME),
    "0 times": (lambda g, t: -(0.0 * g) / 3.0, FROZEN),
    "in a function": (lambda g, t: jax.jit(lambda x: x * 0.0)(g), FROZEN),
    "itself from a function": (lambda g, t: jax.jit(lambda x: x)(g), SAME),
    "plus 0": (lambda g, t: g + jnp.zeros_like(g), SAME),
    "0 less itself": (lambda g, t: jnp.zeros_like(g) - g, MOVES),
    "0 in each branch": (lambda g, t: jax.lax.cond(t > 3, lambda: jnp.zeros_like(g), lambda: 0.0 * g), FROZEN),
    "0 in one branch": (lambda g, t: jax.lax.cond(t > 3, lambda: jnp.zeros_like(g), lambda: -g), MOVES),
    "0 in the other": (lambda g, t: jax.lax.cond(t > 3, lambda: -g, lambda: jnp.zeros_like(g)), MOVES),
    "itself in each branch": (lambda g, t: jax.lax.cond(t > 3, lambda: g, lambda: g), SAME),
    "0 where it is chosen": (lambda g, t: jnp.where(t > 3, 0.0, -g), MOVES),
    "itself where it is chosen": (lambda g, t: jnp.where(t > 3, 0.0, g), MOVES),
    "0 whatever is chosen": (lambda g, t: jnp.where(t > 3, 0.0, jnp.zeros_like(g)), FROZEN),
    "0 for many steps": (lambda g, t: jnp.where(t > 5000, -g, 0.0), MOVES),
    "itself for many steps": (lambda g, t: jnp.where(t > 5000, -g, g), MOVES),
    "itself unless it is large": (lambda g, t: jnp.clip(g, -100.0, 100.0), MOVES),
    "itself unless it is NaN": (lambda g, t: jnp.where(jnp.isnan(g), 0.0, g), MOVES),
    "0 after a loop": (lambda g, t: jax.lax.fori_loop(0, 3, lambda i, x: -x, g), MOVES),
    "the negative": (lambda g, t: -g, MOVES),
    "ones": (lambda g, t: jnp.ones_like(g), MOVES),
    "there and back": (lambda g, t: g.astype(jnp.float16).astype(g.dtype), SAME),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name: str):
    f, expected = CASES[name]
    assert [(row.frozen, row.why) for row in explain(each(f), P)] == [expected] * 2


def test_another_leaf_is_not_itself():
    swap = gdjax.stateless(lambda updates, params: {"a": updates["a"], "b": updates["a"][0] * jnp.ones((2, 2))})
    assert [row.why for row in explain(swap, P)] == [SAME[1], ""]
    crossed = gdjax.stateless(lambda updates, params: {"a": updates["b"], "b": updates["a"]})
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    assert [row.why for row in explain(crossed, params)] == ["", ""]


def test_a_traced_rate():
    shown = []

    @jax.jit
    def f(rate: Any) -> Any:
        shown.extend(explain(gdjax.sgd(rate), P)["rate"])
        return rate

    f(0.1)
    assert shown == ["traced", "traced"]


STATES: dict[str, tuple[Any, Any, Any]] = {
    "stays at 0": (lambda g, s: s, lambda g, s: 2 * s, FROZEN),
    "0 at first": (lambda g, s: s, lambda g, s: s + 1, MOVES),
    "0 at first, then of the gradient": (lambda g, s: s, lambda g, s: g, MOVES),
    "at least 0": (lambda g, s: jnp.maximum(s, -1.0), lambda g, s: jnp.minimum(1.0, s), FROZEN),
    "at least 1": (lambda g, s: jnp.maximum(s, 1.0), lambda g, s: s, MOVES),
    "at most -1": (lambda g, s: jnp.minimum(-1.0, s), lambda g, s: s, MOVES),
    "at least the gradient": (lambda g, s: jnp.maximum(s, g), lambda g, s: s, MOVES),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_starts_at_0(name: str):
    step, after, expected = STATES[name]

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        return jax.tree.map(step, updates, state), jax.tree.map(after, updates, state)

    tx = gdjax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)
    assert [(row.frozen, row.why) for row in explain(tx, P)] == [expected] * 2
