"""CUTEst's problems by sif2jax, one at a time: to import all of its modules takes minutes."""

import functools
import importlib
import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

FOLDERS = {"unconstrained": "_unconstrained_minimisation", "bounds": "_bounded_minimisation"}


@functools.cache
def root() -> Path:
    spec = importlib.util.find_spec("sif2jax")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("install sif2jax: pip install sif2jax==0.0.8")
    return Path(spec.origin).parent


def folder(kind: str) -> Path:
    return root() / "cutest" / FOLDERS[kind]


def names(kind: str) -> list[str]:
    """Those of the list that sif2jax makes, in alphabetical order."""
    text = (folder(kind) / "__init__.py").read_text("utf-8")
    return sorted(set(re.findall(r"^    (\w+)\(\),", text, re.MULTILINE)))


def problem(kind: str, name: str) -> Any:
    for path in (root(), root() / "cutest", folder(kind)):
        package = ".".join(path.relative_to(root().parent).parts)
        if package not in sys.modules:  # a package without the contents of its __init__
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = [str(path)]
    for path in folder(kind).glob("*.py"):
        if re.search(rf"^class {name}\(", path.read_text("utf-8"), re.MULTILINE):
            return getattr(importlib.import_module(f"sif2jax.cutest.{FOLDERS[kind]}.{path.stem}"), name)()
    raise LookupError(f"no problem {name}")
