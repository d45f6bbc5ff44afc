"""The parts of any optimizer, asked one after the other: what is inside, and whose each array of a state is."""

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

    field: Path  # the path to its field, of which it may be one leaf of many
    leaf: int | None  # the place of the parameter that it belongs to; None if it is of the whole tree
    axes: Axes | None  # the axes of the parameter that its own follow; None where nothing tells
    array: Any
    of_several: bool = False  # whether it belongs to some of the parameters together
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
    """The transform of two functions, which says what they hold; see `Pair`.

    Args:
      init, update: the functions.
      *inside: the transforms that they hold.
      like: "mu nu": the fields of the state that have an array for each parameter, with its axes as the last ones.
      **inner: from the field of the state to a transform inside, of which that field is the state.
      at_once: whether the first update is that of these; see `Inside`.
      also: extra arguments that `update` reads beside those in its signature.
    """
    named = [Inside(tx, (GetAttrKey(name),), at_once=at_once) for name, tx in inner.items()]
    part = Pair((init, update), [*inside, *named], like, frozenset(also))
    return GradientTransformation(part.init, part.update)


def known(tx: Transform | None, state: OptState = None) -> Part:
    """The part that a transform is, or what is guessed of it."""
    part = None if tx is None else base.part_of(tx)
    if part is None:
        return Guess(tx, state)
    return replace(part, calls=tuple(calls_of(tx))) if isinstance(part, Pair) else part


def within(part: Part, state: OptState) -> Iterator[tuple[Inside, OptState]]:
    """What is inside a part, with its state."""
    part.check(state)
    for inside in part.inside():
        yield inside, lookup(state, inside.path)


def every(tx: Transform | None, state: OptState, at: Path = ()) -> Iterator[tuple[Part, OptState, Path]]:
    """All parts that have a state of their own, with that and the path to it, from outside to inside."""
    part = known(tx, state)
    if all(inside.path for inside in part.inside()):  # `flatten` has no state but that of the transform inside
        yield part, state, at
    for inside, inner in within(part, state):
        yield from every(inside.tx, inner, (*at, *inside.path))


def kept(tx: Transform | None, state: OptState, leaves: Collection[Path] = (), at: Path = ()) -> Iterator[Kept]:
    """Where in the state of any transform the trees are that have something for each parameter.

    `leaves` are the paths of the parameters, which help where one must guess.
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
    """The axes of an array of this size: the last ones are the declared, if their lengths are these, or a part of them.

    Codes of several numbers, and scales of blocks of them, have a part of the length, and follow the axis too.
    """
    lead = len(size) - len(axes)
    if lead < 0:
        return (None,) * len(size)
    fits = lambda n, a: n == shape[a] or n > 1 and shape[a] % n == 0  # noqa: E731
    follows = (a if a is not None and fits(n, a) else None for a, n in zip(axes, size[lead:], strict=True))
    return (*(None,) * lead, *follows)
