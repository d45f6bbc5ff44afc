"""The gallery: it knows every optimizer, chooses sensible rates, and the page shows what is there."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import gdjax
from tests.repository import test_layout

pytestmark = pytest.mark.programs

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "examples"))
portraits = importlib.import_module("portraits.methods")

needs_pictures = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("matplotlib", "PIL")), reason="no extra `examples`"
)


def test_every_optimizer_is_in_it():
    known = portraits.methods()
    assert {name for module in test_layout.OPTIMIZERS for name in test_layout.optimizers_in(module)} <= {
        *known,
        "transformer_optimizer",  # a recipe
    }
    assert set(portraits.SPECIAL) | portraits.MATRIX | portraits.WITHOUT_A_RATE | {"polyak_sgd", "momo"} <= set(known)
    for name, method in known.items():
        assert hasattr(method(0.1), "update"), f"{name} needs arguments: put it into SPECIAL"


def test_the_run_chosen_is_low_early_and_on_the_map(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(portraits, "RATES", [1e-5, 0.02, 1e3])
    for rate, points in portraits.best_runs("sgd", lambda rate: gdjax.sgd(rate, momentum=0.5), 30).values():
        assert rate in (1e-5, 0.02) and points.shape == (31, 2) and np.abs(points).max() < 5
    with pytest.raises(ValueError, match="sgd leaves the map at every rate"):
        monkeypatch.setattr(portraits, "RATES", [1e3])
        portraits.best_runs("sgd", gdjax.sgd, 30)
    assert [rate for rate, _ in portraits.best_runs("dog", gdjax.dog, 3).values()] == [None, None]


def test_the_page_and_its_pictures():
    shown = re.findall(r"!\[(\w+)\]\(gallery/(\w+)\.png\)", (ROOT / "docs" / "gallery.md").read_text("utf-8"))
    assert all(a == b and hasattr(gdjax, a) for a, b in shown)
    sizes = {file.stem: file.stat().st_size for file in (ROOT / "docs" / "gallery").glob("*.png")}
    assert sorted(sizes) == sorted(a for a, _ in shown) and len(sizes) > 70
    assert max(sizes.values()) < 25_000 and sum(sizes.values()) < 3e6


@needs_pictures
def test_gallery_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    gallery = importlib.import_module("gallery")
    gallery.main(["--tiny", "--out", str(tmp_path)])
    text = (tmp_path / "gallery.md").read_text("utf-8")
    names = {file.stem for file in (tmp_path / "gallery").iterdir()}
    assert set(re.findall(r"gallery/(\w+)\.png", text)) == names and "acprop" in names and "constant_schedule" in names
    first = {file.stem: file.read_bytes() for file in (tmp_path / "gallery").iterdir()}
    gallery.main(["--out", str(tmp_path), "--only", "constant_schedule"])
    assert (tmp_path / "gallery" / "constant_schedule.png").read_bytes() == first["constant_schedule"]
    assert (tmp_path / "gallery.md").read_text("utf-8") == text
    assert "pictures in" in capsys.readouterr().out
