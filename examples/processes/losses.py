"""The losses of a run, in a file that grows by a line a step: a run that is killed leaves them too."""

from pathlib import Path
from typing import NamedTuple

NAME = "losses.csv"


class Row(NamedTuple):
    step: int  # the first is 1
    processes: int
    loss: float  # nats per byte


def write(folder: Path, step: int, processes: int, loss: float) -> None:
    with open(folder / NAME, "a") as file:
        file.write(f"{step},{processes},{loss!r}\n")


def read(folder: Path) -> list[Row]:
    """What was written so far. After a kill some steps are there twice, since the next run makes them again."""
    path = folder / NAME
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    fields = [line.split(",") for line in lines if line.endswith("\n")]  # the last may be half written
    return [Row(int(step), int(processes), float(loss)) for step, processes, loss in fields]
