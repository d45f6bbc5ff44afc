"""The surface of Optax: every public name is here, with the same arguments, defaults and fields."""

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any

import optax
import pytest

import gdjax

MODULES = (
    "assignment contrib losses microbatching perturbations projections schedules second_order "
    "transforms tree tree_utils"
).split()

# What is meant to differ, with the reason.
NAMES: dict[str, str] = {}
SIGNATURES: dict[str, str] = {}
if "key" not in inspect.signature(optax.contrib.dpsgd).parameters:  # up to 0.2.8
    SIGNATURES |= dict.fromkeys(("dpsgd", "contrib.dpsgd"), "`key`, and `seed` by name, as in Optax after 0.2.8")


def public(module: ModuleType) -> dict[str, Any]:
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    if hasattr(module, "__all__"):
        found = {name: x for name, x in found.items() if name in module.__all__}
    return {name: x for name, x in found.items() if not inspect.ismodule(x) and belongs(x, module)}


def older(module: ModuleType) -> dict[str, Any]:
    """The names that a module of Optax answers to without listing them; with None it says that a name is gone."""
    table: dict[str, tuple[str, Any]] = getattr(module, "_deprecations", {})
    return {name: x for name, (_, x) in table.items() if x is not None}


def belongs(x: Any, module: ModuleType) -> bool:
    """Whether `x` is Optax's own, not something that a module without a list imported: numpy's, typing's."""
    return getattr(x, "__module__", module.__name__).split(".")[0] == "optax" or module.__name__ == "optax"


def surface() -> list[tuple[str, Any]]:
    rows = list((public(optax) | older(optax)).items())
    for dotted in MODULES:
        theirs = importlib.import_module(f"optax.{dotted}")
        rows += [(f"{dotted}.{name}", x) for name, x in (public(theirs) | older(theirs)).items()]
    aggregating = public(optax.experimental.aggregating)  # a private module under a public name
    return rows + [(f"experimental.aggregating.{name}", x) for name, x in aggregating.items()]


def ours(name: str) -> Any:
    """The object of that dotted name in gdjax; None where there is none."""
    x: Any = gdjax
    for part in name.split("."):
        x = getattr(x, part, None)
    return x


SURFACE = surface()
PLACES = sorted({name.rpartition(".")[0] for name, _ in SURFACE})
EVERY = pytest.mark.parametrize("place", PLACES, ids=lambda place: place or "optax")


def names_in(place: str) -> list[tuple[str, Any]]:
    return [(name, x) for name, x in SURFACE if name.rpartition(".")[0] == place]


def test_there_is_a_surface():
    assert len(SURFACE) > 400
    assert {"dpsgd", "tree_utils.tree_scalar_mul"} <= {name for name, _ in SURFACE}
    assert set(NAMES) | set(SIGNATURES) <= {name for name, _ in SURFACE}


def test_no_other_module_of_optax_answers_to_names_it_does_not_list():
    answering = {name for name, module in sys.modules.items() if is_optax(name) and hasattr(module, "__getattr__")}
    assert answering == {name for name, module in sys.modules.items() if is_optax(name) and older(module)}
    assert answering <= {"optax", *(f"optax.{dotted}" for dotted in MODULES)}


def is_optax(name: str) -> bool:
    return name.split(".")[0] == "optax"


@pytest.mark.parametrize("dotted", MODULES)
def test_modules_answer_to_the_same_names(dotted: str):
    assert ours(dotted) is importlib.import_module(f"gdjax.{dotted}")


@EVERY
def test_names_are_here(place: str):
    names = [name for name, _ in names_in(place)]
    assert [name for name in names if ours(name) is None] == [name for name in names if name in NAMES]


def same_default(a: Any, b: Any) -> bool:
    """Whether the defaults are the same number, or things of one kind, whose behaviour other tests compare."""
    if inspect.isfunction(b):
        return inspect.isfunction(a)
    if hasattr(b, "update") and hasattr(b, "init"):
        return hasattr(a, "update") and hasattr(a, "init")
    if type(b).__module__.startswith("optax"):
        return type(a).__name__ == type(b).__name__
    return a is b or a == b or str(a) == str(b)


def difference(mine: inspect.Signature, theirs: inspect.Signature) -> str:
    """How a call that fits `theirs` may not fit `mine`; empty where every one does."""
    a, b = list(mine.parameters.values()), list(theirs.parameters.values())
    positional = [[p.name for p in ps if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)] for ps in (a, b)]
    if positional[0][: len(positional[1])] != positional[1]:
        return f"positional arguments {positional[0]}, in Optax {positional[1]}"
    known = {p.name: p for p in a}
    for p in b:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            if not any(q.kind == p.kind for q in a):
                return f"no {p}"
        elif p.name not in known:
            return f"no argument {p.name}"
        elif not same_default(known[p.name].default, p.default):
            return f"{p.name} is {known[p.name].default!r} by default, in Optax {p.default!r}"
    wanted = {p.name for p in b}
    extra = [p.name for p in a if p.name not in wanted and p.default is p.empty and "VAR" not in p.kind.name]
    return f"arguments {extra} without default" if extra else ""


def signature(x: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(x)
    except (TypeError, ValueError):
        return None


def differs(name: str, theirs: Any) -> str:
    """How the object of that name has other fields or another signature; empty where it has not."""
    mine = ours(name)
    if mine is None:
        return "" if name in NAMES else "missing"
    if hasattr(theirs, "_fields"):
        return "" if mine._fields == theirs._fields else f"fields {mine._fields}, in Optax {theirs._fields}"
    if inspect.isclass(theirs) and not inspect.isclass(mine) or signature(theirs) is None:
        return ""  # a type alias, or a protocol
    if callable(mine) != callable(theirs):
        return f"callable: {callable(mine)}"
    theirs_signature, mine_signature = signature(theirs), signature(mine)
    assert theirs_signature is not None and mine_signature is not None
    return difference(mine_signature, theirs_signature)


@EVERY
def test_fields_and_signatures(place: str):
    found = {name: differs(name, theirs) for name, theirs in names_in(place)}
    assert {name: how for name, how in found.items() if bool(how) != (name in SIGNATURES)} == {}
