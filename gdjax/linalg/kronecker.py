"""Kronecker factors of gradients, and the bases of their eigenvectors.

All is for stacks: G is (..., rows, columns), the factors L of the rows (..., rows, rows) and R of the columns, QL and
QR their bases. A side without a factor is None.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.linalg import spectral
from gdjax.linalg.factored import Stacks
from gdjax.numerics import Array, abs_sq
from gdjax.xla.write_order import LARGE

REFRESHES = "qr", "eigh"
_highest = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def adjoint(x: Array) -> Array:
    return x.mT.conj()


def gram(g: Array) -> Array:
    """G G^H, in full float32 also where products are rounded."""
    return _highest(g, adjoint(g))


def into(g: Array, left: Array | None, right: Array | None) -> Array:
    """QL^H G QR: the matrix in the coordinates of the bases."""
    g = g if left is None else adjoint(left) @ g
    return g if right is None else g @ right


def out_of(u: Array, left: Array | None, right: Array | None) -> Array:
    """QL U QR^H: back from the coordinates of the bases."""
    u = u if left is None else left @ u
    return u if right is None else u @ adjoint(right)


def averaged(old: Array | None, new: Callable[[], Array], b: Any) -> Array | None:
    """b old + (1 - b) new; None where there is no factor."""
    return None if old is None else b * old + (1 - b) * new().astype(old.dtype)


class Kept(NamedTuple):
    """The fields of a state that are in the coordinates of the bases, by name."""

    moments: tuple[str, ...] = ()  # matrices: QL^H M QR
    squares: tuple[str, ...] = ()  # second moments of the entries of such matrices
    values: tuple[str, ...] = ()  # of the rows and of the columns: second moments along the vectors of QL, of QR
    in_order: bool = True  # whether vectors are put in the order of their eigenvalues before a power step

    @property
    def fields(self) -> tuple[str, ...]:
        return ("QL", "QR", *self.moments, *self.squares, *self.values)


def refreshed(kept: Kept, exact: bool, slots: Mapping[str, list[Stacks]], count: Array, every: Any) -> Any:
    """New bases for the factors whose turn it is, and what is kept in their coordinates: a stage of all leaves.

    In its first turn a factor gets exact eigenvectors, later one power step from those that it has. With an int `every`
    the factors take their turns one after the other in so many steps; with a schedule all have theirs in one step.

    A step chooses what it decomposes, and all factors of one shape have one program for that: compiled once, not once
    for each factor.

    Args:
      exact: exact eigenvectors in every turn.
      slots: the factors L and R and the fields of `kept`, for each leaf its stacks.
      count: with this update.
    """
    slots = {name: [list(stacks) for stacks in leaves] for name, leaves in slots.items()}
    fixed = isinstance(every, int)
    k = every if fixed else 1
    period = k if fixed else jnp.maximum(every, 1).astype(count.dtype)
    for plan in _shared(slots, kept, k):
        turn = (count - 1) % period
        place = jnp.asarray(plan.places, count.dtype)[turn if fixed else 0]  # of a turn, -1 for none
        due = (place >= 0) if fixed else turn == 0
        work = functools.partial(_replaced, kept, plan.turns, exact, place, count <= period if fixed else count == 1)
        factors, olds = _touched(plan.turns, slots, ("L", "R")), _touched(plan.turns, slots, kept.fields)
        factors, olds = meshes.alike(factors, olds)
        always = all(i >= 0 for i in plan.places) and fixed
        news = work(olds, factors) if always else meshes.cond(due, work, lambda olds, _: olds, olds, factors)
        for (name, i, j), x in news.items():
            slots[name][i][j] = x
    return {name: slots[name] for name in kept.fields}


class _Part(NamedTuple):
    """Some factors of a stack, of one side."""

    leaf: int
    stack: int
    side: int  # 0 for the rows, 1 for the columns
    start: int
    end: int

    def name(self, field: str) -> tuple[str, int, int] | None:
        """Which array has the field, for this side; None if the field belongs to the other."""
        other = {"L": 1, "R": 0}.get(field[-1])
        return None if other == self.side else (field, self.leaf, self.stack)


class _Shared(NamedTuple):
    """Turns that differ only in whose they are."""

    turns: list[list[_Part]]
    places: list[int]  # for each step of the period the turn that it has, or -1


def _shared(slots: Mapping[str, list[Stacks]], kept: Kept, k: int) -> list[_Shared]:
    """All factors, spread over k steps so that these have about as much to do."""
    like = slots[(*kept.moments, *kept.squares, "mu")[0]]
    kinds: dict[Any, list[_Part]] = {}
    for side, name in enumerate(("L", "R")):
        for i, j in ((i, j) for i, stacks in enumerate(slots[name]) for j in range(len(stacks))):
            x = slots[name][i][j]
            if hasattr(x, "shape") and x.size:
                n, other = x.shape[-1], like[i][j].shape[2 - side]
                # Both sides of a matrix are never turned at once, and small ones of a kind are.
                kind = n, other, str(x.dtype), None if n * max(n, other) >= LARGE else side
                kinds.setdefault(kind, []).extend(_Part(i, j, side, n, n + 1) for n in range(len(x)))
    found, done = [], [0] * k
    for (n, other, _, side), parts in sorted(kinds.items(), key=lambda x: -x[0][0]):  # the dearest first, to the steps with least to do
        share, rest = divmod(len(parts), k)
        each = [1] * share if side is None else [share] * bool(share)  # matrices of a turn
        sizes = [(size, k) for size in each] + [(1, rest)] * bool(rest)
        at = 0
        for size, number in sizes:
            turns = [_merged(parts[at + i * size : at + (i + 1) * size]) for i in range(number)]
            at += size * number
            free = sorted(sorted(range(k), key=done.__getitem__)[:number])
            for step in free:
                done[step] += size * n**2 * (n + other)
            found.append(_Shared(turns, [free.index(step) if step in free else -1 for step in range(k)]))
    return found


def _merged(parts: Sequence[_Part]) -> list[_Part]:
    """The same factors, those that lie side by side as one part."""
    found: list[_Part] = []
    for part in parts:
        if found and found[-1][:3] == part[:3] and found[-1].end == part.start:
            found[-1] = found[-1]._replace(end=part.end)
        else:
            found.append(part)
    return found


def _touched(turns: Sequence[Sequence[_Part]], slots: Any, fields: Sequence[str]) -> dict[Any, Array]:
    names = dict.fromkeys(part.name(field) for field in fields for parts in turns for part in parts)
    return {name: slots[name[0]][name[1]][name[2]] for name in names if name is not None}


def _replaced(
    kept: Kept, turns: Sequence[Sequence[_Part]], exact: bool, place: Array, first: Array, olds: Any, factors: Any
) -> Any:
    """The arrays with those of one turn replaced."""
    taken = jax.lax.switch(place, [functools.partial(_taken, kept, parts) for parts in turns], olds, factors)
    new = [functools.partial(_with_basis(exact, kept.in_order, len(kept.moments))) for exact in (True, False)]
    news = new[0](*taken) if exact else meshes.cond(first, *new, *taken)
    news = meshes.alike(news, olds)[0]
    return jax.lax.switch(place, [functools.partial(_put, kept, parts) for parts in turns], olds, news)


def _fields(kept: Kept, part: _Part) -> list[Any]:
    basis, values = ("QL", "QR")[part.side], kept.values[part.side : part.side + 1]
    return [part.name(field) for field in (basis, *kept.moments, *kept.squares, *values)]


def _taken(kept: Kept, parts: Sequence[_Part], olds: Any, factors: Any) -> list[Array]:
    """A factor, its basis, and what is kept in that, as rows; of several matrices the stacks."""

    def of(at: int) -> Array:
        xs = []
        for part in parts:
            name = _fields(kept, part)[at - 1] if at else part.name("LR"[part.side])
            x = factors[name] if at == 0 else olds[name]
            x = x[part.start : part.end]
            xs.append(adjoint(x) if part.side and at > 1 else x)
        x = jnp.concatenate(xs) if len(xs) > 1 else xs[0]
        return x[0] if len(x) == 1 else x

    return [of(at) for at in range(1 + len(_fields(kept, parts[0])))]


def _put(kept: Kept, parts: Sequence[_Part], olds: Any, news: Sequence[Array]) -> Any:
    olds, at = dict(olds), 0
    for part in parts:
        number = part.end - part.start
        for i, name in enumerate(_fields(kept, part)):
            x = news[i] if news[i].ndim == 3 else news[i][None]
            x = x[at : at + number]
            x = (adjoint(x) if part.side and i else x).astype(olds[name].dtype)
            olds[name] = x if x.shape == olds[name].shape else olds[name].at[part.start : part.end].set(x)
        at += number
    return olds


@functools.lru_cache
def _with_basis(exact: bool, in_order: bool, moments: int) -> Callable[..., tuple[Array, ...]]:
    """(A, Q, x1, x2, ...) -> (Q', x1', x2', ...), the rows of the x being columns of Q; cached, to be traced once.

    The first x are moments, the others squares.
    """

    def by_a_step(a: Array, basis: Array, *xs: Array) -> tuple[Array, ...]:
        if in_order:
            new, order = spectral.refreshed_in_order(a, basis)
        else:
            new, order = spectral.refreshed_basis(a, basis), None
        moved = [adjoint(new) @ (basis @ x.astype(basis.dtype)) for x in xs[:moments]]
        squares = [x if order is None else jnp.take_along_axis(x, order[..., None], -2) for x in xs[moments:]]
        return new, *moved, *squares

    def by_eigh(a: Array, basis: Array, *xs: Array) -> tuple[Array, ...]:
        new = spectral.eigenbasis(a, basis)
        turn = _highest(adjoint(new), basis)
        return new, *(turn @ x.astype(basis.dtype) for x in xs[:moments]), *(abs_sq(turn) @ x for x in xs[moments:])

    return jax.jit(by_eigh if exact else by_a_step)
