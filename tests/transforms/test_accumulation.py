"""MultiSteps and apply_every: against plain sums, with skipped and broken gradients, and what a step costs."""

import functools
import pickle
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, finite, precision, random_tree, signature, steps

PARAMS = random_tree(0)
GRADIENTS = [random_tree(seed) for seed in range(1, 10)]
NAN = jax.tree.map(lambda x: x.at[..., -1].set(jnp.nan) if x.ndim else x, GRADIENTS[0])
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def mean(trees: Any) -> Any:
    """The mean, in NumPy and float64."""
    return jax.tree.map(lambda *xs: np.mean([np.asarray(x, np.float64) for x in xs], 0), *trees)


def run(tx: Any, gradients: Any, params: Any = PARAMS) -> Any:
    """The updates and the states of every call."""
    state, out = tx.init(params), []
    update = jax.jit(tx.update)
    for g in gradients:
        updates, state = update(g, state, params)
        out.append((updates, state))
    return zip(*out, strict=True)


@pytest.mark.parametrize("use_grad_mean", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_updates_with_the_mean_of_every_window(use_grad_mean: bool, dtype: str):
    with precision(dtype):
        params, gradients = random_tree(0, dtype), [random_tree(seed, dtype) for seed in range(1, 8)]
        updates, states = run(gdjax.MultiSteps(gdjax.sgd(0.5), 3, use_grad_mean), gradients, params)
    eps = 4 * float(jnp.finfo(dtype).eps)
    for n in range(7):
        window = gradients[n // 3 * 3 : n + 1]
        factor = 1 if use_grad_mean else len(window)
        accumulated = jax.tree.map(lambda x, f=factor: f * x, mean(window))
        emitted = n % 3 == 2
        held = jax.tree.map(lambda x, e=emitted: 0 * x if e else x, accumulated)
        wanted = jax.tree.map(lambda x, e=emitted: -0.5 * x if e else 0 * x, accumulated)
        assert_close(updates[n], wanted, eps, eps)
        assert_close(states[n].acc_grads, held, eps, eps)
        assert (int(states[n].mini_step), int(states[n].gradient_step)) == ((n + 1) % 3, (n + 1) // 3)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    jax.clear_caches()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, default, **k: k.get("cuda", default)(*args))
    yield
    jax.clear_caches()


@pytest.mark.full
@pytest.mark.optimized
def test_on_a_gpu_it_selects_and_does_not_branch(as_on_a_gpu: None):
    tx = gdjax.MultiSteps(gdjax.adam(0.5), 2)
    text = jax.jit(tx.update).lower(PARAMS, tx.init(PARAMS), PARAMS).compile().as_text()
    assert " conditional(" not in text
    # What may be dear is computed only where it is needed.
    tx = gdjax.MultiSteps(gdjax.chain(gdjax.muon(0.5), gdjax.scale(0.1)), 2)
    assert " conditional(" in jax.jit(tx.update).lower(PARAMS, tx.init(PARAMS), PARAMS).compile().as_text()
    tx = gdjax.MultiSteps(gdjax.adam(0.5), 2, should_skip_update_fn=gdjax.skip_not_finite)
    updates, states = run(tx, [GRADIENTS[0], NAN, *GRADIENTS[1:4]])
    wanted, inner = run(gdjax.adam(0.5), [mean(GRADIENTS[:2]), mean(GRADIENTS[2:4])])
    for n, done in enumerate([0, 0, 1, 1, 2]):  # with how many updates each call ends
        assert_close(updates[n], wanted[done - 1] if n in (2, 4) else ZEROS)
        assert_close(states[n].inner_opt_state, inner[done - 1] if done else tx.init(PARAMS).inner_opt_state)
        assert_close(states[n].acc_grads, GRADIENTS[2] if n == 3 else ZEROS if n in (2, 4) else GRADIENTS[0])


def test_k_may_follow_a_schedule_and_is_rounded():
    updates, states = run(gdjax.MultiSteps(gdjax.sgd(1.0), lambda step: 0.9 + step.astype(jnp.float32)), GRADIENTS[:6])
    assert [int(s.gradient_step) for s in states] == [1, 1, 2, 2, 2, 3]
    assert_close(updates[5], jax.tree.map(lambda x: -x, mean(GRADIENTS[3:6])))
    # A window that is longer than k by now, as after a change of k, ends with the next gradient.
    tx = gdjax.MultiSteps(gdjax.sgd(1.0), 2)
    late = tx.init(PARAMS)._replace(mini_step=jnp.int32(5))
    assert int(tx.update(GRADIENTS[0], late, PARAMS)[1].gradient_step) == 1


def test_a_k_of_one_changes_nothing():
    tx = gdjax.adam(0.1)
    assert_equal(steps(gdjax.MultiSteps(tx, 1), PARAMS, GRADIENTS[:3])[0], steps(tx, PARAMS, GRADIENTS[:3])[0])


@pytest.mark.full
def test_16_bit_gradients_are_accumulated_in_float32():
    params, gradients = random_tree(0, "bfloat16"), [random_tree(seed, "bfloat16") for seed in range(1, 258)]
    tx = gdjax.MultiSteps(gdjax.sgd(1.0), 256)

    def step(state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return state, updates

    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients)
    state, updates = jax.lax.scan(step, tx.init(params), stacked)
    assert {x.dtype.name for x in jax.tree.leaves(state.acc_grads)} == {"float32"}
    wanted = mean(gradients[:256])
    for u, w in zip(*map(jax.tree.leaves, (updates, wanted)), strict=True):
        assert u.dtype == "bfloat16"
        np.testing.assert_allclose(np.asarray(u[255], np.float64), -w, rtol=2.0**-8)  # rounded once
        assert not np.any(np.asarray(u[:255], np.float64))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", None])
def test_the_dtype_of_the_accumulator(dtype: Any):
    tx = gdjax.MultiSteps(gdjax.sgd(1.0), 2, accumulator_dtype=dtype)
    updates, states = run(tx, GRADIENTS[:2])
    assert {x.dtype.name for x in jax.tree.leaves(states[0].acc_grads)} == {dtype or "float32"}
    assert_close(updates[1], jax.tree.map(lambda x: -x, mean(GRADIENTS[:2])), 0, 2.0**-6 if dtype else 1e-6)
    assert signature(states[1]) == signature(tx.init(PARAMS))


def test_one_nan_spoils_one_window():
    gradients = [GRADIENTS[0], NAN, *GRADIENTS[2:6]]
    updates, states = run(gdjax.MultiSteps(gdjax.sgd(1.0), 3), gradients)
    assert_equal(updates[0], ZEROS)
    assert_equal(updates[1], ZEROS)
    assert not finite(updates[2]) and finite(states[2])
    assert_close(updates[5], jax.tree.map(lambda x: -x, mean(GRADIENTS[3:6])))


@pytest.mark.parametrize("limit", ["not_finite", "large"])
def test_skipped_gradients_do_not_count(limit: str):
    large = jax.tree.map(lambda x: 1e3 * x, GRADIENTS[0])
    skip = gdjax.skip_not_finite
    if limit == "large":
        skip = functools.partial(gdjax.skip_large_updates, max_squared_norm=1e3)
    bad = NAN if limit == "not_finite" else large
    tx = gdjax.MultiSteps(gdjax.adam(0.1), 2, should_skip_update_fn=skip)
    updates, states = run(tx, [GRADIENTS[0], bad, GRADIENTS[1], bad])
    _, kept = run(tx, GRADIENTS[:2])
    assert [bool(s.skip_state["should_skip"]) for s in states] == [False, True, False, True]
    for now, before in ((1, 0), (3, 2)):
        assert_equal(states[now]._replace(skip_state=()), states[before]._replace(skip_state=()))
        assert_equal(updates[now], ZEROS)
    assert_equal(states[2]._replace(skip_state=()), kept[1]._replace(skip_state=()))
    assert all(signature(s) == signature(tx.init(PARAMS)) for s in states)


def test_counters_stay_at_the_largest_integer():
    tx = gdjax.MultiSteps(gdjax.sgd(1.0), 1)
    top = jnp.int32(2**31 - 1)
    _, state = tx.update(GRADIENTS[0], tx.init(PARAMS)._replace(gradient_step=top), PARAMS)
    assert int(state.gradient_step) == 2**31 - 1


def test_it_is_a_value_and_composes():
    tx = gdjax.MultiSteps(gdjax.sgd(1.0), 2)
    assert tx == gdjax.MultiSteps(gdjax.sgd(1.0), 2) != gdjax.MultiSteps(gdjax.sgd(1.0), 3)
    assert hash(tx) == hash(pickle.loads(pickle.dumps(tx))) and pickle.loads(pickle.dumps(tx)) == tx
    assert repr(tx).startswith("MultiSteps(opt=sgd(learning_rate=1.0")
    assert tx.inner_opt == gdjax.sgd(1.0)
    assert tx.gradient_transformation().update == tx.update
    params, state = steps(gdjax.chain(tx, gdjax.scale(2.0)), PARAMS, GRADIENTS[:2])
    assert_close(params, jax.tree.map(lambda p, m: p - 2 * m, PARAMS, mean(GRADIENTS[:2])))
    assert bool(tx.has_updated(state[0]))
    _, states = run(tx, GRADIENTS[:3])
    assert [bool(tx.has_updated(s)) for s in (tx.init(PARAMS), *states)] == [False, False, True, False]


def test_an_inner_transform_of_optax():
    with relaxed():
        tx = gdjax.MultiSteps(optax.adam(0.1), 2)
        got, state = steps(tx, PARAMS, GRADIENTS[:4])
    want = steps(gdjax.MultiSteps(gdjax.adam(0.1), 2), PARAMS, GRADIENTS[:4])[0]
    assert_close(got, want, 1e-5, 1e-5)
    assert signature(state) == signature(tx.init(PARAMS))


def test_integers_take_no_part():
    params = {"w": jnp.ones(3), "n": jnp.arange(2)}
    g = {"w": jnp.ones(3), "n": np.zeros(2, jax.dtypes.float0)}
    tx = gdjax.MultiSteps(gdjax.sgd(1.0), 2)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(g, state, params)
    assert updates["n"].dtype == jax.dtypes.float0
    np.testing.assert_array_equal(updates["w"], -np.ones(3))


def test_a_call_that_accumulates_leaves_the_inner_update_out():
    calls = []

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return updates, state

    inner = gdjax.GradientTransformation(lambda params: gdjax.EmptyState(), update)
    run(gdjax.MultiSteps(inner, 3), GRADIENTS[:7])
    jax.effects_barrier()
    assert len(calls) == 2


def temporaries(tx: Any) -> float:
    """The temporary bytes of a donated step over those of the parameters."""
    tree = {f"w{i}": jax.ShapeDtypeStruct((256, 256), jnp.float32) for i in range(4)}

    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return gdjax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(tree, jax.eval_shape(tx.init, tree), tree).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * 4 * 256**2)


@pytest.mark.full
@pytest.mark.optimized
@pytest.mark.parametrize(
    "skip",
    [None, functools.partial(gdjax.skip_large_updates, max_squared_norm=1.0)],
    ids=["none", "skip_large_updates"],
)
@pytest.mark.xfail(jax.__version_info__ < (0, 6), reason="this XLA copies what a loop reads", strict=True)
def test_a_donated_step_keeps_no_copy_of_the_parameters(skip: Any):
    inner = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(1e-3))
    assert temporaries(gdjax.MultiSteps(inner, 4, should_skip_update_fn=skip)) <= 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_apply_every_adds_up(dtype: str):
    params, gradients = random_tree(0, dtype), [random_tree(seed, dtype) for seed in range(1, 8)]
    updates, states = run(gdjax.apply_every(3), gradients, params)
    rtol = 2.0**-8 if dtype == "bfloat16" else 1e-6
    for n in range(7):
        total = jax.tree.map(lambda x, k=n % 3 + 1: k * x, mean(gradients[n // 3 * 3 : n + 1]))
        assert_close(states[n].grad_acc, total, 1e-6, 1e-6)
        assert_close(updates[n], jax.tree.map(lambda x, n=n: x * (n % 3 == 2), total), rtol, rtol)
        assert int(states[n].count) == (n + 1) % 3


def test_apply_every_forgets_a_nan():
    updates, _ = run(gdjax.apply_every(2), [NAN, *GRADIENTS[1:4]])
    assert_equal(updates[0], ZEROS)
    assert finite(updates[2]) and finite(updates[3])


def other_shape(g: Any, params: Any = PARAMS) -> Any:
    tx = gdjax.MultiSteps(gdjax.sgd(1.0), 2)
    return tx.update(g, tx.init(params), params)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gdjax.MultiSteps(gdjax.sgd(1.0), 0), ValueError, "every_k_schedule must be at least 1, got 0"),
        (lambda: gdjax.MultiSteps(gdjax.sgd(1.0), 1.5), TypeError, "every_k_schedule must be an int, got 1.5"),
        (lambda: gdjax.MultiSteps(3, 2), TypeError, "argument 0 is 3, which has no init and update"),
        (lambda: gdjax.MultiSteps(gdjax.sgd(1.0), 2, dtype=1), TypeError, ".*dtype"),
        (
            lambda: other_shape({**PARAMS, "scale": jnp.ones(2)}),
            ValueError,
            r"params\['scale'\]: gradient shape \(2,\) does not match parameter shape \(\)",
        ),
        (lambda: other_shape({"dense": PARAMS["dense"]}), ValueError, r"params\['scale'\] has no counterpart"),
        (
            lambda: steps(
                gdjax.MultiSteps(gdjax.sgd(1.0), 2, should_skip_update_fn=lambda *_: (jnp.ones(2), ())),
                PARAMS,
                [PARAMS],
            ),
            TypeError,
            "should_skip_update_fn must return a boolean scalar first",
        ),
        (lambda: gdjax.apply_every(0), ValueError, "k must be at least 1, got 0"),
    ],
)
def test_errors(call: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        call()
