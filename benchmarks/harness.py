"""What all benchmarks share: the machine, the steps, measuring in alternation, exact figures of a compilation."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import hand
import jax
import optax
import recipes
from recipes import RECIPES
from trees import shapes

import gdjax

PEERS = "gdjax", "optax", "hand"
LIBRARIES = {"gdjax": gdjax, "optax": optax}
Seconds = dict[str, list[float]]


def step_of(peer: str, recipe: str) -> Any:
    """The start of a state, and the step `(params, state, grads) -> (params, state)`, neither compiled."""
    return hand.STEPS[recipe]() if peer == "hand" else recipes.step_of(LIBRARIES[peer], RECIPES[recipe])


def compiled(step: Any) -> Any:
    return jax.jit(step, donate_argnums=(0, 1))


def machine() -> dict[str, Any]:
    """Where and with what the figures were taken."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    versions = {}
    for package in ("jax", "jaxlib", "optax", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    flags = os.environ.get("XLA_FLAGS")
    return ({"XLA_FLAGS": flags} if flags else {}) | {
        "date": date.today().isoformat(),
        "device": str(jax.devices()[0].device_kind),
        "cpu": next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **versions,
        "gdjax": gdjax.__version__,  # the metadata may be those of an older installation
    }


def in_turn(runs: dict[str, Callable[[], Any]], rounds: int, warmup: int = 2) -> Seconds:
    """Seconds of each run in each round, the runs in alternation. A run may return seconds that it measured itself."""
    seconds: Seconds = {name: [] for name in runs}
    for i in range(rounds + warmup):
        for name, run in runs.items():
            start = time.perf_counter()
            own = run()
            taken = time.perf_counter() - start if own is None else own
            if i >= warmup:
                seconds[name].append(taken)
    return seconds


def both_ways(makers: dict[str, Callable[[], Callable[[], Any]]], rounds: int) -> Seconds:
    """`in_turn` of what the makers make, half of the rounds in their order and half in the reverse.

    Where a run's arrays lie matters: those that are made first are about 5 % slower, whosever they are.
    """
    seconds: Seconds = {name: [] for name in makers}
    for names in (list(makers), list(reversed(makers))):
        runs = {name: makers[name]() for name in names}
        for name, values in in_turn(runs, (rounds + 1) // 2).items():
            seconds[name] += values
        del runs
    return seconds


def medians(seconds: Seconds) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(seconds: Seconds, ours: str, theirs: str) -> float:
    """The median of the ratios of each round, since what disturbs a round disturbs both; of two halves their mean."""
    each = [a / b for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
    middle = (len(each) + 1) // 2
    return statistics.geometric_mean(statistics.median(half) for half in (each[:middle], each[middle:]) if half)


def compilation(
    peer: str, recipe: str, tree: Any, dtype: Any, rounds: int = 3, compile_: bool = True
) -> dict[str, Any]:
    """Exact figures of the step, and the medians of the seconds it takes to trace and to lower it."""
    args, seconds = shapes(tree, dtype), {"trace": [], "lower": []}
    for _ in range(rounds):
        jax.clear_caches()
        init, step = step_of(peer, recipe)
        state = jax.eval_shape(init, args)
        start = time.perf_counter()
        traced = compiled(step).trace(args, state, args)
        middle = time.perf_counter()
        lowered = traced.lower()
        seconds["trace"].append(middle - start)
        seconds["lower"].append(time.perf_counter() - middle)
    figures = {f"{name}_s": statistics.median(values) for name, values in seconds.items()}
    figures["equations"] = len(traced.jaxpr.jaxpr.eqns)
    if compile_:
        start = time.perf_counter()
        program = lowered.compile()
        figures["compile_s"] = time.perf_counter() - start
        figures |= of_program(program)
    return figures


def of_program(program: Any) -> dict[str, Any]:
    """Bytes of temporaries, and bytes that the compiler expects to move."""
    costs = program.cost_analysis() or {}
    return {
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        "bytes_accessed": int(costs.get("bytes accessed", 0)),
    }


def nbytes(*trees: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(trees))


class Results:
    """Rows of figures, written after each one; a run that goes on from an earlier file leaves out what that has.

    Each row tells the date and the processor, which may not be those of the others.
    """

    def __init__(self, path: Path, again: bool):
        self.path, self.rows, self.about = path, [], machine()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not again:
            self.rows = json.loads(path.read_text("utf-8"))["rows"]

    def has(self, **key: Any) -> bool:
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append({**row, "taken": f"{self.about['date']}, {self.about['cpu']}"})
        self.path.write_text(json.dumps({"machine": self.about, "rows": self.rows}, indent=1) + "\n", "utf-8")

    def tell(self, title: str, lines: list[str], elsewhere: bool = False) -> None:
        """Writes the .md beside the .json: a title, the machine and these lines.

        Args:
          elsewhere: whether the figures are of devices that are not here.
        """
        about = "; ".join(f"{k} {v}" for k, v in self.about.items() if not (elsewhere and k == "device"))
        told = "\n".join([f"# {title}", "", "On " * elsewhere + about, "", *lines])
        self.path.with_suffix(".md").write_text(told.rstrip("\n") + "\n", "utf-8")
        print(f"wrote {self.path} and .md")


def markdown_table(head: str, rows: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """The lines of a table, and an empty one.

    Args:
      head: the names of the columns, with a bar between two.
      rows: a list of cells each.
      words: how many columns, the first ones, are words; numbers stand to the right.
    """
    lines = [f"| {head} |", "|" + " --- |" * words + " ---: |" * (head.count("|") + 1 - words)]
    return [*lines, *(f"| {' | '.join(cells)} |" for cells in rows), ""]


def say(*words: Any) -> None:
    print(*words, file=sys.stderr, flush=True)
