"""The matrices of a tree cut into blocks, of which each side may have a Kronecker factor; and functions of all blocks.

A leaf's blocks are a list of stacks, (number, rows, columns), one for each part of the leaf (see `plan.Leaf.split`).
What belongs to a side that has no factor is `MaskedNode` in the state, None in a function of one block.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks, meshes
from gdjax.core.base import MaskedNode
from gdjax.linalg import blocks
from gdjax.linalg.plan import Leaf, plan_of
from gdjax.linalg.stacks import in_stacks
from gdjax.numerics import Array

Stacks = list[Any]  # of one leaf: an array for each part
SIDES = "both", "short", "rows", "columns"


class Layout(NamedTuple):
    """How matrices are cut, and which sides of a block have factors."""

    block_size: int | None = None  # the longest side of a block
    sides: str = "both"
    max_precond_dim: int | None = None  # the longest side that has a factor

    def checked(self, label: str) -> "Layout":
        """Raises where it is none."""
        for name in ("block_size", "max_precond_dim"):
            if (size := getattr(self, name)) is not None:
                checks.structural(label, name, size, 1)
        if self.sides not in SIDES:
            raise ValueError(f"{label}: sides must be one of {', '.join(SIDES)}, got {self.sides!r}")
        return self


class Cut(NamedTuple):
    """A leaf and its blocks."""

    leaf: Leaf
    layout: Layout

    def apart(self, x: Array) -> Stacks:
        """x as stacks of blocks, in float32 at least."""
        stacks = self.leaf.split(x.astype(numerics.at_least_float32(x.dtype)))
        most = self.layout.block_size
        if most is None:
            return stacks
        cut = jax.vmap(lambda matrix: blocks.block(matrix, most))
        return [cut(stack).reshape(size) for stack, size in zip(stacks, self.sizes, strict=True)]

    def joined(self, stacks: Stacks) -> Array:
        """The array whose `apart` these are."""
        most = self.layout.block_size
        if most is not None:
            whole = lambda y, shape: blocks.unblock(y, shape, most)  # noqa: E731
            stacks = [
                jax.vmap(functools.partial(whole, shape=size[1:]))(y.reshape(size[0], len(y) // size[0], *y.shape[1:]))
                for y, size in zip(stacks, self.leaf.sizes, strict=True)
            ]
        return self.leaf.joined(stacks)

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """The shapes of `apart`."""
        most = self.layout.block_size
        if most is None:
            return self.leaf.sizes
        cuts = [(n, blocks.cuts(r, most), blocks.cuts(c, most)) for n, r, c in self.leaf.sizes]
        return [(n * a * b, r, c) for n, (a, r), (b, c) in cuts]

    def has(self, size: tuple[int, int, int]) -> tuple[bool, bool]:
        """Whether the rows and the columns of blocks of that size have factors."""
        _, rows, columns = size
        short = rows <= columns, rows > columns
        wanted = {"both": (True, True), "short": short, "rows": (True, False), "columns": (False, True)}
        most = self.layout.max_precond_dim
        left, right = wanted[self.layout.sides]
        return left and (most is None or rows <= most), right and (most is None or columns <= most)


def cuts_of(label: str, tree: Any, numbers: Any, default: Any, layout: Layout) -> list[Cut]:
    """For each leaf of the tree its blocks; see `plan_of`."""
    return [Cut(leaf, layout) for leaf in plan_of(label, tree, numbers, default).leaves]


def started(cuts: Sequence[Cut], params: Any, what: str, dtype: Any = None, fill: Any = 1.0) -> list[Any]:
    """What a slot of each leaf starts as, a list with an array for each stack.

    Args:
      what: "blocks" or "squares", zeros like the blocks, those of squares real; "L" or "R", zeros, squares of the rows
        or the columns; "QL" or "QR", identities like these; "dL" or "dR", `fill` for each of the rows, (number, rows,
        1), or of the columns, (number, 1, columns).
      dtype: of "blocks", if it is not the least.
    """
    first = lambda cut, p: [_first(cut, p, size, what, dtype, fill) for size in cut.sizes]  # noqa: E731
    return [first(cut, p) for cut, p in zip(cuts, jax.tree.leaves(params), strict=True)]


def _first(cut: Cut, p: Any, size: tuple[int, int, int], what: str, dtype: Any, fill: Any) -> Any:
    own = jax.dtypes.canonicalize_dtype(numerics.at_least_float32(jnp.result_type(p)))
    if what in ("blocks", "squares"):
        if what == "squares":
            own = numerics.real_dtype(own)
        elif dtype is not None:
            own = numerics.complex_dtype(dtype) if jnp.issubdtype(own, jnp.complexfloating) else dtype
        return meshes.zeros_along(p, (), own, size)
    side = "LR".index(what[-1])
    if not cut.has(size)[side]:
        return MaskedNode()
    number, n = size[0], size[1 + side]
    if what[0] == "d":
        shape = (number, 1, n) if side else (number, n, 1)
        return meshes.zeros_along(p, (), numerics.real_dtype(own), shape) + fill
    zeros = meshes.zeros_along(p, (), own, (number, n, n))
    return zeros + jnp.eye(n, dtype=own)[None] if what[0] == "Q" else zeros


def together(f: Callable[[Mapping[str, Any]], Mapping[str, Any]], slots: Mapping[str, Sequence[Stacks]]) -> Any:
    """f for every block of every leaf, those of one shape at once (see `in_stacks`).

    Args:
      f: from the arrays of one stack by name to new arrays by name, None for what there is not.
      slots: by name, for each leaf its stacks.

    Returns:
      By name, for each leaf its stacks; `MaskedNode` where f has None.
    """
    first = next(iter(slots.values()))
    if not any(first):
        return dict.fromkeys([*slots, "u"], [[] for _ in first])
    groups: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for i, j in ((i, j) for i, stacks in enumerate(first) for j in range(len(stacks))):
        groups.setdefault(tuple(k for k, x in slots.items() if hasattr(x[i][j], "shape")), []).append((i, j))
    out: dict[str, list[Stacks]] = {}
    for names, members in groups.items():
        there: list[str] = []  # the names for which f has an array

        def of(*arrays: Array, names: Any = names, there: Any = there) -> tuple[Array, ...]:
            new = f({**dict.fromkeys(slots), **dict(zip(names, arrays, strict=True))})
            there[:] = [k for k, x in new.items() if x is not None]
            return tuple(x for x in new.values() if x is not None)

        found = in_stacks(of, *([slots[k][i][j] for i, j in members] for k in names))
        for name, arrays in zip(there, found, strict=True):
            full = out.setdefault(name, [[MaskedNode()] * len(stacks) for stacks in first])
            for (i, j), x in zip(members, arrays, strict=True):
                full[i][j] = x
    return out
