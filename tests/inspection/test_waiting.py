"""`explain` with a state: which guard skips, which accumulation waits, and for how many calls more."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gdjax
from tests.support import relaxed

PARAMS = {"a": jnp.ones(3), "b": jnp.ones(2)}
GOOD, BAD = jax.tree.map(jnp.zeros_like, PARAMS), {"a": jnp.full(3, jnp.nan), "b": jnp.ones(2)}
ADAM = gdjax.adam(0.1)


def told(tx: Any, *gradients: Any) -> tuple[str, ...]:
    """The warnings after these gradients, of a guard or an accumulation."""
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for g in gradients:
        _, state = update(g, state, PARAMS)
    return gdjax.explain(tx, PARAMS, state).warnings


def never(step: Any) -> Any:
    return step < 0


def fourth(step: Any) -> Any:
    return step % 4 == 3


def test_a_guard_that_skips():
    tx = gdjax.chain(gdjax.clip(1.0), gdjax.apply_if_finite(ADAM, 2))
    assert told(tx, GOOD) == told(tx, BAD, GOOD) == ()
    skips = "apply_if_finite skipped the last {} ({} in all): gradients or updates are not finite; {}"
    assert told(tx, BAD, GOOD, BAD) == (skips.format("call", 2, "it skips 1 more, then applies them"),)
    assert told(tx, BAD, BAD) == (skips.format("2 calls", 2, "the next is applied, finite or not"),)
    [given_up] = told(tx, BAD, BAD, BAD)
    assert given_up.startswith("apply_if_finite has given up after the last 3 calls (3 in all)")
    [theirs] = told(gdjax.chain(optax.apply_if_finite(optax.sgd(0.1), 2)), BAD)
    assert theirs == "apply_if_finite, the last call (1 in all): gradients or updates are not finite"


@pytest.mark.parametrize(
    ("guard", "what"),
    [
        (gdjax.conditionally_transform, "the updates pass through as they are"),
        (gdjax.conditionally_mask, "the updates are 0"),
    ],
)
def test_a_condition(guard: Any, what: str):
    name = guard.__name__
    assert told(guard(ADAM, never)) == (f"{name} applies {ADAM!r} in none of the next 1,000 calls: {what}",)
    wait = f"{name} waits: it applies {ADAM!r} after {{}} more, in which {what}"
    assert told(guard(ADAM, fourth), GOOD) == (wait.format("2 calls"),)
    assert told(guard(ADAM, fourth), GOOD, GOOD) == (wait.format("1 call"),)
    assert told(guard(ADAM, fourth), GOOD, GOOD, GOOD) == ()


def test_an_accumulation():
    waits = "MultiSteps waits: it has {} of {} gradients; "
    tx = gdjax.partition({"x": gdjax.MultiSteps(ADAM, 3), "y": gdjax.MultiSteps(ADAM, 1)}, {"a": "x", "b": "y"})
    assert told(tx) == (waits.format(0, 3) + "the call after the next 2 makes the update",)
    assert told(tx, GOOD) == (waits.format(1, 3) + "the call after the next makes the update",)
    assert told(tx, GOOD, GOOD) == (waits.format(2, 3) + "the next call makes the update",)
    scheduled = gdjax.MultiSteps(ADAM, lambda n: 1 + n)
    assert told(scheduled) == ()
    assert told(scheduled, GOOD, GOOD) == (waits.format(1, 2) + "the next call makes the update",)
    with relaxed():
        theirs = told(gdjax.chain(optax.MultiSteps(optax.sgd(0.1), 3)), GOOD)
    assert theirs == ("MultiSteps waits: it has 1 gradient of its next update",)
    summed = gdjax.chain(gdjax.accumulate(ADAM, 3))
    assert told(summed, GOOD) == (
        "accumulate waits: it has 1 of 3 gradients; the call after the next makes the update",
    )
    assert told(gdjax.accumulate(ADAM, 1), GOOD) == ()


@pytest.mark.parametrize("wrap", [gdjax.MultiSteps, gdjax.accumulate])
def test_an_accumulation_of_a_bare_array(wrap: Any):
    tx, params = wrap(ADAM, 3), jnp.ones(2)
    (waits,) = gdjax.explain(tx, params, tx.init(params)).warnings
    assert waits.endswith("waits: it has 0 of 3 gradients; the call after the next 2 makes the update")


def test_a_skip_function():
    tx = gdjax.MultiSteps(ADAM, 2, should_skip_update_fn=gdjax.skip_not_finite)
    left_out, waits = told(tx, GOOD, BAD)
    assert left_out == (
        "MultiSteps left out the gradients of the last call (3 elements not finite): the update is 0, "
        "and no step is nearer"
    )
    assert waits.startswith("MultiSteps waits: it has 1 of 2 gradients")
    assert len(told(tx, BAD, GOOD)) == 1


def test_apply_every():
    tx = gdjax.chain(ADAM, gdjax.apply_every(3))
    assert told(tx, GOOD) == ("apply_every waits: it has 1 of 3 updates; the call after the next makes the update",)
    assert told(tx, GOOD, GOOD, GOOD) == (
        "apply_every waits: it has 0 of 3 updates; the call after the next 2 makes the update",
    )
    assert told(gdjax.chain(ADAM, gdjax.apply_every(1)), GOOD) == ()


def test_states_without_values_and_of_many_runs():
    tx = gdjax.MultiSteps(ADAM, 2)
    with pytest.raises(TypeError, match="state has an array without a value"):
        gdjax.explain(tx, PARAMS, jax.eval_shape(tx.init, PARAMS))
    many = jax.vmap(lambda _: tx.init(PARAMS))(jnp.arange(3))
    assert gdjax.explain(tx, PARAMS, many).warnings == ()
