"""A pytest plugin for the tests of clients: which library they met, which tests run, what stands in for the rest.

--clients-optax NAME      the run fails unless the module `optax` has the functions of the package NAME at its end
--clients-mention FILE    of FILE, only the tests whose parameters or source say "optax"; repeatable
--clients-bare PKG=DIR    import PKG from DIR without its `__init__.py`, which would import what is not installed
--clients-extend PKG=DIR  look for modules of PKG in DIR too, after its own
--clients-mock MODULE     MODULE, and all below it, is made of mocks; repeatable
"""

import importlib
import importlib.abc
import importlib.machinery
import inspect
import sys
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

LISTS = ("mention", "bare", "extend", "mock")


class Mocked(ModuleType):
    """A module in which every public name is a mock."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        value = mock.MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class Mocks(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the mocked modules and those below them."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        below = any(name == n or name.startswith(f"{n}.") for n in self.names)
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if below else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Mocked(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def pytest_addoption(parser: pytest.Parser) -> None:
    for name in LISTS:
        parser.addoption(f"--clients-{name}", action="append", default=[])
    parser.addoption("--clients-optax")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    options = early_config.known_args_namespace
    sys.meta_path.insert(0, Mocks(options.clients_mock))
    for pair in options.clients_bare:
        name, _, folder = pair.partition("=")
        sys.modules[name] = module = types.ModuleType(name)
        module.__path__ = [str(Path(folder).resolve())]
    for pair in options.clients_extend:
        name, _, folder = pair.partition("=")
        importlib.import_module(name).__path__.append(str(Path(folder).resolve()))


def _parameters_say_optax(item: pytest.Item) -> bool:
    return "optax" in repr(getattr(getattr(item, "callspec", None), "params", {})).lower()


def _source_says_optax(item: pytest.Item) -> bool:
    return "optax" in inspect.getsource(inspect.unwrap(item.function)).lower()  # type: ignore[attr-defined]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where some variants of a test have Optax among their parameters, those run; otherwise the source decides."""
    files = {Path(f).resolve() for f in config.getoption("clients_mention")}
    asked = [item for item in items if item.path.resolve() in files]
    saying = {item for item in asked if _parameters_say_optax(item)}
    told = {item.function for item in saying}  # type: ignore[attr-defined]
    silent = {i for i in asked if i not in saying and (i.function in told or not _source_says_optax(i))}  # type: ignore[attr-defined]
    config.hook.pytest_deselected(items=[item for item in items if item in silent])
    items[:] = [item for item in items if item not in silent]


def pytest_sessionfinish(session: pytest.Session) -> None:
    wanted, met = session.config.getoption("clients_optax"), sys.modules.get("optax")
    if wanted and met is not None and (found := met.adam.__module__.partition(".")[0]) != wanted:
        raise pytest.UsageError(f"the module optax is {found}, not {wanted}")
    if wanted and met is None and session.testscollected:
        warnings.warn("no test imported optax", stacklevel=1)


@pytest.fixture
def numbers(record_property):
    """A function that records the numbers of a program, which the runner compares between the libraries."""
    return lambda values: record_property("numbers", " ".join(f"{float(x):.9g}" for x in values))
