"""Schedules: exact values, parity with Optax, every kind of step and hyperparameter, long runs, errors, identity."""

import inspect
import math
import pickle
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdjax import schedules
from gdjax.schedules import (
    constant_schedule,
    cosine_decay_schedule,
    exponential_decay,
    join_schedules,
    linear_schedule,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
    polynomial_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
)
from tests.support import relaxed

ULP = 2.0**-23  # of float32, relative
LAST = 2**31 - 1


class Case(NamedTuple):
    """A call of a factory, values it must give bit for bit, and values it must give to 4 ulp."""

    factory: str
    kwargs: dict[str, Any]
    exact: dict[int, float]
    near: dict[int, float] = {}

    def make(self, module: Any = schedules) -> Any:
        return getattr(module, self.factory)(**self.kwargs)


def half_cosine(x: float) -> float:
    """(1 + cos(pi x)) / 2, without its cancellation."""
    return math.sin(math.pi / 2 * (1 - x)) ** 2


CASES = {
    "constant": Case("constant_schedule", {"value": 0.3}, {t: 0.3 for t in (-1, 0, 1, 10**9)}),
    "linear": Case(
        "linear_schedule",
        {"init_value": 1.0, "end_value": 0.1, "transition_steps": 100},
        {-7: 1.0, 0: 1.0, 100: 0.1, 101: 0.1, 10**9: 0.1, LAST: 0.1},
        {1: 0.991, 49: 0.559, 50: 0.55, 51: 0.541, 99: 0.109},
    ),
    "linear_later": Case(
        "linear_schedule",
        {"init_value": 1e-9, "end_value": 3.0, "transition_steps": 7, "transition_begin": 5},
        {-1: 1e-9, 0: 1e-9, 1: 1e-9, 4: 1e-9, 5: 1e-9, 12: 3.0, 13: 3.0, LAST: 3.0},
        {6: 1e-9 + 3 / 7, 11: 18 / 7},
    ),
    "polynomial": Case(
        "polynomial_schedule",
        {"init_value": 0.0, "end_value": 0.1, "power": 3, "transition_steps": 1000, "transition_begin": 10},
        {0: 0.0, 9: 0.0, 10: 0.0, 1010: 0.1, 1011: 0.1, LAST: 0.1},
        {11: 0.1 * 2.997001e-3, 510: 0.0875, 1009: 0.1 * (1 - 1e-9)},
    ),
    "polynomial_root": Case(
        "polynomial_schedule",
        {"init_value": 0.5, "end_value": 0.0, "power": 0.5, "transition_steps": 100},
        {0: 0.5, 100: 0.0, 101: 0.0},
        {1: 0.5 * math.sqrt(0.99), 75: 0.25, 99: 0.05},
    ),
    "exponential": Case(
        "exponential_decay",
        {"init_value": 1.0, "transition_steps": 10, "decay_rate": 0.9, "transition_begin": 3},
        {-1: 1.0, 0: 1.0, 2: 1.0, 3: 1.0, 13: 0.9},
        {4: 0.9**0.1, 12: 0.9**0.9, 14: 0.9**1.1, 1003: 0.9**100, 1004: 0.9**100.1},
    ),
    "exponential_stairs": Case(
        "exponential_decay",
        {"init_value": 1.0, "transition_steps": 10, "decay_rate": 0.5, "staircase": True, "end_value": 0.1},
        {0: 1.0, 1: 1.0, 9: 1.0, 10: 0.5, 11: 0.5, 19: 0.5, 20: 0.25, 39: 0.125, 40: 0.1, LAST: 0.1},
    ),
    "exponential_growth": Case(
        "exponential_decay",
        {"init_value": 1e-3, "transition_steps": 10, "decay_rate": 2.0, "end_value": 0.1},
        {0: 1e-3, 67: 0.1, 1000: 0.1, 10**5: 0.1, LAST: 0.1},
        {1: 1e-3 * 2**0.1, 10: 2e-3, 66: 1e-3 * 2**6.6},
    ),
    "cosine": Case(
        "cosine_decay_schedule",
        {"init_value": 0.3, "decay_steps": 1000},
        {-1: 0.3, 0: 0.3, 1000: 0.0, 1001: 0.0, LAST: 0.0},
        {t: 0.3 * half_cosine(t / 1000) for t in (1, 250, 499, 500, 501, 750, 990, 999)},
    ),
    "cosine_power": Case(
        "cosine_decay_schedule",
        {"init_value": 2.0, "decay_steps": 100, "alpha": 0.1, "exponent": 1.5},
        {0: 2.0, 100: 0.2, 101: 0.2},
        {t: 0.2 + 1.8 * half_cosine(t / 100) ** 1.5 for t in (1, 30, 50, 99)},
    ),
    "warmup_constant": Case(
        "warmup_constant_schedule",
        {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 10},
        {-1: 0.0, 0: 0.0, 10: 0.1, 11: 0.1, LAST: 0.1},
        {1: 0.01, 9: 0.09},
    ),
    "warmup_cosine": Case(
        "warmup_cosine_decay_schedule",
        {"init_value": 1e-5, "peak_value": 3e-4, "warmup_steps": 10, "decay_steps": 110, "end_value": 3e-5},
        {-1: 1e-5, 0: 1e-5, 10: 3e-4, 110: 3e-5, 111: 3e-5, LAST: 3e-5},
        {1: 3.9e-5, 9: 2.71e-4} | {t: 3e-5 + 2.7e-4 * half_cosine((t - 10) / 100) for t in (11, 60, 109)},
    ),
    "warmup_exponential": Case(
        "warmup_exponential_decay_schedule",
        {
            **{"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10, "transition_steps": 20},
            **{"decay_rate": 0.5, "transition_begin": 5, "end_value": 0.2},
        },
        {0: 0.0, 10: 1.0, 11: 1.0, 15: 1.0, 35: 0.5, 55: 0.25, 62: 0.2, LAST: 0.2},
        {1: 0.1, 9: 0.9, 16: 0.5**0.05, 34: 0.5**0.95, 36: 0.5**1.05},
    ),
    "piecewise_constant": Case(
        "piecewise_constant_schedule",
        {"init_value": 1.0, "boundaries_and_scales": {200: 0.01, 100: 0.1, 300: 0.0}},
        {-1: 1, 0: 1, 1: 1, 99: 1, 100: 0.1, 101: 0.1, 199: 0.1, 200: 0.001, 299: 0.001, 300: 0.0, LAST: 0.0},
    ),
    "piecewise_linear": Case(
        "piecewise_interpolate_schedule",
        {"interpolate_type": "linear", "init_value": 1.0, "boundaries_and_scales": {8: 0.01, 4: 0.1}},
        {-1: 1.0, 0: 1.0, 4: 0.1, 8: 0.001, 9: 0.001, LAST: 0.001},
        {1: 0.775, 3: 0.325, 5: 0.07525, 7: 0.02575},
    ),
    "piecewise_cosine": Case(
        "piecewise_interpolate_schedule",
        {"interpolate_type": "cosine", "init_value": 0.1, "boundaries_and_scales": {10: 5.0, 30: 0.0}},
        {0: 0.1, 10: 0.5, 30: 0.0, 31: 0.0, LAST: 0.0},
        {1: 0.5 - 0.4 * half_cosine(0.1), 9: 0.5 - 0.4 * half_cosine(0.9), 11: 0.5 * half_cosine(0.05)},
    ),
}

JOINED = join_schedules(
    [linear_schedule(0.0, 1.0, 10), constant_schedule(0.7), cosine_decay_schedule(0.5, 5)], [10, 20]
)
ALL = [*(pytest.param(case.make(), id=name) for name, case in CASES.items()), pytest.param(JOINED, id="join")]
STEPS = np.array([0, 1, 2, 9, 10, 11, 50, 99, 100, 101, 110, 500, 999, 1000, 1001, 10**6, LAST], np.int32)


@pytest.fixture
def x64() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def of_float32(x: Any) -> None:
    assert x.dtype == jnp.float32 and not x.weak_type


def close(got: Any, want: Any, ulps: float) -> None:
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(want, np.float64), rtol=ulps * ULP, atol=0)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values(case):
    schedule = case.make()
    for compiled in (schedule, jax.jit(schedule)):
        for step, value in case.exact.items():
            assert compiled(step) == np.float32(value), (step, value)
        for step, value in case.near.items():
            close(compiled(step), value, 4)


