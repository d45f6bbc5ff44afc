"""Each schedule against its definition in NumPy's float64, step by step, and what happens where pieces meet."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdjax import schedules
from gdjax.schedules import (
    cosine_onecycle_schedule,
    cyclic_schedule,
    exponential_decay,
    inverse_sqrt_schedule,
    linear_onecycle_schedule,
    linear_schedule,
    power_schedule,
    sgdr_schedule,
    warmup_cosine_decay_schedule,
    warmup_linear_decay_schedule,
    warmup_stable_decay_schedule,
)
from tests.schedules.cases import CASES, LAST
from tests.support import relaxed

LONG = 1200


@pytest.fixture
def x64() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def linear(t: int, init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0) -> float:
    x = min(max(t - transition_begin, 0) / transition_steps, 1)
    return init_value + (end_value - init_value) * x


def polynomial(t: int, init_value: float, end_value: float, power: float, **steps: int) -> float:
    return end_value + (init_value - end_value) * (1 - linear(t, 0, 1, **steps)) ** power


def rex(t: int, init_value: float, end_value: float, **steps: int) -> float:
    z = 1 - linear(t, 0, 1, **steps)
    return end_value + (init_value - end_value) * z / (0.5 + 0.5 * z)


def exponential(
    t: int,
    init_value: float,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> float:
    q = max(t - transition_begin, 0) / transition_steps
    value = init_value * decay_rate ** (math.floor(q) if staircase else q)
    if end_value is None:
        return value
    return max(value, end_value) if decay_rate < 1 else min(value, end_value)


def cosine(t: int, init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0) -> float:
    z = (1 + math.cos(math.pi * min(t / decay_steps, 1))) / 2
    return init_value * (alpha + (1 - alpha) * z**exponent)


def warmup(t: int, init_value: float, peak_value: float, warmup_steps: int) -> float:
    return peak_value if t >= warmup_steps else init_value + (peak_value - init_value) * t / warmup_steps


def warmup_cosine(
    t: int,
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> float:
    if t < warmup_steps:
        return warmup(t, init_value, peak_value, warmup_steps)
    return cosine(t - warmup_steps, peak_value, decay_steps - warmup_steps, end_value / peak_value, exponent)


def warmup_exponential(t: int, init_value: float, peak_value: float, warmup_steps: int, **decay: Any) -> float:
    if t < warmup_steps:
        return warmup(t, init_value, peak_value, warmup_steps)
    return exponential(t - warmup_steps, peak_value, **decay)


def warmup_linear(
    t: int, init_value: float, peak_value: float, warmup_steps: int, decay_steps: int, end_value: float = 0.0
) -> float:
    if t < warmup_steps:
        return warmup(t, init_value, peak_value, warmup_steps)
    return linear(t, peak_value, end_value, decay_steps - warmup_steps, warmup_steps)


def warmup_stable_decay(
    t: int,
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    decay_shape: str = "1-sqrt",
) -> float:
    """Haegele et al., eq. 1, with n - (N - N_decay) written as the steps since the stable phase."""
    if t <= warmup_steps + stable_steps:
        return warmup(t, init_value, peak_value, warmup_steps)
    x = min((t - warmup_steps - stable_steps) / decay_steps, 1)
    f = {"linear": 1 - x, "cosine": (1 + math.cos(math.pi * x)) / 2, "1-sqrt": 1 - math.sqrt(x)}[decay_shape]
    return end_value + (peak_value - end_value) * f


def inverse_sqrt(
    t: int, init_value: float, peak_value: float, warmup_steps: int, timescale: float | None = None
) -> float:
    if t < warmup_steps:
        return warmup(t, init_value, peak_value, warmup_steps)
    k = warmup_steps if timescale is None else timescale
    return peak_value * math.sqrt(k) / math.sqrt(k + t - warmup_steps)


def power(
    t: int,
    peak_value: float,
    amplitude: float,
    exponent: float,
    warmup_steps: int = 0,
    tokens_per_step: int = 1,
) -> float:
    n, n_warmup = t * tokens_per_step, warmup_steps * tokens_per_step

    def eta(n: int) -> float:
        return peak_value if n == 0 else min(peak_value, amplitude * float(n) ** exponent)

    return n / n_warmup * eta(n_warmup) if n < n_warmup else eta(n)


def powercool(
    t: int, peak_value: float, stable_steps: int, decay_steps: int, end_value: float = 0.0, power: float = 1.2
) -> float:
    """The least of two curves, as the record writes it."""
    left = max(stable_steps + decay_steps - t, 0)
    return end_value + min(peak_value - end_value, (peak_value - end_value) * (left / decay_steps) ** power)


def cyclic(
    t: int,
    init_value: float,
    peak_value: float,
    up_steps: int,
    down_steps: int | None = None,
    mode: str = "triangular",
    gamma: float | None = None,
) -> float:
    """Smith's listing for up_steps = down_steps: x = |t / stepsize - 2 cycle + 1|, with the cycle counted from 1."""
    down = up_steps if down_steps is None else down_steps
    cycle = math.floor(1 + t / (up_steps + down))
    if down == up_steps:
        height = max(0, 1 - abs(t / up_steps - 2 * cycle + 1))
    else:
        at = t - (cycle - 1) * (up_steps + down)
        height = min(at / up_steps, (up_steps + down - at) / down)
    scale = {"triangular": 1.0, "triangular2": 2.0 ** (1 - cycle), "exp_range": (gamma or 0.0) ** t}[mode]
    return init_value + (peak_value - init_value) * height * scale


