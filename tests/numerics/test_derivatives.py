"""N10 over several steps: derivatives of every transform by a rate, a decay and the start equal finite differences."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.cases import CASES, Case
from tests.derivatives import SCALES, found, moved
from tests.trees import precision

# Where differences say something else than the derivative, and why. There it is finite, and the same in both modes.
ANOTHER = {
    "a sign, whose derivative is 0": "lion scale_by_lion sign_sgd signum scale_by_sign rprop scale_by_rprop leafwise",
    "rounded to bfloat16": "adam/mu_bfloat16 scale_by_adana scale_by_ademamix with_stochastic_rounding quantize_state",
    "kept or scheduled in float32: differences are rounding": "adafactor scale_by_factored_rms sgd/nesterov",
    "columns that nothing determines are rounding over eps": "scale_by_dion",
    "singular vectors, taken for constants": "galore scale_by_galore",
    "a search for a step, which is taken for a constant": "scale_by_zoom_linesearch scale_by_backtracking_linesearch",
    "the largest of two equal numbers: the first step is as long as the least distance": "dog dowg",
}
NARROW = ANOTHER["rounded to bfloat16"].split()  # so are what derivatives are multiplied by
REASONS = {name: reason for reason, names in ANOTHER.items() for name in names.split()}

# Of those the ordinary suite has some that had no derivatives.
ORDINARY = "adafactor stable_adamw zclip spectral".split()


def sweep(ordinary: Sequence[str]) -> Any:
    marks = lambda case: [pytest.mark.whole] if case.name in ordinary else [pytest.mark.slow]
    return pytest.mark.parametrize("case", [pytest.param(x, id=x.name, marks=marks(x)) for x in CASES])


@pytest.mark.full
@sweep(ORDINARY)
def test_n10_derivatives_through_steps(case: Case):
    with precision("float64"):
        at = found(case)
        for scale in SCALES:
            value, forward, backward, differences = at(scale)
            assert np.isfinite(forward).all()
            another = not {case.name, case.covers}.isdisjoint(REASONS)
            near = {"rtol": 1e-5, "atol": 1e-6 * np.abs(value)}
            if not another or case.name not in NARROW:
                np.testing.assert_allclose(backward, forward, **near)
            if not another:
                np.testing.assert_allclose(forward, differences, **near)


@pytest.mark.full
@sweep(["adafactor", "came", "stable_adamw"])
def test_n10_forward_mode_in_float32(case: Case):
    derivative = jax.jit(jax.jacfwd(moved(case, "float32")))
    for scale in (1.0, 0.05, 1e-6):
        assert jnp.isfinite(derivative(jnp.zeros(3), jnp.float32(scale))).all()


@pytest.mark.full
def test_n10_a_dead_unit_in_the_recipe_of_a_transformer():
    w = jax.random.normal(jax.random.key(0), (6, 4))
    tx, p = gdjax.transformer_optimizer(1e-2, 100), {"hidden": {"kernel": w}}
    state = tx.init(p)

    def moved(x: Any) -> Any:
        g = {"hidden": {"kernel": (w * x).at[:, 0].set(0.0)}}
        return jnp.sum(tx.update(g, state, p)[0]["hidden"]["kernel"] ** 3)

    assert jnp.isfinite(jax.jit(jax.grad(moved))(1.0)) and jnp.isfinite(jax.jvp(jax.jit(moved), (1.0,), (1.0,))[1])


def test_n10_every_exception_is_a_case():
    assert {*REASONS} <= {name for case in CASES for name in (case.name, case.covers)}