def test_join_values():
    want = {-1: 0.0, 0: 0.0, 9: 0.9, 10: 0.7, 11: 0.7, 19: 0.7, 20: 0.5, 21: 0.5 * half_cosine(0.2), 25: 0.0, LAST: 0.0}
    for step, value in want.items():
        close(JOINED(step), value, 4)
    assert [float(JOINED(t)) for t in (0, 20, 25)] == [0.0, 0.5, 0.0]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_parity_with_optax(case):
    steps = np.arange(0, 1200, 7, dtype=np.int32)
    with relaxed():
        theirs = jax.vmap(case.make(optax))(steps)  # not compiled: then its polynomials miss their end value
    # Optax rounds relative to its largest value where it subtracts from that.
    np.testing.assert_allclose(case.make()(steps), theirs, rtol=1e-6, atol=4 * ULP * float(np.max(theirs)))


@pytest.mark.parametrize("name", [*{case.factory: 1 for case in CASES.values()}, "join_schedules"])
def test_signature_is_that_of_optax(name):
    def arguments(factory: Callable[..., Any]) -> list[tuple[str, Any]]:
        return [(p.name, p.default) for p in inspect.signature(factory).parameters.values()]

    assert arguments(getattr(schedules, name)) == arguments(getattr(optax, name))


