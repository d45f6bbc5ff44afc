"""Figures read from the text of a compiled program: launches, and bytes that cross the device's main memory."""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

MOVES_NOTHING = set(
    "parameter constant tuple get-tuple-element bitcast partition-id after-all copy-done slice-done "
    "conditional while call".split()
)
NOT_LAUNCHED = MOVES_NOTHING | {"iota", "copy-start", "slice-start"}  # the copies run beside the kernels
ARRAY = re.compile(r"(pred|[a-z]+(\d+)[a-z\d]*)\[([\d,]*)\](\{[^}]*\})?")
CALLED = re.compile(r"\b(calls|to_apply|body|condition|\w+_computations?)=(\{[^}]*\}|%?[\w.\-]+)")
SLICES, UPDATE = ("slice", "dynamic-slice"), "dynamic-update-slice"


class Instruction(NamedTuple):
    name: str
    shape: str
    kind: str
    rest: str  # what follows the kind, from the operands on

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0])

    @property
    def called(self) -> list[str]:
        return re.findall(r"calls=%?([\w.\-]+)", self.rest)

    @property
    def arrays(self) -> list[re.Match[str]]:
        return list(ARRAY.finditer(self.shape))


def computations(text: str) -> dict[str, list[Instruction]]:
    """The instructions of each computation, the last its result."""
    found: dict[str, list[Instruction]] = {}
    own: list[Instruction] = []
    for line in text.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line.strip()):
            own = found[start[1]] = []
        elif x := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$", line):
            own.append(Instruction(*x.groups()))
    return found


def instructions(text: str, conditional: bool = True) -> Iterator[Instruction]:
    """Each instruction outside of fusions and reducers.

    Args:
      conditional: False leaves out what runs on one side of a condition only.
    """
    left_out = set(re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", text))
    found = computations(text)
    if not conditional:
        left_out |= _in_branches(found)
    for computation, own in found.items():
        if computation not in left_out:
            yield from (x for x in own if "ConcatBitcast" not in x.rest)  # a TPU's name for slices side by side


def _in_branches(found: Mapping[str, list[Instruction]]) -> set[str]:
    """The computations that conditions call, and those that these call."""
    called: dict[str, set[str]] = {}
    waiting: set[str] = set()
    for computation, own in found.items():
        for how, names in (match for x in own for match in CALLED.findall(x.rest)):
            several = set(re.findall(r"[\w.\-]+", names))
            called.setdefault(computation, set()).update(several)
            waiting |= several if "computation" in how else set()
    seen: set[str] = set()
    while waiting:
        seen |= waiting
        waiting = set().union(*(called.get(name, set()) for name in waiting)) - seen
    return seen


def kernels(text: str) -> dict[str, int]:
    """What a compiled program launches, by the kind of instruction."""
    return dict(collections.Counter(x.kind for x in instructions(text) if x.kind not in NOT_LAUNCHED))


def memory_bytes(text: str, conditional: bool = True) -> int:
    """Bytes that instructions read from main memory and write to it, both sides of a condition counted, or neither.

    Memory on the chip, to which a TPU's compiler copies arrays ahead of time, does not count: layouts name it S(1).
    XLA's own figure of bytes accessed counts such a copy and what reads it. Where a kernel reads or overwrites no more
    than a slice of an array, that slice counts.
    """
    size: dict[str, int] = {}
    moved, bodies = 0, computations(text)
    for x in instructions(text, conditional):
        written = [_main_memory(a) for a in x.arrays]
        size[x.name] = sum(written)
        if x.kind in MOVES_NOTHING:
            continue
        read = [size.get(name, 0) for name in x.operands]
        if x.kind in ("copy-start", "slice-start"):  # shaped (to, from, ...) and ((from), to, ...); slices are read
            to = x.arrays[x.kind == "slice-start"]
            moved += _bytes(to) * (read[0] > 0) + _main_memory(to)
            continue
        if x.kind == "fusion":
            body = bodies.get(x.called[0], [])
            read = [min(n, part) for n, part in zip(read, _read(body, bodies, len(read)), strict=True)]
            written = [min(n, part) for n, part in zip(written, _written(body, len(written)), strict=True)]
        elif x.kind in SLICES:
            read[0] = min(read[0], sum(map(_bytes, x.arrays)))
        elif x.kind == UPDATE:
            read[0], written = 0, [min(size[x.name], read[1])]
        moved += sum(written) + sum(read)
    return moved


def _read(body: list[Instruction], bodies: Mapping[str, list[Instruction]], number: int) -> list[float]:
    """How many bytes of each parameter a fusion reads at most: infinity for all of it."""
    results = set(_results(body))

    def of(name: str) -> float:
        total = math.inf if name in results else 0.0
        for x in body:
            if name not in x.operands:
                continue
            if x.kind == "bitcast":
                total += of(x.name)
            elif x.kind == "fusion":
                inner = _read(bodies.get(x.called[0], []), bodies, len(x.operands))
                total += sum(part for operand, part in zip(x.operands, inner, strict=True) if operand == name)
            elif x.kind in SLICES:
                total += sum(map(_bytes, x.arrays))
            elif not (x.kind == UPDATE and x.operands.index(name) == 0 and x.name in results):
                total = math.inf
        return total

    parameters = {int(x.rest.split(")")[0]): x.name for x in body if x.kind == "parameter"}
    return [of(parameters[i]) if i in parameters else math.inf for i in range(number)]


def _written(body: list[Instruction], number: int) -> list[float]:
    """How many bytes of each result a fusion writes at most: infinity for all of it."""
    by_name = {x.name: x for x in body}
    made = [by_name[name] for name in _results(body)]
    if len(made) != number:
        return [math.inf] * number
    return [sum(map(_bytes, by_name[x.operands[1]].arrays)) if x.kind == UPDATE else math.inf for x in made]


def _results(body: list[Instruction]) -> list[str]:
    """The names of what a computation returns, before bitcasts."""
    if not body:
        return []
    by_name = {x.name: x for x in body}

    def made(name: str) -> str:
        return made(by_name[name].operands[0]) if by_name[name].kind == "bitcast" else name

    last = body[-1]
    return [made(name) for name in (last.operands if last.kind == "tuple" else [last.name])]


def _bytes(array: re.Match[str]) -> int:
    return int(array[2] or 8) * math.prod(int(n) for n in array[3].split(",") if n) // 8


def _main_memory(array: re.Match[str]) -> int:
    return 0 if "S(" in (array[4] or "") else _bytes(array)
