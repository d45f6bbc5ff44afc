"""Schedule-free learning against the paper's three sequences, all of them kept, in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.oracles import at
from tests.trees import assert_close, assert_equal, finite, precision, random_tree, signature, steps

PARAMS = random_tree(0)


def schedule_free(
    rate: Any, direction: Any, b1: float = 0.9, power: float = 2.0, r: float = 0.0, fast: float = 0.0
) -> Any:
    """The paper's equations: x is a sequence of its own, and y is computed from it. `fast` is the decay at z."""

    def oracle(y: Any, gradient: Any) -> Any:
        x, z, total, top, state = y, y, 0.0, 0.0, {}
        for t in range(1, oracles.STEPS + 1):
            d, state = direction(gradient(t, y), y, state, t)
            top = max(top, at(rate, t))
            w = t**r * top**power
            total += w
            c = w / total if total else 0.0
            z = z - at(rate, t) * (d + fast * z)
            x = (1 - c) * x + c * z
            y = (1 - b1) * z + b1 * x
            yield y, {"z": z, "average": x}

    return oracle


def plain(weight_decay: float = 0.0) -> Any:
    return lambda g, y, state, t: (g + weight_decay * y, state)


def adam(g: Any, y: Any, state: Any, t: int) -> Any:
    nu = 0.99 * state.get("nu", 0.0) + 0.01 * g**2
    return g / (np.sqrt(nu / (1 - 0.99**t)) + 1e-8) + 0.01 * y, {"nu": nu}


def momentum(g: Any, y: Any, state: Any, t: int) -> Any:
    """With `inner_momentum`, as in the authors' code."""
    mu = 0.75 * state.get("mu", 0.0) + 0.25 * g
    nu = 0.99 * state.get("nu", 0.0) + 0.01 * g**2
    return mu / (1 - 0.75**t) / (np.sqrt(nu / (1 - 0.99**t)) + 1e-8) + 0.01 * y, {"mu": mu, "nu": nu}


def warm(count: Any) -> Any:
    return 0.0625 * jnp.minimum(jnp.asarray(count, jnp.float32) / 8, 1)


