"""The docstrings of public names: an example that runs, and arguments that are explained."""

import doctest
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import gdjax

# The folders whose docstrings say of every argument what it is.
EXPLAINED = {"optimizers", "transforms", "schedules", "combine", "inspection", "linesearch", "training"}
# The folders whose public functions and classes all have an example, and point to no other page for an argument.
COMPLETE = EXPLAINED | {"core", "lift", "linalg", "experimental", "projections", "assignment"}
# What does without an example: protocols, errors, and the classes behind functions that have one.
WITHOUT = {
    "Codec", "ConditionFn", "NonFiniteError", "PerLeaf", "ShouldSkipUpdateFunction", "StatefulSchedule",
    "TransformInitFn", "TransformUpdateFn", "experimental.aggregating.Aggregator",
    "experimental.aggregating.AggregatorUpdateFn", "initial_parameter",
    "DilocoStep", "ShardedStep",
}  # fmt: skip
MOST_LINES, MOST_COLUMNS = 8, 88
# How a docstring names the functions that explain the arguments which it does not: one sentence, the same everywhere.
REFERENCE = r"\b[Aa]rguments are those of `gdjax\.\w+`(?:, some of `gdjax\.\w+`)?"


def load_catalogue() -> Any:
    if "catalogue" in sys.modules:  # `pages/test_site.py` has loaded it
        return sys.modules["catalogue"]
    path = Path(__file__).resolve().parents[2] / "docs" / "_site" / "catalogue.py"
    spec = importlib.util.spec_from_file_location("catalogue", path)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PUBLIC = [s for s in load_catalogue().symbols() if not (s.is_value or s.is_state)]
CHECKED = [s for s in PUBLIC if s.module.partition(".")[0] in COMPLETE]
MODULES = sorted({s.module for s in CHECKED})


def docstring(symbol: Any) -> str:
    return inspect.getdoc(symbol.obj) or ""


def section(text: str, title: str) -> str:
    """The body of a section, without its indent; empty where there is none."""
    found = re.search(rf"^{title}:\n((?:  .*\n|\n)*)", text + "\n", re.MULTILINE)
    return inspect.cleandoc("\n" + found[1]) if found else ""


def flaws(symbol: Any) -> list[str]:
    """What an example is not that it should be."""
    text = docstring(symbol)
    lines = section(text, "Example").splitlines()
    if not lines:
        return ["it has no section `Example:`"]
    code = [line for line in lines if line.startswith((">>> ", "... "))]
    found = {
        f"it has {len(lines)} lines": len(lines) > MOST_LINES,
        f"a line has more than {MOST_COLUMNS} columns": max(map(len, lines)) > MOST_COLUMNS,
        "it does not begin with an import": not lines[0].startswith(">>> import "),
        "it does not use the function": not re.search(rf"\b{symbol.short}\b", "\n".join(code)),
        "it shows nothing": len(code) == len(lines),
        "it does not stand before `Reference:`": 0 <= text.find("\nReference:") < text.find("\nExample:"),
    }
    return [flaw for flaw, is_so in found.items() if is_so]


def failures(symbol: Any) -> str:
    """What differs when the example runs, as the doctest module says it."""
    said: list[str] = []
    example = section(docstring(symbol), "Example") + "\n"
    test = doctest.DocTestParser().get_doctest(example, {}, symbol.name, symbol.module, 0)
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    return "".join(said)


@pytest.mark.programs
@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str):
    held = [s for s in CHECKED if s.module == module and s.name not in WITHOUT]
    assert {s.name: flaws(s) for s in held if flaws(s)} == {}
    wrong = "".join(map(failures, held))
    assert wrong == "", wrong


def test_a_wrong_example_is_found():
    symbol = SimpleNamespace(obj=lambda: 0, name="f", short="f", module="m")
    symbol.obj.__doc__ = "F.\n\nReference:\n  A book.\n\nExample:\n  >>> import gdjax\n  >>> f = 1\n  >>> f\n  2\n"
    assert flaws(symbol) == ["it does not stand before `Reference:`"]
    assert "Expected:\n    2\nGot:\n    1\n" in failures(symbol)
    symbol.obj.__doc__ = "F.\n\nExample:\n  >>> import gdjax\n\nArgs:\n  x: see `g`.\n"
    assert flaws(symbol) == ["it does not use the function", "it shows nothing"]
    assert pointers(symbol) == ["x: see `g`."] and unexplained(symbol) == []


