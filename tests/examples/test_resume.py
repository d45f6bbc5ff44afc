"""The example that is stopped and started again."""

import importlib
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.programs

sys.path.append(str(Path(__file__).parents[2] / "examples"))
resume = importlib.import_module("resume")


def test_a_stopped_run_ends_as_one_that_was_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(folder: str, *options: str) -> list[str]:
        resume.main(["--tiny", "--out", str(tmp_path / folder), *options])
        return capsys.readouterr().out.splitlines()

    first, stopped, _ = run("stopped", "--stop-at", "30")
    assert first == "started at step 0 of 60" and stopped.startswith("stopped at step 30: fingerprint ")
    again = run("stopped")
    assert again[0] == "resumed at step 30 of 60"
    # A finished run is not trained further, unless it is to start anew.
    assert run("stopped") == ["resumed at step 60 of 60", *again[1:]]
    whole = run("stopped", "--fresh")
    assert whole[0] == first and whole[1:] == again[1:]
    assert whole[1].startswith("finished at step 60: fingerprint ") and float(whole[2].split()[-1]) < 0.2


def test_what_a_kill_left_half_written_is_not_resumed_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    resume.main(["--tiny", "--out", str(tmp_path), "--stop-at", "20"])
    half = tmp_path / "tiny" / "40.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "_CHECKPOINT_METADATA").write_text("{}")
    resume.main(["--tiny", "--out", str(tmp_path), "--stop-at", "40"])
    assert "resumed at step 20 of 60" in capsys.readouterr().out
    assert (tmp_path / "tiny" / "40").is_dir()
