"""What devices exchange: counted in a program, and stacks of matrices that go to their owner devices."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gdjax.core import meshes
from gdjax.core.types import Array

# Platforms that merge an all-reduce and the choice of a share into one reduce-scatter. Not tried on a GPU.
REDUCES_AND_DIVIDES = ("tpu",)

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


def dealt(stack: Array) -> Array:
    """A stack (number, ...) on its owners: (k, D, ...) as `meshes.dealt` has it, filled up with zeros."""
    home, lead = meshes.mesh(), meshes.dealt(len(stack))
    if home is None:
        return stack
    full = _filled(stack, math.prod(lead) - len(stack)).reshape(*lead, *stack.shape[1:])
    return _along(full, home, range(len(home.axis_names) + 1))


def gathered(stack: Array, number: int) -> Array:
    """The stack that was `dealt`, or that its owners made."""
    home = meshes.mesh()
    if home is None:
        return stack
    return meshes.undealt(_along(stack, home, reversed(range(len(home.axis_names) + 1))), number)


def by_owners(f: Callable[..., Any], stacks: Any, common: Any = None) -> Any:
    """What each owner makes of its own matrices: a tree of stacks that are dealt.

    Args:
      f: f(owner, stacks, common), where the stacks are those of the owner, (k, ...), to a tree of such stacks.
      stacks: a tree, dealt.
      common: a tree of arrays, and of settings, that all owners see.
    """
    home = meshes.mesh()
    if home is None:
        return f(0, stacks, common)
    spec, names = PartitionSpec(None, home.axis_names), frozenset(home.axis_names)
    leaves, structure = jax.tree.flatten(common)
    places = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array)]

    def of_owner(stacks: Any, arrays: list[Array]) -> Any:
        known = dict(enumerate(leaves)) | dict(zip(places, arrays, strict=True))
        with meshes.owned_by(None):
            shares = jax.tree.map(lambda x: x[:, 0], stacks)
            made = f(jax.lax.axis_index(home.axis_names), shares, structure.unflatten(known.values()))
        return jax.tree.map(lambda x: x[:, None], made)

    # Unchecked: a TPU's eigh is a loop that JAX writes without types of what varies.
    specs: Any = {"in_specs": (spec, PartitionSpec()), "out_specs": spec}
    mapped = jax.shard_map(of_owner, mesh=home, axis_names=names, check_vma=False, **specs)
    return mapped(stacks, [leaves[i] for i in places])


def computed(f: Callable[[Array], Array], stack: Array) -> Array:
    """f of a stack (number, ...), each owner computing its share."""
    return gathered(by_owners(lambda _, x, __: f(x), dealt(stack)), len(stack))


def together(f: Callable[[Array], Array], stacks: Sequence[Array]) -> list[Array]:
    """f of stacks (number, rows, columns) that differ in columns, the widest first, with one matrix per device in all.

    Each stack goes unpadded to its owner devices, where the others have zeros. There it is padded to the widest.
    """
    home, (rows, width), dtype = meshes.mesh(), stacks[0].shape[1:], stacks[0].dtype
    stack, first, places = jnp.zeros((1, home.size, rows, width), dtype), 0, []
    for x in stacks:
        places.append(slice(first, first + len(x)))
        part = dealt(jnp.pad(x, ((first, home.size - first - len(x)), (0, 0), (0, 0))))
        stack += jnp.pad(part, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[2])))
        first += len(x)
    made = by_owners(lambda _, x, __: f(x), stack)
    results = [gathered(made[..., : x.shape[2]], home.size) for x in stacks]
    return [y[place] for y, place in zip(results, places, strict=True)]


def tiles_of(shapes: Any, shares: Any) -> list[Any]:
    """How matrices lie where they are shares of leaves: ((rows, columns), the axes of the mesh that divide either).

    A hint, by shape: a partitioner does not find out by itself how a stack lies that comes back to them, and gathers
    it.
    """
    tiles: dict[tuple[int, ...], tuple[Any, ...]] = {}
    for x, how in zip(jax.tree.leaves(shapes), jax.tree.leaves(shares), strict=True):
        axes = [entry if isinstance(entry, tuple) else (entry,) if entry else () for entry in how.spec]
        axes += [()] * (len(x.shape) - len(axes))
        if len(axes) > 1 and not any(axes[:-2]):
            tiles.setdefault(tuple(x.shape[-2:]), tuple(axes[-2:]))
            tiles.setdefault(tuple(x.shape[:-3:-1]), tuple(axes[:-3:-1]))
    return list(tiles.items())


def _filled(stack: Array, missing: int) -> Array:
    return jnp.concatenate([stack, jnp.zeros((missing, *stack.shape[1:]), stack.dtype)]) if missing else stack


def _along(stack: Array, home: Any, numbers: Iterable[int]) -> Array:
    """A stack (k, D, ...) with its second axis divided over the first n axes of the mesh, for each n in turn.

    Axes of the mesh come one at a time: a partitioner exchanges over one, but copies everything for two. They begin
    with none: otherwise an array that the stack is cut from would be exchanged as a whole. The matrices themselves are
    divided over the rest of the axes, as `tiles_of` has it.
    """
    tile = dict(meshes.owners()[1]).get(stack.shape[2:]) if len(home.axis_names) > 1 else None
    for n in numbers:
        if n == len(home.axis_names):
            rest = [None] * (stack.ndim - 2)
        elif tile is None:
            rest = [PartitionSpec.UNCONSTRAINED] * (stack.ndim - 2)
        else:
            rest = [tuple(a for a in axes if a not in home.axis_names[:n]) or None for axes in tile]
        spec = PartitionSpec(None, home.axis_names[:n] or None, *rest)
        stack = jax.lax.with_sharding_constraint(stack, NamedSharding(home, spec))
    return stack