def test_all_factories_are_compared():
    factories = {name for name, f in vars(schedules).items() if name.endswith(("_schedule", "_schedules", "_decay"))}
    assert {name for name in factories if name[0] != "_"} == {case.factory for case in CASES.values()} | {
        "join_schedules"
    }


@pytest.mark.parametrize("schedule", ALL)
def test_kinds_of_step(schedule):
    """The same strong float32 whatever the step is held in; jit, vmap, vectors and scalars agree."""
    kinds: list[Callable[[Any], Any]] = [np.int32, np.int64, np.uint32, np.asarray, jnp.int32, jnp.uint32]
    for step in (0, 10, 99, LAST):
        for kind in kinds + [np.uint8, np.int8, jnp.uint16] * (step < 128):
            out = schedule(kind(step))
            assert out.shape == () and out == schedule(step), (kind, step)
            of_float32(out)
    # A vector is computed by other instructions, and compiled products and sums are rounded once.
    want, compiled = np.stack([schedule(int(step)) for step in STEPS]), jax.jit(schedule)
    for got in (schedule(STEPS), compiled(STEPS), jax.vmap(schedule)(STEPS), [compiled(step) for step in STEPS]):
        np.testing.assert_allclose(got, want, rtol=4 * ULP, atol=0)
    for shape in ((2, 2, 4), (0,), (3, 0), (1,)):
        out = jax.eval_shape(schedule, jax.ShapeDtypeStruct(shape, jnp.int32))
        assert out.shape == shape
        of_float32(out)


@pytest.mark.parametrize("schedule", ALL)
def test_float_steps(schedule):
    for step in (0, 1, 9, 10, 55, 100, 1000, 10**6):
        np.testing.assert_allclose(schedule(float(step)), schedule(step), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(schedule(jnp.float32(step)), schedule(step), rtol=1e-6, atol=1e-8)
    of_float32(schedule(1.5))
    assert schedule(-3.5) == schedule(0)
    assert schedule(math.inf) == schedule(LAST)


def test_float_steps_between():
    assert linear_schedule(0.0, 1.0, 10)(2.5) == 0.25
    assert exponential_decay(1.0, 4, 0.25)(2.0) == 0.5
    assert exponential_decay(1.0, 4, 0.25, staircase=True)(3.5) == 1.0


@pytest.mark.parametrize("schedule", ALL)
def test_steps_beyond_int32(schedule):
    """Negative steps are 0, large ones 2^31 - 1: nothing wraps round."""
    for step in (-1, -(2**31), -(2**70), np.int32(-(2**31)), np.int64(-(2**40)), jnp.int32(-5)):
        assert schedule(step) == schedule(0)
    for step in (2**31, 2**70, np.uint32(2**32 - 1), np.int64(2**40), np.uint64(2**63), jnp.uint32(2**32 - 1)):
        assert schedule(step) == schedule(LAST)


LONG = (
    2**24 + np.arange(-3, 4),
    2**25 - np.arange(0, 4),
    2**30 + np.arange(-3, 4),
    LAST - np.arange(0, 200, 7),
    np.arange(4),
)


@pytest.mark.parametrize("length", [2**24 + 1, 2**25, 2**30 + 1, LAST, 10**12])
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.125), (2.0**-20, 3.0), (1.0, 1.0)])
def test_no_step_is_lost(length, start, end):
    steps = np.unique(np.concatenate([*LONG, length - np.arange(5)]).clip(0, min(length, LAST)))
    want = [Fraction(start) + (Fraction(end) - Fraction(start)) * Fraction(int(t), length) for t in steps]
    schedule = linear_schedule(start, end, length)
    close(schedule(steps), [float(x) for x in want], 3)
    close(jax.jit(schedule)(steps.astype(np.int32)), [float(x) for x in want], 3)
    assert schedule(0) == start
    if length <= LAST:
        assert schedule(length) == end


