"""Two moments in one word: what is kept of them, and what becomes of Adam's updates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.codes.rounding import even_bits, salt
from gdjax.codes.words import WORDS, Word

RNG = np.random.default_rng(0)
SHAPE = (256, 64)
F32 = np.float32


def moments(shape: tuple[int, ...] = SHAPE) -> tuple[Any, Any]:
    """Averages of gradients whose squares fill the range of float32."""
    v = np.exp2(RNG.uniform(-125, 127, shape)).astype(F32)
    return jnp.asarray(RNG.normal(0, 0.5, shape) * np.sqrt(v), jnp.float32), jnp.asarray(v)


def kept(pair: Any, step: Any = 0) -> Any:
    return WORDS.decode(WORDS.encode(pair, salt(1, step, 2)))


@pytest.mark.full
def test_a_word():
    """10 bits of v, the sign of m, and k of |m| / sqrt(v) = k / (65 - 2 k)."""
    v = jnp.asarray([1.0, 1.25, 4.0, 1.75 * 2.0**127, 2.0**-126])
    k = jnp.asarray([0, 1, 16, 31, 30])
    m = jnp.asarray([1, -1, 1, -1, 1]) * k / (65 - 2 * k) * jnp.sqrt(v)
    word = WORDS.encode((m, v)).word
    assert word.dtype == jnp.uint16
    np.testing.assert_array_equal(word >> 6, [127 * 4, 127 * 4 + 1, 129 * 4, 254 * 4 + 3, 4])
    np.testing.assert_array_equal(word & 63, [0, 32 + 1, 16, 32 + 31, 30])


def test_what_was_decoded_gets_its_word_again():
    """All words but those of no number, whatever the random bits."""
    word = jnp.arange(4 << 6, 1020 << 6, dtype=jnp.uint16)
    word = word[(word & 63) != 32].reshape(-1, 63)  # -0 becomes 0
    again = jax.jit(lambda word, step: WORDS.encode(WORDS.decode(Word(word)), salt(0, step, 0)).word)
    for step in range(20):
        np.testing.assert_array_equal(again(word, step), word)


@pytest.mark.full
def test_zeros_and_what_is_no_number():
    nan, inf = np.nan, np.inf
    m = jnp.asarray([0.0, -0.0, 1.0, nan, inf, 1.0, 1.0, 1.0, 0.0, nan])
    v = jnp.asarray([0.0, 1.0, 0.0, 1.0, 1.0, nan, inf, -1.0, -0.0, 0.0])
    found = [np.asarray(x) for x in kept((m, v))]
    np.testing.assert_array_equal(found[0], [0, 0, 0, *[nan] * 5, 0, nan])
    np.testing.assert_array_equal(found[1], [0, 1, 0, *[nan] * 5, 0, nan])


@pytest.mark.full
def test_neither_end_of_float32_is_another():
    tiny, largest = jnp.finfo(jnp.float32).tiny, jnp.finfo(jnp.float32).max
    m, v = jnp.asarray([1e-19, 1e19, -1e38, 3e38, 1e-30]), jnp.asarray([tiny, largest, 1.0, largest, tiny * 1.01])
    for step in range(20):
        found = kept((m, v), step)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in found)
        np.testing.assert_array_less(np.abs(np.log(found[1] / v)), 0.25)  # and so never 0
        np.testing.assert_allclose(found[0][:2], m[:2], rtol=0.15)


@pytest.mark.slow
def test_the_means_are_right():
    """Over many steps: of m, and nearly that of log v."""
    pair, n = moments((32, 64)), 4000
    draws = jax.vmap(lambda step: jnp.stack(WORDS.decode(WORDS.encode(pair, salt(5, step, 1)))))(jnp.arange(n))
    m, v = (np.asarray(draws[:, i], np.float64) for i in range(2))
    off = np.log(v).mean(0) - np.log(np.asarray(pair[1], np.float64))
    assert abs(off.mean()) < 0.004 and np.abs(off).max() < 0.02
    root = np.sqrt(v)  # v is drawn too
    np.testing.assert_allclose((m / root).mean(0), (np.asarray(pair[0], np.float64) / root).mean(0), atol=0.004)


@pytest.mark.full
def test_even_bits():
    """Random among elements, arrays and seeds; in time each tenth of [0, 1) is met as often as it is long."""
    like = jnp.zeros((300, 200))
    number = lambda x: np.asarray(x >> np.uint32(8), np.float64) / 2**24
    u, second, new = map(number, even_bits(salt(3, 7, 1), like))
    others = [number(even_bits(salt(*x), like)[0]) for x in ((3, 7, 2), (4, 7, 1))]
    for y in (second, new, *others, np.roll(u, 1, 0), np.roll(u, 1, 1)):
        assert abs(np.corrcoef(u.ravel(), y.ravel())[0, 1]) < 4 / np.sqrt(u.size)
    for x in (u, second, new):
        assert abs(x.mean() - 0.5) < 4 / np.sqrt(12 * x.size) and abs(12 * x.var() - 1) < 0.02
        counts = np.histogram(x, 64, (0, 1))[0]
        assert ((counts - x.size / 64) ** 2 / (x.size / 64)).sum() < 63 + 4 * np.sqrt(2 * 63)
    in_time = jax.vmap(lambda step: jnp.stack(even_bits(salt(0, step, 0), jnp.zeros(500))))(jnp.arange(1000))
    later = jax.vmap(lambda step: even_bits(salt(0, step, 0), jnp.zeros(20))[2])(29 * jnp.arange(2000))
    each = number(later)  # the third is independent after some steps, of which all elements have one word
    assert abs(np.corrcoef(each[1:].ravel(), each[:-1].ravel())[0, 1]) < 4 / np.sqrt(len(each))
    for x in number(in_time[:, :2]).transpose(1, 2, 0).reshape(1000, -1):
        assert np.abs(np.histogram(x, 10, (0, 1))[0] - 100).max() <= 3


def run(
    b2: float, steps: int, signal: float = 0.0, decades: float = 12.0, rms: float = 1.0, case: str = "", b1: float = 0.9
) -> Any:
    """The last 8 updates of Adam without and with words, and v over the exact one."""
    columns = rms * 10 ** jnp.linspace(-decades / 2, decades / 2, SHAPE[1])
    even = jnp.arange(SHAPE[0])[:, None] % 2 == 0
    after = {"A": 0.0, "B": jnp.where(even, 1.0, 0.0), "D": 0.1}.get(case, 1.0)

    def adam(m: Any, v: Any, g: Any) -> Any:
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        return m / jnp.sqrt(v), m, v

    def step(carry: Any, t: Any) -> Any:
        word, *exact = carry
        g = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), SHAPE) + signal
        g = g * columns[None] * jnp.where(t <= 1000, 1.0, after)
        wanted, *exact = adam(*exact, g)
        found, *new = adam(*WORDS.decode(word), g)
        return (WORDS.encode(new, salt(7, t, 0)), *exact), (found, wanted, WORDS.decode(word)[1] / exact[1])

    def last() -> Any:
        zeros = jnp.zeros(SHAPE)
        start = (WORDS.encode((zeros, zeros)), zeros, zeros)
        start, _ = jax.lax.scan(lambda c, t: (step(c, t)[0], None), start, jnp.arange(1, steps - 7))
        return jax.lax.scan(step, start, jnp.arange(steps - 7, steps + 1))[1]

    return [np.asarray(x, np.float64) for x in jax.jit(last)()]


@pytest.mark.full
@pytest.mark.optimized
@pytest.mark.parametrize(
    ("b2", "steps", "signal", "decades", "rms"),
    [
        (0.999, 1500, 0.0, 12.0, 1.0), (0.99, 600, 0.0, 24.0, 1.0), (0.95, 300, 0.0, 12.0, 1.0),
        (0.999, 1500, 3.0, 12.0, 1.0), (0.99, 600, 0.3, 6.0, 1e-15), (0.99, 600, 3.0, 6.0, 1e15),
        (0.95, 300, 3.0, 12.0, 1.0), (0.999, 50, 0.0, 12.0, 1.0),
    ],
)  # fmt: skip
def test_updates_of_adam(b2: float, steps: int, signal: float, decades: float, rms: float):
    """Off by 16 % of their norm at most; as long within 1 %."""
    found, wanted, _ = run(b2, steps, signal, decades, rms)
    assert np.linalg.norm(found - wanted) < 0.16 * np.linalg.norm(wanted)
    assert abs(np.sqrt((found**2).mean() / (wanted**2).mean()) - 1) < 0.012
    assert abs(np.abs(found).mean() / np.abs(wanted).mean() - 1) < 0.01


@pytest.mark.slow
@pytest.mark.optimized  # 4,000 steps take longer than compiling them
@pytest.mark.parametrize("case", ["A", "B", "C", "D"])
def test_second_moments_fade_and_grow_as_they_should(case: str):
    """b2 = 0.999, 1,000 ordinary steps, and 3,000 of gradients: 0; 0 in every other row; as before; a tenth."""
    _, _, ratios = run(0.999, 4000, case=case)
    ratios = ratios[:, 1::2] if case == "B" else ratios
    assert 0.9 < ratios.mean() < 1.1 and 0.9 < np.median(ratios) < 1.1


@pytest.mark.full
@pytest.mark.optimized
@pytest.mark.parametrize("every", [12, 29])
def test_gradients_in_every_so_many_steps_are_no_beat(every: int):
    """As of a row of an embedding: bits that are even in time make updates longer by 14 %, or shorter by 17 %."""
    g = jax.random.normal(jax.random.key(0), (64, 64))

    def step(carry: Any, t: Any) -> Any:
        word, *exact = carry
        g_t = jnp.where(t % every == 0, g, 0.0)
        adam = lambda m, v: (0.9 * m + 0.1 * g_t, 0.999 * v + 0.001 * g_t * g_t)
        (m, v), exact = adam(*WORDS.decode(word)), adam(*exact)
        length = lambda m, v: jnp.sum(m**2 / (v + 1e-24))
        return (WORDS.encode((m, v), salt(7, t, 0)), *exact), jnp.stack([length(m, v), length(*exact)])

    zeros = jnp.zeros_like(g)
    start = (WORDS.encode((zeros, zeros)), zeros, zeros)
    _, lengths = jax.jit(lambda: jax.lax.scan(step, start, jnp.arange(6000)))()
    found, exact = np.asarray(lengths[2000:], np.float64).sum(0) ** 0.5
    assert abs(found / exact - 1) < 0.03


@pytest.mark.full
@pytest.mark.optimized
@pytest.mark.parametrize("b2", [0.9, 0.95, 0.98, 0.999])
def test_a_second_moment_without_gradients_fades_at_its_rate(b2: float):
    _, v = moments()
    v = WORDS.decode(WORDS.encode((v, jnp.sqrt(v))))[1]
    n = round(3 / (1 - b2))

    def step(word: Any, t: Any) -> Any:
        m, v = WORDS.decode(word)
        return WORDS.encode((m, b2 * v), salt(7, t, 0)), None

    word = jax.jit(lambda v: jax.lax.scan(step, WORDS.encode((v, v)), jnp.arange(n))[0])(v)
    ratio = np.log(np.asarray(WORDS.decode(word)[1] / v, np.float64)) / (n * np.log(b2))
    assert abs(np.median(ratio) - 1) < 0.12


@pytest.mark.full
def test_a_mean_without_gradients_fades():
    m, v = jnp.full(SHAPE, 0.5), jnp.ones(SHAPE)

    def step(word: Any, t: Any) -> Any:
        m, v = WORDS.decode(word)
        return WORDS.encode((0.9 * m, v), salt(7, t, 0)), jnp.mean(m)

    word, means = jax.lax.scan(step, WORDS.encode((m, v)), jnp.arange(200))
    assert abs(np.log(means[20] / means[0]) / (20 * np.log(0.9)) - 1) < 0.08
    assert float(jnp.abs(WORDS.decode(word)[0]).max()) == 0
