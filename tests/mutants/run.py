"""Changes one expression of a rule at a time and runs the tests of that rule, one of which must fail.

    python -m tests.mutants.run optimizers/adam optimizers/lion      (all modules of MODULES if none is named)
    python -m tests.mutants.run --kinds sign,eps --sample 40

Why not a tool: mutmut 3 leaves decorated functions alone, which all rules are; cosmic-ray and mutatest start Python and
JAX anew for each mutant; and none of them swaps two hyperparameters or moves an eps.

Here one process imports JAX and the library, and forks for each mutant before any backend has started. The child gives
the library's functions the mutant's code and runs pytest until a test fails, those first that have killed before. All
of it happens in a copy of the tree, so that editing goes on meanwhile. Mutants that no test can tell from the original
are listed in `equivalent.txt`. Outcomes are appended to `out/mutants.jsonl`; `--again survived` runs those that
survived there, `--again new` those that are not there yet, and `python -m tests.mutants.report` sums up.
"""

import argparse
import ast
import collections
import gc
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mutants.mutate import Mutant, changed, functions, install, mutants

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / "out" / "mutants.jsonl"
FOLDERS = ("optimizers", "transforms", "schedules", "linesearch", "losses", "projections")
MODULES = [
    "numerics/elementwise",
    "numerics/bounds",
    "tree/norms",
    "linalg/quasi_newton",
]
MODULES += [f"{d}/{p.stem}" for d in FOLDERS for p in sorted((ROOT / "gdjax" / d).glob("*.py")) if p.stem != "__init__"]
HEAVY = "jax jax.numpy optax flax.core flax.struct chex orbax.checkpoint pytest gdjax".split()  # start no backend
# Tests of all transforms.
COMPARED = (
    "interop/test_parity.py",
    "golden/test_golden.py",
    "contracts/test_contracts.py",
    "contracts/test_variants.py",
    "numerics/test_turns.py",
)
TABLE = "optimizers/test_methods.py"
EVERY_KIND = set("adamw sgd lion lamb adafactor muon clip_by_global_norm".split())
LAYERS = os.environ.get("GDJAX_LAYERS", "not slow and not programs")
LIMIT = 600  # seconds for the tests of one mutant: a loop may not end


def equivalent() -> dict[str, str]:
    """The names in `equivalent.txt` with the reason below each."""
    lines = Path(__file__).with_name("equivalent.txt").read_text("utf-8").splitlines()
    pairs = zip(lines, lines[1:], strict=False)
    return {name: reason.strip() for name, reason in pairs if name[:1].strip("# ") and reason.startswith("    ")}


def stages(module: str) -> tuple[list[str], list[str]]:
    """The test files named as a module; else those of its folder; and those of all transforms."""
    folder, _, name = module.rpartition("/")
    tests = ROOT / "tests"
    own = list(tests.glob(f"{folder or 'functions'}/test_{name}.py"))
    own += tests.glob(f"functions/test_{folder or '-'}.py")
    own += tests.glob(TABLE) if own and folder == "optimizers" else []
    own += sorted(tests.glob(f"{folder}/test_*.py")) if not own or folder == "losses" else []
    return [str(p) for p in dict.fromkeys(own)], [str(p) for c in COMPARED for p in tests.glob(c)]


