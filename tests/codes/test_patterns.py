"""How far coded optimizers go beside those in float32, over gradients of many patterns; see the benchmark."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import relaxed

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
patterns = importlib.import_module("coded_patterns")

# What the page says of these: off in most patterns, or in some.
OFF = "soap", "dion2", "adamw(0.95, 0.95)"
OFF_IN = dict.fromkeys("adamw nadam radam ademamix galore optimistic_adam_v2".split(), {"drift"})
OFF_IN |= {"muown": {"scale 1e-16"}}  # with an eps of 1e-8 its update is the rounding of weights, in float32 too


def found(name: str, pattern: str, **kept: Any) -> Any:
    with relaxed():
        return patterns.beside(patterns.OPTIMIZERS[name](), kept, steps=300)(pattern)


@pytest.mark.full
def test_a_large_element_stalls_no_other():
    for name in ("rmsprop", "lion", "adopt"):
        figures = found(name, "elemspike")
        assert patterns.holds(figures), (name, figures)


@pytest.mark.full
def test_a_moment_that_fades_as_slowly_as_the_root():
    figures = found("adamw(0.95, 0.9)", "1 % of elements")
    assert patterns.holds(figures), figures


@pytest.mark.full
@pytest.mark.parametrize("name", ["lamb", "adam, of one norm", "adam, hyperball"])
def test_an_update_over_its_own_norm(name: str):
    """After a spike it is less than the errors of words: it has none."""
    figures = found(name, "spikes of 1e6")
    assert patterns.holds(figures), figures


@pytest.mark.full
def test_blocks_stall_elements_beside_large_ones():
    """What the page says of them, and what makes the test above fail."""
    assert found("rmsprop", "elemspike", moments="blocks")["displacement"] < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("name", [x for x in patterns.OPTIMIZERS if x not in OFF])
def test_every_pattern(name: str):
    with relaxed():
        figures = patterns.beside(patterns.OPTIMIZERS[name](), {})
        each = {pattern: figures(pattern) for pattern in patterns.PATTERNS}
    assert not {p: x for p, x in each.items() if not patterns.holds(x) and p not in OFF_IN.get(name, ())}
    assert all(abs(each[p]["displacement"] - 1) < 0.05 for p in OFF_IN.get(name, ()))