def test_the_names_without_an_example_exist():
    assert WITHOUT - {s.name for s in PUBLIC} == set()


def entries(text: str) -> list[str]:
    """The arguments of a docstring, each with what it says of them."""
    body = section(text, "Args")
    return [" ".join(entry.split()) for entry in re.split(r"\n(?! )", body) if entry]


def pointers(symbol: Any) -> list[str]:
    """The arguments that another page explains: "see `adam`", "as in `adam`" and nothing else."""
    points = r"[^:]+: (?:[Aa]s (?:in|for)) `\w+`\.?"
    return [
        entry for entry in entries(docstring(symbol)) if re.search(r"\b[Ss]ee `", entry) or re.fullmatch(points, entry)
    ]


@pytest.mark.full
@pytest.mark.parametrize("module", MODULES)
def test_no_argument_is_explained_on_another_page(module: str):
    found = {s.name: pointers(s) for s in CHECKED if s.module == module}
    assert {name: entries for name, entries in found.items() if entries} == {}


def named(text: str) -> set[str]:
    """The arguments that a docstring explains itself."""
    return {name.strip(" *") for entry in entries(text) for name in entry.partition(":")[0].split(",")}


def references(text: str) -> list[str]:
    """The functions whose docstrings explain the arguments that this one does not."""
    return re.findall(r"`gdjax\.(\w+)`", " ".join(re.findall(REFERENCE, text.replace("\n", " "))))


def unexplained(symbol: Any) -> list[str]:
    """The arguments that neither the docstring nor one that it refers to explains."""
    text = docstring(symbol)
    known = named(text).union(*(named(inspect.getdoc(getattr(gdjax, x)) or "") for x in references(text)))
    return [name for name in inspect.signature(symbol.obj).parameters if name not in known]


def other_defaults(symbol: Any) -> list[str]:
    """The arguments of a part that have another default than where they are explained, and are not named here."""
    text = docstring(symbol)
    found = []
    for name in set(inspect.signature(symbol.obj).parameters) - named(text):
        theirs = [inspect.signature(getattr(gdjax, x)).parameters for x in references(text)]
        first = next((given[name].default for given in theirs if name in given), None)
        if inspect.signature(symbol.obj).parameters[name].default not in (inspect.Parameter.empty, first):
            found.append(name)
    return found


@pytest.mark.parametrize("folder", sorted(EXPLAINED))
def test_every_argument_is_explained(folder: str):
    held = [s for s in PUBLIC if s.module.partition(".")[0] == folder and s.name not in WITHOUT]
    found = {s.name: unexplained(s) for s in held}
    assert {name: arguments for name, arguments in found.items() if arguments} == {}


def test_a_reference_leads_to_public_functions_that_explain_something():
    referring = {s.name: s for s in PUBLIC if references(docstring(s))}
    assert len(referring) > 50
    for name, symbol in referring.items():
        own = set(inspect.signature(symbol.obj).parameters) - named(docstring(symbol))
        for other in references(docstring(symbol)):
            assert other in gdjax.__all__ and own & named(inspect.getdoc(getattr(gdjax, other)) or ""), (name, other)


def test_a_part_names_each_argument_with_another_default():
    found = {s.name: other_defaults(s) for s in PUBLIC if s.name.startswith("scale_by_")}
    assert {name: arguments for name, arguments in found.items() if arguments} == {}


def test_an_argument_that_is_explained_nowhere_is_found():
    def f(b1: Any = 0.9, eps: Any = 1.0, other: Any = 0) -> None:
        """F.

        Formulas and other arguments are those of `gdjax.adam`, some of
        `gdjax.soap`, without its rate. `gdjax.lion` is something else.

        Args:
          other: a number.
        """

    symbol = SimpleNamespace(obj=f, name="f")
    assert references(docstring(symbol)) == ["adam", "soap"]
    assert unexplained(symbol) == [] and other_defaults(symbol) == ["eps"]
    symbol.obj = lambda b1, neither: None
    symbol.obj.__doc__ = "F.\n\nArguments are those of `gdjax.adam`.\n"
    assert unexplained(symbol) == ["neither"]
    symbol.obj.__doc__ = "F.\n\nFormulas are those of `gdjax.adam`.\n"
    assert unexplained(symbol) == ["b1", "neither"]
