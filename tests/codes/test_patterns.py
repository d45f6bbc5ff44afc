"""How far coded optimizers go beside those in float32, over gradients of many patterns; see the benchmark."""

import importlib
import sys
from pathlib import Path

import pytest

import gdjax

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
patterns = importlib.import_module("coded_patterns")

# Each is off in some patterns, and the page says in which.
OFF = ("soap", "dion2", "adamw", "nadam", "radam", "adamw(0.95, 0.95)")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("rmsprop", "elemspike"), ("adopt", "elemspike"), ("lion", "elemspike"), ("laprop", "elemspike"),
        ("adamax", "elemspike"), ("adamw(0.95, 0.9)", "1 % of elements"),
    ],
)  # fmt: skip
def test_a_large_element_stalls_no_other(name: str, pattern: str):
    found = patterns.beside(patterns.OPTIMIZERS[name](), {}, steps=300)(pattern)
    assert patterns.holds(found), found


def test_blocks_stall_elements_beside_large_ones():
    """What the page says of them, and what makes the test above fail."""
    found = patterns.beside(gdjax.rmsprop(1e-3), {"moments": "blocks"}, steps=300)("elemspike")
    assert found["displacement"] < 0.6, found


@pytest.mark.slow
@pytest.mark.parametrize("name", [x for x in patterns.OPTIMIZERS if x not in OFF])
def test_every_pattern(name: str):
    figures = patterns.beside(patterns.OPTIMIZERS[name](), {})
    found = {pattern: figures(pattern) for pattern in patterns.PATTERNS}
    assert not {p: x for p, x in found.items() if not patterns.holds(x)}
