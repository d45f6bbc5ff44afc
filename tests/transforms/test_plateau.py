"""A scale that falls on plateaus."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import assert_equal, finite, signature

G = {"w": jnp.array([1.0, -2.0])}


def scales(values: Sequence[Any], dtype: str = "float32", **hyper: Any) -> list[float]:
    """The scale after each value."""
    tx, g = gdjax.reduce_on_plateau(**hyper), jax.tree.map(lambda x: x.astype(dtype), G)
    first = state = tx.init(g)
    step, found = jax.jit(lambda state, value: tx.update(g, state, value=value)), []
    for value in values:
        u, state = step(state, value)
        assert signature(state) == signature(first)
        assert_equal(u["w"], (state.scale * G["w"]).astype(dtype))
        found.append(float(state.scale))
    return found


def plateau(
    values: Sequence[float], factor: float = 0.1, patience: int = 10, rtol: float = 1e-4, atol: float = 0.0,
    cooldown: int = 0, accumulation_size: int = 1, min_scale: float = 0.0,
) -> list[float]:  # fmt: skip
    scale, best, bad, wait, batch, found = 1.0, None, 0, 0, [], []
    for value in values:
        batch.append(value)
        if len(batch) == accumulation_size:
            mean, batch = np.mean(batch), []
            improved = best is None or mean < best - rtol * abs(best) - atol
            best = mean if improved else best
            bad = 0 if improved or wait > 0 else bad + 1
            wait = max(wait - 1, 0)
            if bad >= max(patience, 1):
                scale, bad, wait = max(scale * factor, min_scale), 0, cooldown
        found.append(scale)
    return found


RANDOM = np.random.default_rng(0).normal(size=60).round(1)
CASES = {
    "default": {"factor": 0.5, "patience": 2},
    "cooldown": {"factor": 0.5, "patience": 2, "cooldown": 3},
    "accumulation": {"factor": 0.75, "patience": 1, "cooldown": 1, "accumulation_size": 3},
    "tolerances": {"factor": 0.75, "patience": 3, "rtol": 0.5, "atol": 0.25},
    "no rtol": {"factor": 0.75, "patience": 3, "rtol": 0.0, "atol": 0.5},
    "min_scale": {"factor": 0.5, "patience": 1, "min_scale": 0.2},
    "patience 0": {"factor": 0.75, "patience": 0},
    "rtol 1": {"factor": 0.75, "patience": 3, "rtol": 1.0},
}


@pytest.mark.parametrize("shift", [3.0, 0.0, -3.0])
@pytest.mark.parametrize("name", CASES)
def test_follows_its_definition(name: str, shift: float):
    values = RANDOM - 0.05 * np.arange(60) + shift
    want = plateau(values, **CASES[name])
    assert want[-1] < 1 or name == "rtol 1"
    np.testing.assert_allclose(scales(values, **CASES[name]), want, rtol=1e-5)


def test_plateaus_of_either_sign_are_alike():
    for value in (1.0, 0.0, -1.0):
        assert scales([value] * 7, factor=0.5, patience=3) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_a_first_value_that_is_not_finite():
    assert scales([jnp.inf, jnp.nan, 1.0, 1.0], factor=0.5, patience=2) == [1, 0.5, 0.5, 0.5]
    assert scales([jnp.nan, 1.0, 0.5], factor=0.5, patience=2) == [1, 1, 1]


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_value_of_any_type(kind: Any, dtype: str):
    assert scales([kind(1.0)] * 3, dtype, factor=0.5, patience=2) == [1, 1, 0.5]


def test_means_and_scales_of_16_bit_parameters():
    # The mean of 300 ones, and a scale of 0.9^5, are not numbers of bfloat16.
    assert scales([1.0] * 300 + [0.99] * 300, "bfloat16", accumulation_size=300, factor=0.5, patience=1)[-1] == 1.0
    assert scales([1.0] * 6, "bfloat16", factor=0.9, patience=1)[-1] == pytest.approx(0.9**5, rel=1e-6)


def test_numbers_may_be_traced():
    def last(factor: Any, patience: Any) -> Any:
        tx = gdjax.reduce_on_plateau(factor, patience, rtol=jnp.float32(1e-4))
        state = tx.init(G)
        for _ in range(3):
            _, state = tx.update(G, state, value=1.0)
        return state.scale

    assert jax.jit(last)(0.5, 2) == 0.5


def test_in_a_chain():
    tx = gdjax.chain(gdjax.adam(0.1), gdjax.reduce_on_plateau(patience=1, factor=0.5))
    state = tx.init(G)
    _, state = tx.update(G, state, G, value=1.0)
    u, state = tx.update(G, state, G, value=1.0)
    np.testing.assert_allclose(u["w"], [-0.05, 0.05], rtol=1e-5)
    assert finite(state[0])


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"factor": 1.0}, "factor must be between 0 and 1, got 1.0"),
        ({"factor": 0.0}, "factor must be between 0 and 1, got 0.0"),
        ({"rtol": -0.1}, r"rtol must be in \[0, 1\], got -0.1"),
        ({"rtol": 1.5}, r"rtol must be in \[0, 1\], got 1.5"),
        ({"atol": -0.1}, "atol must be finite and at least 0, got -0.1"),
        ({"rtol": 0.0}, "rtol or atol must be above 0, got both 0"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"accumulation_size": 0}, "accumulation_size must be at least 1, got 0"),
    ],
)
def test_numbers_outside_their_domain(hyper: Any, message: str):
    with pytest.raises(ValueError, match=rf"gdjax.reduce_on_plateau: {message}"):
        gdjax.reduce_on_plateau(**hyper)


def test_errors():
    tx = gdjax.reduce_on_plateau()
    with pytest.raises(ValueError, match=r"gdjax.reduce_on_plateau: value must be a scalar, got None; call update"):
        tx.update(G, tx.init(G))
    with pytest.raises(ValueError, match=r"gdjax.reduce_on_plateau: value must be a scalar, got shape \(2,\)"):
        tx.update(G, tx.init(G), value=jnp.ones(2))
    with pytest.raises(TypeError, match=r"gdjax.reduce_on_plateau: min_scale must be a number or a scalar array"):
        gdjax.reduce_on_plateau(min_scale=gdjax.constant_schedule(0.1))
