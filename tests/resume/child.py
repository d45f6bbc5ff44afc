"""Starts the programs of this folder, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import DEVICES

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 600  # of a program, in seconds: ten times what the longest takes on two cores


def start(program: str, *args: Any, devices: int = 8) -> subprocess.Popen[str]:
    """Starts `tests/resume/<program>.py` with that many CPU devices, in the strict mode of the tests."""
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"{DEVICES}={devices}",
    }
    # Orbax is imported with what the newest JAX has deprecated.
    warn = ["-W", "error", "-W", "ignore:jax.sharding.SingleDeviceSharding is deprecated:DeprecationWarning"]
    command = [sys.executable, *warn, "-m", f"tests.resume.{program}", *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(program: str, *args: Any, devices: int = 8) -> None:
    """Runs a program to its end, which must be a good one."""
    with start(program, *args, devices=devices) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, f"{program} {args}:\n{out}\n{err}"
