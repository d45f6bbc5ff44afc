"""Figures read from the text of a compiled program: launches, and bytes that cross the device's main memory."""

import collections
import math
import re
from collections.abc import Iterator

MOVES_NOTHING = set(
    "parameter constant tuple get-tuple-element bitcast partition-id after-all copy-done slice-done "
    "conditional while call".split()
)
NOT_LAUNCHED = MOVES_NOTHING | {"iota", "copy-start", "slice-start"}  # the copies run beside the kernels
ARRAY = re.compile(r"(pred|[a-z]+(\d+)[a-z\d]*)\[([\d,]*)\](\{[^}]*\})?")


def instructions(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Name, shape, operation and what follows it, of each instruction outside of fusions and reducers."""
    fused = set(re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", text))
    computation = ""
    for line in text.splitlines():
        if found := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line.strip()):
            computation = found[1]
        elif (
            computation not in fused
            and (found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$", line))
            and "ConcatBitcast" not in line
        ):  # a TPU's name for slices side by side
            yield found[1], found[2], found[3], found[4]


def kernels(text: str) -> dict[str, int]:
    """What a compiled program launches, by the kind of instruction."""
    counts = collections.Counter(kind for _, _, kind, _ in instructions(text) if kind not in NOT_LAUNCHED)
    return dict(counts)


def memory_bytes(text: str) -> int:
    """Bytes that instructions read from main memory and write to it, both sides of a condition counted.

    Memory on the chip, to which a TPU's compiler copies arrays ahead of time, does not count: layouts name it S(1).
    XLA's own figure of bytes accessed counts such a copy and what reads it.
    """
    size: dict[str, int] = {}
    moved = 0
    for name, shape, kind, rest in instructions(text):
        arrays = [_main_memory(found) for found in ARRAY.finditer(shape)]
        size[name] = sum(arrays)
        if kind in MOVES_NOTHING:
            continue
        operands = [size.get(x, 0) for x in re.findall(r"%([\w.\-]+)", rest.split("), ")[0])]
        if kind in ("copy-start", "slice-start"):  # shaped (to, from, ...) and ((from), to, ...); slices are read
            to = list(ARRAY.finditer(shape))[kind == "slice-start"]
            moved += _bytes(to) * (operands[0] > 0) + _main_memory(to)
        else:
            moved += size[name] + sum(operands)
    return moved


def _bytes(array: re.Match[str]) -> int:
    return int(array[2] or 8) * math.prod(int(n) for n in array[3].split(",") if n) // 8


def _main_memory(array: re.Match[str]) -> int:
    return 0 if "S(" in (array[4] or "") else _bytes(array)
