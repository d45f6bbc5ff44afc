"""gdjax under the name `optax`, for programs that cannot be edited. This folder goes first on PYTHONPATH.

`import optax` gives the module gdjax itself. Optax's public submodules are gdjax's modules of the same names; the
private ones that clients import from (`optax._src.base`, `optax.contrib._muon`) are views that find a name wherever
gdjax has it. Real Optax cannot be imported in such a process: every other name below `optax` is an error.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

import jax

import gdjax

SRC = (
    "alias base combine constrain factorized linear_algebra linesearch lookahead numerics schedule transform update "
    "utils wrappers"
).split()
NUMERICS = importlib.import_module("gdjax.numerics")
PUBLIC = [n for n in gdjax.__all__ if isinstance(getattr(gdjax, n), ModuleType)]
# Helpers of Optax's private modules that clients use and that are JAX's, or private modules', here.
HELPERS = {"canonicalize_dtype": lambda dtype: None if dtype is None else jax.dtypes.canonicalize_dtype(dtype)}


class View(ModuleType):
    """A private module of Optax: looks a name up in gdjax's modules, then among the helpers."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        owners = (
            self.__dict__.get("nearest"),
            gdjax,
            gdjax.contrib,
            gdjax.tree_utils,
            importlib.import_module("gdjax.numerics"),
        )
        for owner in owners:
            if owner is not None and hasattr(owner, name):
                return getattr(owner, name)
        if name in HELPERS:
            return HELPERS[name]
        raise AttributeError(f"gdjax has nothing named {name}, which was looked for in {self.__name__}")


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module below `optax`, or none."""

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith("optax."):
            return None
        parts = name.split(".")[1:]
        private = len(parts) == 2 and (parts[0] == "_src" and parts[1] in SRC or parts[0] in PUBLIC)
        if parts != ["_src"] and not private:
            raise ModuleNotFoundError(f"gdjax has no module for {name}", name=name)
        return importlib.machinery.ModuleSpec(name, self, is_package=parts == ["_src"])

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        view = View(spec.name)
        view.nearest = getattr(gdjax, spec.name.split(".")[1], None)
        return view

    def exec_module(self, module: ModuleType) -> None:
        pass


sys.meta_path.insert(0, Finder())
for _name in PUBLIC:
    sys.modules[f"optax.{_name}"] = _module = getattr(gdjax, _name)
    _module.__path__ = getattr(_module, "__path__", [])  # or Python asks no finder for optax.contrib._muon
sys.modules["optax"] = gdjax
gdjax._src = importlib.import_module("optax._src")  # as an attribute too: optax._src.base.init_empty_state
for _name in SRC:
    setattr(gdjax._src, _name, importlib.import_module(f"optax._src.{_name}"))