def sgdr(t: int, cosine_kwargs: list[dict[str, Any]]) -> float:
    """Loshchilov and Hutter, eq. 5: T_cur counts the steps since the last restart."""
    for i, cycle in enumerate(cosine_kwargs):
        if t < cycle["decay_steps"] or i == len(cosine_kwargs) - 1:
            return warmup_cosine(t, **cycle)
        t -= cycle["decay_steps"]
    raise AssertionError


def linear_onecycle(
    t: int,
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> float:
    init = peak_value / div_factor
    at = [0, round(pct_start * transition_steps), round(pct_final * transition_steps), transition_steps]
    return float(np.interp(t, at, [init, peak_value, init, init / final_div_factor]))


def cosine_onecycle(
    t: int,
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> float:
    init, peak = peak_value / div_factor, round(pct_start * transition_steps)
    if t < peak:
        return init + (peak_value - init) * (1 - math.cos(math.pi * t / peak)) / 2
    x = min((t - peak) / (transition_steps - peak), 1)
    last = init / final_div_factor
    return last + (peak_value - last) * (1 + math.cos(math.pi * x)) / 2


def piecewise_constant(t: int, init_value: float, boundaries_and_scales: dict[int, float]) -> float:
    return init_value * math.prod(scale for start, scale in boundaries_and_scales.items() if t >= start)


def piecewise_interpolate(
    t: int, interpolate_type: str, init_value: float, boundaries_and_scales: dict[int, float]
) -> float:
    starts = [0, *sorted(boundaries_and_scales)]
    levels = [piecewise_constant(s, init_value, boundaries_and_scales) for s in starts]
    i = sum(t >= s for s in starts) - 1
    if i == len(starts) - 1:
        return levels[-1]
    x = (t - starts[i]) / (starts[i + 1] - starts[i])
    x = (1 - math.cos(math.pi * x)) / 2 if interpolate_type == "cosine" else x
    return levels[i] + (levels[i + 1] - levels[i]) * x


DEFINITIONS = {
    "constant_schedule": lambda t, value: value,
    "cosine_decay_schedule": cosine,
    "cosine_onecycle_schedule": cosine_onecycle,
    "cyclic_schedule": cyclic,
    "exponential_decay": exponential,
    "inverse_sqrt_schedule": inverse_sqrt,
    "linear_onecycle_schedule": linear_onecycle,
    "linear_schedule": linear,
    "piecewise_constant_schedule": piecewise_constant,
    "piecewise_interpolate_schedule": piecewise_interpolate,
    "polynomial_schedule": polynomial,
    "half_life_schedule": lambda t, half_life, tokens_per_step=1: 2 ** (-tokens_per_step / half_life),
    "log_time_schedule": lambda t, delta: 1 - delta / (delta + t + 1),
    "power_schedule": power,
    "powercool_schedule": powercool,
    "rex_schedule": rex,
    "sgdr_schedule": sgdr,
    "warmup_constant_schedule": warmup,
    "warmup_cosine_decay_schedule": warmup_cosine,
    "warmup_exponential_decay_schedule": warmup_exponential,
    "warmup_linear_decay_schedule": warmup_linear,
    "warmup_stable_decay_schedule": warmup_stable_decay,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_definition(case):
    """1e-6 relative at every step; the definitions themselves cancel, to 1e-16 of the largest value."""
    want = np.array([DEFINITIONS[case.factory](t, **case.kwargs) for t in range(LONG)])
    got = jax.jit(case.make())(np.arange(LONG, dtype=np.int32))
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=1e-6, atol=1e-15 * want.max())


def widened(x: Any) -> Any:
    """Floats, also those inside lists and dicts, as float64 arrays."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, "float64") if isinstance(leaf, float) else leaf, x)


@pytest.mark.parametrize("given", [lambda kwargs: kwargs, widened], ids=["numbers", "arrays"])
@pytest.mark.parametrize("case", {case.factory: case for case in CASES.values()}.values(), ids=lambda c: c.factory)
def test_definition_in_float64(case, given, x64):
    kept = {k: v for k, v in case.kwargs.items() if k.startswith("pct_")}  # fractions of steps are no numbers to trace
    schedule = getattr(schedules, case.factory)(**{**given(case.kwargs), **kept})
    want = np.array([DEFINITIONS[case.factory](t, **case.kwargs) for t in range(LONG)])
    got = schedule(np.arange(LONG))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15 * want.max())


def values(schedule: Any, steps: Any) -> list[float]:
    return [float(schedule(t)) for t in steps]


# Where pieces meet: no step is further from the one before than the steepest of its pieces goes in one step.
JOINTS = {
    "warmup_linear": (warmup_linear_decay_schedule(0.0, 1.0, 100, 1100), [100], 0.01),
    "warmup_cosine": (warmup_cosine_decay_schedule(0.0, 1.0, 100, 1100), [100], 0.01),
    "wsd_linear": (warmup_stable_decay_schedule(0.0, 1.0, 100, 100, 200, 0.0, "linear"), [100, 200], 0.01),
    "wsd_cosine": (warmup_stable_decay_schedule(0.0, 1.0, 100, 100, 200, 0.0, "cosine"), [100, 200], 0.01),
    "wsd_1-sqrt": (warmup_stable_decay_schedule(0.0, 1.0, 100, 100, 10**6), [100, 200], 0.01),
    "inverse_sqrt": (inverse_sqrt_schedule(0.0, 1.0, 100), [100], 0.01),
    "power": (power_schedule(1.0, 5.0, -0.5, 100), [100], 0.01),
    "power_cut": (power_schedule(1.0, 20.0, -0.5, 100), [100, 400], 0.01),
    "cyclic": (cyclic_schedule(0.0, 1.0, 100), [100, 200, 300], 0.01),
    "onecycle": (linear_onecycle_schedule(1000, 1.0), [300, 850, 1000], 0.0034),
    "cosine_onecycle": (cosine_onecycle_schedule(1000, 1.0), [300, 1000], 0.006),
}


@pytest.mark.parametrize(("schedule", "joints", "slope"), JOINTS.values(), ids=JOINTS)
def test_pieces_meet(schedule, joints, slope):
    for joint in joints:
        around = np.asarray(schedule(np.arange(joint - 3, joint + 4, dtype=np.int32)), np.float64)
        assert np.abs(np.diff(around)).max() <= slope * (1 + 1e-5)


def test_wsd_runs_can_be_extended():
    """Runs agree up to the earlier cooldown, and cooldowns are the same wherever they begin."""
    short, long = (warmup_stable_decay_schedule(0.0, 0.1, 10, stable, 20) for stable in (30, 500))
    steps = np.arange(41, dtype=np.int32)
    assert jnp.array_equal(short(steps), long(steps))
    assert jnp.array_equal(short(40 + steps), long(510 + steps))


def test_wsd_of_minicpm():
    """f(s) = 0.5^((s - S) / T) after the stable phase, as the docstring says it is written."""
    schedule = schedules.warmup_exponential_decay_schedule(0.0, 0.1, 10, 50, 0.5, transition_begin=100)
    np.testing.assert_allclose(values(schedule, [5, 10, 110, 160, 210]), [0.05, 0.1, 0.1, 0.05, 0.025], rtol=1e-6)


def test_linear_to_zero_ends_at_zero():
    schedule = warmup_linear_decay_schedule(0.0, 3e-4, 1000, 10**7)
    assert values(schedule, [10**7, 10**7 + 1, LAST]) == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(schedule(10**7 - 1), 3e-4 / (10**7 - 1000), rtol=1e-6)


def test_inverse_sqrt_of_vaswani():
    """Eq. 3: d^-0.5 * min(n^-0.5, n * w^-1.5) for the update n = step + 1."""
    d, w = 512, 4000
    peak = (d * w) ** -0.5
    schedule = inverse_sqrt_schedule(peak / w, peak, w - 1, timescale=w)
    steps = np.array([0, 1, 99, 3998, 3999, 4000, 100_000], np.int32)
    n = steps + 1.0
    np.testing.assert_allclose(schedule(steps), d**-0.5 * np.minimum(n**-0.5, n * w**-1.5), rtol=1e-6)


def test_inverse_sqrt_of_t5():
    k = 10_000
    steps = np.array([0, 1, 9_999, 10_000, 10_001, 10**6], np.int32)
    schedule = inverse_sqrt_schedule(k**-0.5, k**-0.5, k)
    np.testing.assert_allclose(schedule(steps), 1 / np.sqrt(np.maximum(steps, float(k))), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:gdjax.powercool_schedule.*no whole number of steps")
def test_powercool_of_the_record():
    """modded-nanogpt, record 46: min(lr, c (2900 - step)^1.2), with the constants of Muon and of the embedding."""
    steps = np.arange(2900, dtype=np.int32)
    for lr, c in ((0.0375, 3.3169534699576625e-06), (0.3, 4.976805410800738e-05)):
        fall = (lr / c) ** (1 / 1.2)
        schedule = schedules.powercool_schedule(lr, 2900 - fall, fall)
        # The schedule begins between two steps, and counts them in float32.
        np.testing.assert_allclose(schedule(steps), np.minimum(lr, c * (2900.0 - steps) ** 1.2), rtol=2e-5)


def test_half_life_of_a_batch_that_grows_and_a_momentum_that_warms_up():
    batch = schedules.piecewise_constant_schedule(1024.0, {100: 4.0})
    b2 = schedules.half_life_schedule(2.0**20, batch)
    np.testing.assert_allclose(values(b2, [0, 99, 100, 500]), [2 ** -(2**-10)] * 2 + [2 ** -(2**-8)] * 2, rtol=1e-6)
    assert b2(np.arange(3)).shape == (3,) and jax.jit(b2)(100) == b2(100)
    momentum = schedules.half_life_schedule(linear_schedule(0.0, 10.0, 100))
    np.testing.assert_allclose(values(momentum, [0, 50, 100]), [0.0, 2**-0.2, 2**-0.1], rtol=1e-6)
    tokens = 2.0**-6 / 0.01
    np.testing.assert_allclose(schedules.half_life_schedule(tokens, 2.0**-6)(0), 2**-0.01, rtol=1e-7)


def test_half_life_keeps_what_is_forgotten_in_a_token():
    """b^k of a batch k times smaller is b."""
    one, eight = (schedules.half_life_schedule(1e6, n)(0) for n in (8192, 65536))
    np.testing.assert_allclose(float(one) ** 8, eight, rtol=1e-6)


def test_power_of_tokens():
    """What it returns depends on the tokens alone, not on how many make a step."""
    few, many = (power_schedule(0.02, 4.6, -0.51, tokens_per_step=tokens) for tokens in (2**10, 2**20))
    np.testing.assert_allclose(few(np.int32(2**20)), many(2**10), rtol=1e-6)
    np.testing.assert_allclose(many(2**20), 4.6 * 2.0 ** (40 * -0.51), rtol=1e-6)


def test_power_before_any_token():
    """eta(0) is the largest value, though the power at the first token may be less."""
    assert values(power_schedule(1.0, 0.25, -1.0), [0, 1, 2]) == [1.0, 0.25, 0.125]


def test_power_then_cooldown():
    """The composition that the docstring of power_schedule names."""
    power = power_schedule(1.0, 10.0, -0.5, 10)
    schedule = schedules.join_schedules([power, linear_schedule(power(1000), 0.0, 100)], [1000])
    assert schedule(1000) == power(1000) and schedule(1100) == 0.0


def test_cyclic_of_the_papers_text():
    """Both bounds shrink: the triangle times a power, as the docstring says."""
    triangle, shrink = cyclic_schedule(0.1, 0.7, 10), exponential_decay(1.0, 1, 0.99)
    got = triangle(30) * shrink(30)
    np.testing.assert_allclose(got, 0.7 * 0.99**30, rtol=1e-6)


def test_cyclic_down_to_an_exact_zero():
    """Cycles of momentum go down first; near the lower value no digit is lost."""
    schedule = cyclic_schedule(1.0, 0.0, 10**6)
    assert values(schedule, [0, 10**6, 2 * 10**6]) == [1.0, 0.0, 1.0]
    np.testing.assert_allclose(values(schedule, [10**6 - 1, 10**6 + 3]), [1e-6, 3e-6], rtol=1e-6)


@pytest.mark.parametrize("period", [3, 2**16 + 1, 2**30 - 1])
def test_cycles_of_long_runs(period):
    steps = LAST - np.arange(0, 50, 7)
    schedule = jax.jit(cyclic_schedule(0.0, 1.0, period))
    want = [cyclic(int(t), 0.0, 1.0, period) for t in steps]
    np.testing.assert_allclose(schedule(steps.astype(np.int32)), want, rtol=1e-6, atol=1e-9)


def test_cycles_longer_than_any_run():
    schedule = cyclic_schedule(0.0, 1.0, 2**40)
    np.testing.assert_allclose(schedule(LAST), LAST / 2**40, rtol=1e-6)
    cycle = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 0, "decay_steps": 2**31}
    np.testing.assert_allclose(sgdr_schedule([cycle, cycle])(LAST), (math.pi / 2**32) ** 2, rtol=1e-6)


def test_shares_are_decimal():
    """0.29 of 100 steps are 29, though 0.29 * 100 is less in binary."""
    shares: list[Any] = [0.29, np.float32(0.29), np.float64(0.29), jnp.float32(0.29)]
    for share in shares:
        assert cosine_onecycle_schedule(100, 1.0, share)(29) == 1.0
    assert linear_onecycle_schedule(1000, 1.0, 0.29, 0.57)(570) == np.float32(0.04)


@pytest.mark.full
@pytest.mark.parametrize("make", [linear_onecycle_schedule, cosine_onecycle_schedule])
def test_onecycle_without_a_rise(make):
    schedule = make(100, 1.0, pct_start=0.0)
    assert values(schedule, [0, 100, 101]) == [1.0, float(np.float32(4e-6)), float(np.float32(4e-6))]
    with relaxed():
        theirs = jax.vmap(getattr(optax, make.__name__)(100, 1.0, pct_start=0.0))(np.arange(110))
    np.testing.assert_allclose(schedule(np.arange(110)), theirs, rtol=1e-6, atol=1e-7)


def test_onecycle_without_a_fall():
    """The peak, of no length, is where the last value begins; Optax never rises, its keys being the same."""
    cosine = cosine_onecycle_schedule(100, 1.0, pct_start=1.0)
    np.testing.assert_allclose(values(cosine, [0, 50, 100]), [0.04, 0.52, 4e-6], rtol=1e-6)
    assert 0.999 < cosine(99) < 1.0
    linear = linear_onecycle_schedule(100, 1.0, pct_start=1.0, pct_final=1.0)
    np.testing.assert_allclose(values(linear, [0, 50, 99, 100]), [0.04, 0.52, 0.9904, 4e-6], rtol=1e-6)


def test_onecycle_without_a_last_line():
    schedule = linear_onecycle_schedule(100, 1.0, pct_final=1.0)
    np.testing.assert_allclose(values(schedule, [30, 65, 99, 100]), [1.0, 0.52, 0.04 + 0.96 / 70, 4e-6], rtol=1e-6)


def test_onecycle_of_one_step():
    assert cosine_onecycle_schedule(1, 1.0)(0) == 1.0
    np.testing.assert_allclose(cosine_onecycle_schedule(1, 1.0)(1), 4e-6, rtol=1e-6)


def test_sgdr_takes_an_iterator_and_keeps_no_dict():
    cycle = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 10}
    schedule, same = sgdr_schedule(iter([cycle, cycle])), sgdr_schedule(({"exponent": 1.0, **cycle},) * 2)
    cycle["decay_steps"] = 5
    assert schedule == same and hash(schedule) == hash(same)
    assert schedule != sgdr_schedule([cycle, cycle])
    assert values(schedule, [2, 10, 12, 20]) == [1.0, 0.0, 1.0, 0.0]


def test_sgdr_restarts_at_the_boundary():
    cycles = [{"init_value": 0.0, "peak_value": 1 / (i + 1), "warmup_steps": 0, "decay_steps": 10} for i in range(3)]
    schedule = sgdr_schedule(cycles)
    assert values(schedule, [0, 10, 20]) == [1.0, 0.5, float(np.float32(1 / 3))]
    np.testing.assert_allclose(
        values(schedule, [9, 19]), [math.sin(math.pi / 20) ** 2 * x for x in (1, 0.5)], rtol=1e-6
    )
