"""Schedules: exact values, parity with Optax, every kind of step and hyperparameter, long runs, errors, identity."""

import inspect
import math
import pickle
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
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
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
)
from tests.schedules.cases import CASES, LAST, half_cosine
from tests.support import relaxed

ULP = 2.0**-23  # of float32, relative


JOINED = join_schedules(
    [linear_schedule(0.0, 1.0, 10), constant_schedule(0.7), cosine_decay_schedule(0.5, 5)], [10, 20]
)
ONE_EACH = {case.factory: case.make() for case in CASES.values()} | {"join_schedules": JOINED}
ALL = [pytest.param(schedule, id=factory) for factory, schedule in ONE_EACH.items()]
STEPS = np.array([0, 1, 2, 9, 10, 11, 50, 99, 100, 101, 110, 500, 999, 1000, 1001, 10**6, LAST], np.int32)


SHARED = {name: case for name, case in CASES.items() if hasattr(optax, case.factory)}
ENDLESS = "inverse_sqrt_schedule", "power_schedule", "cyclic_schedule"


@pytest.fixture
def x64() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def of_float32(x: Any) -> None:
    assert x.dtype == jnp.float32 and not x.weak_type


def of_weak_float32(x: Any) -> None:
    """As a Python float: it takes the dtype of what it meets."""
    x = jnp.asarray(x)
    assert x.dtype == jnp.float32 and x.weak_type


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


@pytest.mark.parametrize("case", SHARED.values(), ids=SHARED)
def test_parity_with_optax(case):
    steps = np.arange(0, 1200, dtype=np.int32)
    with relaxed():
        theirs = jax.vmap(case.make(optax))(steps)  # not compiled: then its polynomials miss their end value
    # Optax rounds relative to its largest value where it subtracts from that.
    np.testing.assert_allclose(case.make()(steps), theirs, rtol=1e-6, atol=4 * ULP * float(np.max(theirs)))


@pytest.mark.parametrize("name", sorted({case.factory for case in SHARED.values()} | {"join_schedules"}))
def test_signature_is_that_of_optax(name):
    def arguments(factory: Callable[..., Any]) -> list[tuple[str, Any]]:
        return [(p.name, p.default) for p in inspect.signature(factory).parameters.values()]

    assert arguments(getattr(schedules, name)) == arguments(getattr(optax, name))


def test_names_of_optax():
    theirs = {name for name in dir(optax.schedules) if name[0] != "_"}
    assert theirs - set(schedules.__all__) == set()
    assert {name: getattr(schedules, name) for name in schedules.__all__}  # each exists


def test_all_factories_have_cases():
    factories = {name for name, f in vars(schedules).items() if name.endswith(("_schedule", "_schedules", "_decay"))}
    assert {name for name in factories if name[0] != "_"} == {case.factory for case in CASES.values()} | {
        "join_schedules"
    }


@pytest.mark.parametrize("schedule", ALL)
def test_kinds_of_step(schedule):
    """The same weak float32 whatever the step is held in; jit, vmap, vectors and scalars agree."""
    kinds: list[Callable[[Any], Any]] = [np.int32, np.int64, np.uint32, np.asarray, jnp.int32, jnp.uint32]
    for step in (0, 10, 99, LAST):
        for kind in kinds + [np.uint8, np.int8, jnp.uint16] * (step < 128):
            out = schedule(kind(step))
            assert jnp.shape(out) == () and out == schedule(step), (kind, step)
            of_weak_float32(out)
    # A vector is computed by other instructions, and compiled products and sums are rounded once.
    want, compiled = np.stack([schedule(int(step)) for step in STEPS]), jax.jit(schedule)
    for got in (schedule(STEPS), compiled(STEPS), jax.vmap(schedule)(STEPS), [compiled(step) for step in STEPS]):
        np.testing.assert_allclose(got, want, rtol=4 * ULP, atol=0)
    for shape in ((2, 2, 4), (0,), (3, 0), (1,)):
        out = jax.eval_shape(schedule, jax.ShapeDtypeStruct(shape, jnp.int32))
        assert out.shape == shape
        assert out.dtype == jnp.float32 and out.weak_type


