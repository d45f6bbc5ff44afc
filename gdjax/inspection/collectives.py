"""What devices exchange, read from the text of a compiled program."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from gdjax.inspection.tabulate import Table

__all__ = ["Collective", "collectives"]

LABEL = "gdjax.collectives"
KINDS = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"
FUSED = "all-reduce-scatter"  # on a TPU the body of a fusion that is a reduce-scatter
BITS = {"pred": 8, "token": 0}  # otherwise the number in the name of the dtype

_OP = re.compile(rf"=\s+(?P<made>.+?)\s(?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+[a-z0-9]*)\[([\d,]*)\]")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
# A TPU repeats an asynchronous exchange in every fusion that runs beside it, with the same two numbers.
_CHAIN = re.compile(r"channel_id=(\d+).*chain_id=\"(\d+)\"")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_OF_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")


class Collective(NamedTuple):
    """A row of `collectives`."""

    kind: str  # all-reduce, all-gather, reduce-scatter, all-to-all, collective-permute
    arrays: int  # the number that it exchanges together
    devices: int  # in the group that exchanges; 0 where the program does not say
    bytes: int  # of the whole arrays: inputs or results, whichever are larger
    wire_bytes: float  # sent by each device, in a ring
    in_loop: bool  # in the body of a loop, so once per iteration


def collectives(compiled: Any) -> Table:
    """A table of the collective operations of a compiled program, one row for each operation.

        print(gdjax.collectives(jax.jit(step).lower(params, state, batch).compile()))

    An operation that starts in one line and is done in another counts once, and so does one that runs beside other work
    and stands in each fusion of that. A TPU's reduce-scatter, an all-reduce in the body of a fusion, is one here too.
    Operations in the body of a loop are marked. A branch that is not taken counts as well.

    With n devices and b bytes of the whole array each device sends 2 b (n - 1) / n in an all-reduce, b (n - 1) / n in
    an all-gather, a reduce-scatter or an all-to-all, and b in a permutation.

    Args:
      compiled: of `jax.jit(f).lower(...).compile()`, or its text.

    Raises:
      TypeError: it has no text, as what is lowered only.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> compiled = jax.jit(jnp.sum).lower(jnp.ones(8)).compile()
      >>> len(gdjax.collectives(compiled))  # of one device
      0
    """
    text = compiled if isinstance(compiled, str) else getattr(compiled, "as_text", lambda: None)()
    if text is None or not (isinstance(compiled, str) or hasattr(compiled, "memory_analysis")):
        raise TypeError(f"{LABEL}: takes jax.jit(f).lower(...).compile(), or its text, got {type(compiled).__name__}")
    return Table(collectives_of_text(text), Collective._fields)


def collectives_of_text(text: str) -> list[Collective]:
    """The collective operations of a compiled program, each once."""
    bodies = _computations(text)
    loops, chained, rows = _in_loops(bodies), set(), []
    for name, lines in bodies.items():
        for line in lines:
            op = _OP.search(line)
            if op is None:
                continue
            chain = _CHAIN.search(line)
            if chain is not None:
                link = op["kind"], *chain.groups()
                if link in chained:
                    continue
                chained.add(link)
            rows.append(_row(op, line, name.startswith(FUSED), name in loops))
    return rows


def _computations(text: str) -> Mapping[str, list[str]]:
    """The lines of each computation, by its name."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line and not line[0].isspace() and line.endswith("{"):
            name = line.removeprefix("ENTRY ").lstrip("%").split(" ", 1)[0]
            lines = computations.setdefault(name, [])
        else:
            lines.append(line)
    return computations


def _in_loops(bodies: Mapping[str, list[str]]) -> set[str]:
    """The computations in the bodies of loops, and those they call."""
    joined = {name: "\n".join(lines) for name, lines in bodies.items()}
    waiting, names = [b for text in joined.values() for b in _BODY.findall(text)], set()
    while waiting:
        name = waiting.pop()
        if name in names or name not in joined:
            continue
        names.add(name)
        waiting += [*_BODY.findall(joined[name]), *_CALLED.findall(joined[name])]
        waiting += [c.strip().lstrip("%") for group in _BRANCHES.findall(joined[name]) for c in group.split(",")]
    return names


def _row(op: Any, line: str, in_fusion: bool, in_loop: bool) -> Collective:
    fused = in_fusion and op["kind"] == "all-reduce"
    kind = "reduce-scatter" if fused else op["kind"]
    n = _devices(line)
    arrays = _ARRAY.findall(op["made"])
    if op["start"] and kind in ("all-gather", "collective-permute"):  # operands, results, and temporaries
        arrays = arrays[len(arrays) // 2 :] if kind == "all-gather" else arrays[:1]
    size = sum(_size(*array) for array in arrays)
    if kind == "reduce-scatter" and not fused:
        size *= max(n, 1)
    share = (n - 1) / n if n else 1.0
    wire = size * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)
    return Collective(kind, len(arrays), n, round(size), wire, in_loop)


def _size(dtype: str, shape: str) -> float:
    bits = BITS.get(dtype) or int((re.findall(r"\d+", dtype) or ["32"])[0])
    return math.prod(int(n) for n in shape.split(",") if n) * bits / 8


def _devices(line: str) -> int:
    """The number of devices in one group."""
    if listed := _LISTED.search(line):
        return len(listed[1].split(","))
    if counted := _COUNTED.search(line):
        return int(counted[2])
    if of_mesh := _OF_MESH.search(line):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", of_mesh[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'([^']*)'", of_mesh[2]) if name in sizes)
    return 0
