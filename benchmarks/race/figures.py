"""What records say: means, intervals, tests against the baseline, how soon a winner is there."""

import bisect
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from .methods import EQUATIONS, LARGER, METHODS
from .records import KEPT, Record
from .tasks import DIAGNOSTICS, HELD_OUT, NAMES
from .training import CHUNK

# Ends that span decades: their means are geometric, and sigma and p are of logarithms.
DECADES = ("factors", "modular", "pinn", "pinn_double")
# Tasks with the same trials of all methods, from which the one configuration of each is taken.
FIRST_ROUND = ("language", "language_repeated", "digits", "autoencoder", "factors", "modular")
ALWAYS = ("adamw", "nadamw", "normuon", "recipe")  # a task on which these ran untuned counts in the mean over all
BASELINES = tuple(name for name, m in METHODS.items() if m.larger)
CONFIDENCE = 0.95
SHORTER = (0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.85)  # of the run, for how soon a winner is there


class Row(NamedTuple):
    method: str
    mean: float  # of the fresh seeds, at the end of the run
    spread: float  # standard deviation over them; a factor where ends span decades
    better: float  # than the baseline, in its standard deviations; positive is better
    p: float  # of Welch's one-sided test that it is better
    untuned: float  # mean of the untuned point; on a larger task, of the smaller one's point as it is
    sooner: float  # the share of the baseline's steps after which its mean is reached; infinite if not
    interval: tuple[float, float]  # of that share
    point: dict[str, float]
    record: Record


def mean(ends: list[float]) -> float:
    """Infinite if one run is."""
    return statistics.fmean(ends) if ends else math.nan


def scaled(record: Record, stage: str) -> list[float]:
    """The ends of a stage, in a task of decades their logarithms."""
    ends = record.ends(stage)
    return [math.log(x) for x in ends] if decades(record) else ends


def decades(record: Record) -> bool:
    return record.task in DECADES


def baseline(records: dict[str, Record]) -> str | None:
    """The better of those that were tuned as baselines, once all of them are there; on a larger task one is enough."""
    ends = {name: mean(scaled(records[name], "final")) for name in BASELINES if name in records}
    larger = any(record.task in LARGER for record in records.values())
    if len(ends) < (1 if larger else len(BASELINES)) or any(map(math.isnan, ends.values())):
        return None
    return min(ends, key=lambda name: ends[name])


def winners(records: dict[str, Record]) -> list[str]:
    """The methods that are better than the baseline at the full length."""
    return [row.method for row in table(records) if row.better > 0]


def table(records: dict[str, Record]) -> list[Row]:
    """A row for each method with final runs, the best first."""
    first = baseline(records)
    base = scaled(records[first], "final") if first else []
    rows = []
    for name, record in records.items():
        ends = scaled(record, "final")
        if not ends:
            continue
        shown = math.exp if decades(record) else float
        sooner, interval = how_soon(record, base) if base else (math.nan, (math.nan, math.nan))
        spread = shown(statistics.stdev(ends)) if all(map(math.isfinite, ends)) else math.inf
        better = (mean(base) - mean(ends)) / statistics.stdev(base) if base else math.nan
        p = welch(ends, base) if base and name != first else math.nan
        plain = "untuned" if record.stage("untuned") else "as it is"
        untuned, best = shown(mean(scaled(record, plain))), record.best()
        rows.append(Row(name, shown(mean(ends)), spread, better, p, untuned, sooner, interval, best, record))
    return sorted(rows, key=lambda row: row.mean)


def welch(ends: list[float], base: list[float]) -> float:
    """p of Welch's one-sided t-test that a method is better: each side has its own spread."""
    if not all(map(math.isfinite, ends)):
        return 1.0
    return float(stats.ttest_ind(ends, base, equal_var=False, alternative="less").pvalue)


def paired(record: Record, base: Record) -> tuple[float, float]:
    """The mean difference to the baseline, seed by seed, and half of its interval by Student's t.

    Seeds of one checkpoint end alike whatever the method, so this interval is far narrower than that of two means.
    """
    ends, goals = ({run["seed"]: run["end"] for run in r.stage("final")} for r in (record, base))
    gaps = [end - goals[seed] for seed, end in ends.items() if seed in goals]
    if len(gaps) < 2 or not all(map(math.isfinite, gaps)):
        return math.nan, math.nan
    width = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(gaps) - 1)) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return mean(gaps), width


def lengths_of(record: Record) -> dict[int, list[float]]:
    """The ends of the best point by the length of the run, the shortest first."""
    stages = {int(run["stage"].split()[1]): run["stage"] for run in record.runs if run["stage"].startswith("steps ")}
    stages[record.about["steps"]] = "final"
    return {steps: scaled(record, stage) for steps, stage in sorted(stages.items())}


def how_soon(record: Record, base: list[float], draws: int = 2000) -> tuple[float, tuple[float, float]]:
    """The length of a run that ends where the baseline's does, over the baseline's, and its bootstrap interval.

    Runs of each length have their own whole decay. Between two lengths the mean is taken as linear in the logarithm of
    the steps. Below the shortest the share is that of the shortest, which is then a bound from above.
    """
    whole, lengths = record.about["steps"], lengths_of(record)
    steps, ends = list(lengths), [np.array(x) for x in lengths.values()]

    def share(means: Any, goal: float) -> float:
        reached = [m <= goal for m in means]
        if not reached[-1]:
            return math.inf
        last = len(steps) - 1
        while last > 0 and reached[last - 1]:
            last -= 1
        if last == 0 or not math.isfinite(means[last - 1]):
            return steps[last] / whole
        part = (means[last - 1] - goal) / (means[last - 1] - means[last])
        return math.exp((1 - part) * math.log(steps[last - 1]) + part * math.log(steps[last])) / whole

    rng, b = np.random.default_rng(0), np.array(base)
    drawn = sorted(
        share([rng.choice(e, len(e)).mean() for e in ends], rng.choice(b, len(b)).mean()) for _ in range(draws)
    )
    tail = int((1 - CONFIDENCE) / 2 * draws)
    return share([e.mean() for e in ends], float(b.mean())), (drawn[tail], drawn[-tail - 1])


