"""The exchanges of a step between devices, as `plan` expects them from shapes alone."""

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import NamedSharding

from gdjax.combine.sharding import axes_of
from gdjax.core import base, meshes, owners
from gdjax.core.types import OptState, Params, Transform

# Equations whose operands, if these are divided, a partitioner must exchange.
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_prod"}
PRODUCTS = {"dot_general", "eigh", "qr", "geqrf", "svd", "cholesky", "lu", "triangular_solve"}


class Exchange(NamedTuple):
    """A row of `Plan.exchanges`."""

    of: str  # gradients, new parameters, matrices 768x3072
    kind: str  # reduce-scatter, all-reduce, all-gather, all-to-all
    number: int  # of operations; a compiler may join some
    devices: int  # of the group that exchanges
    bytes: int  # of the whole arrays, as in `collectives`
    wire_bytes: int  # that each device sends, in a ring


class Piece(NamedTuple):
    """What a device has of one parameter and of its gradient."""

    held: int  # bytes of the parameter, between steps
    share: int  # bytes of what the device updates
    whole: int  # bytes of what the loss takes, and of the gradient that it makes

    @property
    def divided(self) -> bool:
        return self.share < self.whole

    @property
    def gathered_before(self) -> bool:
        """Whether it is gathered for the loss, and not after the step."""
        return self.held < self.whole


class Sent(NamedTuple):
    """Arrays of one shape, a matrix each, that go to their owner devices together, or come back."""

    number: int  # a multiple of the number of devices
    shape: tuple[int, ...]
    itemsize: int
    back: bool
    axes: frozenset[str]  # of the mesh, which divide what it is made of

    @property
    def size(self) -> int:
        """The bytes of the stack."""
        return self.number * math.prod(self.shape) * self.itemsize


class Turned(NamedTuple):
    """Matrices that a mesh's axis divides otherwise than those they are joined with: they are exchanged once more."""

    number: int
    shape: tuple[int, ...]
    itemsize: int
    axes: frozenset[str]  # that divide them
    axis: str


class Reduced(NamedTuple):
    """A sum, or another reduction, over an axis that is divided; or an array of the state that is whole again."""

    size: int  # bytes of the result, on a device
    axes: frozenset[str]  # of the mesh
    gathered: bool = False


class Way(NamedTuple):
    """How an array is divided, as far as it is known."""

    axes: frozenset[str]  # of the mesh, those of all that it is made of
    dims: tuple[frozenset[str], ...]  # for each of its own axes


NO_WAY = Way(frozenset(), ())


def of_leaves(pieces: Sequence[Piece], n: int, weighted: bool = False) -> list[Exchange]:
    """The exchanges of gradients and parameters over an axis of n devices; `weighted`, that of the weight too."""
    if n == 1:
        return []
    parts = [p.whole for p in pieces if p.divided]
    same = [p.whole for p in pieces if not p.divided]
    before, after = ([p.whole for p in pieces if p.divided and p.gathered_before is b] for b in (True, False))
    sent = lambda of, kind, number, size, times=1: Exchange(
        of, kind, number, n, size, round(times * size * (n - 1) / n)
    )
    exchanges = [
        sent("gradients", "reduce-scatter", len(parts), sum(parts)),
        sent("small gradients, loss", "all-reduce", 1, sum(same) + (8 if weighted else 4), 2),
        sent("parameters for the loss", "all-gather", len(before), sum(before)),
        sent("new parameters", "all-gather", len(after), sum(after)),
    ]
    return [x for x in exchanges if x.number]


def of_norms(norms: Iterable[Reduced], mesh: Mapping[str, int]) -> list[Exchange]:
    """Those of norms and means of divided arrays, and of what a state keeps of them as a whole."""
    rows: dict[tuple[bool, int], Exchange] = {}
    for x in norms:
        n = math.prod(mesh[a] for a in x.axes)
        names = ("state kept whole", "all-gather") if x.gathered else ("norms, means", "all-reduce")
        old = rows.get((x.gathered, n), Exchange(*names, 0, n, 0, 0))
        wire = old.wire_bytes + round((1 if x.gathered else 2) * x.size * (n - 1) / n)
        rows[x.gathered, n] = old._replace(number=old.number + 1, bytes=old.bytes + x.size, wire_bytes=wire)
    return [x for x in rows.values() if x.devices > 1]


