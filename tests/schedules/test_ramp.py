"""A batch that grows in stages: which batch a step has, its rate and b2, and the run of an optimizer with them."""

import math
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import assert_close

STAGES = {0: 10, 95: 30, 200: 40}
untyped: Any = gdjax.batch_ramp


def walked(stages: dict[int, int], steps: int) -> list[tuple[int, int]]:
    """Batch of each step, and what was seen before it, one step after the other."""
    found, seen = [], 0
    for _ in range(steps):
        size = stages[max(place for place in stages if place <= seen)]
        found.append((size, seen))
        seen += size
    return found


def test_a_stage_begins_with_the_first_step_that_has_seen_as_many():
    ramp = gdjax.batch_ramp(STAGES)
    assert [(ramp.size(n), ramp.seen(n)) for n in range(30)] == walked(STAGES, 30)
    assert ramp.starts == (0, 10, 14) and all(type(x) is int for x in (*ramp.starts, ramp.seen(20), ramp.size(20)))
    long = gdjax.batch_ramp({0: 2**22, 10**12: 2**23})  # tokens; float32 would lose some
    n = -(-(10**12) // 2**22)
    assert long.starts[1] == n and long.seen(n + 1) == n * 2**22 + 2**23 and long.size(n - 1) == 2**22


def test_by_steps():
    ramp = untyped({3: 30, 0: 10, 1e1: 40}, by="steps")
    assert [ramp.size(n) for n in (0, 2, 3, 9, 10, 99)] == [10, 10, 30, 30, 40, 40]
    assert ramp.seen(12) == 3 * 10 + 7 * 30 + 2 * 40


def test_the_rate_follows_the_examples_and_the_root_of_the_batch():
    ramp, schedule = gdjax.batch_ramp(STAGES), gdjax.cosine_decay_schedule(0.1, 40)
    rate, constant = ramp.rate(schedule), ramp.rate(0.1)
    for n, (size, seen) in enumerate(walked(STAGES, 30)):
        wanted = 0.05 * (1 + math.cos(math.pi * min(seen / 10 / 40, 1))) * math.sqrt(size / 10)
        np.testing.assert_allclose(rate(n), wanted, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(constant(n), 0.1 * math.sqrt(size / 10), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(rate))(jnp.arange(10)), schedule(jnp.arange(10)), rtol=2e-7)
    np.testing.assert_allclose(jax.jit(rate)(jnp.arange(30)), [rate(n) for n in range(30)], rtol=1e-6)


def test_b2_keeps_its_half_life_in_examples():
    ramp = gdjax.batch_ramp(STAGES)
    b2 = ramp.b2(0.95)
    for n, (size, _) in enumerate(walked(STAGES, 30)):
        np.testing.assert_allclose(1 - b2(n), 1 - 0.95 ** (size / 10), rtol=1e-5)
        assert float(b2(n)) ** (1 / size) == pytest.approx(0.95 ** (1 / 10), rel=1e-6)


@pytest.mark.parametrize("how", ["MultiSteps", "accumulate"])
def test_micro_batches_make_the_steps_of_the_ramp(how: str):
    """A run by hand, with the batches of the ramp, and one of micro-batches of 5."""
    ramp = gdjax.batch_ramp({0: 5, 15: 10, 35: 20})
    xs, steps = jax.random.normal(jax.random.key(0), (ramp.seen(8), 3)), 8
    inner = gdjax.adamw(ramp.rate(gdjax.linear_schedule(0.1, 0.0, 30)), b2=ramp.b2(0.9))

    def gradient(p: Any, x: Any) -> Any:
        return jax.grad(lambda p: jnp.mean(jnp.sum((p - x) ** 2, axis=1)))(p)

    with jax.numpy_rank_promotion("allow"):
        p, state = jnp.ones(3), inner.init(jnp.ones(3))
        for n in range(steps):
            size = ramp.size(n)
            by_hand = gdjax.adamw(float(ramp.rate(gdjax.linear_schedule(0.1, 0.0, 30))(n)), b2=0.9 ** (size / 5))
            u, state = by_hand.update(gradient(p, xs[ramp.seen(n) : ramp.seen(n + 1)]), state, p)
            p = p + u

        tx: Any = gdjax.MultiSteps(inner, ramp.every(5)) if how == "MultiSteps" else gdjax.accumulate(inner, 4)
        q, state, calls = jnp.ones(3), tx.init(jnp.ones(3)), 0
        for n in range(steps):
            for i in range(ramp.size(n) // 5):
                told = {} if how == "MultiSteps" else {"last": i == ramp.size(n) // 5 - 1}
                u, state = tx.update(gradient(q, xs[5 * calls : 5 * calls + 5]), state, q, **told)
                q, calls = q + u, calls + 1
    assert calls * 5 == ramp.seen(steps)
    assert_close(q, p, 1e-5, 1e-6)


def test_ramps_are_values():
    one, two = (gdjax.batch_ramp(STAGES) for _ in range(2))
    rate = gdjax.cosine_decay_schedule(0.1, 40)
    assert one == two and hash(one) == hash(two) and one.rate(rate) == two.rate(rate) and one.b2(0.9) == two.b2(0.9)
    tx = gdjax.adam(one.rate(rate), b2=one.b2(0.9))
    assert pickle.loads(pickle.dumps(tx)) == tx == gdjax.adam(two.rate(rate), b2=two.b2(0.9))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: gdjax.batch_ramp({}), "first stage must begin at 0"),
        (lambda: gdjax.batch_ramp({5: 10}), r"first stage must begin at 0, got \{5: 10\}"),
        (lambda: gdjax.batch_ramp({0: 0}), "the batch from 0 on must be at least 1, got 0"),
        (lambda: untyped({0: 2.5}), "the batch from 0 on must be an int, got 2.5"),
        (lambda: gdjax.batch_ramp({-1: 3}), "place of a stage must not be negative, got -1"),
        (lambda: gdjax.batch_ramp({0: 10, 5: 100, 8: 200}), "batch of 100 has no step: the stage before it passes 8"),
        (lambda: untyped({0: 10}, by="tokens"), "by must be 'seen' or 'steps', got 'tokens'"),
        (lambda: gdjax.batch_ramp(STAGES).every(4), "micro-batches of 4 do not divide the batch of 10"),
        (lambda: gdjax.batch_ramp(STAGES).b2(1.5), r"b2 must be in \[0, 1\], got 1.5"),
        (lambda: untyped(STAGES).rate("0.1"), "learning_rate must be a real number, got '0.1'"),
        (lambda: untyped(STAGES).rate(lambda: 0.1), "learning_rate: a schedule is called with the count"),
    ],
)
def test_errors_name_the_stage(call: Any, told: str):
    with pytest.raises((TypeError, ValueError), match=told):
        call()