@pytest.mark.parametrize("schedule", ALL)
def test_float_steps(schedule):
    for step in (0, 1, 9, 10, 55, 100, 1000, 10**6):
        np.testing.assert_allclose(schedule(float(step)), schedule(step), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(schedule(jnp.float32(step)), schedule(step), rtol=1e-6, atol=1e-8)
    of_weak_float32(schedule(1.5))
    assert schedule(-3.5) == schedule(0)
    if schedule.call.name in ENDLESS:
        assert 0 <= schedule(math.inf) <= schedule(0.0) + schedule(10)
    else:
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
    assert warmup_cosine_decay_schedule(0.0, 0.1, 0, 10)(0) == np.float32(0.1)
    assert warmup_exponential_decay_schedule(0.0, 0.1, 0, 10, 0.5)(0) == np.float32(0.1)


@pytest.mark.parametrize(
    "off", ["linear_schedule(1.5, 0.1, 0)", "polynomial_schedule(1.5, 0.1, 2, 0, 3)", "exponential_decay(1.5, 0, 0.5)"]
)
def test_no_steps_turn_a_decay_off(off):
    with relaxed():
        assert eval(f"optax.{off}")(7) == 1.5
    with pytest.warns(UserWarning, match="transition_steps is 0: nothing changes"):
        of_weak_float32(eval(off)(7))
        assert [float(eval(off)(t)) for t in (0, 7, LAST)] == [1.5] * 3
        assert eval(off)(STEPS).shape == STEPS.shape


def maxtext(lib: Any, steps: int, warmup: int, schedule_steps: int) -> Any:
    """As MaxText builds its rate: every piece has a boundary, the last too, and any of them may have no steps."""
    cosine = schedule_steps - warmup
    zero = steps - schedule_steps

    def cos_schedule(step: Any) -> Any:
        share = step / (cosine - 1) if cosine > 1 else 1.0
        return 3e-4 * 0.5 * (jnp.cos(jnp.pi * share) + 1)

    pieces = [lib.linear_schedule(init_value=0.0, end_value=3e-4, transition_steps=warmup), cos_schedule]
    boundaries = [warmup, warmup + cosine]
    if zero > 0:
        pieces.append(lib.constant_schedule(0.0))
        boundaries.append(warmup + cosine + zero)
    return lib.join_schedules(pieces, boundaries)


def levanter(lib: Any, points: list[int], warmup: int, rewarmup: int, decay: int) -> Any:
    """As Levanter builds its rate: cycles of a warm-up, a stable phase and a decay, each with its end as boundary."""
    pieces, boundaries, previous = [], [], 0.0
    for start, end in zip(points[:-1], points[1:], strict=True):
        up = warmup if start == 0 else rewarmup
        stable = end - start - up - decay
        pieces += [lib.linear_schedule(previous, 0.5, up), lib.constant_schedule(0.5)]
        pieces.append(lib.linear_schedule(0.5, 0.125, decay))
        boundaries += [start + up, start + up + stable, end]
        previous = pieces[-1](decay)
    return lib.join_schedules(pieces, boundaries)


CLIENTS = {
    "maxtext": (maxtext, 100, 10, 80),
    "maxtext, no warm-up": (maxtext, 100, 0, 80),
    "maxtext, no tail": (maxtext, 80, 10, 80),
    "maxtext, no cosine": (maxtext, 100, 10, 10),
    "maxtext, nothing": (maxtext, 100, 0, 0),
    "levanter": (levanter, [0, 100], 10, 0, 50),
    "levanter, no warm-up": (levanter, [0, 100], 0, 0, 100),
    "levanter, no decay": (levanter, [0, 100], 10, 0, 0),
    "levanter, no phase": (levanter, [0, 100], 0, 0, 0),
    "levanter, cycles": (levanter, [0, 40, 70, 100], 10, 5, 20),
    "levanter, cycles without warm-ups": (levanter, [0, 40, 70, 100], 0, 0, 30),
    "levanter, cycles without decay": (levanter, [0, 40, 100], 8, 5, 0),
}


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.filterwarnings("ignore:gdjax.linear_schedule. transition_steps is 0")  # of a last phase
def test_joins_of_clients(name):
    build, *arguments = CLIENTS[name]
    steps = np.arange(110, dtype=np.int32)
    with relaxed():
        theirs = jax.vmap(build(optax, *arguments))(steps)
        ours = jax.vmap(build(schedules, *arguments))(steps)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-10)


def test_join_without_the_phases_of_no_steps():
    def never(step: Any) -> Any:
        raise AssertionError("called")

    rise = linear_schedule(0.0, 1.0, 10)
    joined = join_schedules([never, never, rise, never, constant_schedule(0.5)], [0, 0, 7, 7, 9, "no boundary"])
    assert jnp.array_equal(joined(STEPS), join_schedules([rise, constant_schedule(0.5)], [7])(STEPS))
    one = join_schedules([rise], [5])
    assert jnp.array_equal(one(STEPS), rise(STEPS))


