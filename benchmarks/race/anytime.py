"""One run whose length is open, against a run planned for each of five lengths, on the byte language model.

    python -m benchmarks.race --anytime

The planned run is AdamW with a cosine, tuned at each length: eight trials, then eight fresh seeds. The others have one
point for all lengths, the best of eight trials by the geometric mean over the lengths. An average follows the run: its
horizon is a share of the steps so far. From a plateau one branches at each length: a fifth of it is the decay, which
is more than one run takes, since each branch has steps of its own.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import gdjax

from . import makers, tasks
from .cell import SEEDS, TUNING_SEED, Cell
from .methods import ADAM, BESIDE, KIN, MATRIX, Method
from .records import KEPT, Record
from .schedule import WARMUP, constant, step
from .spaces import Log, Point, points
from .training import CHUNK

TASK, FOLDER, LENGTHS, TRIALS = "language", "anytime", (200, 400, 800, 1600, 3200), 8
FIRST = 100.0  # steps of warm-up of a run whose length is open
PLANNED = "adamw, cosine"
DECAYING = 0.2  # the part of a branch in which the rate falls


def cosine(h: Any, steps: Any) -> Any:
    def rate(count: Any) -> Any:
        t, first = step(count), WARMUP * steps
        down = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((t - first) / (steps + 1 - first), 0, 1)))
        return h["rate"] * jnp.minimum(t / first, 1.0) * down

    return gdjax.adamw(rate, b2=h["b2"], weight_decay=h["weight_decay"], mask=makers.matrices)


def up(h: Any, name: str = "rate") -> Any:
    """A line up over the first steps, and no decay."""
    return constant(h[name], FIRST, 1.0)


def branching(h: Any, steps: Any) -> Any:
    """The plateau and the branch of this length."""

    def rate(count: Any) -> Any:
        return up(h)(count) * jnp.clip((steps + 1 - step(count)) / (DECAYING * steps), 0, 1)

    return gdjax.adamw(rate, b2=h["b2"], weight_decay=h["weight_decay"], mask=makers.matrices)


def following(make: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """An average over a share of the steps so far."""
    return lambda h, steps: gdjax.params_ema(
        make(h), lambda count: jnp.maximum(1 - 1 / (h["share"] * step(count)), 0.0), debias=False
    )


def adamw(h: Any) -> Any:
    return gdjax.adamw(up(h), b2=h["b2"], weight_decay=h["weight_decay"], mask=makers.matrices)


def normuon(h: Any) -> Any:
    return gdjax.normuon(up(h), adam_learning_rate=up(h, "adam_rate"), weight_decay=h["weight_decay"])


def schedule_free(h: Any, steps: Any) -> Any:
    return makers.schedule_free(h, FIRST / WARMUP)


def schedule_free_normuon(h: Any, steps: Any) -> Any:
    """SF-NorMuon: momentum in the matrices alone, and decay of the fast points."""
    rest = gdjax.adamw(up(h, "adam_rate"), b1=0.0, b2=0.95, weight_decay=0.0)
    base = gdjax.normuon(up(h), nesterov=False, others=rest)
    return gdjax.schedule_free(base, up(h), weight_decay=h["weight_decay"], weight_decay_mask=makers.matrices)


SHARE = {"share": Log(0.01, 0.3)}
PLANS: dict[str, Method] = {
    PLANNED: Method(cosine, KIN, ADAM | {"b2": 0.999}),
    "adamw, plateau and branches": Method(branching, KIN, ADAM | {"b2": 0.999}),
}
OPEN: dict[str, Method] = {
    "averaged adamw": Method(following(adamw), KIN | SHARE, ADAM | {"b2": 0.999, "share": 0.1}),
    "averaged normuon": Method(
        following(normuon),
        BESIDE | SHARE,
        MATRIX | {"share": 0.1},
    ),
    "schedule-free adamw": Method(schedule_free, KIN, ADAM | {"rate": 2.5e-3, "b2": 0.999}),
    "schedule-free normuon": Method(schedule_free_normuon, BESIDE, MATRIX),
}


def geometric(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(x) for x in values)) if all(map(math.isfinite, values)) else math.inf


def run(tell: Callable[[str], None], folder: Path = KEPT, tiny: bool = False) -> None:
    task = tasks.task(TASK)
    task = task._replace(glance=task.judge)  # the curve is read at each length
    lengths = (CHUNK, 2 * CHUNK) if tiny else LENGTHS
    for name, method in (PLANS | OPEN).items():
        record = Record(FOLDER, name, folder)
        cell = Cell(task, method, record, tell)
        own = lengths if name in PLANS else lengths[-1:]
        for length in own:
            cell.group(f"tune {length}", points(method.space, TRIALS), [TUNING_SEED], length)
        for length in own:
            cell.group(f"final {length}", [best(record, name, length, lengths)], list(SEEDS), length)


def best(record: Record, name: str, length: int, lengths: tuple[int, ...]) -> Point:
    """The cosine's is the best of its length; others have one for all lengths."""
    if name == PLANNED:
        return min(record.stage(f"tune {length}"), key=lambda run: run["end"])["point"]
    tried = [run["point"] for run in record.stage(f"tune {lengths[-1]}")]
    over = [geometric([at(record, "tune", n, i) for n in lengths]) for i in range(len(tried))]
    return tried[min(range(len(tried)), key=lambda i: over[i])]


