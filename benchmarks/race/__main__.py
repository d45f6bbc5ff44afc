"""The race: which optimizer trains best, each tuned alike.

    python -m benchmarks.race                             all that is not there yet, cell by cell
    python -m benchmarks.race --tasks language --methods adamw muon
    python -m benchmarks.race --shorter                   how soon the winners are there
    python -m benchmarks.race --anytime                   runs of an open length against planned ones
    python -m benchmarks.race --check language muon       runs a cell's best point anew and says whether it agrees
    python -m benchmarks.race --tell                      tables and pictures from the records, nothing trained

docs/race.md has the protocol. A cell is a method on a task, and runs in a process of its own.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import jax

from . import tasks
from .figures import baseline, of_everything, scaled, winners
from .methods import METHODS, races
from .records import KEPT, Record

EVERY = (*tasks.NAMES, *tasks.DIAGNOSTICS, *tasks.HELD_OUT)


def tell(text: str) -> None:
    """A line of progress, over the last one on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[: os.get_terminal_size(2).columns - 1]}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def run_cell(o: argparse.Namespace) -> None:
    """One cell, in this process."""
    from .cell import Cell

    task, method = o.cell
    given = of_everything(o.out)[method] if task in tasks.HELD_OUT else None
    own = made(task)
    near = None
    if own.near and not METHODS[method].larger:
        near = Record(own.near, METHODS[method].carried or method, o.out).best()
    cell = Cell(own, METHODS[method], Record(task, method, o.out), tell, o.tiny, given, near)
    if not o.shorter:
        return cell.run()
    kept = cells(task, o.out)
    if (base := baseline(kept)) is None:
        sys.exit(f"{task}: the baseline, which a shorter run is set against, has not run")
    return cell.shorten(scaled(kept[base], "final"))


def cells(task: str, folder: Path) -> dict[str, Record]:
    """The records of a task that are there."""
    return {m: r for m in METHODS if (r := Record(task, m, folder)).runs}


def made(task: str) -> tasks.Task:
    jax.config.update("jax_enable_x64", task in tasks.DOUBLE)
    return tasks.task(task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tasks", nargs="+", choices=EVERY, default=EVERY)
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--out", type=Path, default=KEPT, help="the folder of the records")
    add("--tiny", action="store_true", help="a few steps and trials, into out/race")
    add("--shorter", action="store_true", help="shorter runs of the best points of winners, which must be there")
    add("--cell", nargs=2, metavar=("TASK", "METHOD"), help=argparse.SUPPRESS)
    add("--check", nargs=2, metavar=("TASK", "METHOD"), help="run a cell's best point anew, and compare")
    add("--anytime", action="store_true", help="runs of an open length against planned ones")
    add("--times", action="store_true", help="measure what a step of each method takes; nothing else may run")
    add("--tell", action="store_true", help="write tables and pictures from the records")
    o = parser.parse_args()
    if o.tiny and o.out == KEPT:
        o.out = Path("out/race")
    if o.tell:
        from .telling import tell_all

        return tell_all()
    if o.times:
        from .timing import measure

        return measure([task for task in o.tasks if task not in tasks.DIAGNOSTICS], o.methods, tell)
    if o.check:
        from .cell import check

        task, method = o.check
        return print(check(made(task), METHODS[method], Record(task, method), tell))
    if o.anytime:
        from .anytime import run

        return run(tell, o.out, o.tiny)
    if o.cell:
        return run_cell(o)
    rest = [f for f in sys.argv[1:] if f in ("--tiny", "--shorter")]
    for task in o.tasks:
        chosen = [m for m in o.methods if races(task, m)]
        if task in tasks.HELD_OUT:
            known = of_everything(o.out)
            chosen = [m for m in chosen if m in known]
        if o.shorter:
            won = winners(cells(task, o.out))
            chosen = [m for m in chosen if m in won]
        for method in chosen:
            command = [sys.executable, "-m", "benchmarks.race", "--cell", task, method, "--out", str(o.out), *rest]
            subprocess.run(command, check=True)
    return None


if __name__ == "__main__":
    main()
