"""A run that is killed while it saves goes on from its latest finished step, bit for bit."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.resume import child

pytestmark = pytest.mark.programs

Log = dict[str, dict[int, tuple[str, ...]]]  # what was said, by its first word and the step


class Crash(NamedTuple):
    inside: bool  # the checkpoint that was being written stayed behind, unfinished
    log: Log


def read(process: subprocess.Popen[str], log: Log) -> Iterator[tuple[str, int]]:
    """What the program says, line by line; it is in `log` too. A kill can cut the last line: it is left out."""
    assert process.stdout is not None
    for line in process.stdout:
        if not line.endswith("\n"):
            return
        word, n, *rest = line.split()
        log.setdefault(word, {})[int(n)] = tuple(rest)
        yield word, int(n)


@contextlib.contextmanager
def training(folder: Path, steps: int) -> Iterator[subprocess.Popen[str]]:
    """A run, which ends with the block at the latest, or when it takes too long."""
    with child.start("training", folder, steps, devices=1) as process:
        watch = threading.Timer(child.TIMEOUT, process.kill)
        watch.start()
        try:
            yield process
        finally:
            watch.cancel()
            process.kill()


def to_its_end(folder: Path, steps: int) -> tuple[Log, float]:
    """What a run says that nothing interrupts, and how long a step takes, most of it saving."""
    log: Log = {}
    with training(folder, steps) as process:
        times = [time.perf_counter() for word, _ in read(process, log) if word == "saving"]
        assert process.wait() == 0, process.stderr and process.stderr.read()
    return log, float(np.median(np.diff(times)))


def unfinished(folder: Path, step: Any = "*", since: float = 0.0) -> list[Path]:
    """What Orbax began to write after the time `since`, and did not give its final name."""
    return [path for path in folder.glob(f"{step}.orbax-checkpoint-tmp*") if path.stat().st_mtime > since]


def crash(folder: Path, steps: int, rng: np.random.Generator, pace: float) -> Crash:
    """Starts a run and kills it after a few steps of `pace` seconds, three times in four as it writes a checkpoint."""
    log: Log = {}
    saving, after, since = rng.random() < 0.75, rng.integers(2, 5), time.time()
    with training(folder, steps) as process:
        for word, n in read(process, log):
            if word == "saving" and n >= min(log["start"]) + after:
                break
        else:
            raise AssertionError(f"ended before it was killed: {process.stderr and process.stderr.read()}")
        done = folder / str(n)
        while saving and not (done.exists() or unfinished(folder, n, since)) and process.poll() is None:
            time.sleep(1e-4)
        time.sleep(rng.uniform(0, pace if saving else 2 * pace))
        process.kill()
        process.wait()
        list(read(process, log))
    return Crash(bool(unfinished(folder, since=since)), log)


def agree(log: Log, whole: Log) -> None:
    """What a resumed run starts from, and every step of it, is what the whole run had at that step."""
    ((first, (restored,)),) = log["start"].items()
    assert first == 0 or restored == whole["step"][first][0], f"restored at step {first}"
    for n, found in log.get("step", {}).items():
        assert found == whole["step"][n], f"step {n}, resumed at {first}"


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_from_its_latest_finished_step(kills: int, tmp_path: Path):
    steps = 5 + 5 * kills
    whole, pace = to_its_end(tmp_path / "whole", steps)
    assert len({digest for digest, *_ in whole["step"].values()}) == steps
    folder, rng = tmp_path / "killed", np.random.default_rng(kills)
    crashes: list[Crash] = []
    # Where a kill falls is a matter of timing: more of them, until enough fell inside a save.
    while len(crashes) < kills or sum(c.inside for c in crashes) < kills // 3:
        assert len(crashes) < kills + 5
        crashes.append(crash(folder, steps, rng, pace))
        agree(crashes[-1].log, whole)
    last, _ = to_its_end(folder, steps)
    agree(last, whole)
    starts = [min(log["start"]) for log in [*(c.log for c in crashes), last]]
    print(f"{len(crashes)} kills, {sum(c.inside for c in crashes)} of them inside a save; resumed at steps {starts}")
    assert starts == sorted(starts) and starts[-1] > kills
    for before, start in zip(crashes, starts[1:], strict=True):
        # Of what was being saved the last is lost, or the last two: a save ends while the next step is taken.
        assert max(before.log["saving"]) - 2 <= start <= max(before.log["saving"])
    assert max(last["step"]) == steps
    assert not unfinished(folder)
