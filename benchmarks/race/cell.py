"""A cell of the race: a method on a task, tuned, run anew on fresh seeds, run shorter if it wins."""

import math
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from harness import machine

from .figures import shorter, wanting
from .methods import Method
from .records import Record
from .spaces import Point, extended, points, short
from .tasks import Task
from .training import CHUNK, LANES, Trainer

TRIALS, WIDER_TRIALS, WIDENINGS = 16, 8, 2
ATTEMPTS = 64  # of a diagnostic
AGAIN, TUNING_SEED, MORE_TUNING_SEEDS = 8, 100, (101, 102)
SEEDS = tuple(range(8))  # the seeds of the table are fresh: no trial has seen them
FACTORS = (1 / 8, 1 / 4, 2**-1.5, 1 / 2, 2**-0.5, 1.0, 2**0.5, 2.0)  # of rates on a larger task, one group of runs


class Cell:
    """`given` is the point of a task that nothing is tuned on; `near` that of the smaller task, tried at some rates."""

    def __init__(
        self, task: Task, method: Method, record: Record, tell: Callable[[str], None], tiny: bool = False,
        given: Point | None = None, near: Point | None = None,
    ):  # fmt: skip
        name = f"{record.task} · {record.method}"
        self.task, self.method, self.record, self.tiny, self.given = task, method, record, tiny, given
        self.near = near
        self.stage = ""
        self.trainer = Trainer(task, method, lambda text: tell(f"{name} · {self.stage} · {text}"))
        self.steps: int = record.about.get("steps") or self.length()

    def length(self) -> int:
        if self.tiny:
            return 2 * CHUNK
        return self.task.steps if self.task.seconds is None else self.trainer.steps_in(self.task.seconds)

    def run(self) -> None:
        """All stages but those of shorter runs. A diagnostic has one: does a random point pass?"""
        if self.task.passes is not None:
            self.record.about["passes"] = self.task.passes
            return self.group("attempts", points(self.method.space, 4 if self.tiny else ATTEMPTS), [TUNING_SEED])
        if self.near is not None:
            return self.beside(self.near)
        if self.given is None:
            self.tune()
        return self.finish(self.given or self.record.best())

    def tune(self) -> None:
        """All trials, and more of them where the best is at an edge of a rate's range."""
        space, stages = self.method.space, ["tune"]
        count = (4 if self.tiny else TRIALS) if space else 1
        more = points(self.method.larger, count) if self.method.larger else []
        self.group("tune", self.whole(points(space, count)) + more, [TUNING_SEED])
        for i in range(1, 1 if self.tiny else WIDENINGS + 1):
            wider = extended(space, self.record.trials(stages)[0]["point"], self.method.rates)
            if wider is None:
                break
            beyond, space = wider
            stages.append(f"wider {i}")
            self.group(stages[-1], self.whole(points(beyond, WIDER_TRIALS, seed=i)), [TUNING_SEED])
        leaders = [run["point"] for run in self.record.trials(stages)[:AGAIN]]
        self.group("again", leaders, list(MORE_TUNING_SEEDS))

    def beside(self, point: Point) -> None:
        """The point of the smaller task as it is, and with all rates times a factor, on one seed; the best on fresh
        ones. What was made for the larger task out of the smaller one's optimizer runs as it is.
        """
        seeds = list(SEEDS[:2] if self.tiny else SEEDS)
        if self.method.carried:
            return self.group("final", [point], seeds)
        self.group("as it is", [point], seeds)
        tried = [{**point, **{name: short(point[name] * f) for name in self.method.rates}} for f in FACTORS]
        self.group("tune", self.whole(tried), [TUNING_SEED])
        return self.group("final", [self.record.trials(["tune"])[0]["point"]], seeds)

    def whole(self, tried: list[Point]) -> list[Point]:
        """Points with what is not tuned in their space."""
        return [{**self.method.untuned, **point} for point in tried]

    def finish(self, point: Point) -> None:
        """A point and the untuned one on fresh seeds."""
        seeds = list(SEEDS[:2] if self.tiny else SEEDS)
        self.group("final", [point], seeds)
        if self.method.space:
            self.group("untuned", [self.method.untuned], seeds)

    def shorten(self, base: list[float]) -> None:
        """The best point in shorter runs, each with its own whole decay: of the lengths those that tell how soon it is
        where the baseline ends, as `base` says.
        """
        lengths = shorter(self.steps)
        wanted = [lengths[(len(lengths) - 1) // 2]]  # 0.4; the first guess comes from it
        while wanted:
            self.group(f"steps {wanted[0]}", [self.record.best()], list(SEEDS), wanted[0])
            wanted = wanting(self.record, base)

    def group(self, stage: str, tried: list[Point], seeds: list[int], steps: int | None = None) -> None:
        """Runs what of a stage has not run yet, LANES at a time."""
        runs = [(point, seed) for point in tried for seed in seeds][len(self.record.stage(stage)) :]
        self.stage = stage
        for i in range(0, len(runs), LANES):
            some_points, some_seeds = map(list, zip(*runs[i : i + LANES], strict=True))
            start = time.perf_counter()
            curves, ends, aside = self.trainer.run(some_points, some_seeds, steps or self.steps)
            made = {**machine(), "code": commit(), "data": self.task.data}
            if steps is None:
                self.record.about |= made | {"steps": self.steps, "unit": self.task.unit}
                if aside:
                    self.record.about["aside"] = self.task.aside_unit
            else:  # what made the full runs, perhaps long before, stays
                self.record.about["shorter runs"] = made
            self.record.add(stage, some_points, some_seeds, curves, ends, time.perf_counter() - start, aside)


def check(task: Task, method: Method, kept: Record, tell: Callable[[str], None]) -> str:
    """Runs the final runs of a kept record anew, and says whether they agree."""
    again = Record(kept.task, kept.method, Path("out/race/check"))
    again.runs, again.about = [], {"steps": kept.about["steps"]}
    cell = Cell(task, method, again, tell)
    cell.group("final", [kept.best()], list(SEEDS))
    ours, theirs = again.ends("final"), kept.ends("final")
    data = "" if again.about["data"] == kept.about["data"] else "; the data differ, so only means can agree"
    sigma = statistics.stdev(theirs)
    apart = abs(statistics.fmean(ours) - statistics.fmean(theirs)) / (sigma * math.sqrt(2 / len(ours)))
    said = "agrees" if apart < 3 else "DOES NOT AGREE"
    largest = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    return (
        f"{kept.task} · {kept.method}: {said}. Mean {statistics.fmean(ours):.5g}, "
        f"recorded {statistics.fmean(theirs):.5g}, {apart:.2f} standard errors apart; "
        f"largest difference of a seed {largest:.2g}{data}"
    )


def commit() -> str:
    """The commit of the library, with a plus if it was changed since."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + (
        "+" if git("status", "--porcelain", "gdjax", "benchmarks/race") else ""
    )
