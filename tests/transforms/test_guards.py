"""apply_if_finite and the conditional transforms."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, finite, random_tree, signature, steps

PARAMS = random_tree(0)
GRADIENTS = [random_tree(seed) for seed in range(1, 7)]
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def spoiled(value: float) -> Any:
    return {**GRADIENTS[0], "scale": jnp.float32(value)}


def run(tx: Any, gradients: Any, state: Any = None) -> Any:
    """The updates and states of every call."""
    state, out = tx.init(PARAMS) if state is None else state, []
    update = jax.jit(tx.update)
    for g in gradients:
        updates, state = update(g, state, PARAMS)
        out.append((updates, state))
    return zip(*out, strict=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_skipped(value: float):
    tx = gdjax.apply_if_finite(gdjax.adam(0.1), 2)
    updates, states = run(tx, [GRADIENTS[0], spoiled(value), spoiled(value), GRADIENTS[1]])
    for n in (1, 2):
        assert_equal(updates[n], ZEROS)
        assert_equal(states[n].inner_state, states[0].inner_state)
    assert [int(s.notfinite_count) for s in states] == [0, 1, 2, 0]
    assert [int(s.total_notfinite) for s in states] == [0, 1, 2, 2]
    assert [bool(s.last_finite) for s in states] == [True, False, False, True]
    wanted, _ = run(gdjax.adam(0.1), GRADIENTS[:2])
    assert_close(updates[3], wanted[1])


def test_it_gives_up_after_too_many():
    tx = gdjax.apply_if_finite(gdjax.sgd(0.1), 1)
    updates, states = run(tx, [spoiled(jnp.nan)] * 3)
    assert finite(updates[0]) and not finite(updates[1]) and not finite(updates[2])
    assert [int(s.notfinite_count) for s in states] == [1, 2, 3]


def test_what_the_inner_transform_makes_is_looked_at():
    # A sum of gradients may overflow, and stays infinite for ever.
    for check in (True, False):
        tx = gdjax.apply_if_finite(gdjax.trace(0.9), 5, check_outputs=check)
        updates, states = run(tx, [spoiled(3e38), spoiled(3e38), GRADIENTS[1]])
        assert finite(updates) == finite(states) == check
    for factor in (1e30, 2.0**100):
        updates, states = run(gdjax.apply_if_finite(gdjax.scale(factor), 5), [spoiled(1e25), GRADIENTS[1]])
        assert_equal(updates[0], ZEROS)
        assert int(states[1].total_notfinite) == 1


def test_a_state_may_begin_infinite():
    # As the best loss so far does; such a number is no error.
    def init(params: Any) -> Any:
        return {"best": jnp.float32(jnp.inf), "n": jnp.int32(0)}

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        return updates, {"best": state["best"], "n": state["n"] + 1}

    tx = gdjax.apply_if_finite(gdjax.GradientTransformation(init, update), 2)
    updates, states = run(tx, GRADIENTS[:2])
    assert_equal(updates[1], GRADIENTS[1])
    assert int(states[1].inner_state["n"]) == 2 and int(states[1].total_notfinite) == 0


def test_keys_and_integers_take_no_part():
    params = {"w": jnp.ones(2), "n": jnp.arange(2)}
    tx = gdjax.apply_if_finite(gdjax.masked(gdjax.noisy_sgd(0.1, key=0), {"w": True, "n": False}), 2)
    state = tx.init(params)
    for value, moved in ((1.0, True), (jnp.nan, False)):
        g = {"w": jnp.full(2, value), "n": np.zeros(2, jax.dtypes.float0)}
        updates, new = tx.update(g, state, params)
        assert updates["n"].dtype == jax.dtypes.float0
        assert bool(jnp.all(updates["w"] != 0)) == moved == bool(new.last_finite)
        state = new


def test_counters_stay_at_the_largest_integer():
    top = jnp.int32(2**31 - 1)
    tx = gdjax.apply_if_finite(gdjax.sgd(0.1), 2**31 - 1)
    state = tx.init(PARAMS)._replace(notfinite_count=top, total_notfinite=top)
    updates, state = tx.update(spoiled(jnp.nan), state, PARAMS)
    assert int(state.notfinite_count) == int(state.total_notfinite) == 2**31 - 1
    assert_equal(updates, ZEROS)
    for wrap, name in ((gdjax.conditionally_mask, "step"), (gdjax.conditionally_transform, "step")):
        tx = wrap(gdjax.sgd(0.1), lambda step: step > 0)
        _, state = tx.update(GRADIENTS[0], tx.init(PARAMS)._replace(**{name: top}), PARAMS)
        assert int(state.step) == 2**31 - 1


@pytest.mark.parametrize("wrap", [gdjax.conditionally_mask, gdjax.conditionally_transform])
def test_conditions(wrap: Any):
    tx = wrap(gdjax.sgd(0.1, 0.9), lambda step: step % 2 == 0)
    updates, states = run(tx, GRADIENTS[:4])
    wanted, inner = run(gdjax.sgd(0.1, 0.9), [GRADIENTS[0], GRADIENTS[2]])
    assert_close(updates[2], wanted[1])
    for n in (1, 3):
        assert_equal(updates[n], GRADIENTS[n] if wrap is gdjax.conditionally_transform else ZEROS)
        assert_equal(states[n].inner_state, states[n - 1].inner_state)
    assert_close(states[3].inner_state, inner[1])
    assert [int(s.step) for s in states] == [1, 2, 3, 4]


@pytest.mark.parametrize("wrap", [gdjax.conditionally_mask, gdjax.conditionally_transform])
def test_conditions_may_depend_on_extra_arguments(wrap: Any):
    tx = wrap(gdjax.scale(2.0), lambda step, loss, **rest: loss > 1, forward_extra_args=True)
    state = tx.init(PARAMS)
    double = jax.tree.map(lambda g: 2 * g, GRADIENTS[0])
    assert_equal(tx.update(GRADIENTS[0], state, PARAMS, loss=jnp.float32(2.0), other=1)[0], double)
    rejected = tx.update(GRADIENTS[0], state, PARAMS, loss=jnp.float32(0.5))[0]
    assert_equal(rejected, GRADIENTS[0] if wrap is gdjax.conditionally_transform else ZEROS)


def test_an_inner_transform_of_optax_with_16_bit_parameters():
    params, g = random_tree(0, "bfloat16"), GRADIENTS[0]  # the gradients are wider
    for wrap in (
        lambda tx: gdjax.apply_if_finite(tx, 2),
        lambda tx: gdjax.conditionally_mask(tx, lambda step: step >= 0),
    ):
        with relaxed():
            tx = wrap(optax.adam(0.1))
            state = tx.init(params)
            updates, new = tx.update(g, state, params)
        assert signature(new) == signature(state)
        assert {u.dtype.name for u in jax.tree.leaves(updates)} == {"float32"}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_state_that_is_an_update_stays_in_a_step_left_out(compiled: bool):
    last = gdjax.GradientTransformation(lambda p: jax.tree.map(jnp.ones_like, p), lambda u, s, p=None: (u, u))
    tx = gdjax.apply_if_finite(gdjax.chain(gdjax.scale(2.0), last), 5)
    update, state = jax.jit(tx.update) if compiled else tx.update, tx.init(jnp.zeros(3))
    u, new = update(jnp.array([1.0, jnp.nan, 1.0]), state)
    assert_equal((u, new.inner_state), (jnp.zeros(3), state.inner_state))
    assert_equal(update(jnp.ones(3), new)[1].inner_state[1], jnp.full(3, 2.0))


def test_a_compiled_transform_of_ours_in_two_programs():
    adam = gdjax.adam(0.1)
    tx = gdjax.apply_if_finite(gdjax.GradientTransformation(adam.init, jax.jit(adam.update)), 5, check_outputs=False)
    for _ in range(2):
        u, _ = jax.jit(lambda g, s: tx.update(g, s))(jnp.ones(3), tx.init(jnp.zeros(3)))
        assert_close(u, jnp.full(3, -0.1), 1e-5)


def test_under_vmap_every_row_has_its_own_condition():
    tx = gdjax.apply_if_finite(gdjax.sgd(0.1, 0.9), 3)
    rows = jax.tree.map(lambda *xs: jnp.stack(xs), GRADIENTS[1], spoiled(jnp.nan))
    params = jax.tree.map(lambda x: jnp.stack([x, x]), PARAMS)
    state = jax.vmap(tx.init)(params)
    updates, state = jax.vmap(tx.update)(rows, state, params)
    assert_equal(jax.tree.map(lambda u: u[1], updates), ZEROS)
    assert finite(state) and state.total_notfinite.tolist() == [0, 1]


def unlike(step: Any) -> Any:
    return jnp.ones(2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gdjax.apply_if_finite(gdjax.sgd(0.1), -1), ValueError, "max_consecutive_errors must be at least 0"),
        (lambda: gdjax.apply_if_finite(3, 1), TypeError, "gdjax.apply_if_finite: argument 0 is 3"),
        (
            lambda: steps(gdjax.conditionally_mask(gdjax.sgd(0.1), unlike), PARAMS, [PARAMS]),
            TypeError,
            "gdjax.conditionally_mask: should_transform_fn must return a boolean scalar",
        ),
        (
            lambda: steps(gdjax.conditionally_transform(gdjax.sgd(0.1), unlike), PARAMS, [PARAMS]),
            TypeError,
            "gdjax.conditionally_transform: should_transform_fn must return a boolean scalar",
        ),
        (
            lambda: gdjax.apply_if_finite(gdjax.sgd(0.1), 1).update(PARAMS, gdjax.EmptyState()),
            ValueError,
            "gdjax.apply_if_finite: state has fields",
        ),
    ],
)
def test_errors(call: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        call()


def test_a_state_of_another_transform_is_named():
    grown = gdjax.GradientTransformation(lambda params: (), lambda u, s, p=None, **extra: (u, (jnp.zeros(()),)))
    tx = gdjax.conditionally_mask(grown, functools.partial(jnp.equal, 0))
    with pytest.raises(ValueError, match="returned a state of 1 arrays"):
        tx.update(GRADIENTS[0], tx.init(PARAMS))
