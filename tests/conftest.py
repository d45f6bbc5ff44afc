"""The strictest mode for every test: 8 CPU devices, no implicit promotion of dtype or rank; warnings are errors."""

import contextlib
import gc
import hashlib
import importlib.metadata
import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEVICES = "--xla_force_host_platform_device_count"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=8".strip()

# Virtual devices wait for each other in a collective. On a machine with too much to do one may wait long, and XLA then
# ends the process after 40 s.
PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds"
RELEASE = int(importlib.metadata.version("jaxlib").split(".")[1])
if RELEASE >= 10 and PATIENCE not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += f" {PATIENCE}=400"

import jax  # noqa: E402  JAX reads both variables when it is imported.
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from tests.support import quick_compilation  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Files of tests of what the compiler makes: its cost, its bits, numbers at the edge of what it computes with; and of
# those where roundings grow from step to step. In other files such tests are marked: `@pytest.mark.optimized`.
OPTIMIZED = (
    "test_cost test_determinism test_sizes test_resume test_crash test_hazards test_numerics test_norms test_golden "
    "linesearch/test_parity inspection/test_metrics"
).split()


def is_optimized(request: pytest.FixtureRequest) -> bool:
    return any(request.path.with_suffix("").match(name) for name in OPTIMIZED)


class Compiled:
    """What this process keeps compiled: its kind, and how many programs."""

    MOST = 1000  # some 1 MB each: a worker that keeps all of them grows to 6 GB
    optimized: bool | None = None
    programs = 0

    @classmethod
    def count(cls, event: str, _: float, **__: Any) -> None:
        cls.programs += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(Compiled.count)


def compiled(config: pytest.Config) -> Path | None:
    """The folder of compiled programs, if this run has one: pytest's cache may be off, and JAX too old.

    JAX 0.5 runs some programs wrongly when they come from such a folder: derivatives of `solve` are 0 there.
    """
    return config.cache.mkdir("compiled") if hasattr(config, "cache") and RELEASE >= 10 else None


def pytest_sessionstart(session: pytest.Session) -> None:
    """A folder in pytest's cache has the programs compiled by any process of this run and of those before it."""
    gc.disable()  # until all is collected
    folder = compiled(session.config)
    if folder:
        # Begun anew when changes of the code have let it grow large.
        if not hasattr(session.config, "workerinput") and sum(p.stat().st_size for p in folder.iterdir()) > 2e9:
            shutil.rmtree(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="module", autouse=True)
def compiled_for_modules_of_one_kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Quickly, where tests are of formulas, whose cost is mostly compiling; the others run what users run.

    Modules that follow each other share what they have in common, most of it single operations.
    """
    optimized = is_optimized(request)
    if optimized or optimized != Compiled.optimized or Compiled.programs > Compiled.MOST:
        jax.clear_caches()
        Compiled.programs = 0
    Compiled.optimized = optimized
    with contextlib.nullcontext() if optimized else quick_compilation():
        yield


@pytest.fixture(autouse=True)
def the_ordinary_suite_runs_what_users_run_for_a_sample(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of a sweep over all transforms; the slow sweeps do so for the others."""
    if is_optimized(request):
        case = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
        chosen = getattr(case, "sampled", True) or request.node.get_closest_marker("slow")
        with contextlib.nullcontext() if chosen else quick_compilation():
            yield
    elif request.node.get_closest_marker("optimized"):
        jax.clear_caches()
        with quick_compilation(False):
            yield
        jax.clear_caches()
    else:
        yield


