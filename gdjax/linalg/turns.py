"""What is dear for each Kronecker factor, such as its eigenvectors, in turns: some of the factors in each step.

A step chooses which factors have their turn, and all factors of one shape have one program: it is compiled once, not
once for each factor.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.linalg.factored import Stacks
from gdjax.numerics import Array
from gdjax.xla.write_order import LARGE


class Turned(NamedTuple):
    """What is made of a factor in its turn: functions (A, x1, x2, ...) -> (x1', x2', ...)."""

    first: Callable[..., tuple[Array, ...]]  # in its first turn
    f: Callable[..., tuple[Array, ...]]  # later
    squares: tuple[str, ...]  # the fields x1, ... that are squares of a side: "Q*" is QL or QR
    along: tuple[str, ...] = ()  # the others, whose rows the function gets along that side: "mu", or "d*" for dL or dR

    @property
    def fields(self) -> list[str]:
        """All names, as in the state."""
        names = [*self.squares, *self.along]
        return [y for x in names for y in ([x.replace("*", side) for side in "LR"] if "*" in x else [x])]


class _Part(NamedTuple):
    """Some factors of a stack, of one side."""

    leaf: int
    stack: int
    side: int  # 0 for the rows, 1 for the columns
    start: int
    end: int

    def at(self, field: str) -> tuple[str, int, int]:
        return field.replace("*", "LR"[self.side]), self.leaf, self.stack


class _Alike(NamedTuple):
    """Turns that differ only in whose they are."""

    turns: list[list[_Part]]
    places: list[int]  # for each step of the period the turn that it has, or -1


def in_turns(
    turned: Turned, slots: Mapping[str, list[Stacks]], count: Array, every: Any, due: Any = None, like: str = "mu"
) -> dict[str, list[Stacks]]:
    """The fields after the turns of this step.

    With an int `every` the factors have their turns one after the other in so many steps. With a schedule all have
    theirs in one step, when `due` or in the steps 1, k + 1, 2 k + 1, ...

    Args:
      slots: L and R, the fields, and `like`, which is shaped like the blocks.
      count: with this update.
    """
    slots = {name: [list(stacks) for stacks in leaves] for name, leaves in slots.items()}
    spread = isinstance(every, int)
    k = every if spread else jnp.maximum(every, 1).astype(count.dtype)
    due = (count - 1) % k == 0 if due is None else due
    for alike in _alike(slots, slots[like], every if spread else 1):
        place = jnp.asarray(alike.places, count.dtype)[(count - 1) % k if spread else 0]
        work = functools.partial(_replaced, turned, alike.turns, place, count <= k if spread else count == 1)
        olds = {x: slots[x[0]][x[1]][x[2]] for x in _touched(alike.turns, (*turned.squares, *turned.along))}
        factors = {x: slots[x[0]][x[1]][x[2]] for x in _touched(alike.turns, ("*",))}
        olds, factors = meshes.alike(olds, factors)
        if spread and min(alike.places) >= 0:
            news = work(olds, factors)
        else:
            news = meshes.cond(place >= 0 if spread else due, work, lambda olds, _: olds, olds, factors)
        for (name, i, j), x in news.items():
            slots[name][i][j] = x
    return {name: slots[name] for name in turned.fields}


def _alike(slots: Mapping[str, list[Stacks]], like: list[Stacks], k: int) -> list[_Alike]:
    """All factors, spread over k steps so that these have about as much to do."""
    kinds: dict[Any, list[_Part]] = {}
    for side, name in enumerate(("L", "R")):
        for i, j in ((i, j) for i, stacks in enumerate(slots[name]) for j in range(len(stacks))):
            x = slots[name][i][j]
            if hasattr(x, "shape") and x.size:
                n, other = x.shape[-1], like[i][j].shape[2 - side]
                # Small ones of a kind are turned at once, which both sides of a matrix must not be.
                kind = n, other, str(x.dtype), None if n * max(n, other) >= LARGE else side
                kinds.setdefault(kind, []).extend(_Part(i, j, side, at, at + 1) for at in range(len(x)))
    found, done = [], [0] * k
    for (n, other, _, side), parts in sorted(kinds.items(), key=lambda x: -x[0][0]):  # the dearest first
        share, rest = divmod(len(parts), k)
        sizes = [(1, k)] * share if side is None else [(share, k)] * bool(share)  # factors of a turn, number of turns
        for size, number in [*sizes, (1, rest)] if rest else sizes:
            turns = [_merged(parts[at : at + size]) for at in range(0, size * number, size)]
            parts = parts[size * number :]
            free = sorted(sorted(range(k), key=done.__getitem__)[:number])  # the steps with least to do
            for step in free:
                done[step] += size * n**2 * (n + other)
            found.append(_Alike(turns, [free.index(step) if step in free else -1 for step in range(k)]))
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


def _touched(turns: Sequence[Sequence[_Part]], fields: Sequence[str]) -> list[tuple[str, int, int]]:
    return list(dict.fromkeys(part.at(field) for field in fields for parts in turns for part in parts))


def _replaced(
    turned: Turned, turns: Sequence[Sequence[_Part]], place: Array, first: Array, olds: Any, factors: Any
) -> Any:
    """The arrays with those of one turn replaced."""
    xs = jax.lax.switch(place, [functools.partial(_taken, turned, parts) for parts in turns], olds, factors)
    same = turned.first is turned.f
    news = turned.f(*xs) if same else meshes.cond(first, turned.first, turned.f, *xs)
    olds, news = meshes.alike(olds, list(news))
    return jax.lax.switch(place, [functools.partial(_put, turned, parts) for parts in turns], olds, news)


def _taken(turned: Turned, parts: Sequence[_Part], olds: Any, factors: Any) -> list[Array]:
    """The factors of a turn, and their fields; a matrix by itself without the axis of length 1."""

    def of(field: str, arrays: Any) -> Array:
        xs = [arrays[part.at(field)][part.start : part.end] for part in parts]
        xs = [x.mT.conj() if part.side and field in turned.along else x for part, x in zip(parts, xs, strict=True)]
        x = jnp.concatenate(xs) if len(xs) > 1 else xs[0]
        return x[0] if len(x) == 1 else x

    return [of("*", factors), *(of(field, olds) for field in (*turned.squares, *turned.along))]


def _put(turned: Turned, parts: Sequence[_Part], olds: Any, news: Sequence[Array]) -> Any:
    """The arrays with the fields of a turn in their places."""
    olds, done = dict(olds), 0
    for part in parts:
        number = part.end - part.start
        for field, new in zip((*turned.squares, *turned.along), news, strict=True):
            x = (new if new.ndim == 3 else new[None])[done : done + number]
            old = olds[part.at(field)]
            x = (x.mT.conj() if part.side and field in turned.along else x).astype(old.dtype)
            olds[part.at(field)] = x if x.shape == old.shape else old.at[part.start : part.end].set(x)
        done += number
    return olds