def of_stacks(stacks: Iterable[Sent | Turned], mesh: Mapping[str, int]) -> list[Exchange]:
    """The exchanges of matrices that go to their owner devices and back, one axis of the mesh after the other.

    Along the axes that divide them they come in parts. Along another each device has all, keeps its own, and is told
    the others on the way back.
    """
    rows: dict[tuple[str, str, int], Exchange] = {}

    def add(x: Sent | Turned, kind: str, n: int, local: int) -> None:
        row = f"matrices {'x'.join(map(str, x.shape))}", kind, n
        old = rows.get(row, Exchange(*row[:2], 0, n, 0, 0))
        wire = old.wire_bytes + round(local * (n - 1) / n)
        rows[row] = old._replace(number=old.number + 1, bytes=old.bytes + local, wire_bytes=wire)

    for x in stacks:
        divided = math.prod(mesh[a] for a in x.axes)
        if isinstance(x, Turned):
            add(x, "all-to-all", mesh[x.axis], x.number * math.prod(x.shape) * x.itemsize // divided)
            continue
        local = x.size // divided
        for axis, n in mesh.items():
            if n > 1 and (x.back or axis in x.axes):
                add(x, "all-to-all" if axis in x.axes else "all-gather", n, local)
            if axis not in x.axes:
                local //= n
    return list(rows.values())


def traced(
    tx: Transform, params: Params, state: OptState, mesh: Any, shares: Any, where: Any
) -> tuple[list[Sent | Turned], list[Reduced], set[str]]:
    """The stacks of matrices that an update sends to owners, norms and means, names of products of matrices elsewhere.

    Args:
      shares: a tree like the parameters: the shardings of gradients and parameters in the update.
      where: a tree like the state: its shardings.
    """

    def update(params: Params, state: OptState, gradients: Params) -> Any:
        with meshes.owned_by(mesh, owners.tiles_of(params, shares)):
            return base.call_update(tx, gradients, state, params, {"value": jnp.zeros(())})

    jaxpr = jax.make_jaxpr(update)(params, state, params).jaxpr
    jaxpr, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)  # what no result needs is not sent
    dims = [tuple(map(frozenset, map(axes_of, how.spec))) for how in jax.tree.leaves((shares, where, shares))]
    inputs = [Way(frozenset[str]().union(*way), way) for way in dims]

    def walked() -> Iterator[Any]:
        made = yield from _walk(jaxpr, inputs, tuple(mesh.axis_names))
        yield from _kept(jaxpr, made, jax.tree.leaves(where))

    exchanges = list(walked())
    norms = [x for x in exchanges if isinstance(x, Reduced)]
    return [x for x in exchanges if isinstance(x, Sent | Turned)], norms, {x for x in exchanges if isinstance(x, str)}


def _kept(jaxpr: Any, made: Sequence[Way], hows: Sequence[Any]) -> Iterator[Reduced]:
    """What a step gathers for the state: arrays that it computes divided, and keeps whole."""
    outs = list(zip(jaxpr.outvars, made, strict=True))[len(made) - len(hows) :]
    for (v, way), how in zip(outs, hows, strict=True):
        divided = {a for entry in how.spec for a in axes_of(entry)}
        if apart := frozenset[str]().union(*way.dims) - divided:
            yield Reduced(v.aval.size * v.aval.dtype.itemsize, apart, True)


Found = Sent | Turned | Reduced | str