def test_last_steps_are_told_apart():
    schedule = jax.jit(linear_schedule(1.0, 0.0, 2**25, 2**24))
    assert [float(schedule(3 * 2**24 - k)) for k in range(4)] == [k * 2.0**-25 for k in range(4)]
    decay = jax.jit(cosine_decay_schedule(1.0, LAST))
    close([decay(LAST - k) for k in range(1, 4)], [math.sin(math.pi / 2 * k / LAST) ** 2 for k in range(1, 4)], 4)


def test_boundaries_of_long_runs():
    schedule = join_schedules([constant_schedule(float(i)) for i in range(4)], [2**24 + 1, LAST, 2**33])
    at = {2**24: 0.0, 2**24 + 1: 1.0, LAST - 1: 1.0, LAST: 2.0, 2**40: 2.0}
    assert {t: float(schedule(t)) for t in at} == at
    assert float(schedule(2.0**33)) == 3.0
    stairs = exponential_decay(1.0, 2**30 + 1, 0.5, staircase=True)
    assert [float(stairs(t)) for t in (2**30, 2**30 + 1, LAST)] == [1.0, 0.5, 0.5]


@pytest.mark.parametrize("staircase", [False, True])
@pytest.mark.parametrize(
    ("rate", "steps"),
    [(0.999, 1), (0.97, 13), (1e-5, 100), (1 - 1e-6, 1), (1 - 3e-9, 1), (1.001, 3), (0.1, 2**24 + 1), (1e-4, 10**9)],
)
def test_exponential_accuracy(rate, steps, staircase):
    """1e-6 wherever the value is a normal float32; float32 powers of float32 rates are off by more than 1e-3."""
    t = np.unique(np.concatenate([np.geomspace(1, LAST, 300).astype(np.int64), 2**24 + np.arange(-3, 4)]))
    q = t // steps if staircase else t / steps
    with np.errstate(under="ignore", over="ignore"):
        want = np.exp(q * np.float64(math.log(rate)))
    kept = (want > 2e-38) & (want < 3e38)
    got = np.asarray(jax.jit(exponential_decay(1.0, steps, rate, staircase=staircase))(t.astype(np.int32)), np.float64)
    np.testing.assert_allclose(got[kept], want[kept], rtol=1e-6)
    assert not np.any(np.isnan(got))


def test_exponential_of_array_rate():
    for rate in (jnp.float32(0.9), np.float32(0.9), jnp.bfloat16(0.9), np.asarray(0.9)):
        np.testing.assert_allclose(exponential_decay(1.0, 10, rate)(20), float(rate) ** 2, rtol=1e-6)
    stop = jax.jit(lambda rate: exponential_decay(1.0, 10, rate, end_value=0.5)(STEPS))
    np.testing.assert_allclose(stop(0.9), exponential_decay(1.0, 10, 0.9, end_value=0.5)(STEPS), rtol=1e-6)
    assert stop(1.1)[-1] == 0.5 and stop(0.9)[-1] == 0.5


def test_without_warmup():
    """A warm-up of no steps is no warm-up: the peak is the first value."""
    assert warmup_constant_schedule(0.0, 0.1, 0)(0) == np.float32(0.1)
    assert warmup_cosine_decay_schedule(0.0, 0.1, 0, 10)(0) == np.float32(0.1)
    assert warmup_exponential_decay_schedule(0.0, 0.1, 0, 10, 0.5)(0) == np.float32(0.1)


def test_zero_peak_still_ends_at_end_value():
    schedule = warmup_cosine_decay_schedule(0.1, 0.0, 10, 20, end_value=0.2)
    assert [float(schedule(t)) for t in (10, 20, 21)] == [0.0, np.float32(0.2), np.float32(0.2)]


