"""Runs the tests of libraries that use Optax twice: with Optax, and with gdjax in its place.

    make clients                                          all of them, into docs/clients.md
    make clients ARGS="flax numpyro"                      two of them; the page takes the others' last results
    make clients ARGS="flax -k lbfgs --keep-baseline"     some tests, printed only, beside Optax's last results
    make clients ARGS="--sources DIR"                     with checkouts that are there already, DIR/flax and so on

Every run is a process of its own on the CPU, with the client's own pytest settings; `gdjax.as_optax` puts gdjax there
in the place of Optax. `support/clients_plugin.py` picks the tests that use Optax, and fails a run that met the wrong
library.
Results go to `out/clients/results/`, checkouts to `out/clients/sources/`.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import page
from results import Result, differences, read
from rows import CLIENTS, Client
from sources import checkout

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = ROOT / "out" / "clients"
LIBRARIES = ("optax", "gdjax")


def pytest_calls(client: Client, source: Path, library: str) -> Iterator[tuple[str, Path, list[str]]]:
    """The pytest runs of a client: a name, the folder to run in, and the arguments."""
    options = [f"--clients-optax={library}", *(o.format(src=source) for o in client.options)]
    files = [*client.tests, *client.mention]
    if files:
        yield "tests", source, [*options, *(f"--clients-mention={f}" for f in client.mention), *files]
    if client.programs:
        yield "programs", HERE / "programs", [*options, "-c", "pytest.ini", *client.programs]


def run(command: list[str], cwd: Path, env: dict[str, str], log: Path, limit: float) -> int | None:
    """The exit status of a command whose output goes to `log`; None if it ran past the limit and was ended."""
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=out, start_new_session=True)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None


def tested(client: Client, source: Path, library: str, select: str | None) -> dict[str, Result]:
    """The result of each test of a client, by its name, with one of the libraries."""
    folders = [HERE / "support", *(source / p for p in client.paths)]
    python = [sys.executable, "-P", *(["-m", "gdjax.as_optax"] if library == "gdjax" else [])]
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    found: dict[str, Result] = {}
    for name, cwd, arguments in pytest_calls(client, source, library):
        xml = OUT / "results" / f"{client.name}.{name}.{library}{'.some' if select else ''}.xml"
        log = xml.with_suffix(".log")
        xml.unlink(missing_ok=True)
        pytest = [*python, "-m", "pytest", "-q", "--durations=5", "-p", "no:cacheprovider"]
        pytest += ["-p", "clients_plugin", f"--junitxml={xml}", *(["-k", select] if select else [])]
        status = run([*pytest, *arguments], cwd, env, log, client.limit)
        if status not in (0, 1, 5) or (status != 5 and not xml.exists()):
            tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-15:])
            print(f"   {client.name} {name} with {library}: pytest ended with {status}\n{tail}", flush=True)
            found[f"{name}: pytest itself"] = Result("failed", f"pytest ended with {status}; see its log")
        if xml.exists():
            found |= read(xml)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(c.name for c in CLIENTS))
    parser.add_argument("--sources", type=Path, help="a folder with one checkout per client")
    parser.add_argument("--keep-baseline", action="store_true", help="take Optax's results from the last run")
    parser.add_argument("-k", dest="select", metavar="EXPRESSION", help="run only these tests, and write no page")
    args = parser.parse_args()
    unknown = set(args.clients) - {c.name for c in CLIENTS}
    if unknown:
        parser.error(f"no client is named {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in CLIENTS)}")

    (OUT / "results").mkdir(parents=True, exist_ok=True)
    (OUT / "sources").mkdir(exist_ok=True)
    # For checkouts without settings of their own, which would take this project's.
    (OUT / "sources" / "pytest.ini").write_text("[pytest]\n", "utf-8")
    for client in CLIENTS:
        if args.clients and client.name not in args.clients:
            continue
        source = checkout(client, (args.sources or OUT / "sources").resolve())
        both: dict[str, dict[str, Result]] = {}
        seconds: dict[str, float] = {}
        for library in LIBRARIES:
            start = time.monotonic()
            kept = page.stored(OUT, client, library) if library == "optax" and args.keep_baseline else None
            both[library] = results = kept or tested(client, source, library, args.select)
            passed, failed = page.count(results, "passed"), page.count(results, "failed")
            if not kept:
                seconds[library] = time.monotonic() - start
            took = "kept" if kept else f"{seconds[library]:.0f} s"
            print(f"{client.name:10} {library:6} {passed:4} passed {failed:4} failed   {took}", flush=True)
        if args.select:  # of a kept baseline, the tests that were selected
            both["optax"] = {k: r for k, r in both["optax"].items() if k in both["gdjax"]} or both["optax"]
        for test, reason in differences(both["optax"], both["gdjax"]).items():
            print(f"   {test}\n      {reason}", flush=True)
        if not args.select:
            page.store(OUT, client, both, seconds)
    if not args.select:
        page.write(OUT, ROOT / "docs" / "clients.md")


if __name__ == "__main__":
    main()