def shorter(whole: int) -> list[int]:
    """The lengths of shorter runs, in steps."""
    return sorted({max(round(share * whole / CHUNK), 1) * CHUNK for share in SHORTER})


def wanting(record: Record, base: list[float]) -> list[int]:
    """Of the shorter lengths those that have not run and that the share, or an end of its interval, lies beside.

    The others do not enter it, as long as a longer run ends lower.
    """
    whole, found = record.about["steps"], set[int]()
    ladder = sorted({*shorter(whole), whole})
    share, interval = how_soon(record, base)
    for x in (share, *interval):
        above = min(bisect.bisect_left(ladder, x * whole * (1 - 1e-9)), len(ladder) - 1)
        found |= {ladder[above], ladder[max(above - 1, 0)]}
    return sorted(found - set(lengths_of(record)))


def attempts(record: Record) -> float:
    """How many points of a method's space one tries until a diagnostic passes, in the mean: tries / successes."""
    ends = record.ends("attempts")
    passed = sum(end <= record.about["passes"] for end in ends)
    return len(ends) / passed if passed else math.inf


class OneConfiguration(NamedTuple):
    method: str
    value: float  # geometric mean over the tasks: end / the baseline's best trial
    untuned: float  # the same of the untuned rows: mean over fresh seeds / the baseline's
    point: dict[str, float]


def one_configuration(records: dict[str, dict[str, Record]]) -> list[OneConfiguration]:
    """Of each method the trial that does best over all tasks that are tuned on, and what its untuned point does there.

    Trials have the same points in every task, so this costs no run. A ratio counts between 1/10 and 10. Tasks with a
    few methods only, and methods that are not on all of the others, are left out.
    """
    goals = {task: records[task][first] for task in FIRST_ROUND if (first := baseline(records.get(task, {})))}
    found = []
    for name in METHODS:
        cells = [records[task][name] for task in goals if name in records[task]]
        if len(cells) < len(goals) or not all(c.stage("tune") for c in cells) or not cells:
            continue
        best_trials = [goal.trials()[0]["end"] for goal in goals.values()]
        logs = [[score(end, goal) for end in c.ends("tune")] for c, goal in zip(cells, best_trials, strict=True)]
        means = np.mean(logs, axis=0)
        best = int(means.argmin())
        own = [
            score(typical(c, "untuned"), typical(goal, "final")) for c, goal in zip(cells, goals.values(), strict=True)
        ]
        point = cells[0].stage("tune")[best]["point"]
        found.append(OneConfiguration(name, math.exp(means[best]), math.exp(np.mean(own)), point))
    return sorted(found, key=lambda row: row.value)


class Untuned(NamedTuple):
    method: str
    mean: float  # geometric mean over the tasks, each ratio between 1/10 and 10
    ratios: dict[str, float]  # of each task: untuned / the baseline, tuned


def untuned_everywhere(records: dict[str, dict[str, Record]]) -> tuple[list[str], list[Untuned]]:
    """The tasks on which all of `ALWAYS` ran untuned, and the methods that ran untuned on all of these, best first."""
    shared = [
        task
        for task, cells in records.items()
        if task not in (*LARGER, *DIAGNOSTICS, *EQUATIONS)
        and (baseline(cells) or task in HELD_OUT)
        and all(name in cells and cells[name].stage("untuned") for name in ALWAYS)
    ]
    found = []
    for name in METHODS:
        cells = {task: records[task][name] for task in shared if name in records[task]}
        if not shared or len(cells) < len(shared) or not all(c.stage("untuned") for c in cells.values()):
            continue
        goals = {task: typical(records[task][baseline(records[task]) or "nadamw"], "final") for task in shared}
        ends = {task: typical(c, "untuned") for task, c in cells.items()}
        mean_of = math.exp(float(np.mean([score(ends[task], goals[task]) for task in shared])))
        found.append(Untuned(name, mean_of, {task: ends[task] / goals[task] for task in shared}))
    return shared, sorted(found, key=lambda row: row.mean)


def of_everything(folder: Path = KEPT) -> dict[str, dict[str, float]]:
    """The one configuration of each method."""
    return {row.method: row.point for row in one_configuration(read(folder))}


def read(folder: Path = KEPT) -> dict[str, dict[str, Record]]:
    """By task and method, the cells that have a record."""
    found = {task: {name: Record(task, name, folder) for name in METHODS} for task in (*NAMES, *DIAGNOSTICS, *HELD_OUT)}
    return {task: {name: r for name, r in cells.items() if r.runs} for task, cells in found.items()}


def typical(record: Record, stage: str) -> float:
    """The mean of a stage, a geometric one in a task of decades."""
    found = mean(scaled(record, stage))
    return math.exp(found) if decades(record) else found


def score(end: float, goal: float) -> float:
    return math.log(min(max(end / goal, 0.1), 10.0)) if math.isfinite(end) else math.log(10.0)
