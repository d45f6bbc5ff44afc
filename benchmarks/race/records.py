"""What a cell (a method on a task) has come to: one line a run, written as runs end.

A task has one file. A section of it is a cell: a line that names the method and what it ran on, then the runs.
"""

import fcntl
import json
import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

KEPT = Path(__file__).resolve().parents[1] / "results" / "race"


class Record:
    """The runs of a cell. A group of runs is a stage: "tune", "wider 1", "final", "untuned", "steps 600", ..."""

    def __init__(self, task: str, method: str, folder: Path = KEPT):
        self.task, self.method, self.path = task, method, folder / f"{task}.jsonl"
        self.about: dict[str, Any] = {}
        self.runs: list[dict[str, Any]] = []
        if own := sections(self.path).get(method):
            self.about, *self.runs = map(json.loads, own.splitlines())
            del self.about["method"]
            for run in self.runs:
                run["end"], run["curve"] = number(run["end"]), [number(x) for x in run["curve"]]

    def stage(self, name: str) -> list[dict[str, Any]]:
        return [run for run in self.runs if run["stage"] == name]

    def ends(self, name: str) -> list[float]:
        return [run["end"] for run in self.stage(name)]

    def aside(self, name: str) -> list[float]:
        """The second numbers of a stage."""
        return [number(run.get("aside")) for run in self.stage(name)]

    def trials(self, stages: Collection[str] = ("tune", "wider 1", "wider 2")) -> list[dict[str, Any]]:
        """The tuning runs, the best first."""
        return sorted((run for run in self.runs if run["stage"] in stages), key=lambda run: run["end"])

    def best(self) -> dict[str, float]:
        """The point that is best in the mean over all tuning seeds, of those that were tried again.

        Where nothing was tuned it is the point of the final runs.
        """
        if not self.trials():
            return self.stage("final")[0]["point"]
        ends: dict[str, list[float]] = {}
        for run in self.trials() + self.stage("again"):
            ends.setdefault(json.dumps(run["point"]), []).append(run["end"])
        most = max(map(len, ends.values()))
        of_all_seeds = {point: sum(found) for point, found in ends.items() if len(found) == most}
        return json.loads(min(of_all_seeds, key=lambda point: of_all_seeds[point]))

    def add(self, stage: str, points: Any, seeds: Any, curves: Any, ends: Any, seconds: float, aside: Any = ()) -> None:
        for i, (point, seed, curve, end) in enumerate(zip(points, seeds, curves, ends, strict=True)):
            second = {"aside": finite(aside[i])} if len(aside) else {}
            self.runs.append({"stage": stage, "seed": seed, "point": point, "end": end, **second, "curve": curve})
        self.about[f"seconds of {stage}"] = self.about.get(f"seconds of {stage}", 0) + round(seconds)
        self.write()

    def write(self) -> None:
        """JSON has no infinity: null. One process at a time replaces its section of what is in the file by then."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{**run, "end": finite(run["end"]), "curve": [finite(x) for x in run["curve"]]} for run in self.runs]
        lines = [json.dumps(row, separators=(",", ":")) for row in ({"method": self.method, **self.about}, *rows)]
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # it ends with the process too
            kept = sections(self.path) | {self.method: "\n".join(lines)}
            partly = self.path.with_suffix(".partly")  # a run that is killed while it writes loses nothing
            partly.write_text("\n".join(kept[method] for method in sorted(kept)) + "\n", "utf-8")
            partly.replace(self.path)
        finally:
            os.close(folder)


def sections(path: Path) -> dict[str, str]:
    """Each method's lines in the file of a task."""
    parts = re.split(r'\n(?={"method":)', path.read_text("utf-8").rstrip()) if path.exists() else []
    return {json.loads(part.partition("\n")[0])["method"]: part for part in parts}


def number(x: float | None) -> float:
    return math.inf if x is None else x


def finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