def covered(module: str) -> set[str]:
    """The public functions of a module; for one without factories, transforms of every kind."""
    tree = ast.parse((ROOT / "gdjax" / f"{module}.py").read_text("utf-8"))
    factories = module.startswith(("optimizers/", "transforms/"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} if factories else EVERY_KIND


class Chosen:
    """A pytest plugin: takes the tests of some factories, the best killers first, and notes the one that fails."""

    def __init__(self, covers: set[str], kills: dict[str, int], note: Path):
        self.covers, self.kills, self.note = covers, kills, note

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        of_all = (*COMPARED, TABLE)
        items[:] = [item for item in items if not str(item.path).endswith(of_all) or self._is_about(item)]
        items.sort(key=lambda item: -self.kills.get(item.nodeid, 0))

    def _is_about(self, item: Any) -> bool:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        names = [getattr(params.get(key), "covers", None) for key in ("twin", "case")]
        return not self.covers.isdisjoint([*names, params.get("entry", "").partition("/")[0]])

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.note.write_text(report.nodeid, "utf-8")


class Runner:
    """Keeps some children busy until every mutant has failed a test or passed all."""

    def __init__(self, jobs: int, own: bool, log: Path, room: Path):
        self.jobs, self.own, self.log, self.room = jobs, own, log, room
        self.kills: dict[str, dict[str, int]] = collections.defaultdict(collections.Counter)  # by module and test
        self.counts: dict[str, int] = collections.Counter()
        self.functions = functions(str(ROOT / "gdjax"))

    def run(self, todo: list[Mutant]) -> None:
        gc.freeze()  # pytest collects garbage at its end: half of a child's time without this
        start, done, known = time.monotonic(), 0, equivalent()
        for module in dict.fromkeys(m.module for m in todo):
            own, _ = stages(module)
            mine = [m for m in todo if m.module == module]
            for mutant in (m for m in mine if m.name in known):
                self._note(mutant, "equivalent", 0)
            for mutant, how, seconds in self._all([(module, m, own) for m in mine if m.name not in known]):
                done += 1
                self._note(mutant, how, seconds)
                left = (time.monotonic() - start) / done * (len(todo) - done - self.counts["equivalent"]) / 60
                print(f"{done}/{len(todo)} {dict(self.counts)} {left:.0f} min left", file=sys.stderr, flush=True)
            # A test that fails without a mutant would kill all of them.
            killers = [(module, None, [*self.kills[module]])] if self.kills[module] else []
            for _, how, _ in self._all(killers):
                if how != "survived":
                    raise SystemExit(f"{module} without a mutant: {how}")

    def _note(self, mutant: Mutant, how: str, seconds: float) -> None:
        self.counts[how.split()[0]] += 1
        entry = {"name": mutant.name, "kind": mutant.kind, "how": how, "seconds": round(seconds, 1)}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if how == "survived":
            where = f"gdjax/{mutant.module}.py:{mutant.line}"
            print(f"survived  {where} {mutant.function} [{mutant.kind}]\n    {mutant.text}", flush=True)

    def _all(self, queue: list[Any]) -> Iterator[tuple[Any, str, float]]:
        """The outcome for each (module, mutant or None, tests), in the order in which they end."""
        running: dict[int, Any] = {}
        while queue or running:
            while queue and len(running) < self.jobs:
                module, mutant, tests = queue.pop(0)
                note = self.room / f"{random.getrandbits(40):x}"
                running[self._fork(module, mutant, tests, note)] = module, mutant, tests, note, time.monotonic()
            pid, status = os.wait()
            module, mutant, tests, note, start = running.pop(pid)
            code, passed = os.waitstatus_to_exitcode(status), (0, 5)  # 5: no tests are about it
            own, compared = stages(module)
            if code in passed and mutant and tests == own and compared and not self.own:
                queue.insert(0, (module, mutant, compared))
                continue
            test = note.read_text("utf-8") if note.exists() else ""
            if code == 1 and test and mutant:
                self.kills[module][test] += 1
            how = "survived" if code in passed else f"killed by {test or f'exit status {code}'}"
            yield mutant, how, time.monotonic() - start

    def _fork(self, module: str, mutant: Mutant | None, tests: list[str], note: Path) -> int:
        """Runs tests against a mutant in a process of its own; returns its id."""
        if pid := os.fork():
            return pid
        signal.alarm(LIMIT)
        log = os.open(f"{note}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 70
        try:
            if mutant:
                path = str(ROOT / "gdjax" / f"{module}.py")
                install(changed(Path(path).read_text("utf-8"), mutant.site), path, self.functions[path])
            plugin = Chosen(covered(module), self.kills[module], note)
            options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=no", "-m", LAYERS]
            code = importlib.import_module("pytest").main([*options, *tests], [plugin])
        finally:
            os._exit(code)


def chosen(args: argparse.Namespace) -> list[Mutant]:
    """The mutants asked for; of a sample, the same ones every time."""
    found: list[Mutant] = []
    for module in args.modules or MODULES:
        found += mutants(module, (ROOT / "gdjax" / f"{module}.py").read_text("utf-8"))
    lines = args.log.read_text("utf-8").splitlines() if args.log.exists() else []
    logged = {entry["name"]: entry["how"] for entry in map(json.loads, lines)}
    if args.kinds:
        found = [m for m in found if m.kind in args.kinds.split(",")]
    if args.again:
        found = [m for m in found if logged.get(m.name, "new") == args.again]
    if args.sample and args.sample < len(found):
        found = sorted(random.Random(0).sample(found, args.sample), key=lambda m: m.module)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="as optimizers/adam; all by default")
    parser.add_argument("--kinds", help="as sign,eps: kinds of changes, in brackets where a survivor is printed")
    parser.add_argument("--sample", type=int, metavar="N", help="N of them, the same ones every time")
    parser.add_argument("--again", choices=["new", "survived"], help="what the log says of those to run")
    parser.add_argument("--own", action="store_true", help="only the tests in the file of the module's name")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--log", type=Path, default=LOG)
    args = parser.parse_args()
    args.log = args.log.resolve()
    args.log.parent.mkdir(exist_ok=True)
    if "GDJAX_MUTANTS" not in os.environ:
        raise SystemExit(in_a_copy([*sys.argv[1:], "--log", str(args.log)]))
    for name in HEAVY:
        importlib.import_module(name)
    assert Path(sys.modules["gdjax"].__file__ or "").is_relative_to(ROOT), "another gdjax was imported"
    warnings.simplefilter("ignore")  # JAX warns of every fork
    runner = Runner(args.jobs, args.own, args.log, Path(os.environ["GDJAX_MUTANTS"]))
    runner.run(chosen(args))
    raise SystemExit(bool(runner.counts["survived"]))


def in_a_copy(arguments: list[str]) -> int:
    """Runs this again in a copy of the tree; the children share what they compile."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "out", "__pycache__"))
        env = {
            **os.environ,
            "GDJAX_MUTANTS": folder,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "PYTHONDONTWRITEBYTECODE": "",  # the tests are compiled once
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # Hypothesis's takes longer than most mutants
        }
        return subprocess.run([sys.executable, "-m", "tests.mutants.run", *arguments], cwd=copy, env=env).returncode


if __name__ == "__main__":
    main()
