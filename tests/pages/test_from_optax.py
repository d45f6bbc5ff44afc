"""Each row of the tables of `docs/from_optax.md` has a program that finds in both libraries what the row says."""

import importlib
import re
from pathlib import Path

import optax
import optax.contrib
import pytest

import gdjax
from tests.pages.claims.claim import CLAIMS, met

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "from_optax.md"
for file in sorted((ROOT / "tests" / "pages" / "claims").glob("*.py")):
    importlib.import_module(f"tests.pages.claims.{file.stem}")

# Rows whose program is a test elsewhere, of gdjax alone: what they say of Optax cannot be seen from outside of it.
ELSEWHERE = {
    "8. `update` outside jit": "core/test_base.py: test_an_eager_update_is_one_compiled_call",
    "`update` outside jit": "core/test_base.py: test_an_eager_update_is_one_compiled_call",
}
# Rows that no program walks yet.
UNWALKED = (
    "`make_perturbed_fun`", "`microbatching` on an explicit mesh", "L-BFGS after a step of 0", "L-BFGS, 16 bits",
    "zoom: a rise that counts as rounding",
    "zoom after 10 trials in vain", "zoom's `info` after a failed search", "zoom's safe step",
    "`momo`, `momo_adam` with `weight_decay`",
    "`muon(adaptive)` of batched arrays", "`galore` in float64; bfloat16 parameters", "`sophia(verbose=True)`",
    "aggregating: variance", "less memory in `sigmoid_focal_loss`",
)  # fmt: skip


def rows() -> list[str]:
    """The tables without their heads and rules."""
    lines = [line.strip().strip("|").strip() for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    return [" | ".join(row) for row in cells if row[0] != "what" and set(row[0]) != {"-"}]


ROWS = rows()


@pytest.mark.parametrize("row", [*CLAIMS, *ELSEWHERE, *UNWALKED])
def test_a_claim_is_of_one_row(row: str):
    assert sum(text.startswith(row) for text in ROWS) == 1


def test_every_row_has_a_program():
    assert [text for text in ROWS if not any(text.startswith(row) for row in [*CLAIMS, *ELSEWHERE, *UNWALKED])] == []
    assert CLAIMS.keys().isdisjoint([*ELSEWHERE, *UNWALKED])


@pytest.mark.parametrize("place", sorted(set(ELSEWHERE.values())))
def test_the_others_are_tested_elsewhere(place: str):
    file, _, name = place.partition(": ")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text("utf-8")


OF_BOTH = [(row, i) for row, claims in CLAIMS.items() for i in range(len(claims))]


@pytest.mark.programs
@pytest.mark.parametrize(
    ("row", "i"), OF_BOTH, ids=[f"{CLAIMS[row][i].program.__name__}-{row[:30]}" for row, i in OF_BOTH]
)
def test_the_libraries_do_what_the_page_says(row: str, i: int):
    theirs, ours, program = CLAIMS[row][i]
    assert met(program, optax, theirs), "Optax does not"
    assert met(program, gdjax, ours), "gdjax does not"