CASES = {
    "sgd": (gdjax.schedule_free_sgd(0.0625, weight_decay=0.125), schedule_free(0.0625, plain(0.125))),
    "sgd, warm-up": (gdjax.schedule_free_sgd(0.0625, warmup_steps=8), schedule_free(warm, plain())),
    "sgd, powers": (
        gdjax.schedule_free_sgd(warm, None, 0.75, weight_lr_power=1.0, r=0.5),
        schedule_free(warm, plain(), 0.75, 1.0, 0.5),
    ),
    "decay at z": (
        gdjax.schedule_free(gdjax.sgd(warm), warm, weight_decay=0.125),
        schedule_free(warm, plain(), fast=0.125),
    ),
    "adamw": (gdjax.schedule_free_adamw(0.0625, b2=0.99, weight_decay=0.01), schedule_free(0.0625, adam)),
    "adamw, momentum": (
        gdjax.schedule_free_adamw(0.0625, b2=0.99, weight_decay=0.01, r=2.0, inner_momentum=0.75),
        schedule_free(0.0625, momentum, r=2.0),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_follows_the_paper(name: str, dtype: str):
    tx, oracle = CASES[name]
    params, state = oracles.run(tx, dtype)
    want_params, want_state = oracles.expected(oracle)
    with precision(dtype):
        # The number of the state is constant: that of the last step serves all of them.
        one = gdjax.ScheduleFreeState(*(jnp.asarray(0.0),) * 6)._replace(b1=jnp.asarray(state["b1"][-1]), z=state["z"])
        averages = gdjax.schedule_free_eval_params(one, params)
    # x is recovered from y and z with one more digit lost, and RMSprop divides by small roots.
    rtol = 2e-5 if dtype == "float32" else 1e-12
    for got, want in ((params, want_params), (state["z"], want_state["z"]), (averages, want_state["average"])):
        for leaf in oracles.SHAPES:
            np.testing.assert_allclose(got[leaf], want[leaf], rtol=rtol, atol=rtol)
    np.testing.assert_array_equal(state["step_count"], np.arange(2, oracles.STEPS + 2))


def test_normuon_with_decay_at_z_of_some_leaves():
    """SF-NorMuon: NorMuon's steps at y, and decay of the fast points alone."""
    rate, decay, b1 = 0.05, 0.5, 0.9
    base = gdjax.normuon(rate, nesterov=False)
    tx = gdjax.schedule_free(base, rate, b1, weight_decay=decay, weight_decay_mask={"w": True, "b": False})
    y = {"w": jnp.cos(jnp.arange(20.0)).reshape(5, 4), "b": jnp.ones(4)}
    state, inner, x, z, by_hand = tx.init(y), base.init(y), y, y, y
    for t in range(1, 5):
        g = jax.tree.map(lambda p: jnp.sin(3 * p), y)
        u, state = tx.update(g, state, y)
        y = gdjax.apply_updates(y, u)
        u, inner = base.update(g, inner, by_hand)
        z = {k: z[k] + u[k] - rate * (decay if k == "w" else 0) * z[k] for k in z}
        x = {k: (1 - 1 / t) * x[k] + z[k] / t for k in z}
        by_hand = {k: (1 - b1) * z[k] + b1 * x[k] for k in z}
        assert_close(y, by_hand, 1e-5)
    assert_close(gdjax.eval_params(tx, state, y), x, 1e-5)


def test_it_wraps_any_transform_and_is_found_inside_a_chain():
    tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.schedule_free(gdjax.lion(0.01), 0.01, b1=0.8))
    params, state = steps(tx, PARAMS, [random_tree(seed) for seed in (1, 2)])
    inner = state[1]
    wanted = jax.tree.map(lambda y, z: (y - 0.2 * z) / 0.8, params, inner.z)
    assert_close(gdjax.schedule_free_eval_params(state, params), wanted, 1e-6, 1e-6)
    assert_equal(
        jax.jit(gdjax.schedule_free_eval_params)(inner, params), gdjax.schedule_free_eval_params(state, params)
    )


def test_before_the_first_step_the_average_is_the_start():
    tx = gdjax.schedule_free_sgd(0.1)
    assert_close(gdjax.schedule_free_eval_params(tx.init(PARAMS), PARAMS), PARAMS)
    first, state = steps(tx, PARAMS, [random_tree(1)])
    assert_close(gdjax.schedule_free_eval_params(state, first), state.z)  # c_1 = 1


@pytest.mark.parametrize("make", [gdjax.schedule_free_sgd, gdjax.schedule_free_adamw])
def test_a_warmup_of_a_share_of_the_steps(make: Any):
    got = [steps(make(0.1, warmup_steps=n), PARAMS, [PARAMS] * 5) for n in (4, 0.1 * 0.2 * 200, np.int64(4))]
    assert_equal(got[1], got[0])
    assert_equal(got[2], got[0])


def test_a_rate_of_zero_moves_nothing():
    tx = gdjax.schedule_free_sgd(0.1, warmup_steps=4)
    updates, state = tx.update(random_tree(1), tx.init(PARAMS), PARAMS)
    assert_equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    assert finite(state) and float(state.weight_sum) == 0
    assert finite(steps(gdjax.schedule_free_adamw(0.0), PARAMS, [PARAMS] * 3))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("state_dtype", [None, "float32"])
def test_dtypes(dtype: str, state_dtype: Any):
    with precision(dtype):
        params, g = random_tree(0, dtype), random_tree(1, dtype)
        tx = gdjax.schedule_free_adamw(0.1, weight_decay=0.01, state_dtype=state_dtype)
        state = tx.init(params)
        assert {x.dtype.name for x in jax.tree.leaves(state.z)} == {
            dtype if dtype == "complex64" else state_dtype or dtype
        }
        numbers = {x.dtype.name for x in (state.b1, state.weight_sum, state.max_lr)}
        assert numbers == {"float64" if dtype == "float64" else "float32"}
        updates, new = tx.update(g, state, params)
        assert signature(new) == signature(state)
        assert {x.dtype.name for x in jax.tree.leaves(updates)} == {dtype}
        average = gdjax.schedule_free_eval_params(new, gdjax.apply_updates(params, updates))
        assert {x.dtype.name for x in jax.tree.leaves(average)} == {dtype}
        assert finite(average)


def test_the_weights_do_not_stall_in_16_bits():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    tx = gdjax.schedule_free_sgd(1.0)
    state = tx.init(params)
    step = jax.jit(lambda state: tx.update({"w": jnp.zeros(2, jnp.bfloat16)}, state, params)[1])
    for _ in range(300):
        state = step(state)
    assert float(state.weight_sum) == 300  # a sum in bfloat16 stays at 256


def test_integers_take_no_part():
    params = {"w": jnp.ones(2), "n": jnp.arange(2)}
    g = {"w": jnp.ones(2), "n": np.zeros(2, jax.dtypes.float0)}
    tx = gdjax.schedule_free_sgd(0.1)
    updates, state = tx.update(g, tx.init(params), params)
    params = gdjax.apply_updates(params, updates)
    assert_equal(gdjax.schedule_free_eval_params(state, params)["n"], jnp.arange(2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gdjax.schedule_free_sgd(0.1, b1=0.0), ValueError, r"gdjax.schedule_free: b1 must be in \(0, 1\)"),
        (lambda: gdjax.schedule_free_sgd(0.1, b1=1.0), ValueError, r"b1 must be in \[0, 1\)"),
        (
            lambda: gdjax.schedule_free(gdjax.sgd(0.1), 0.1, b1=lambda t: t),
            TypeError,
            "b1 must be a number or a scalar",
        ),
        (lambda: gdjax.schedule_free_sgd(warm, warmup_steps=5), TypeError, "learning_rate is a schedule already"),
        (
            lambda: gdjax.schedule_free_adamw(0.1, warmup_steps=-1),
            ValueError,
            "warmup_steps must not be negative, got -1",
        ),
        (lambda: gdjax.schedule_free(None, 0.1), TypeError, "argument 0 is None, which has no init and update"),
        (
            lambda: gdjax.schedule_free_eval_params(gdjax.EmptyState(), PARAMS),
            ValueError,
            "gdjax.schedule_free_eval_params: state is EmptyState",
        ),
        (
            lambda: gdjax.schedule_free_sgd(0.1).update(PARAMS, gdjax.schedule_free_sgd(0.1).init(PARAMS)),
            ValueError,
            "this transform needs params",
        ),
    ],
)
def test_errors(call: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        call()
