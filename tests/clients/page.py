"""The results of the last runs, and the page made of them."""

import datetime
import importlib.metadata
import json
import os
import platform
import textwrap
from pathlib import Path
from typing import Any

from reasons import reason_of
from results import Result, differences
from rows import CLIENTS, Client

SHOWN = "gdjax optax jax jaxlib numpy orbax-checkpoint haliax pytest".split()
ONLY = ("passed only with Optax", "passed only with gdjax")
HEAD = """# The tests of libraries that use Optax

Libraries that import Optax have tests of their own. They run here twice: as they are, and with gdjax in the place of
the module `optax`, by `python -m gdjax.as_optax`; the library and its tests are unchanged, and cannot import Optax.
Of each library run the tests that use Optax, with its own pytest settings (warnings are errors in most). Where there
are none, or few, programs made after its notebooks and documentation run too; they must also end at the same numbers,
to 1e-3. `make clients` runs everything and writes this page, `tests/clients/run.py` says how to run less.
"""


def _file(out: Path, client: Client) -> Path:
    return out / "results" / f"{client.name}.json"


def store(out: Path, client: Client, both: dict[str, dict[str, Result]], seconds: dict[str, float]) -> None:
    """Keeps a client's results with the dates and versions; `seconds` says of each library that ran how long."""
    before = _load(out, client) or {"seconds": {}, "dates": {}}
    dates = before["dates"] | dict.fromkeys(seconds, datetime.date.today().isoformat())
    seconds = before["seconds"] | seconds
    names = [*SHOWN, *(p for c in CLIENTS for p in c.packages)]
    versions = {name: importlib.metadata.version(name) for name in names}
    data = {"dates": dates, "seconds": seconds, "versions": versions, "results": both}
    _file(out, client).write_text(json.dumps(data, indent=1), "utf-8")


def _load(out: Path, client: Client) -> dict[str, Any] | None:
    if not _file(out, client).exists():
        return None
    data = json.loads(_file(out, client).read_text("utf-8"))
    for library, results in data["results"].items():
        data["results"][library] = {test: Result(r[0], r[1], tuple(r[2])) for test, r in results.items()}
    return data


def stored(out: Path, client: Client, library: str) -> dict[str, Result] | None:
    """The results of the last run, if there was one."""
    data = _load(out, client)
    return data and data["results"][library]


def count(results: dict[str, Result], outcome: str) -> int:
    return sum(r.outcome == outcome for r in results.values())


def write(out: Path, path: Path) -> None:
    """Writes the page, if every client has results."""
    runs = {client: _load(out, client) for client in CLIENTS}
    absent = [client.name for client, run in runs.items() if run is None]
    if absent:
        print(f"{path.name} stays as it is: no results yet of {', '.join(absent)}")
        return
    path.write_text(_page({client: run for client, run in runs.items() if run is not None}), "utf-8")
    print(f"wrote {path.name}")


def _page(runs: dict[Client, dict[str, Any]]) -> str:
    latest = max(runs.values(), key=lambda run: run["dates"]["gdjax"])
    versions = ", ".join(f"{name} {latest['versions'][name]}" for name in SHOWN)
    minutes = sum(sum(run["seconds"].values()) for run in runs.values()) / 60
    machine = f"a CPU ({platform.machine()}, {os.cpu_count()} cores shared with other work)"
    python = f"Python {platform.python_version()}, {versions}"
    ran = textwrap.fill(
        f"The last run was on {latest['dates']['gdjax']}, {minutes:.0f} minutes in all on {machine}, {python}."
        + _kept(runs),
        120,
    )
    lines = [HEAD, ran, "", *_table(runs), "", "## What differs", "", *_differences(runs), "", *_sources()]
    return "\n".join(lines) + "\n"


def _kept(runs: dict[Client, dict[str, Any]]) -> str:
    """A sentence on the results with Optax that were kept from an earlier day."""
    of = {c.name: run["dates"]["optax"] for c, run in runs.items() if run["dates"]["optax"] != run["dates"]["gdjax"]}
    told = ", ".join(f"{name} {day}" for name, day in of.items())
    return f" Results with Optax from an earlier day: {told}." if of else ""


def _table(runs: dict[Client, dict[str, Any]]) -> list[str]:
    counted = "Optax: passed / failed | gdjax: passed / failed | only with Optax | only with gdjax"
    lines = [f"| client | version | {counted} | run on |", "|---|---|---:|---:|---:|---:|---|"]
    for client, run in runs.items():
        optax, gdjax = run["results"]["optax"], run["results"]["gdjax"]
        version = " ".join(run["versions"][p] for p in client.packages) or client.commit[:12]
        numbers = [f"{count(r, 'passed')} / {count(r, 'failed')}" for r in (optax, gdjax)]
        only = [len(differences(optax, gdjax)), len(differences(gdjax, optax))]
        lines.append(
            f"| {client.name} | {version} | {' | '.join(map(str, [*numbers, *only, run['dates']['gdjax']]))} |"
        )
    notes = [f"- {client.name}: {client.note}" for client in runs if client.note]
    return [*lines, "", *notes]


def _differences(runs: dict[Client, dict[str, Any]]) -> list[str]:
    lines = []
    for client, run in runs.items():
        optax, gdjax = run["results"]["optax"], run["results"]["gdjax"]
        lines += _by_reason(client, "passes with Optax only", differences(optax, gdjax))
        lines += _by_reason(client, "passes with gdjax only", differences(gdjax, optax))
    return lines or ["Nothing: the same tests pass with both."]


def _by_reason(client: Client, what: str, found: dict[str, str]) -> list[str]:
    tests_of: dict[str, list[str]] = {}
    for test, error in found.items():
        error = error.replace("|", "\\|").replace("`", "'")[:300]
        tests_of.setdefault(reason_of(client.name, test) or f"`{error}`", []).append(test)
    lines = []
    for reason, tests in tests_of.items():
        more = f" and {len(tests) - 4} more" if len(tests) > 4 else ""
        shown = ", ".join(f"`{test}`" for test in tests[:4])
        lines.append(f"- {client.name}, {what}: {shown}{more}: {reason}")
    return lines


def _sources() -> list[str]:
    lines = ["## Where the tests come from", "", "| client | source | commit |", "|---|---|---|"]
    lines += [f"| {c.name} | {c.url or 'source distribution from PyPI'} | {c.commit[:12]} |" for c in CLIENTS]
    return [
        *lines,
        "",
        "`make clients` fetches them into `out/clients/sources/`; `--sources DIR` takes checkouts that are there.",
        "`tests/clients/requirements.txt` pins the libraries themselves.",
    ]