@pytest.fixture(autouse=True)
def same_numbers_alone_and_in_company(request: pytest.FixtureRequest) -> None:
    """A module's generator starts anew for every test: what is drawn must not depend on which tests ran before."""
    if hasattr(request.module, "RNG"):
        request.module.RNG = np.random.default_rng(0)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Calls the test as pytest does, from a frame with room behind it.

    Python keeps the frames of calls in pieces of 16 KB, and asks the system for memory each time a call crosses the
    end of a piece. JAX's calls are deep and many: that took a twentieth of the suite's time. This frame claims 560 KB,
    so its piece has 1 MB, and the test's calls fit into the rest.
    """
    return pyfuncitem.config.pluginmanager.get_plugin("python").pytest_pyfunc_call(pyfuncitem)


pytest_pyfunc_call.__code__ = pytest_pyfunc_call.__code__.replace(co_stacksize=70_000)  # in words


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """No collector of garbage while tests are collected: it would go over the growing list of them again and again.

    What files compute as they are imported is compiled quickly, and compiled anew for files that are not.
    """
    gc.disable()
    try:
        with quick_compilation():
            return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """From here on it leaves alone what stays until the end: the tests, the modules and JAX, a million objects."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 10, 10)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", type=int, metavar="N", help="run N of the selected tests, the same ones every time")
    parser.addoption("--draw", default="", metavar="KEY", help="of a sample: other tests for each key")


# A test with so many cases is a sweep, of which one case in 80 is in the ordinary suite: fewer of a method's own.
# A test over the entries of a table of methods is one for each of them.
WIDE, OF_METHODS, ONE_IN = 2, 3, 80
METHODS = "optimizers transforms schedules losses golden linesearch".split()
WHOLE = "repository pages".split()  # folders whose tests are about one file or page each


def left_out(config: pytest.Config) -> set[str]:
    """The layers that the marks asked for leave out: `-m "not slow and not programs"` leaves out two."""
    return set(re.findall(r"\bnot (\w+)", config.option.markexpr))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file that is wholly of a layer left out is not imported."""
    if collection_path.suffix == ".py" and not config.option.keyword:
        layers = re.findall(r"^pytestmark = pytest\.mark\.(\w+)\b", collection_path.read_text("utf-8"), re.MULTILINE)
        return True if left_out(config).intersection(layers) else None
    return None


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Iterator[None]:
    """Marks most cases of each sweep as slow, and makes no test of a case in a layer that is left out.

    Of the cases of a test one is made all the same, which `-m` then drops: pytest takes no case for a test without.
    """
    yield
    calls: list[Any] = metafunc._calls  # pytest names no public way to drop a case before it is made
    thin_out(metafunc.definition, calls)
    layers = left_out(metafunc.config)
    its_own = layers.intersection(mark.name for mark in metafunc.definition.iter_markers())
    wanted = [call for call in calls if not its_own and layers.isdisjoint(mark.name for mark in call.marks)]
    calls[:] = wanted or calls[:1]


def thin_out(test: pytest.Item, calls: list[Any]) -> None:
    """Marks most cases of a sweep as slow: the same ones in every run, not the first, none of those in `SAMPLE`."""
    folder = test.path.relative_to(test.config.rootpath / "tests").parts[0]
    if folder in WHOLE or test.get_closest_marker("whole"):
        return
    number, seen = Counter(call.params.get("entry") for call in calls), set[Any]()
    for call in calls:
        entry = call.params.get("entry")
        chosen = entry not in seen or any(getattr(value, "sampled", False) for value in call.params.values())
        chosen = chosen or not zlib.crc32(f"{test.nodeid}[{call.id}]".encode()) % ONE_IN
        seen.add(entry)
        whole = any(mark.name == "whole" for mark in call.marks)
        if number[entry] >= (OF_METHODS if folder in METHODS else WIDE) and not chosen and not whole:
            call.marks.append(pytest.mark.slow.mark)


# Around the others: before -m and -k, and of what they have left the sample.
@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    yield
    size = config.getoption("--sample")
    if size is None or size >= len(items):
        return
    # By a hash of the name: every n-th test would meet the same case of each parametrisation again and again.
    key = config.getoption("--draw")
    chosen = set(sorted(items, key=lambda item: hashlib.md5(f"{key} {item.nodeid}".encode()).digest())[:size])
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]