def _walk(jaxpr: Any, inputs: Sequence[Way], axes: tuple[str, ...]) -> Generator[Found, None, list[Way]]:
    """The stacks that go to owners and back, and the names of products elsewhere; returns how results are divided.

    An array is at its owner from one constraint over the whole mesh to the next, as are results from it.
    """
    at_home: set[Any] = set()
    sent: dict[tuple[int, ...], frozenset[str]] = {}
    by = dict(zip(jaxpr.invars, inputs, strict=True))
    of = lambda v: by.get(v, NO_WAY) if isinstance(v, Var) else NO_WAY
    for e in jaxpr.eqns:
        known = any(isinstance(v, Var) and v in at_home for v in e.invars)
        ways = [of(v) for v in e.invars]
        made = [Way(frozenset[str]().union(*(way.axes for way in ways)), _dims(e, ways))] * len(e.outvars)
        if e.primitive.name == "sharding_constraint" and _over_all(e.params.get("sharding"), axes):
            x = e.invars[0].aval
            if known:  # where several are computed together, one goes back as it came
                made = [made[0]._replace(axes=sent.get(x.shape, made[0].axes))]
            else:
                at_home.update(e.outvars)
                sent[x.shape] = made[0].axes
            yield Sent(math.prod(x.shape[:2]), x.shape[2:], x.dtype.itemsize, known, made[0].axes)
        elif known:
            at_home.update(e.outvars)
        else:
            if e.primitive.name in PRODUCTS and any(len(v.aval.shape) > 1 for v in e.invars):
                yield e.primitive.name
            if e.primitive.name == "concatenate":
                yield from _turned(e, ways)
            if e.primitive.name in REDUCTIONS:
                yield from _reduced(e, ways[0])
            for inner in _inside(e.params.values()):
                n = len(inner.invars)  # without the index of a branch, or the constants of a condition
                results = yield from _walk(inner, ways[len(ways) - n :] if n <= len(ways) else made[:1] * n, axes)
                if len(results) == len(made):
                    made = results
        by.update(zip(e.outvars, made, strict=True))
    return [of(v) for v in jaxpr.outvars]


def _dims(e: Any, ways: Sequence[Way]) -> tuple[frozenset[str], ...]:
    """How the result of an equation is divided: as its first operand that is, as compilers do."""
    shape = getattr(e.outvars[0].aval, "shape", ())
    none, results = (frozenset[str](),) * len(shape), []
    for v, way in zip(e.invars, ways, strict=True):
        old, dims = getattr(v.aval, "shape", ()), way.dims
        if not any(dims) or len(dims) != len(old):  # of an argument that an inner program has in another place
            continue
        if e.primitive.name in REDUCTIONS:
            dims = tuple(axes for i, axes in enumerate(dims) if i not in e.params["axes"])
        elif e.primitive.name == "transpose":
            dims = tuple(dims[i] for i in e.params["permutation"])
        elif e.primitive.name in ("reshape", "squeeze", "broadcast_in_dim"):  # the first of axes that are joined
            ends = {math.prod(old[:i]): axes for i, axes in enumerate(dims) if axes}
            dims = tuple(ends.get(math.prod(shape[:j]), none[0]) if n > 1 else none[0] for j, n in enumerate(shape))
        elif len(old) == len(shape):  # what is cut along an axis is no longer known along it
            dims = tuple(axes if n == m else none[0] for axes, n, m in zip(dims, old, shape, strict=True))
        else:
            dims = none
        results.append(dims)
    return results[0] if results else none


def _reduced(e: Any, way: Way) -> Iterator[Reduced]:
    over = frozenset[str]().union(*(way.dims[i] for i in e.params["axes"] if i < len(way.dims)))
    if over:
        x = e.outvars[0].aval
        yield Reduced(x.size * x.dtype.itemsize, over)


def _turned(e: Any, ways: Sequence[Way]) -> Iterator[Turned]:
    """The operands of a concatenation that are divided otherwise than the first, and on the way back the whole."""
    lead, others = _dims(e, ways), set[tuple[Way, str]]()
    for v, way in zip(e.invars, ways, strict=True):
        apart = [x - y for x, y in zip(way.dims, lead, strict=True)] if len(lead) > 2 else []
        for axis in frozenset[str]().union(*apart) & frozenset[str]().union(*lead):
            yield _turned_over(axis, v.aval, way)
            others.add((way, axis))
    for way, axis in others:
        yield _turned_over(axis, e.outvars[0].aval, way)


def _turned_over(axis: str, x: Any, way: Way) -> Turned:
    return Turned(x.shape[0], x.shape[1:], x.dtype.itemsize, way.axes, axis)


def _over_all(sharding: Any, axes: tuple[str, ...]) -> bool:
    """Whether it deals a stack to owners: the second axis, and no other, is divided over the whole mesh."""
    if not isinstance(sharding, NamedSharding) or len(sharding.spec) < 2:
        return False
    first, second, *rest = sharding.spec
    return (second if isinstance(second, tuple) else (second,)) == axes and {first, *rest} == {None}


def _inside(values: Iterable[Any]) -> Iterator[Any]:
    for x in values:
        if isinstance(x, tuple | list):
            yield from _inside(x)
        elif hasattr(inner := getattr(x, "jaxpr", x), "eqns"):
            yield inner
