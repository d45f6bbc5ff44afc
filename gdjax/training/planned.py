"""A plan of a training step: its tables, whether it fits, and what a compiled step takes beside it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from gdjax.inspection.collectives import collectives
from gdjax.inspection.table import Table


class Planned(NamedTuple):
    """A row of `Plan.memory`."""

    part: str  # parameters, gradients, state, temporaries, activations, total
    of: str  # the transform whose state it is, and its field: 0/ScaleByAdam.mu
    bytes: int | None  # on all devices, each number once; None for what is not the same on all
    bytes_per_device: int  # on the device with most


class Compared(NamedTuple):
    """A row of `Plan.check`."""

    what: str
    planned: float
    compiled: float
    percent: float | None  # 100 (planned - compiled) / compiled; None where nothing is compiled


class Plan(NamedTuple):
    """What `plan` returns. It prints as two tables."""

    mesh: Mapping[str, int]  # the axes and their sizes
    memory: Table  # rows `Planned`, the last the total
    exchanges: Table  # rows `Exchange`, the last the total
    capacity: float | None  # bytes of memory that a device has
    notes: tuple[str, ...]  # what is not counted

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def bytes_per_device(self) -> int:
        """On the device with most."""
        return self.memory.rows[-1].bytes_per_device

    @property
    def wire_bytes(self) -> int:
        """That each device sends in a step."""
        return self.exchanges.rows[-1].wire_bytes

    @property
    def fits(self) -> bool | None:
        """Whether a device has as much memory; None where that is not told."""
        return None if self.capacity is None else self.bytes_per_device <= self.capacity

    def part(self, name: str) -> int:
        """The bytes on a device of one part: parameters, gradients, state, temporaries or activations."""
        return sum(row.bytes_per_device for row in self.memory if row.part == name)

    def check(self, compiled: Any) -> Table:
        """This plan beside a compiled step: rows `Compared`, in bytes of a device and of its wire.

        Args:
          compiled: of `step.lower(params, state, batch).compile()`, with the step of `sharded_step`.

        Raises:
          TypeError: it is not compiled.
        """
        found = collectives(compiled)
        size = compiled.memory_analysis()
        pairs = {
            "parameters, state and batch": (self.part("parameters") + self.part("state"), size.argument_size_in_bytes),
            "gradients, temporaries and activations": (
                sum(map(self.part, ("gradients", "temporaries", "activations"))),
                size.temp_size_in_bytes,
            ),
        }
        for kind in dict.fromkeys([*self.exchanges["kind"][:-1], *found["kind"]]):
            wire = lambda table, kind=kind: sum(row.wire_bytes for row in table if row.kind == kind)  # noqa: E731
            pairs[f"{kind} on the wire"] = wire(self.exchanges), wire(found)
        rows = [Compared(what, a, b, 100 * (a - b) / b if b else None) for what, (a, b) in pairs.items()]
        loops = sum(found["in_loop"])
        notes = [f"of the compiled exchanges {loops} are in loops, and count once"] if loops else []
        return Table(rows, Compared._fields, notes=notes)

    def __repr__(self) -> str:
        size = " x ".join(f"{n} {name}" for name, n in self.mesh.items())
        told = f"{self.devices} devices ({size}): {_readable(self.bytes_per_device)} on each"
        if self.capacity is not None:
            told += f" of {_readable(self.capacity)}: {'fits' if self.fits else 'does not fit'}"
        notes = [f"note: {note}" for note in self.notes]
        return "\n\n".join([told, str(self.memory), "\n".join([str(self.exchanges), *notes])])


def _readable(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
