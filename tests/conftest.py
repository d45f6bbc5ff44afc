"""The strictest mode for every test: 8 CPU devices, no implicit promotion of dtype or rank; warnings are errors."""

import contextlib
import gc
import hashlib
import importlib.metadata
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
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


@pytest.fixture(scope="session", autouse=True)
def programs_compiled_once() -> Iterator[None]:
    """A folder of this process has what it dropped from memory. Processes share none: JAX's writes are not atomic.

    JAX 0.5 runs some programs wrongly when they come from such a folder: derivatives of `solve` are 0 there.
    """
    if RELEASE < 10:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="compiled") as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        yield
        jax.config.update("jax_compilation_cache_dir", None)


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
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", type=int, metavar="N", help="run N of the selected tests, the same ones every time")
    parser.addoption("--draw", default="", metavar="KEY", help="of a sample: other tests for each key")


# A test with so many cases is a sweep, of which one case in 80 is in the ordinary suite: fewer of a method's own.
# A test over the entries of a table of methods is one for each of them.
WIDE, OF_METHODS, ONE_IN = 2, 3, 80
METHODS = "optimizers transforms schedules losses golden linesearch".split()
WHOLE = "repository pages".split()  # folders whose tests are about one file or page each


def thin_out(items: list[pytest.Item]) -> None:
    """Marks most cases of each sweep as slow: the same ones in every run, not the first, none of those in `SAMPLE`."""
    params = [item.callspec.params if hasattr(item, "callspec") else {} for item in items]
    tests = [(item.nodeid.partition("[")[0], x.get("entry")) for item, x in zip(items, params, strict=True)]
    number, seen = Counter(tests), set[Any]()
    for item, x, test in zip(items, params, tests, strict=True):
        folder = item.path.relative_to(item.config.rootpath / "tests").parts[0]
        chosen = test not in seen or any(getattr(value, "sampled", False) for value in x.values())
        chosen = chosen or not zlib.crc32(item.nodeid.encode()) % ONE_IN
        seen.add(test)
        whole = folder in WHOLE or item.get_closest_marker("whole")
        if number[test] >= (OF_METHODS if folder in METHODS else WIDE) and not chosen and not whole:
            item.add_marker(pytest.mark.slow)


# Around the others: before -m and -k, and of what they have left the sample.
@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    thin_out(items)
    yield
    size = config.getoption("--sample")
    if size is None or size >= len(items):
        return
    # By a hash of the name: every n-th test would meet the same case of each parametrisation again and again.
    key = config.getoption("--draw")
    chosen = set(sorted(items, key=lambda item: hashlib.md5(f"{key} {item.nodeid}".encode()).digest())[:size])
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]
