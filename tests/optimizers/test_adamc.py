"""AdamC."""

import pytest

import gdjax
from tests import oracles


def test_with_a_constant_rate_it_is_adamw():
    both = [oracles.run(f(0.01, weight_decay=0.25)) for f in (gdjax.adamc, gdjax.adamw)]
    oracles.assert_same(*both, rtol=1e-6, atol=1e-6)


def test_misuse():
    with pytest.raises(ValueError, match="^gdjax.adamc: kind='corrected' needs peak_learning_rate"):
        gdjax.adamc(oracles.fall)
    with pytest.raises(ValueError, match="^gdjax.adamc: peak_learning_rate must be finite and above 0"):
        gdjax.adamc(0.1, peak_learning_rate=0.0)