FRACTIONAL = [
    "linear_schedule(0.0, 1.0, 10.5)",
    "linear_schedule(1.0, 0.5, 10.5, 2.25)",
    "linear_schedule(0.0, 1.0, 0.5, 2.75)",
    "polynomial_schedule(1.0, 0.25, 2, 7.5, 0.5)",
    "exponential_decay(1.0, 3.6, 0.5)",
    "exponential_decay(1.0, 3.6, 0.5, 1.5, staircase=True)",
    "cosine_decay_schedule(0.5, 20.75)",
    "piecewise_constant_schedule(1.0, {3.5: 0.5, 9.25: 0.5})",
    "piecewise_interpolate_schedule('linear', 1.0, {3.5: 0.5, 9.25: 0.5})",
    "warmup_constant_schedule(0.0, 1.0, 4.5)",
    "warmup_cosine_decay_schedule(0.0, 1.0, 4.5, 20.25)",
    "warmup_exponential_decay_schedule(0.0, 1.0, 4.5, 7.25, 0.5)",
    "cosine_onecycle_schedule(30.5, 1.0)",
    "linear_onecycle_schedule(30.5, 1.0)",
    "sgdr_schedule([dict(init_value=0.0, peak_value=1.0, warmup_steps=2.5, decay_steps=10.5)] * 3)",
    "join_schedules([linear_schedule(0.0, 1.0, 8), linear_schedule(1.0, 0.0, 8)], [4.5])",
]


