"""NIST's 27 regressions from both starts: `gauss_newton` finds the certified parameters, and never goes up."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import nist
from gdjax import apply_updates, gauss_newton
from tests.linesearch.problems import precision

STEPS = {"Bennett5": 1000, "MGH10": 400, "MGH17": 700}  # others take fewer than 120
DIGITS = 6
# A compilation each, 2 s: of every kind of model one in the ordinary suite, and the hardest starts.
ORDINARY = ("BoxBOD", "Hahn1", "MGH10", "Nelson", "Roszman1")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in nist.MODELS if name not in ORDINARY]


def run(regression: nist.Regression, steps: int) -> tuple[Any, Any]:
    """Parameters after each step from each start, and f before and after."""
    tx = gauss_newton()

    def step(carry: Any, _: None) -> Any:
        b, state = carry
        updates, state = tx.update(b, state, b, residual_fn=regression.residuals)
        b = apply_updates(b, updates)
        return (b, state), b

    scan = jax.jit(lambda b: jax.lax.scan(step, (b, tx.init(b)), length=steps)[1])
    found = [jnp.concatenate([b[None], scan(b)]) for b in map(jnp.asarray, regression.starts)]
    return found, [jax.jit(jax.vmap(lambda b: jnp.sum(regression.residuals(b) ** 2)))(bs) for bs in found]


@pytest.mark.parametrize("name", [*ORDINARY, *SLOW])
def test_certified(name: str):
    with precision("float64"), jax.numpy_rank_promotion("allow"):
        regression = nist.regression(name)
        for bs, fs in zip(*run(regression, STEPS.get(name, 120)), strict=True):
            assert nist.digits(bs[-1], regression.certified) >= DIGITS
            if name != "Lanczos1":  # 1e-25 of the observations' squares: all rounding
                np.testing.assert_allclose(fs[-1], regression.sum_of_squares, rtol=1e-9)
            assert (np.diff(fs) <= 1e-12 * np.asarray(fs[1:])).all()


def test_a_wrong_digit_counts():
    assert nist.digits([1.0, 2.000002], np.array([1.0, 2.0])) == pytest.approx(6)
    assert nist.digits([1.0, 2.0], np.array([1.0, 2.0])) == 11
    assert nist.digits([1.0, np.nan], np.array([1.0, 2.0])) == 0