def test_boundary_at_step_zero():
    scales = {0: 0.5, 10: 0.5}
    assert [float(piecewise_constant_schedule(1.0, scales)(t)) for t in (0, 9, 10)] == [0.5, 0.5, 0.25]
    assert [float(piecewise_interpolate_schedule("linear", 1.0, scales)(t)) for t in (0, 5, 10)] == [0.5, 0.375, 0.25]


@pytest.mark.parametrize("none", [None, {}])
def test_no_boundaries(none):
    assert piecewise_constant_schedule(0.1, none)(5) == np.float32(0.1)
    assert piecewise_interpolate_schedule("cosine", 0.1, none)(5) == np.float32(0.1)


NUMERIC = "value init_value end_value peak_value power decay_rate alpha exponent".split()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_traced_hyperparameters(case):
    """Numbers may be traced: same values, strong float32, finite derivatives, also at both ends."""
    numbers = {k: float(v) for k, v in case.kwargs.items() if k in NUMERIC}

    @jax.jit
    def traced(numbers: dict[str, Any]) -> Any:
        return getattr(schedules, case.factory)(**{**case.kwargs, **numbers})(STEPS)

    of_float32(traced(numbers))
    np.testing.assert_allclose(traced(numbers), case.make()(STEPS), rtol=3e-6, atol=1e-8)
    slopes = jax.jacrev(traced)({k: jnp.float32(v) for k, v in numbers.items()})
    if case is not CASES["exponential_growth"]:  # whose power overflows before the limit is applied
        assert all(bool(jnp.all(jnp.isfinite(slope))) for slope in jax.tree.leaves(slopes))


def test_hyperparameters_may_be_batched():
    peaks = jnp.array([0.1, 0.2, 0.3])
    got = jax.vmap(lambda peak: warmup_cosine_decay_schedule(0.0, peak, 10, 20)(10))(peaks)
    assert jnp.array_equal(got, peaks)


def test_traced_scales():
    got = jax.jit(lambda s: piecewise_constant_schedule(1.0, {5: s, 10: 0.5})(jnp.array([4, 5, 10])))(0.3)
    assert jnp.array_equal(got, jnp.array([1.0, 0.3, 0.15]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int32])
def test_narrow_hyperparameters_are_widened(dtype):
    one = jnp.asarray(1, dtype)
    schedule = linear_schedule(one, 0.1, 1000)
    of_float32(schedule(1))
    close(schedule(1), 0.9991, 2)
    of_float32(constant_schedule(one)(0))
    of_float32(cosine_decay_schedule(one, 10, alpha=jnp.asarray(0, dtype))(10))


def test_float64_only_when_asked_for(x64):
    of_float32(linear_schedule(1.0, 0.1, 3)(1))
    of_float32(linear_schedule(np.float64(1.0), 0.1, 3)(jnp.int64(1)))
    of_float32(join_schedules([lambda t: 0.1, lambda t: jnp.asarray(0.1)], [2])(3))
    wide = linear_schedule(jnp.asarray(1.0, jnp.float64), 0.1, 3)(1)
    assert wide.dtype == jnp.float64 and not wide.weak_type
    np.testing.assert_allclose(wide, 0.7, rtol=1e-15)
    rate = exponential_decay(jnp.asarray(1.0, jnp.float64), 3, 0.9)(6)
    np.testing.assert_allclose(rate, 0.81, rtol=1e-15)
    assert linear_schedule(1.0, 0.1, 100)(jnp.int64(2**40)) == np.float32(0.1)
    assert linear_schedule(1.0, 0.1, 100)(jnp.int64(-(2**40))) == 1.0


def test_float64_array_without_x64_is_float32():
    of_float32(linear_schedule(np.asarray(1.0), 0.1, 3)(1))


def test_schedule_made_under_a_trace_holds_no_tracer():
    made, one, half = [], jnp.float32(1.0), jnp.float32(0.5)

    @jax.jit
    def f(x: Any) -> Any:
        made.append(piecewise_interpolate_schedule("cosine", one, {4: half}))
        return x * made[0](2)

    f(1.0)
    assert made[0](4) == 0.5


