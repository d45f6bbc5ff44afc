"""Aggregation of the gradients of single examples, against NumPy's mean and variance and against Optax."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.experimental import aggregating
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, finite, random_tree, signature

PARAMS = random_tree(0)
BATCHES = [random_tree(seed, lead=(5,)) for seed in range(1, 7)]
THEIRS = optax.experimental.aggregating


def over(f: Any, *trees: Any) -> Any:
    """`f` of the examples of all the trees, leaf by leaf, in float64."""
    return jax.tree.map(lambda *xs: f(np.concatenate([np.asarray(x, np.float64) for x in xs])), *trees)


def run(tx: Any, batches: Any = BATCHES, params: Any = PARAMS) -> Any:
    state, out = tx.init(params), []
    update = jax.jit(tx.update)
    for g in batches:
        updates, state = update(g, state, params)
        out.append((updates, state))
    return zip(*out, strict=True)


def average(x: Any) -> Any:
    return x.mean(0)


def variance(x: Any) -> Any:
    return x.var(0, ddof=1)


def test_the_public_names_are_those_of_optax():
    theirs = {n for n in dir(THEIRS) if n[0] != "_" and getattr(THEIRS, n).__class__.__name__ != "module"}
    theirs -= {"Any", "NamedTuple", "Protocol", "Sequence"}
    assert set(aggregating.__all__) == theirs


@pytest.mark.parametrize("steps", [1, 2])
def test_averages_over_examples_and_calls(steps: int):
    tx = aggregating.process(gdjax.identity(), aggregating.average_incrementally_updates(0, steps), gdjax.sgd(1.0, 0.5))
    assert isinstance(tx, aggregating.Aggregator)
    updates, states = run(tx)
    v = jax.tree.map(np.zeros_like, PARAMS)
    for n in range(len(BATCHES)):
        if n % steps == steps - 1:
            v = jax.tree.map(lambda v, m: 0.5 * v + m, v, over(average, *BATCHES[n + 1 - steps : n + 1]))
            assert_close(updates[n], jax.tree.map(np.negative, v))
        else:
            assert_equal(updates[n], jax.tree.map(jnp.zeros_like, PARAMS))
            assert_equal(states[n][2], tx.init(PARAMS)[2] if n == 0 else states[n - 1][2])
        assert signature(states[n]) == signature(tx.init(PARAMS))


def test_averages_of_averages_are_no_aggregator():
    tx = aggregating.process(gdjax.identity(), aggregating.average_incrementally_updates(None, 2), gdjax.sgd(1.0))
    assert not isinstance(tx, aggregating.Aggregator)
    batches = [random_tree(seed) for seed in (1, 2)]
    updates, _ = run(tx, batches)
    assert_close(updates[1], jax.tree.map(lambda x, y: -(x + y) / 2, *batches))
    assert aggregating.average_incrementally_updates(None, 1).init(PARAMS) == gdjax.EmptyState()


def test_several_axes():
    g = jax.tree.map(lambda x: x.reshape(1, 5, *x.shape[1:]), BATCHES[0])
    assert aggregating.get_batch_size_from_per_elt_updates(g, (0, 1)) == 5
    u, _ = aggregating.average_per_element_updates([0, 1]).update(g, gdjax.EmptyState())
    assert_close(u, over(average, BATCHES[0]))


@pytest.mark.parametrize("steps", [1, 3])
def test_mean_and_squared_differences(steps: int):
    tx = aggregating.get_per_element_mean_and_sum_sq_diff_grads(0, steps)
    out, states = run(tx)
    for n in range(len(BATCHES)):
        mean, aux = out[n]
        if n % steps < steps - 1:
            assert_equal(mean, jax.tree.map(jnp.zeros_like, PARAMS))
            continue
        window = BATCHES[n + 1 - steps : n + 1]
        assert_close(mean, over(average, *window))
        assert_close(aux["sum_sq_diff_grads"], over(lambda x: ((x - x.mean(0)) ** 2).sum(0), *window), 1e-5, 1e-5)
        assert int(aux["sample_size"]) == 5 * steps
    assert all(signature(s) == signature(tx.init(PARAMS)) for s in states)


@pytest.mark.parametrize("steps", [1, 2])
def test_mean_and_variance_are_tracked(steps: int):
    decay = 0.75
    tx = aggregating.add_mean_variance_to_opt(gdjax.sgd(0.1), decay, 0, steps)
    before = aggregating.get_unbiased_mean_and_variance_ema(tx.init(PARAMS))
    assert finite(before)
    _, states = run(tx)
    mean = var = jax.tree.map(np.zeros_like, PARAMS)
    for t in range(1, len(BATCHES) // steps + 1):
        window = BATCHES[(t - 1) * steps : t * steps]
        mean, var = (
            jax.tree.map(lambda a, x: decay * a + (1 - decay) * x, old, over(f, *window))
            for old, f in ((mean, average), (var, variance))
        )
        got = aggregating.get_unbiased_mean_and_variance_ema(states[t * steps - 1])
        wanted = [jax.tree.map(lambda x, t=t: x / (1 - decay**t), x) for x in (mean, var)]
        assert_close(got, tuple(wanted), 1e-5, 1e-5)


@pytest.mark.parametrize("steps", [1, 2])
def test_follows_optax_and_continues_its_state(steps: int):
    ours, theirs = (
        lib.add_mean_variance_to_opt(opt, 0.9, 0, steps)
        for lib, opt in ((aggregating, gdjax.sgd(0.1, 0.9)), (THEIRS, optax.sgd(0.1, 0.9)))
    )
    updates, states = run(ours)
    with relaxed():
        want, want_states = run(theirs)
    for n in range(len(BATCHES)):
        for x, y in zip(*map(jax.tree.leaves, ((updates[n], states[n]), (want[n], want_states[n]))), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    got, _ = jax.jit(ours.update)(BATCHES[3], want_states[2], PARAMS)
    assert_close(got, want[3], 1e-5, 1e-5)


def test_one_example_has_no_variance():
    tx = aggregating.add_mean_variance_to_opt(gdjax.sgd(0.1))
    _, states = run(tx, [random_tree(1, lead=(1,))])
    assert_equal(aggregating.get_unbiased_mean_and_variance_ema(states[0])[1], jax.tree.map(jnp.zeros_like, PARAMS))


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64"])
def test_other_dtypes(dtype: str):
    params, batches = random_tree(0, dtype), [random_tree(seed, dtype, lead=(4,)) for seed in (1, 2)]
    tx = aggregating.add_mean_variance_to_opt(gdjax.sgd(0.1), accumulation_steps=2)
    updates, states = run(tx, batches, params)
    assert {x.dtype.name for x in jax.tree.leaves(updates[1])} == {dtype}
    assert signature(states[1]) == signature(tx.init(params))
    var = aggregating.get_unbiased_mean_and_variance_ema(states[1])[1]
    examples = [np.concatenate([np.asarray(b["scale"]).astype("complex128") for b in batches])]
    np.testing.assert_allclose(var["scale"], examples[0].var(ddof=1), rtol=1e-2 if dtype == "bfloat16" else 1e-5)


def test_aggregators_are_values():
    for make in (
        lambda: aggregating.average_per_element_updates(),
        lambda: aggregating.add_mean_variance_to_opt(gdjax.adam(0.1)),
        lambda: aggregating.average_incrementally_updates(0, 3),
    ):
        tx = make()
        again = pickle.loads(pickle.dumps(tx))
        assert tx == make() == again and hash(tx) == hash(again) and type(again) is aggregating.Aggregator


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: aggregating.accumulate_avg_updates(0), ValueError, "accumulation_steps must be at least 1, got 0"),
        (
            lambda: aggregating.get_batch_size_from_per_elt_updates({"a": jnp.ones((2, 1)), "b": jnp.ones(3)}, 0),
            ValueError,
            r"one number of examples along axis 0, got \{\"updates\['a'\]\": 2, \"updates\['b'\]\": 3\}",
        ),
        (
            lambda: aggregating.get_unbiased_mean_and_variance_ema(gdjax.EmptyState()),
            ValueError,
            "no PerElementMeanAndVarianceEMAState",
        ),
        (
            lambda: aggregating.process(gdjax.identity(), 3, gdjax.identity()),
            TypeError,
            "gdjax.process: argument 1 is 3",
        ),
    ],
)
def test_errors(call: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        call()
