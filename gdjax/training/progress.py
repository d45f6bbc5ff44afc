"""What a loop shows and keeps: a progress line, and metrics fetched without waiting for every step."""

import shutil
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

import jax

from gdjax.core.types import ArrayTree

__all__ = ["Progress"]

TERMINAL_INTERVAL = 0.1  # seconds between two redraws of the bar
PLAIN_INTERVAL = 10.0  # seconds between two lines in a log
BAR = 12  # characters
CHUNK_SECONDS, CHUNK_STEPS = 0.2, 100  # metrics are fetched about this often, and at the latest after so many steps


class Progress:
    """Shows how far a loop has come, its metrics and its speed.

    On a terminal one line is redrawn in place; on any other stream a whole line is written at most every `interval`
    seconds. The first and the last update are always shown. Metrics are read only when a line is written, so device
    scalars may be passed at every step without making the host wait for each. The clock of the rate starts at the end
    of the first update, which keeps compilation out of it.

    Args:
      total: number of steps, or None when it is not known.
      stream: where to write; None is `sys.stderr`.
      interval: seconds between two lines; None is 0.1 on a terminal and 10 elsewhere.

    Example:
      >>> import gdjax, io
      >>> log = io.StringIO()  # by default it is shown on sys.stderr
      >>> with gdjax.Progress(1000, stream=log) as progress:
      ...     for step in range(1000):
      ...         progress.update(step + 1, loss=1.0 / (step + 1))
      >>> log.getvalue().splitlines()[0]
      'step 1/1000  loss 1'
    """

    def __init__(self, total: int | None = None, *, stream: TextIO | None = None, interval: float | None = None):
        self.total = total
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.interval = (TERMINAL_INTERVAL if self.terminal else PLAIN_INTERVAL) if interval is None else interval
        self._first: tuple[int, float] | None = None  # step and time at which the rate's clock started
        self._shown_at = 0.0
        self._waiting: tuple[int, Mapping[str, Any]] | None = None  # the last update, while it is not shown
        self._drawn = 0  # characters of the bar now on the terminal

    def update(self, step: int, /, **metrics: ArrayTree) -> None:
        """Notes that `step` steps are done, and shows it when a line is due.

        Args:
          step: steps done so far.
          **metrics: what to show after the step: numbers, scalar arrays or strings.
        """
        self._waiting = step, metrics
        if self._first is None:
            self._show()
            self._first = step, time.perf_counter()
        elif time.perf_counter() - self._shown_at >= self.interval:
            self._show()

    __call__ = update  # so that a Progress is a function to report to

    def close(self) -> None:
        """Shows the last update if it is not shown yet, and ends the line. Closing twice does nothing more."""
        self._show()
        if self._drawn:
            self._write("\n")
            self._drawn = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _show(self) -> None:
        if self._waiting is None:
            return
        step, metrics = self._waiting
        self._waiting = None
        # The metrics are read first: reading a device scalar waits for its step, and the rate must count that wait.
        shown = [f"{name} {_number(value)}" for name, value in metrics.items()]
        line = "  ".join([self._position(step), *self._speed(step), *shown])
        if self.terminal:
            line = line[: shutil.get_terminal_size().columns - 1]
            self._write("\r" + line.ljust(self._drawn))
            self._drawn = len(line)
        else:
            self._write(line + "\n")
        self._shown_at = time.perf_counter()

    def _position(self, step: int) -> str:
        if self.total is None:
            return f"step {step}"
        if not self.terminal:
            return f"step {step}/{self.total}"
        done = min(step / self.total, 1.0) if self.total else 1.0
        filled = int(BAR * done)
        return f"{100 * done:3.0f}% [{'#' * filled}{'.' * (BAR - filled)}] {step}/{self.total}"

    def _speed(self, step: int) -> list[str]:
        if self._first is None or step <= self._first[0]:
            return []
        rate = (step - self._first[0]) / max(time.perf_counter() - self._first[1], 1e-9)
        speed = [f"{rate:.4g} steps/s"]
        if self.total is not None and step < self.total:
            speed.append(f"{_clock((self.total - step) / rate)} left")
        return speed

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


class Recorder:
    """Fetches the metrics of steps from the device in chunks, so that the host does not wait for every step.

    A chunk is what the device does in about 0.2 seconds, at most 100 steps, and one step until the speed is known.

    Args:
      wait: fetch at every step.
    """

    def __init__(self, wait: bool = False):
        self.wait = wait
        self._pending: list[Any] = []
        self._chunk, self._since = 1, time.perf_counter()

    def add(self, metrics: ArrayTree) -> list[Any]:
        """Notes the metrics of a step, a tree of device arrays; returns what `fetch` does, empty while none is due."""
        self._pending.append(metrics)
        return self.fetch() if self.wait or len(self._pending) >= self._chunk else []

    def fetch(self) -> list[Any]:
        """Waits for the steps noted since the last fetch; returns their metrics, in order, on the host."""
        fetched, self._pending = jax.device_get(self._pending), []
        now = time.perf_counter()
        if fetched:
            per_step = max((now - self._since) / len(fetched), 1e-9)
            self._chunk = max(1, min(CHUNK_STEPS, int(CHUNK_SECONDS / per_step)))
        self._since = now
        return fetched


def _number(value: Any) -> str:
    return str(value) if isinstance(value, str | int) else f"{float(value):.4g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