def test_join_takes_any_function():
    def root(step: Any) -> Any:
        assert bool(jnp.all(step >= 0))  # never asked about steps before its turn
        return jnp.sqrt(step.astype(jnp.float32))

    schedule = join_schedules([lambda step: 1, lambda step: jnp.bfloat16(0.5), root], (3, 6))
    assert [float(schedule(t)) for t in (0, 3, 6, 10)] == [1.0, 0.5, 0.0, 2.0]
    of_float32(schedule(0))
    assert schedule(jnp.arange(12)).shape == (12,)


@pytest.mark.parametrize("made", [case.make for case in CASES.values()] + [lambda: pickle.loads(pickle.dumps(JOINED))])
def test_schedules_are_values(made):
    one, two = made(), made()
    assert one == two and hash(one) == hash(two) and one is not two
    for copy in (pickle.loads(pickle.dumps(one)), eval(repr(one), dict(vars(schedules)))):
        assert copy == one and hash(copy) == hash(one)
        assert jnp.array_equal(copy(STEPS), one(STEPS))


def test_different_calls_are_different_values():
    schedule = linear_schedule(1.0, 0.1, 100)
    assert schedule == linear_schedule(init_value=1.0, end_value=0.1, transition_steps=100, transition_begin=0)
    assert schedule not in (linear_schedule(1.0, 0.1, 101), polynomial_schedule(1.0, 0.1, 1, 100))
    assert repr(schedule) == "linear_schedule(init_value=1.0, end_value=0.1, transition_steps=100, transition_begin=0)"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equal_schedules_compile_once(case):
    traces = 0

    def f(schedule: Any, step: Any) -> Any:
        nonlocal traces
        traces += 1
        return schedule(step)

    compiled = jax.jit(f, static_argnums=0)
    for step in range(3):
        compiled(case.make(), step)
    assert traces == 1


