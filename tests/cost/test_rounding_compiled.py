"""The rounding to 16 bits is in the programs that a TPU and an H100 would run, and takes no byte more."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
bfloat16 = importlib.import_module("bfloat16")
ROWS = json.loads((ROOT / "benchmarks" / "results" / "bfloat16.json").read_text("utf-8"))["rows"]
PLAIN = "float32", "bfloat16, nearest"  # rounded by the cast of what is written


@pytest.mark.optimized
@pytest.mark.parametrize("how", [how for how in bfloat16.WRAPPERS if how not in PLAIN])
@pytest.mark.parametrize("target", ["tpu", "cuda"])
def test_the_rounding_is_in_the_program(target: str, how: str):
    try:
        bfloat16.device(target)
    except Exception:
        pytest.skip(f"the compiler for {target} is not installed")
    _, text = bfloat16.compiled_step(target, how, 256)
    assert bfloat16.rounded_by(text)


def test_what_rounds_is_found_in_a_text():
    assert bfloat16.rounded_by("  %r = f32[8]{0} reduce-precision(%x), exponent_bits=8") == ["reduce-precision"]
    assert bfloat16.rounded_by("  %c = u32[]{} constant(4294901760)") == ["mask of the upper half"]
    assert bfloat16.rounded_by("  %b = bf16[8]{0} convert(%x)") == []


@pytest.mark.parametrize("target", ["tpu", "cuda"])
def test_the_stored_figures(target: str):
    """On a matrix of 4096 x 4096, gradients and parameters of two bytes, moments of four."""
    rows = {row["how"]: row for row in ROWS if row.get("target") == target}
    assert rows.keys() == bfloat16.WRAPPERS.keys()
    assert all(row["rounded_by"] for how, row in rows.items() if how not in PLAIN)
    kept = {"with_master_weights": 4, "remainder_bits=16": 2, "remainder_bits=8": 1, "with_kahan_summation": 2}
    for how, row in rows.items():
        bytes_ = 28 if how == "float32" else 2 + 2 + 2 + 4 * 4 + 2 * kept.get(how, 0)
        assert row["bytes"] == pytest.approx(bytes_, abs=0.01) and row["temporary"] < 0.01
