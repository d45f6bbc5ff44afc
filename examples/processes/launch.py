"""Starts the processes of one run on this machine, and ends all of them when one ends badly, as SLURM does."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POLL = 0.02  # seconds
DEVICES = "--xla_force_host_platform_device_count"


class Ended(Exception):
    """A process of the run ended badly, or the time was up."""


class Killed(Ended):
    """A process was killed on purpose."""


def run(
    program: Path,
    options: Sequence[str],
    count: int,
    logs: Path,
    *,
    kill: Callable[[], int | None] = lambda: None,
    seconds: float = 600,
) -> None:
    """Runs `count` processes of a program to their end.

    Args:
      program: takes `--join --coordinator host:port --count n --id i`.
      options: what it gets beside these.
      count: of processes, each with one CPU device.
      logs: folder for what each process says; process 0 says it here.
      kill: asked again and again; the number that it returns is that of a process to kill with -9.
      seconds: after which all are ended.

    Raises:
      Ended: a process ended badly, or they take longer; none of them runs any more.
      Killed: a process was killed by `kill`; neither do the others run.
    """
    logs.mkdir(parents=True, exist_ok=True)
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(DEVICES)]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*flags, f"{DEVICES}=1"])}
    here = f"127.0.0.1:{free_port()}"
    processes: list[subprocess.Popen[bytes]] = []
    end = time.monotonic() + seconds
    try:
        for i in range(count):
            joining = ["--join", "--coordinator", here, "--count", str(count), "--id", str(i)]
            with open(log(logs, i), "wb") as file:
                said = {} if i == 0 else {"stdout": file, "stderr": subprocess.STDOUT}
                command = [sys.executable, str(program), *options, *joining]
                processes.append(subprocess.Popen(command, env=env, **said))  # type: ignore[call-overload]
        while any(process.poll() is None for process in processes):
            if (victim := kill()) is not None:
                processes[victim].send_signal(signal.SIGKILL)
                processes[victim].wait()
                raise Killed(f"process {victim} of {count} was killed with -9, and the others were ended")
            _raise_for_bad_ends(processes, logs)
            if time.monotonic() > end:
                raise Ended(f"{count} processes took longer than {seconds:.0f} s")
            time.sleep(POLL)
        _raise_for_bad_ends(processes, logs)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _raise_for_bad_ends(processes: Sequence[subprocess.Popen[bytes]], logs: Path) -> None:
    for i, process in enumerate(processes):
        if process.poll():
            said = f":\n{log(logs, i).read_text(errors='replace')[-2000:]}" if i else ""
            raise Ended(f"process {i} of {len(processes)} ended with {process.returncode}{said}")


def log(logs: Path, i: int) -> Path:
    return logs / f"process_{i}.log"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
