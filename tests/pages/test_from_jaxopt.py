"""The page for users of JAXopt: its two programs agree, its tables have every name, and both calls of a row agree."""

import importlib
import re
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.oracles import jaxopt, precision
from tests.pages.test_pages import programs
from tests.support import quick_compilation, relaxed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from_jaxopt.md"
MODULES = (
    "prox projection loss objective implicit_diff linear_solve perturbations isotonic tree_util base cond loop"
).split()
# Calls of random samples, which are others in both libraries, by how far their means differ; and iterations of theirs.
TOLERANCES = {"make_perturbed_fun": 0.03, "make_perturbed_argmax": 0.03, "make_perturbed_max": 0.03}
TOLERANCES |= dict.fromkeys(["projection_polyhedron", "projection_transport", "projection_birkhoff"], 1e-3)
TOLERANCES["projection_box_section"] = 1e-4


def rows() -> list[tuple[str, str, str]]:
    """The module of the heading, and the first two cells."""
    found = []
    for part in PAGE.read_text("utf-8").partition("## The names")[2].partition("\n## ")[0].split("\n### ")[1:]:
        heading = part.partition("\n")[0]
        for line in part.splitlines():
            if line.startswith("| `"):
                theirs, ours, *_ = (cell.strip() for cell in line.strip("|").split(" | "))
                found.append((heading, theirs, ours))
    return found


ROWS = rows()


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def names_of(cell: str) -> set[str]:
    return {re.match(r"\w+", code)[0] for code in codes(cell)}


def public() -> set[str]:
    top = jaxopt()
    with warnings.catch_warnings(action="ignore"):
        modules = [top, *(importlib.import_module(f"jaxopt.{name}") for name in MODULES)]
    found = {name for module in modules for name in dir(module) if name[0] != "_"}
    return found - set(MODULES) - {"warnings"} | {"cond"}


def test_every_name_has_a_row():
    named = set().union(*(names_of(theirs) for _, theirs, _ in ROWS))
    assert public() - named == set() and named - public() == set()


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    jaxopt()
    names: dict[str, Any] = {}
    with relaxed(), warnings.catch_warnings(action="ignore"):
        for program in programs(PAGE):
            exec(program, names)
    return names


@pytest.mark.programs
def test_the_port_finds_the_same(page: dict[str, Any]):
    for theirs, ours in zip(page["theirs"], page["ours"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)
    value, slope = re.search(r"Both find ([\d.]+) and the derivative ([\d.]+)\.", PAGE.read_text("utf-8")).groups()
    np.testing.assert_allclose(page["ours"], [float(value), float(slope)], rtol=2e-3)


def is_call(cell: str) -> bool:
    return len(codes(cell)) == 1 and cell == f"`{codes(cell)[0]}`" and "(" in cell


def case(row: tuple[str, str, str]) -> Any:
    """Solvers, and projections that are solvers, compile for seconds."""
    name = re.match(r"\w+", codes(row[1])[0])[0]
    slow = name in TOLERANCES or re.search(r"\bsolve(_constrained)?\(", row[2])
    return pytest.param(row, id=name, marks=[pytest.mark.programs] if slow else [])


@pytest.mark.full
@pytest.mark.parametrize("row", [case(row) for row in ROWS if is_call(row[1]) and is_call(row[2])])
def test_both_calls_of_a_row_give_the_same(row: tuple[str, str, str], page: dict[str, Any]):
    heading, theirs, ours = row
    # Not `__builtins__` either: a program that ran before may have left a cycle there.
    shared = {k: x for k, x in page.items() if k not in ("gdjax", "jaxopt", "__builtins__")}
    peer = vars(jaxopt()) | {"sgd": gdjax.sgd}
    for module in set(re.findall(r"\w+", heading)) & set(MODULES):
        peer |= vars(importlib.import_module(f"jaxopt.{module}"))
    with precision("float64"), relaxed(), quick_compilation(), warnings.catch_warnings(action="ignore"):
        shared = jax.tree.map(lambda x: x.astype(float) if is_floating(x) else x, shared)
        wanted = eval(codes(theirs)[0], {**peer, **shared})
        got = eval(codes(ours)[0], {**vars(gdjax), **shared})
    tol = TOLERANCES.get(codes(theirs)[0].partition("(")[0], 2e-3 if ".run(" in theirs else 1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tol, atol=tol), got, wanted)


def is_floating(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