@pytest.mark.parametrize("call", FRACTIONAL)
def test_fractions_of_steps(call):
    """What has a fraction is one of a step, as in Optax; it is warned of."""
    steps = np.arange(40, dtype=np.int32)
    with relaxed():
        theirs = jax.vmap(eval(call, dict(vars(optax))))(steps)
    with pytest.warns(
        UserWarning, match=rf"^gdjax.{call.partition('(')[0]}: .* is \d+.\d+, and no whole number of steps"
    ):
        schedule = eval(call, dict(vars(schedules)))
    for got in (schedule(steps), jax.jit(schedule)(steps)):
        of_weak_float32(got)
        np.testing.assert_allclose(got, theirs, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize(
    ("call", "step", "value"),
    [
        ("cyclic_schedule(0.0, 1.0, 2.5)", 4, 0.4),
        ("power_schedule(1.0, 1.0, -1.0, 2.5)", 2, 0.8 * 0.4),
        ("inverse_sqrt_schedule(0.0, 1.0, 4.5)", 9, math.sqrt(0.5)),
        ("warmup_linear_decay_schedule(0.0, 1.0, 2.5, 10.5)", 6, 4.5 / 8),
        ("rex_schedule(1.0, 0.0, 4.5)", 5, 0.0),
    ],
)
def test_fractions_of_steps_in_schedules_of_our_own(call: str, step: int, value: float):
    with pytest.warns(UserWarning, match="no whole number of steps"):
        schedule = eval(call, dict(vars(schedules)))
    assert float(schedule(step)) == pytest.approx(value)


def test_arguments_in_the_wrong_order_are_warned_of():
    with pytest.warns(
        UserWarning, match="decay_steps is 0.001, and no whole number of steps; are the arguments in"
    ) as w:
        cosine_decay_schedule(1000, 1e-3)
    assert [x.filename for x in w] == [__file__]
    cosine_decay_schedule(1e-3, 1e4)  # whole


def test_boundary_at_step_zero():
    scales = {0: 0.5, 10: 0.5}
    assert [float(piecewise_constant_schedule(1.0, scales)(t)) for t in (0, 9, 10)] == [0.5, 0.5, 0.25]
    assert [float(piecewise_interpolate_schedule("linear", 1.0, scales)(t)) for t in (0, 5, 10)] == [0.5, 0.375, 0.25]


@pytest.mark.parametrize("none", [None, {}])
def test_no_boundaries(none):
    assert piecewise_constant_schedule(0.1, none)(5) == np.float32(0.1)
    assert piecewise_interpolate_schedule("cosine", 0.1, none)(5) == np.float32(0.1)


NUMERIC = (
    "delta value init_value end_value peak_value power decay_rate alpha exponent div_factor final_div_factor timescale "
    "amplitude tokens_per_step gamma half_life"
).split()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_traced_hyperparameters(case):
    """Numbers may be traced: same values, weak float32, finite derivatives, also at both ends."""
    numbers = {k: float(v) for k, v in case.kwargs.items() if k in NUMERIC} or {"init_value": 0.2}
    cycles = case.kwargs.get("cosine_kwargs", [])

    def made(numbers: dict[str, Any]) -> Any:
        if cycles:
            return schedules.sgdr_schedule([{**cycle, **numbers} for cycle in cycles])
        return getattr(schedules, case.factory)(**{**case.kwargs, **numbers})

    @jax.jit
    def traced(numbers: dict[str, Any]) -> Any:
        return made(numbers)(STEPS)

    of_weak_float32(traced(numbers))
    np.testing.assert_allclose(traced(numbers), made(numbers)(STEPS), rtol=3e-6, atol=1e-8)
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
    assert constant_schedule(one)(0) is one
    of_float32(cosine_decay_schedule(one, 10, alpha=jnp.asarray(0, dtype))(10))


def test_numbers_are_exact_under_x64_and_arrays_keep_their_dtype(x64):
    for plain in (linear_schedule(1.0, 0.1, 3), linear_schedule(np.float64(1.0), 0.1, 3)):
        for step in (1, jnp.int32(1), jnp.int64(1), 1.0):
            x = plain(step)
            assert x.dtype == jnp.float64 and x.weak_type
            np.testing.assert_allclose(x, 0.7, rtol=1e-15)
    x = join_schedules([lambda t: 0.1, lambda t: jnp.asarray(0.1)], [2])(3)
    assert x.dtype == jnp.float64 and x.weak_type and x == 0.1
    of_float32(linear_schedule(jnp.float32(1.0), 0.1, 3)(1))
    of_float32(linear_schedule(1.0, 0.1, 3)(jnp.float32(1)))
    of_float32(join_schedules([lambda t: 0.1, lambda t: jnp.float32(0.1)], [2])(3))
    wide = linear_schedule(jnp.asarray(1.0, jnp.float64), 0.1, 3)(1)
    assert wide.dtype == jnp.float64 and not wide.weak_type
    np.testing.assert_allclose(wide, 0.7, rtol=1e-15)
    rate = exponential_decay(jnp.asarray(1.0, jnp.float64), 3, 0.9)(6)
    np.testing.assert_allclose(rate, 0.81, rtol=1e-15)
    assert linear_schedule(1.0, 0.1, 100)(jnp.int64(2**40)) == 0.1
    assert linear_schedule(1.0, 0.1, 100)(jnp.int64(-(2**40))) == 1.0


def test_float64_array_without_x64_is_float32():
    of_float32(linear_schedule(np.asarray(1.0), 0.1, 3)(1))


STEP_KINDS: dict[str, Callable[[Any], Any]] = {
    "int": lambda f: f(3), "array": lambda f: f(jnp.int32(3)), "traced": lambda f: jax.jit(f)(3),
    "traced array": lambda f: jax.jit(f)(jnp.int32(3)),
}  # fmt: skip


def is_weak(x: Any) -> bool:
    return jnp.asarray(x).weak_type


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("case", SHARED.values(), ids=SHARED)
def test_a_schedule_is_weakly_typed_where_optax_has_it_so(case: Any, wide: bool):
    """Optax's linear and exponential ones are strong for an int32 count, its one-cycle always: ours meet any dtype."""
    jax.config.update("jax_enable_x64", wide)
    try:
        for kind, call in STEP_KINDS.items():
            with relaxed():
                theirs = call(getattr(optax, case.factory)(**case.kwargs))
            ours = call(case.make())
            assert is_weak(ours), kind
            assert jnp.asarray(ours).dtype == (jnp.float64 if wide else jnp.float32)
            assert not is_weak(theirs) or jnp.asarray(theirs).dtype == jnp.asarray(ours).dtype
    finally:
        jax.config.update("jax_enable_x64", False)


def test_a_constant_gives_its_number(x64):
    for value in (0.1, 1, np.float64(0.1), jnp.float32(0.1)):
        for step in (3, jnp.int32(3)):
            got = constant_schedule(value)(step)
            assert got is value and got is optax.constant_schedule(value)(step)
    assert jnp.array_equal(constant_schedule(0.1)(jnp.arange(3)), jnp.full(3, 0.1))


@pytest.mark.parametrize("schedule", ALL)
def test_a_schedule_meets_bfloat16(schedule):
    """A loop of a user's own, with JAX's strict rules of promotion."""

    def step(carry: Any, g: Any) -> Any:
        m, n = carry
        return (0.9 * m + schedule(n) * g, n + 1), None

    (m, _), _ = jax.lax.scan(step, (jnp.zeros(2, jnp.bfloat16), jnp.int32(0)), jnp.ones((3, 2), jnp.bfloat16))
    assert m.dtype == jnp.bfloat16


def test_a_step_of_float64_takes_the_rate_in_float64(x64):
    g = jnp.ones(2, jnp.float64)
    for schedule in (constant_schedule(0.1), linear_schedule(0.1, 0.0, 10), optax.constant_schedule(0.1)):
        tx = gdjax.sgd(schedule)
        assert jnp.array_equal(tx.update(g, tx.init(g))[0], -0.1 * g)


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
