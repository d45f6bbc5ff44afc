"""The example in several processes: killed and gone on with, and what it says where it cannot go on."""

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

from tests.support import known_options, quick_compilation

pytestmark = pytest.mark.programs

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "examples"))
multihost, demonstration, launch, losses, text = map(
    importlib.import_module,
    ("multihost", "processes.demonstration", "processes.launch", "processes.losses", "lm.text"),
)
QUIET: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
PROGRAM = ROOT / "examples" / "multihost.py"


@pytest.fixture(autouse=True)
def as_the_tests_compile(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, x in {
        # XLA ends where it sees a flag that it does not know.
        "XLA_FLAGS": " ".join(f"--{name}={str(x).lower()}" for name, x in known_options()),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "PYTHONPATH": str(ROOT),
    }.items():
        monkeypatch.setenv(name, x)
    with quick_compilation():
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_bytes(b"the cat sat on the mat and the rat ran to the hat. " * 200)
    return str(path)


def options(*more: str) -> argparse.Namespace:
    return multihost.parsed(["--tiny", *more])


def train(o: argparse.Namespace, devices: Sequence[jax.Device] | None = None) -> list[float]:
    """The losses of this process alone, on its first device."""
    o.out.mkdir(parents=True, exist_ok=True)
    before = len(losses.read(o.out))
    multihost.train(o, text.read(o.text), devices or jax.devices()[:1])
    return [row.loss for row in losses.read(o.out)[before:]]


@pytest.fixture(scope="module")
def whole(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """The folder and the losses of a run in one process, that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    with quick_compilation():
        return out, train(options(corpus, "--out", str(out)))


def test_a_run_of_two_processes_is_killed_and_goes_on_in_one(
    corpus: str, whole: tuple[Path, list[float]], tmp_path: Path
):
    """In more than before: the slow test below, and the example itself, which compares the losses."""
    o, out = options(corpus, "--processes", "2", "1"), tmp_path / "run"
    first = demonstration.one_life(PROGRAM, o, [corpus, "--tiny"], out, 0)
    written = [{path.parts[-3] for path in out.glob(f"checkpoints/*/run/ocdbt.process_{i}")} for i in (0, 1)]
    train(options(corpus, "--out", str(out)))
    second = losses.read(out)[len(first) :]
    assert {row.processes for row in first} == {2} and {row.processes for row in second} == {1}
    # It was killed on the way, and what went on is the latest checkpoint or the one before it, which was being written.
    killed, went_on = first[-1].step, second[0].step - 1
    assert killed < 20 and went_on % o.checkpoint_every == 0 and killed - 2 * o.checkpoint_every <= went_on <= killed
    assert [row.step for row in second] == list(range(went_on + 1, 31))
    for row in [*first, *second]:
        assert row.loss == pytest.approx(whole[1][row.step - 1], rel=1e-5)
    assert whole[1][-1] < whole[1][0] - 0.5
    assert all(str(went_on) in steps for steps in written)  # each process wrote its part


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_demonstration(seed: int, corpus: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    numbers = ["--processes", "4", "2", "3", "1", "--batch", "12", "--seed", str(seed)]
    multihost.main([corpus, "--tiny", "--out", str(tmp_path), *numbers])
    said = capfd.readouterr().out
    assert said.count("was killed with -9") == 3 and "the losses of the killed runs are within" in said


@pytest.mark.slow
def test_the_variables_of_slurm_suffice(corpus: str, whole: tuple[Path, list[float]], tmp_path: Path):
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    command = [sys.executable, str(PROGRAM), corpus, "--tiny", "--join", "--out", str(tmp_path)]
    tasks = [
        subprocess.Popen(command, env=os.environ | job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}, **QUIET)
        for i in (0, 1)
    ]
    assert [task.wait(timeout=300) for task in tasks] == [0, 0]
    rows = losses.read(tmp_path)
    assert {row.processes for row in rows} == {2}
    assert [row.loss for row in rows] == pytest.approx(whole[1], rel=1e-5)


@pytest.mark.slow
def test_a_process_that_never_joins(corpus: str, tmp_path: Path):
    here = f"127.0.0.1:{launch.free_port()}"
    joining = ["--join", "--coordinator", here, "--count", "2", "--id", "0", "--join-seconds", "1"]
    command = [sys.executable, str(PROGRAM), corpus, "--tiny", "--out", str(tmp_path / "out"), *joining]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    told = f"process 0 of 2, at {here}, waited 1 s, and not all processes joined. Is each of them started"
    assert done.returncode == 1 and told in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def stopped(corpus: str, whole: tuple[Path, list[float]], tmp_path: Path) -> Path:
    """A copy of the run, of which the checkpoints after 28 and 30 steps are left."""
    shutil.copytree(whole[0], tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"28", "30"}
    return tmp_path / "run"


def test_a_checkpoint_of_another_run_is_refused(corpus: str, stopped: Path):
    for more, told in (
        (
            ["--optimizer", "normuon"],
            r"30 is of a run with optimizer 'adamw' and not 'normuon', learning_rate .*: take",
        ),
        (["--width", "32"], r"30 is of a run with width 16 and not 32: take its options, or another --out"),
        (["--state-bits", "8"], r"30 is of a run with state_bits 32 and not 8: take"),
    ):
        with pytest.raises(SystemExit, match=told):
            train(options(corpus, "--out", str(stopped), *more))
    assert train(options(corpus, "--out", str(stopped))) == []


# Where one read fails, others are still under way, and end in errors of their own whenever that is: in another process
# they meet no other test.
GOES_ON = """
import sys

import jax

sys.path.append("examples")
import multihost
from lm import text

o = multihost.parsed(sys.argv[1:])
multihost.train(o, text.read(o.text), jax.devices()[:1])
"""
MORE = "run/_METADATA", "run/ocdbt.process_0", "run/manifest.ocdbt", "about"


@pytest.mark.parametrize("lost", ["run/d", *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_half_a_checkpoint_is_refused_and_the_one_before_it_is_whole(
    lost: str, corpus: str, whole: tuple[Path, list[float]], stopped: Path
):
    o, latest = options(corpus, "--out", str(stopped)), stopped / "checkpoints" / "30"
    path = latest / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    command = [sys.executable, "-c", GOES_ON, "--tiny", corpus, "--out", str(stopped)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.search(r"30 cannot be restored; remove .*30 to go on from step 28\.\n", done.stderr)
    shutil.rmtree(latest)
    assert train(o) == pytest.approx(whole[1][28:], rel=1e-5)


def test_a_batch_that_the_devices_cannot_share(corpus: str, tmp_path: Path):
    with pytest.raises(SystemExit, match="a batch of 8 sequences cannot be divided over 3 devices: see --batch"):
        train(options(corpus, "--out", str(tmp_path)), jax.devices()[:3])
