"""Asks all parts of any optimizer: what is inside, and to which parameter each array of a state belongs."""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jax.tree_util import GetAttrKey, tree_leaves_with_path

from gdjax.core import base
from gdjax.core.base import GradientTransformation
from gdjax.core.guesses import Guess, calls_of
from gdjax.core.part import Axes, Inside, Kept, Kind, Pair, Part, Path, lookup
from gdjax.core.types import OptState, Params, Transform


class Owned(NamedTuple):
    """An array of a state."""

    field: Path  # the path of its field, which may have many leaves
    leaf: int | None  # the place of its parameter; None if it belongs to the whole tree
    axes: Axes | None  # the axes of the parameter that its own follow; None where unknown
    array: Any
    of_several: bool = False  # whether it belongs to several parameters
    kind: Kind = "exact"


def holding(
    init: Callable[..., Any],
    update: Callable[..., Any],
    *inside: Inside,
    like: str = "",
    at_once: bool = True,
    also: Iterable[str] = (),
    **inner: Transform,
) -> GradientTransformation:
    """The transform of two functions, with the answers of a `Pair`.

    Args:
      init, update: the functions.
      *inside: the inner transforms.
      like: "mu nu": the fields of the state with an array for each parameter, whose last axes are the parameter's.
      **inner: from a field of the state to the inner transform whose state it is.
      at_once: whether the first update contains theirs; see `Inside`.
      also: extra arguments that `update` reads and its signature does not name.
    """
    named = [Inside(tx, (GetAttrKey(name),), at_once=at_once) for name, tx in inner.items()]
    part = Pair((init, update), [*inside, *named], like, frozenset(also))
    return GradientTransformation(part.init, part.update)


def known(tx: Transform | None, state: OptState = None) -> Part:
    """The part of a transform, or a guess at it."""
    part = None if tx is None else base.part_of(tx)
    if part is None:
        return Guess(tx, state)
    return replace(part, calls=tuple(calls_of(tx))) if isinstance(part, Pair) else part


def within(part: Part, state: OptState) -> Iterator[tuple[Inside, OptState]]:
    """The inner transforms of a part, with their states."""
    part.check(state)
    for inside in part.inside():
        yield inside, lookup(state, inside.path)


def every(tx: Transform | None, state: OptState, at: Path = ()) -> Iterator[tuple[Part, OptState, Path]]:
    """All parts with a state of their own, that state and its path, from outside to inside."""
    part = known(tx, state)
    if all(inside.path for inside in part.inside()):  # the state of `flatten` is that of its inner transform
        yield part, state, at
    for inside, inner in within(part, state):
        yield from every(inside.tx, inner, (*at, *inside.path))


def kept(tx: Transform | None, state: OptState, leaves: Collection[Path] = (), at: Path = ()) -> Iterator[Kept]:
    """The trees in the state of any transform that have arrays for each parameter.

    `leaves` are the paths of the parameters, which a guess needs.
    """
    part = known(tx, state)
    if isinstance(part, Guess):
        yield from (x._replace(path=(*at, *x.path)) for x in part.places(leaves))
        return
    yield from (x._replace(path=(*at, *x.path)) for x in part.kept())
    for inside, inner in within(part, state):
        for x in kept(inside.tx, inner, leaves, (*at, *inside.path)) if inside.sees is not None else ():
            yield x if inside.alike else x._replace(axes=None)


def owned(tx: Transform, state: OptState, params: Params) -> list[Owned]:
    """The arrays of a state, in the order of `jax.tree.leaves`."""
    leaves = {path: (i, np.shape(p)) for i, (path, p) in enumerate(tree_leaves_with_path(params))}
    trees = {x.path: x for x in kept(tx, state, leaves)}
    several, found = Counter[Any](), []
    lead = functools.cache(lambda layers: [0] * len(leaves) if layers is None else layers(params))
    for path, x in tree_leaves_with_path(state):
        starts = [path[:n] for n in range(len(path), -1, -1)]
        tree = next((trees[start] for start in starts if start in trees), None)
        if tree is None or tree.of != "each":
            of = "" if tree is None else tree.of
            last = max((i for i, key in enumerate(path) if isinstance(key, GetAttrKey)), default=len(path) - 1)
            field = tree.path if tree is not None and of == "several" else path[: last + 1]
            axes = None if of == "unknown" else (None,) * np.ndim(x)
            kind = "exact" if tree is None else tree.kind
            found.append(Owned(field, None, axes, x, of == "several", kind))
            continue
        rest = path[len(tree.path) :]  # codes and factors of a leaf stand below its path
        leaf, shape = next((leaves[rest[:n]] for n in range(len(rest) + 1) if rest[:n] in leaves), (None, ()))
        axes = None if tree.axes is None or leaf is None else tree.axes(shape, lead(tree.layers)[leaf])
        if isinstance(axes, list):
            axes = axes[several[tree.path, leaf]]
        several[tree.path, leaf] += 1
        follows = None if axes is None else _that_fit(axes, np.shape(x), shape)
        found.append(Owned(tree.path, leaf, follows, x, kind=tree.kind))
    return found


def _that_fit(axes: Axes, size: tuple[int, ...], shape: tuple[int, ...]) -> Axes:
    """The axes that an array of this size follows: its last axes are the declared ones, where their lengths fit.

    Codes of several numbers and scales of blocks have a divisor of the length, and follow the axis too.
    """
    lead = len(size) - len(axes)
    if lead < 0:
        return (None,) * len(size)
    fits = lambda n, a: n == shape[a] or n > 1 and shape[a] % n == 0  # noqa: E731
    follows = (a if a is not None and fits(n, a) else None for a, n in zip(axes, size[lead:], strict=True))
    return (*(None,) * lead, *follows)
