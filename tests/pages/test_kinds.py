"""The table of what each optimizer keeps is complete, and says of the known ones what is known."""

import warnings

import pytest

import gdjax
from tests.pages.test_site import ROOT, load

load("catalogue")
kinds = load("kinds")


@pytest.fixture(scope="module")
def table() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kinds.table()


def test_each_optimizer_is_in_one_row_or_keeps_nothing_for_a_parameter(table: str):
    shown = [name for name in kinds.names() if f"`{name}`" in table]
    assert set(kinds.names()) - set(shown) == {
        "fromage",
        "noisy_sgd",
        "perturbed_gradient_descent",
        "dpsgd",
        "polyak_sgd",
        "proximal",
        "sgd",
        "sgld",
        "sign_sgd",
    }
    assert all(hasattr(gdjax, name) for name in kinds.names()) and len(kinds.names()) > 60


def test_rows(table: str):
    rows = {name: row for row in table.splitlines() for name in row.split("|")[1].strip(" `").split("`, `")}
    for name, kept in (
        ("adamw", "| `mu` |  | `nu` |  |  |  |"),
        ("amsgrad", "| `mu` |  |  | `nu`, `nu_max` |  |  |"),
        ("soap", "| `mu` | `mu` | `nu` |  | `QL`, `QR` | `L`, `R` |"),
        ("prodigy", "`exp_avg` |  |  |  |  | `exp_avg_sq`, `grad_sum`, `params0` |"),
        ("madgrad", "|  |  |  | `grad_sum_sq`, `s`, `x0` |"),
    ):
        assert rows[name].endswith(kept)


def test_the_page_has_the_table(table: str):
    assert table in (ROOT / "docs" / "memory.md").read_text("utf-8")
