"""Sums up `out/mutants.jsonl` in `results.md`: python -m tests.mutants.report [LOG]"""

import collections
import datetime
import importlib.metadata
import json
import platform
import sys
from pathlib import Path

from tests.mutants.mutate import mutants
from tests.mutants.run import LOG, MODULES, ROOT, equivalent

TITLE = """# Mutants

One expression of a rule changed at a time; a test of that rule must fail. Written by `python -m tests.mutants.report`
from the log of `make mutants`; {date}, Python {python}, {versions}.

Not run: mutants that exist and that the log does not have, most of them of the kinds that change a constant, a
condition or a term. The score is killed / (killed + survived); equivalent mutants are listed in `equivalent.txt`.
"""
COLUMNS = ("killed", "equivalent", "survived", "not run")


def main() -> None:
    log = Path(sys.argv[1]) if len(sys.argv) > 1 else LOG
    how = {e["name"]: e["how"].split()[0] for e in map(json.loads, log.read_text("utf-8").splitlines())}
    how |= dict.fromkeys(equivalent(), "equivalent")
    families: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    kinds: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    survivors = []
    for module in MODULES:
        for mutant in mutants(module, (ROOT / "gdjax" / f"{module}.py").read_text("utf-8")):
            outcome = how.get(mutant.name, "not run")
            families[module.partition("/")[0]][outcome] += 1
            kinds[mutant.kind][outcome] += 1
            if outcome == "survived":
                survivors.append(f"- `{mutant.name}`")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "optax", "pytest"))
    title = TITLE.format(date=datetime.date.today(), python=platform.python_version(), versions=versions)
    text = [
        title,
        *table("family", families),
        "",
        *table("kind", kinds),
        "",
        "Survivors:",
        "",
        *(survivors or ["none"]),
    ]
    Path(__file__).with_name("results.md").write_text("\n".join(text) + "\n", "utf-8")


def table(head: str, rows: dict[str, collections.Counter[str]]) -> list[str]:
    total = sum(rows.values(), collections.Counter())
    lines = [f"| {head} | mutants | {' | '.join(COLUMNS)} | score |", f"| --- |{' ---: |' * (len(COLUMNS) + 2)}"]
    for name, counts in [*sorted(rows.items()), ("all", total)]:
        ran = counts["killed"] + counts["survived"]
        score = f"{100 * counts['killed'] / ran:.1f} %" if ran else ""
        lines.append(f"| {name} | {counts.total()} | {' | '.join(str(counts[c]) for c in COLUMNS)} | {score} |")
    return lines


if __name__ == "__main__":
    main()
