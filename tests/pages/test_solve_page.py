"""The page on `solve`: its programs print what it says, and a tuned machine is better than the one before."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from tests.pages.test_pages import printed, programs
from tests.support import relaxed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "solve.md"


@pytest.mark.programs
def test_the_programs_print_what_the_page_says(capsys: pytest.CaptureFixture[str]):
    names: dict[str, Any] = {}
    with relaxed():
        for program, text in zip(programs(PAGE), printed(PAGE), strict=True):
            exec(program, names)
            assert capsys.readouterr().out == text
    assert jnp.all(names["path"][0] != 0, where=jnp.abs(names["w_true"]) > 1.5)
    assert names["losses"][-1] < 0.8 * names["losses"][0]