# {call: what it raises, after the name of the factory}
ERRORS = {
    "linear_schedule(1.0, 0.1, 0)": "ValueError: transition_steps must be positive, got 0",
    "linear_schedule(1.0, 0.1, 9, -1)": "ValueError: transition_begin must not be negative, got -1",
    "linear_schedule(1.0, 0.1, 1e3)": "TypeError: transition_steps must be an int, got 1000.0; write int(1000.0)",
    "linear_schedule(1.0, 0.1, '9')": "TypeError: transition_steps must be an int, got '9'",
    "linear_schedule(1.0, 0.1, 9, 1.5)": "TypeError: transition_begin must be an int, got 1.5; write int(1.5)",
    "linear_schedule(1.0, 0.1, 9, 0, 1)": "TypeError: too many positional arguments; its arguments are init_value, ",
    "linear_schedule('a', 0.1, 9)": "TypeError: init_value must be a real number, got 'a'",
    "linear_schedule(1.0, None, 9)": "TypeError: end_value must be a real number, got None",
    "linear_schedule(jnp.ones(1), 0.1, 9)": "ValueError: init_value must be a scalar, got shape (1,)",
    "constant_schedule(1j)": "TypeError: value must be a real number, got 1j",
    "polynomial_schedule(1.0, 0.1, 2, -5)": "ValueError: transition_steps must be positive, got -5",
    "polynomial_schedule(1.0, 0.1, 2, 5, -5)": "ValueError: transition_begin must not be negative, got -5",
    "polynomial_schedule(1.0, 0.1, 0, 5)": "ValueError: power must be positive and finite, got 0",
    "exponential_decay(1.0, 0, 0.9)": "ValueError: transition_steps must be positive, got 0",
    "exponential_decay(1.0, 9, 0.0)": "ValueError: decay_rate must be positive and finite, got 0.0",
    "exponential_decay(1.0, 9, -0.5)": "ValueError: decay_rate must be positive and finite, got -0.5",
    "exponential_decay(1.0, 9, math.nan)": "ValueError: decay_rate must be positive and finite, got nan",
    "exponential_decay(1.0, 9, 0.9, -1)": "ValueError: transition_begin must not be negative, got -1",
    "exponential_decay(1.0, 9, 0.9, True)": "TypeError: transition_begin must be an int, got True",
    "exponential_decay(1.0, 9, 0.9, 0, 0.1)": "TypeError: staircase must be True or False, got 0.1",
    "exponential_decay(1.0, 9, 0.9, end_value='0')": "TypeError: end_value must be a real number, got '0'",
    "cosine_decay_schedule(1.0, 0)": "ValueError: decay_steps must be positive, got 0",
    "cosine_decay_schedule(1.0, 9, 0.0, -1)": "ValueError: exponent must be positive and finite, got -1",
    "warmup_constant_schedule(0.0, 1.0, -1)": "ValueError: warmup_steps must not be negative, got -1",
    "warmup_cosine_decay_schedule(0.0, 1.0, -1, 10)": "ValueError: warmup_steps must not be negative, got -1",
    "warmup_cosine_decay_schedule(0.0, 1.0, 0, 0)": "ValueError: decay_steps must be positive, got 0",
    "warmup_cosine_decay_schedule(0.0, 1.0, 9, 9)": "ValueError: decay_steps includes the warm-up and must be more "
    "than warmup_steps, got decay_steps=9 and warmup_steps=9",
    "warmup_exponential_decay_schedule(0.0, 1.0, -1, 9, 0.9)": "ValueError: warmup_steps must not be negative, got -1",
    "warmup_exponential_decay_schedule(0.0, 1.0, 1, 0, 0.9)": "ValueError: transition_steps must be positive, got 0",
    "warmup_exponential_decay_schedule(0.0, 1.0, 1, 9, 0)": "ValueError: decay_rate must be positive and finite, got 0",
    "piecewise_constant_schedule(1.0, {-1: 0.5})": "ValueError: a boundary must not be negative, got -1",
    "piecewise_constant_schedule(1.0, {0.5: 0.5})": "TypeError: a boundary must be an int, got 0.5; write int(0.5)",
    "piecewise_constant_schedule(1.0, {'5': 0.5})": "TypeError: a boundary must be an int, got '5'",
    "piecewise_constant_schedule(1.0, {5: -0.5})": "ValueError: the scale at boundary 5 must not be negative, got -0.5",
    "piecewise_constant_schedule(1.0, {5: 'x'})": "TypeError: the scale at boundary 5 must be a real number, got 'x'",
    "piecewise_interpolate_schedule('x', 1)": "ValueError: interpolate_type must be 'linear' or 'cosine', got 'x'",
    "join_schedules([], [])": "ValueError: needs one boundary fewer than schedules, got 0 for 0",
    "join_schedules([JOINED, JOINED], [])": "ValueError: needs one boundary fewer than schedules, got 0 for 2",
    "join_schedules([JOINED, JOINED], [1, 2])": "ValueError: needs one boundary fewer than schedules, got 2 for 2",
    "join_schedules([JOINED] * 3, [20, 10])": "ValueError: boundaries must increase, got [20, 10]",
    "join_schedules([JOINED] * 3, [10, 10])": "ValueError: boundaries must increase, got [10, 10]",
    "join_schedules([JOINED] * 2, [-1])": "ValueError: boundaries[0] must not be negative, got -1",
    "join_schedules([JOINED] * 2, [1.5])": "TypeError: boundaries[0] must be an int, got 1.5; write int(1.5)",
    "join_schedules([0.1, JOINED], [1])": "TypeError: schedules[0] must be callable, got 0.1; see constant_schedule",
    "join_schedules([JOINED, lambda t: jnp.ones(1)], [1])(0)": "ValueError: schedules[1] returned shape (1,), not ()",
}


@pytest.mark.parametrize(("call", "raised"), ERRORS.items(), ids=ERRORS)
def test_errors(call, raised):
    error, message = raised.split(": ", 1)
    with pytest.raises({"TypeError": TypeError, "ValueError": ValueError}[error]) as caught:
        eval(call)
    assert str(caught.value).startswith(f"gdjax.{call.partition('(')[0]}: {message}")


def test_traced_step_count():
    with pytest.raises(TypeError, match="linear_schedule: transition_steps must be a Python int, got a traced value"):
        jax.jit(lambda steps: linear_schedule(1.0, 0.1, steps)(0))(9)


@pytest.mark.parametrize("step", [True, "3", 1j, None])
def test_step_of_a_wrong_kind(step):
    with pytest.raises(TypeError, match="gdjax: the step of a schedule must be an integer or a float, got "):
        JOINED(step)


def test_step_counts_may_be_numpy_integers():
    steps: Any = {"warmup_steps": np.int32(10), "decay_steps": np.int64(20)}
    schedule = warmup_cosine_decay_schedule(0.0, 1.0, **steps)
    assert schedule(10) == 1.0 and schedule(20) == 0.0
