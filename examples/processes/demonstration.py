"""A run that is killed, and goes on with another number of processes, beside one of one process that is not."""

import argparse
import importlib.util
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from processes import launch, losses
from processes.losses import Row
from processes.picture import draw

CLOSE = 1e-3  # nats per byte: more than rounding makes in some hundred steps, less than a lost step does


def demonstrate(program: Path, o: argparse.Namespace, options: Sequence[str]) -> None:
    """Runs the program in one process to the end; then in each of `o.processes`, of which all but the last are killed.

    Raises:
      SystemExit: a process ended badly, or the losses are not those of one process.
    """
    whole, broken, clock = o.out / "whole", o.out / "broken", time.perf_counter()
    for folder in (whole, broken):
        shutil.rmtree(folder, ignore_errors=True)  # of the call before
    try:
        launch.run(program, [*options, "--out", str(whole)], 1, whole / "logs", seconds=longest(o))
        lives = [one_life(program, o, options, broken, i) for i in range(len(o.processes))]
    except launch.Ended as e:
        raise SystemExit(str(e)) from None
    compare(o.out, losses.read(whole), lives)
    print(f"done in {time.perf_counter() - clock:.0f} s")


def one_life(program: Path, o: argparse.Namespace, options: Sequence[str], folder: Path, i: int) -> list[Row]:
    """What the i-th run did, until a random process of it was killed at a random step; the last run is not."""
    count, before = o.processes[i], len(losses.read(folder))
    rng = np.random.default_rng((o.seed, i))
    # Each run ends in a part of the steps of its own.
    low, high = (o.steps * j // len(o.processes) for j in (i, i + 1))
    at, victim = rng.integers(low, high), int(rng.integers(count))

    def kill() -> int | None:
        done = losses.read(folder)[before:]
        return victim if done and done[-1].step > at and i + 1 < len(o.processes) else None

    try:
        logs = folder / f"logs_{i}"
        launch.run(program, [*options, "--out", str(folder)], count, logs, kill=kill, seconds=longest(o))
    except launch.Killed as e:
        print(f"{e}; it was step {losses.read(folder)[-1].step}", flush=True)
    return losses.read(folder)[before:]


def longest(o: argparse.Namespace) -> float:
    """Seconds after which something hangs."""
    return 600 + 10 * o.steps


def compare(out: Path, whole: Sequence[Row], lives: Sequence[Sequence[Row]]) -> None:
    """Prints how far the losses are from those of one process, and draws both."""
    wanted = {row.step: row.loss for row in whole}
    furthest = max(abs(row.loss - wanted[row.step]) for life in lives for row in life)
    made = {row.step for life in lives for row in life}
    print(f"{len(wanted)} steps, from {whole[0].loss:.3f} to {whole[-1].loss:.3f} nats per byte")
    print(f"the losses of the killed runs are within {furthest:.1e} of those of one process")
    if all(importlib.util.find_spec(name) for name in ("matplotlib", "PIL")):
        draw(out / "losses.png", whole, lives)
    if made != wanted.keys() or furthest > CLOSE:
        raise SystemExit("they should be the same but for rounding")