def at(record: Record, stage: str, length: int, i: int) -> float:
    """What the i-th run of a stage has come to after so many steps: of its own length, or on the way."""
    own = record.stage(f"{stage} {length}")
    if own:
        return own[i]["end"]
    longest = max((run for run in record.runs if run["stage"].startswith(stage)), key=lambda run: len(run["curve"]))
    value = record.stage(longest["stage"])[i]["curve"][length // CHUNK - 1]
    return math.inf if value is None else value


def figures(folder: Path = KEPT) -> dict[str, dict[int, list[float]]]:
    """Of each method, at each length, the ends of the fresh seeds."""
    found = {}
    for name in PLANS | OPEN:
        record = Record(FOLDER, name, folder)
        if record.runs and any(run["stage"].startswith("final") for run in record.runs):
            found[name] = {n: [at(record, "final", n, i) for i in range(len(SEEDS))] for n in LENGTHS}
    return found


def table(folder: Path = KEPT) -> list[str]:
    found = figures(folder)
    if PLANNED not in found:
        return []
    goal = {n: statistics.fmean(ends) for n, ends in found[PLANNED].items()}
    spreads = [statistics.stdev(ends) for by_length in found.values() for ends in by_length.values()]
    caption = (
        f"Nats a byte, held out: means of {len(found[PLANNED][LENGTHS[0]])} seeds, whose standard deviations are "
        f"{min(spreads):.3f} to {max(spreads):.3f}. In brackets: over the planned cosine of that length."
    )
    lines = ["### A run whose length is open", "", caption, ""]
    lines.append(f"| method | {' | '.join(f'{n} steps' for n in LENGTHS)} |")
    lines.append("| --- |" + " ---: |" * len(LENGTHS))
    for name, by_length in found.items():
        cells = []
        for n, ends in by_length.items():
            value = statistics.fmean(ends)
            cells.append(f"{value:.3f}" if name == PLANNED else f"{value:.3f} ({value / goal[n]:.3f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def picture(path: Path, folder: Path = KEPT) -> None:
    from matplotlib.figure import Figure

    found = figures(folder)
    if PLANNED not in found:
        return
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    ax = figure.subplots()
    for i, (name, by_length) in enumerate(found.items()):
        means = [statistics.fmean(by_length[n]) for n in LENGTHS]
        style: Any = {"linestyle": "none", "marker": "o"} if name == PLANNED else {"marker": ".", "linewidth": 1.2}
        ax.plot(LENGTHS, means, color=f"C{i}" if name != PLANNED else "black", label=name, **style)
    ax.set_xscale("log")
    ax.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
    ax.minorticks_off()
    ax.set_xlabel("steps")
    ax.set_ylabel("nats a byte, held out")
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
