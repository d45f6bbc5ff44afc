"""What a training step will take on a mesh, before anything is made: bytes on a device, bytes over the wire.

`Plan` holds the tables, whether the step fits, and what a compiled step takes beside it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from gdjax.codes import formats
from gdjax.combine import sharding
from gdjax.core import base, checks, meshes
from gdjax.core.meshes import REDUCES_AND_DIVIDES
from gdjax.core.parts import state_arrays
from gdjax.core.types import OptState, Params, Transform
from gdjax.inspection import exchanged
from gdjax.inspection.collectives import collectives
from gdjax.inspection.exchanged import Exchange, Piece
from gdjax.inspection.tabulate import Table, bytes_of, state_and_order, tabulate
from gdjax.inspection.walk import shapes_of

__all__ = ["Plan", "plan"]


class PlanRow(NamedTuple):
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
    memory: Table  # rows `PlanRow`, the last the total
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
        exchanges = collectives(compiled)
        size = compiled.memory_analysis()
        pairs = {
            "parameters, state and batch": (self.part("parameters") + self.part("state"), size.argument_size_in_bytes),
            "gradients, temporaries and activations": (
                sum(map(self.part, ("gradients", "temporaries", "activations"))),
                size.temp_size_in_bytes,
            ),
        }
        for kind in dict.fromkeys([*self.exchanges["kind"][:-1], *exchanges["kind"]]):
            wire = lambda table, kind=kind: sum(row.wire_bytes for row in table if row.kind == kind)
            pairs[f"{kind} on the wire"] = wire(self.exchanges), wire(exchanges)
        rows = [Compared(what, a, b, 100 * (a - b) / b if b else None) for what, (a, b) in pairs.items()]
        loops = sum(exchanges["in_loop"])
        notes = [f"of the compiled exchanges {loops} are in loops, and count once"] if loops else []
        return Table(rows, Compared._fields, notes=notes)

    def __repr__(self) -> str:
        size = " x ".join(f"{n} {name}" for name, n in self.mesh.items())
        head = f"{self.devices} devices ({size}): {_readable(self.bytes_per_device)} on each"
        if self.capacity is not None:
            head += f" of {_readable(self.capacity)}: {'fits' if self.fits else 'does not fit'}"
        notes = [f"note: {note}" for note in self.notes]
        return "\n\n".join([head, str(self.memory), "\n".join([str(self.exchanges), *notes])])


def _readable(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


LABEL = "gdjax.plan"
PLATFORMS = "cpu", "gpu", "tpu"


def plan(
    tx: Transform, params: Params, mesh: Any, axis: str = "data", *, memory: float | None = None,
    activations: float = 0, micro_batches: int = 1, weighted: bool = False, platform: str | None = None,
    min_bytes: int = 2**14,
) -> Plan:  # fmt: skip
    """What a step of `sharded_step` takes on each device of a mesh, from shapes alone: bytes of memory, bytes sent.

        print(gdjax.plan(adamw, params, {"data": 64}, memory=16e9))

    Nothing is made or compiled, and the devices need not be there. Exact, as the step's arguments, are the bytes of
    parameters and state, the latter by transform; exact, as by the formulas of a ring, those that gradients and
    parameters send. The rest are formulas for what a compiler does:

    - Gradients. On a TPU each is reduced to the device's share as it comes. Elsewhere, with micro-batches and with
      weights, all are there as a whole first.
    - Temporaries. On a TPU the new parameters beside the old ones, and with FSDP the largest parameter and its
      gradient as a whole, of which a compiler may need less. Elsewhere the largest gradient a second time, with
      micro-batches the sums of all, and with FSDP all parameters as a whole; on a CPU what `quantize_state` keeps is
      decoded first. Of matrices with owner devices, three times the share of a device, as far as that is more than
      the activations, which are gone by then.
    - Exchanges of matrices with owner devices: each comes in and goes out once. Those of a leaf that is whole come in
      without one, and go out to all. Where leaves of one stack are divided along different axes of their matrices, as
      `query` and `out` of Flax's attention are, those unlike the first come in once more, and the whole stack goes out
      once more.
    - Exchanges of norms and means over an axis that is divided, and of what the state keeps whole of them.

    Args:
      tx: any transform.
      params: arrays, or shapes as of `jax.ShapeDtypeStruct`. How they are divided is read from their shardings, as in
        `sharded_step`: give them shardings over `axis` for FSDP, over other axes for tensor parallel.
      mesh: a mesh, a `jax.sharding.AbstractMesh`, or the sizes of its axes by their names.
      axis: the axis that the batch is divided over, and the state.
      memory: bytes of memory that a device has, for `fits`.
      activations: bytes a device for what the model keeps between its forward and backward pass, copies of parameters
        in other dtypes included. It is added to the total.
      micro_batches, weighted, min_bytes: as of `sharded_step`.
      platform: "tpu", "gpu" or "cpu"; by default that of the mesh, "tpu" for a mesh without devices.

    Returns:
      A `Plan`: tables `memory` and `exchanges`, `bytes_per_device`, `wire_bytes`, `fits`, `part(name)`, `notes`, and
      `check(compiled)`, which puts what a compiled step takes beside it.

    Raises:
      ValueError: the mesh has no such axis, or lacks one over which a parameter is divided; an unknown platform;
        params is None; memory is not above 0, or activations below. What `init` and `update` of tx raise.
      TypeError: tx is no transform; mesh is neither a mesh nor sizes; a leaf is neither an array nor a number.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.float32)}
      >>> found = gdjax.plan(gdjax.adam(1e-3), params, {"data": 64}, memory=16e9)
      >>> found.part("parameters"), found.part("state"), found.wire_bytes, found.fits
      (67108864, 2097156, 132120584, True)

    Reference:
      Rajbhandari et al. 2020, ZeRO: memory optimizations toward training trillion parameter models, sections 5 and 7,
      https://arxiv.org/abs/1910.02054
    """
    base.check_transform(LABEL, "tx", tx)
    mesh, kind = _described(mesh, platform)
    sharding.check_axis(LABEL, mesh, axis)
    checks.structural(LABEL, "micro_batches", micro_batches, 1)
    for name, size, low in (("memory", memory, 1), ("activations", activations, 0)):
        if size is not None and not (isinstance(size, int | float | np.number) and size >= low):
            raise ValueError(f"{LABEL}: {name} must be a number of bytes, at least {low}, got {size!r}")
    shapes, sizes = shapes_of(LABEL, params), dict(mesh.shape)
    shardings, shares = sharding.shares(LABEL, params, mesh, axis, min_bytes)
    with meshes.owned_by(mesh):
        where = sharding.state_sharding(tx, params, mesh, axis, min_bytes=min_bytes)
        made, _ = state_and_order(tx, shapes)
        *state, _ = tabulate(tx, params, where)
    leaves = zip(*map(jax.tree.leaves, (shapes, shardings, shares)), strict=True)
    pieces = [_piece(x, lies, share, axis, sizes[axis]) for x, lies, share in leaves]
    stacks, norms, others = exchanged.traced(tx, shapes, made, mesh, shares, where)
    at_home = sum(x.size for x in stacks if isinstance(x, exchanged.Sent) and not x.back) // mesh.size
    in_parts = kind not in REDUCES_AND_DIVIDES or micro_batches > 1 or weighted
    gradients, temporaries = _by_formula(pieces, 3 * at_home - round(activations), in_parts, micro_batches)
    temporaries += _decoded(made, where) if kind == "cpu" else 0

    total = sum(map(bytes_of, jax.tree.leaves(shapes)))
    rows = [PlanRow("parameters", "", total, sum(p.held for p in pieces))]
    rows += [PlanRow("gradients", "", None, gradients)]
    rows += [PlanRow("state", _name(x), x.bytes, x.bytes_per_device) for x in state if x.bytes]
    rows += [PlanRow("temporaries", "", None, temporaries)]
    rows += [PlanRow("activations", "", None, round(activations))] if activations else []
    rows += [PlanRow("total", "", None, sum(x.bytes_per_device for x in rows))]

    dividing = {a for how in jax.tree.leaves(shardings) for entry in how.spec for a in sharding.axes_of(entry)} | {axis}
    exchanges = [*exchanged.of_leaves(pieces, sizes[axis], weighted), *exchanged.of_stacks(stacks, sizes)]
    exchanges += exchanged.of_norms(norms, sizes)
    counts = [sum(getattr(x, name) for x in exchanges) for name in ("number", "bytes", "wire_bytes")]
    exchanges.append(Exchange("total", "", counts[0], mesh.size, counts[1], counts[2]))
    notes = _notes(activations, others, len(dividing) > 1, any(p.gathered_before for p in pieces), made, where)
    if mesh.size > 1 and any(x.of_several for x in state_arrays(tx, made, shapes)):
        notes.append("what turns of factors take at their owners, some of their size at a time, is not counted")
    return Plan(sizes, Table(rows), Table(exchanges), memory, tuple(notes))


def _described(mesh: Any, platform: str | None) -> tuple[Any, str]:
    """The mesh without its devices, and their platform."""
    if platform is not None and platform not in PLATFORMS:
        raise ValueError(f"{LABEL}: platform must be one of {', '.join(PLATFORMS)}, got {platform!r}")
    if not isinstance(mesh, Mesh | AbstractMesh | Mapping):
        raise TypeError(f"{LABEL}: mesh must be a jax.sharding.Mesh or the sizes of its axes by name, got {mesh!r}")
    sizes = mesh if isinstance(mesh, Mapping) else mesh.shape
    for name, size in sizes.items():
        checks.structural(LABEL, f"mesh[{name!r}]", size, 1)
    of_mesh = mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else "tpu"
    automatic = getattr(getattr(jax.sharding, "AxisType", None), "Auto", None)
    kinds = {} if automatic is None else {"axis_types": (automatic,) * len(sizes)}
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), **kinds), platform or of_mesh


def _piece(x: Any, lies: Any, share: Any, axis: str, n: int) -> Piece:
    held = _local(x, lies)
    return Piece(held, _local(x, share), held * n if any(axis in sharding.axes_of(e) for e in lies.spec) else held)


def _is_on_host(how: Any) -> bool:
    return (how.memory_kind or "").endswith("_host")


def _by_formula(pieces: Sequence[Piece], matrices: int, in_parts: bool, micro_batches: int) -> tuple[int, int]:
    """Bytes of gradients and of temporaries.

    `matrices` has those of matrices at their owners, less those of activations, which are gone by then.
    """
    share, total = sum(p.share for p in pieces), sum(p.whole for p in pieces)
    largest = max((p.whole for p in pieces), default=0)
    before = [p.whole for p in pieces if p.gathered_before]
    if in_parts:
        # As the last gradient is divided it is there twice. In the update there are shares: gradients, new parameters.
        parts = 2 * total if micro_batches > 1 else total + largest
        return total, sum(before) + max(parts, 2 * share + matrices) - total
    new = sum(p.held for p in pieces)
    return share, new + 2 * max(before, default=0) + max(matrices, 0)


def _decoded(state: OptState, where: Any) -> int:
    """The bytes that a device has of what is kept as codes, decoded; what has no scales is decoded where it is read."""
    nodes, structure = jax.tree.flatten(state, is_leaf=formats.is_codes)
    decoded = 0
    for x, hows in zip(nodes, structure.flatten_up_to(where), strict=True):
        if formats.is_codes(x) and jax.tree.leaves(x):
            parts = zip(jax.tree.leaves(x), jax.tree.leaves(hows), strict=True)
            share = sum(_local(code, how) for code, how in parts) / sum(map(bytes_of, jax.tree.leaves(x)))
            of = x if len(jax.tree.leaves(x)) == 1 else jax.eval_shape(x.format.decode, x)
            decoded += round(share * sum(map(bytes_of, jax.tree.leaves(of))))
    return decoded


def _local(x: Any, how: Any) -> int:
    return bytes_of(jax.ShapeDtypeStruct(how.shard_shape(x.shape), x.dtype))


def _name(row: Any) -> str:
    """0/ScaleByAdam.mu"""
    return "/".join(x for x in (row.at, f"{row.transform}.{row.field}".strip(".")) if x)


def _notes(
    activations: float, others: set[str], by_model: bool, gathered: bool, state: OptState, where: Any
) -> list[str]:  # fmt: skip
    notes = []
    if not activations:
        notes.append("activations of the model are not counted; activations= adds them")
    if by_model:
        notes.append("what the model exchanges over other axes than that of the batch is not counted")
    if gathered:
        notes.append("parameters are gathered once; a model that computes layers again gathers them again")
    if others:
        notes.append(
            f"the update multiplies or factors divided matrices ({', '.join(sorted(others))}); how a compiler divides "
            "that is not known before, so its exchanges and temporaries are not counted"
        )
    on_host = [x for x in zip(*map(jax.tree.leaves, (state, where)), strict=True) if _is_on_host(x[1])]
    if on_host:
        size = _readable(sum(_local(x, how) for x, how in on_host))
        notes.append(f"of the state, the host keeps {size} a device between steps; a step has them on the device")
    return notes
