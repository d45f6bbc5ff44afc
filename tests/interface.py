"""The public interface as text: `interface.txt` has each public name with its parameters; `test_interface` compares.

    python -m tests.interface

writes it anew. It refuses while a name that changes is missing from the first section of CHANGELOG.md.
"""

import difflib
import enum
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gdjax

FILE = Path(__file__).with_suffix(".txt")
CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
Rows = dict[str, str]  # from the name after `gdjax.` to what it is


def parameter(p: inspect.Parameter) -> str:
    """Without its annotation, which may be written in another way and mean the same."""
    mark = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
    if p.default is p.empty:
        return mark + p.name
    shown = getattr(p.default, "__name__", None) or repr(p.default)
    return f"{mark}{p.name}={re.sub(r' at 0x[0-9a-f]+', '', shown)}"


def parameters(signature: inspect.Signature) -> str:
    found: list[str] = []
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and not any(x.startswith("*") and not x.startswith("**") for x in found):
            found.append("*")
        found.append(parameter(p))
    return f"({', '.join(found)})"


def described(x: Any) -> str:
    if inspect.ismodule(x):
        return "module"
    if not (inspect.isclass(x) or inspect.isroutine(x) or getattr(x, "__module__", "").startswith("gdjax")):
        return "value"
    if hasattr(x, "_fields"):
        return f"fields ({', '.join(x._fields)})"
    if inspect.isclass(x) and issubclass(x, enum.Enum):
        return f"members ({', '.join(x.__members__)})"
    if not getattr(x, "__module__", "").startswith("gdjax") or getattr(x, "_is_protocol", False):
        return "value"  # a type for annotations among them: what it is made of differs between Pythons
    parts = sorted(name for name in vars(x) if name[0] != "_") if inspect.isclass(x) else []
    try:
        return " ".join([parameters(inspect.signature(x)), *(f".{name}" for name in parts)])
    except (TypeError, ValueError):
        return "value"


def names_of(module: Any) -> list[str]:
    own = [k for k, x in vars(module).items() if k[0] != "_" and getattr(x, "__module__", "") == module.__name__]
    return sorted(getattr(module, "__all__", own))


def rows() -> Iterator[tuple[str, str]]:
    """A name that a module shares with `gdjax` stands there as such, so that a change is told once."""
    top = {name: getattr(gdjax, name) for name in sorted(gdjax.__all__)}
    yield from ((name, described(x)) for name, x in top.items())
    modules = [name for name, x in top.items() if inspect.ismodule(x)]
    for short in sorted({*modules, "experimental.aggregating"}):
        module = importlib.import_module(f"gdjax.{short}")
        for name in names_of(module):
            x = getattr(module, name)
            yield f"{short}.{name}", f"= {name}" if top.get(name) is x else described(x)


def read() -> Rows:
    lines = FILE.read_text("utf-8").splitlines() if FILE.exists() else []
    return {name: text for name, _, text in (line.partition(": ") for line in lines)}


def changes(old: Rows, new: Rows) -> list[str]:
    """Names that came, went, or are something else."""
    return sorted(name for name in {**old, **new} if old.get(name) != new.get(name))


def untold(changed: list[str], changelog: str) -> list[str]:
    """Of these names those that the first section of the changelog does not have."""
    section = re.split(r"^## ", changelog, flags=re.MULTILINE)[1]
    return [name for name in changed if not re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", section)]


def difference(old: Rows, new: Rows) -> str:
    a, b = ([f"{name}: {text}" for name, text in sorted(x.items())] for x in (old, new))
    return "\n".join(line for line in difflib.unified_diff(a, b, "before", "now", n=0, lineterm="") if line[:2] != "@@")


def main() -> None:
    old, new = read(), dict(rows())
    print(difference(old, new) or "nothing has changed")
    if old and (missing := untold(changes(old, new), CHANGELOG.read_text("utf-8"))):
        sys.exit(f"\nNot written. The first section of CHANGELOG.md says nothing about {', '.join(missing)}.")
    FILE.write_text("".join(f"{name}: {text}\n" for name, text in new.items()), "utf-8")


if __name__ == "__main__":
    main()
