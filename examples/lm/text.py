"""Bytes to train on, bytes held out, and what a table of byte pairs makes of them."""

import os
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

HELD_OUT_EVERY = 20  # one file in 20 is held out; of fewer files, the last twentieth of the bytes
# In the standard library's folder, but not its own prose and code: tests, tables, bundled programs, other packages.
SKIPPED = {"test", "tests", "idlelib", "turtledemo", "tkinter", "lib2to3", "encodings", "pydoc_data", "distutils"}
SKIPPED |= {"ensurepip", "site-packages", "dist-packages", "__pycache__"}


class Text(NamedTuple):
    name: str
    files: int
    train: np.ndarray  # (n,) uint8
    held_out: np.ndarray  # (m,) uint8


def read(path: str | None = None) -> Text:
    """Reads a file, every UTF-8 file in a folder, or, without a path, the sources of Python's standard library."""
    if path is None:
        name, root = "Python's standard library", Path(sysconfig.get_paths()["stdlib"])
        # _sysconfigdata_*.py is written when Python is built, and differs from machine to machine.
        found = [p for p in _walk(root, SKIPPED) if p.suffix == ".py" and not p.name.startswith("_sysconfigdata")]
    else:
        name, root = path, Path(path)
        if not root.exists():
            raise ValueError(f"{path}: no such file or folder")
        found = [root] if root.is_file() else _walk(root, {".git", "__pycache__"})
    found.sort(key=lambda p: p.relative_to(root).as_posix())
    parts = [part for part in map(Path.read_bytes, found) if part and _is_text(part)]
    if not parts:
        raise ValueError(f"{name}: no text in {root}; give the path of a text file or folder")
    if len(parts) < HELD_OUT_EVERY:
        whole = b"\n".join(parts)
        cut = len(whole) - len(whole) // HELD_OUT_EVERY
        return Text(name, len(parts), _array(whole[:cut]), _array(whole[cut:]))
    rest = [part for i, part in enumerate(parts) if i % HELD_OUT_EVERY]
    return Text(name, len(parts), _array(b"\n".join(rest)), _array(b"\n".join(parts[::HELD_OUT_EVERY])))


def batch(train: np.ndarray, size: int, length: int, seed: int, step: int) -> np.ndarray:
    """The windows, (size, length + 1), of one step: a function of seed and step alone, so that a run can resume."""
    starts = np.random.default_rng((seed, step)).integers(0, len(train) - length, size)
    return train[starts[:, None] + np.arange(length + 1)[None]]


def spread(held_out: np.ndarray, count: int, length: int) -> np.ndarray:
    """At most `count` windows, (n, length + 1), spread evenly; no byte is the target of two.

    Raises:
      ValueError: the text is too short for one window.
    """
    count = min(count, (len(held_out) - 1) // length)
    if count < 1:
        raise ValueError(f"{len(held_out)} bytes are held out, too few for a window of {length + 1}")
    starts = np.linspace(0, len(held_out) - 1 - length, count).astype(np.int64)
    return held_out[starts[:, None] + np.arange(length + 1)[None]]


def bigram_loss(train: np.ndarray, windows: np.ndarray) -> float:
    """Nats per byte of `windows`, each byte given the one before it, under the pair counts of `train`.

    p(b | a) = (n(a, b) + p(b)) / (n(a) + 1) with p(b) = (n(b) + 1) / (n + 256): a pair never seen falls back on the
    frequency of its second byte.
    """
    pairs = np.bincount(train[:-1].astype(np.int64) * 256 + train[1:], minlength=256 * 256).reshape(256, 256)
    p = (np.bincount(train, minlength=256) + 1) / (len(train) + 256)
    p = (pairs + p[None]) / (pairs.sum(axis=1, keepdims=True) + 1)
    return float(-np.mean(np.log(p[windows[:, :-1], windows[:, 1:]])))


def printable(text: np.ndarray) -> str:
    """Bytes as text for a terminal: what is not UTF-8, or would move the cursor, becomes a question mark."""
    decoded = text.tobytes().decode("utf-8", "replace").replace("\ufffd", "?")
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in decoded)


def _walk(root: Path, skipped: set[str]) -> list[Path]:
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in skipped]
        files += [Path(folder, name) for name in names]
    return files


def _is_text(part: bytes) -> bool:
    try:
        return "\0" not in part.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _array(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)
