"""N10 over several steps: derivatives of every transform by a rate, a decay and the start equal finite differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.cases import CASES, Case, by_name
from tests.derivatives import SCALES, decay_of, found, moved
from tests.trees import precision

# Where differences say something else than the derivative, and why. There it is finite, and the same in both modes.
ANOTHER = {
    "a sign, whose derivative is 0": "lion scale_by_lion sign_sgd signum scale_by_sign rprop scale_by_rprop leafwise",
    "rounded to bfloat16": "adam/mu_bfloat16 scale_by_ademamix with_stochastic_rounding quantize_state",
    "kept in float32: differences are rounding": "adafactor sgd/nesterov",
    "singular vectors, taken for constants": "galore scale_by_galore",
    "a search for a step, which is taken for a constant": "scale_by_zoom_linesearch scale_by_backtracking_linesearch",
    "the largest of two equal numbers: the first step is as long as the least distance": "dog dowg",
}
REASONS = {name: reason for reason, names in ANOTHER.items() for name in names.split()}

# Of those the ordinary suite has the ones that had no derivatives, and some that always had.
ORDINARY = "adam muon normuon adafactor came stable_adamw zclip spectral soap soap_muon".split()
cases = pytest.mark.parametrize(
    "case", [pytest.param(x, id=x.name, marks=[] if x.name in ORDINARY else [pytest.mark.slow]) for x in CASES]
)


@cases
def test_n10_derivatives_through_steps(case: Case):
    with precision("float64"):
        at = found(case)
        for scale in SCALES:
            value, forward, backward, differences = at(scale)
            exact = {"rtol": 1e-9, "atol": 1e-10 * np.abs(value)}
            np.testing.assert_allclose(backward, forward, **exact)
            assert np.isfinite(forward).all()
            if {case.name, case.covers}.isdisjoint(REASONS):
                np.testing.assert_allclose(forward, differences, rtol=1e-5, atol=1e-6 * np.abs(value))
