"""Matrices of equal shapes, computed together.

On owner devices stacks of few matrices share rounds: on each device one matrix, of whatever stack.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.core.owners import by_owners, computed, dealt, gathered, together
from gdjax.numerics import Array
from gdjax.xla import write_order
from gdjax.xla.write_order import LARGE, after, once

__all__ = ["in_stacks"]


def shared_rounds(counts: Mapping[int, int], places: int) -> list[dict[int, int]]:
    """What is left of stacks after whole rounds, packed into as few rounds as first-fit finds.

    A round costs what its widest matrix costs, since all devices wait for it. So the widest go first, and each goes to
    the narrowest round that has room for all that is left of its stack.

    Args:
      counts: of the matrices, by their number of columns; of rows they have equally many.
      places: matrices of a round, one on each device.

    Returns:
      For each round of more than one stack the matrices of each, by their number of columns, the widest first.
    """
    rounds: list[dict[int, int]] = []
    for columns in sorted(counts, reverse=True):
        left = counts[columns] % places
        if left:
            room = [r for r in rounds if sum(r.values()) + left <= places]
            if not room:
                room = [{}]
                rounds += room
            room[-1][columns] = left
    return [r for r in rounds if len(r) > 1]


def in_stacks(f: Callable[..., Any], *lists: Sequence[Any]) -> Any:
    """`f` of matrices of equal shapes at once, split again: Shampoo maps (G, L, R) to (L', R').

    Stacking copies the matrices. On a GPU that pays, as one launch computes many of them; elsewhere large ones are
    computed one after the other, each in the memory of the one before. f is traced once for each shape. On explicit
    axes of a mesh the compiler chooses how f is divided, and f must not close over arrays; results of the shape of the
    first list's entries are divided as these are, others are whole.

    Args:
      f: from one argument for each list to an array or a tuple of them. It gets (n, rows, columns), or (rows, columns)
        of a matrix by itself, and returns arrays with the same n, or without it.
      *lists: entries of two axes or more, the last two those of a matrix; the entries in one place have equal axes
        before them. Where one of them is no array but, say, `None` or `MaskedNode`, that is the result too.

    Returns:
      A list, or a tuple of them, as f returns.

    Raises:
      ValueError: an entry has fewer than two axes, or the entries in one place are batches of different shapes.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def centred(x):  # (n, rows, columns), or (rows, columns)
      ...     return x - jnp.mean(x, axis=(-2, -1), keepdims=True)
      >>> shapes = (2, 3), (2, 3), (4, 4)
      >>> [x.shape for x in gdjax.in_stacks(centred, [jnp.ones(shape) for shape in shapes])]
      [(2, 3), (2, 3), (4, 4)]
    """
    f = jax.jit(f)  # matrices alike share one trace
    none = {i: x for xs in lists for i, x in enumerate(xs) if not hasattr(x, "shape")}
    places = [i for i in range(len(lists[0])) if i not in none]
    given = [[xs[i] for i in places] for xs in lists]
    divided = any(meshes.division(x) for xs in given for x in xs)
    like = [_alike(f, xs, divided) for xs in zip(*given, strict=True)]
    gpu, other = (functools.partial(in_turn, f, most) for most in (math.inf, LARGE))
    large = any(math.prod(x.shape[-2:]) >= LARGE for xs in given for x in xs)
    chosen = functools.partial(jax.lax.platform_dependent, cuda=gpu, rocm=gpu, default=other) if large else other
    found = dict(zip(places, meshes.partitioned(chosen, like, *given) if places else [], strict=True))
    shown = found[places[0]] if places else jax.eval_shape(f, *[jax.ShapeDtypeStruct((1, 1), jnp.float32)] * len(lists))
    width = len(shown) if isinstance(shown, tuple) else None
    out = [found[i] if i in found else none[i] if width is None else (none[i],) * width for i in range(len(lists[0]))]
    return out if width is None else tuple([x[k] for x in out] for k in range(width))


def _alike(f: Callable[..., Any], xs: Sequence[Array], divided: bool) -> Any:
    """For each result of f an array that is divided as the result is; None where it is whole."""
    if any(jnp.ndim(x) < 2 or x.shape[:-2] != xs[0].shape[:-2] for x in xs):
        raise ValueError(
            f"gdjax.in_stacks: shapes {', '.join(str(x.shape) for x in xs)} are no batches of matrices alike"
        )
    if not divided:
        return None
    results = jax.eval_shape(f, *(jax.ShapeDtypeStruct(x.shape[-2:], x.dtype) for x in xs))
    return jax.tree.map(lambda y: xs[0] if y.shape == xs[0].shape[-2:] else None, results)


def in_turn(f: Callable[..., Any], most: float, *lists: Sequence[Array]) -> list[Any]:
    """The results of f in each place: matrices with fewer elements than `most` are stacked, others go one by one."""
    groups: dict[Any, list[int]] = {}
    for i, xs in enumerate(zip(*lists, strict=True)):
        large = any(math.prod(x.shape[-2:]) >= most for x in xs)
        groups.setdefault((*((x.shape[-2:], x.dtype) for x in xs), i if large else None), []).append(i)
    out: list[Any] = [None] * len(lists[0])
    before = None
    for members in groups.values():
        given = [[xs[i] for i in members] for xs in lists]
        if before is not None and math.prod(given[0][0].shape[-2:]) >= LARGE:
            given = after(before, given)  # in the memory of the one before
        batches = [x.shape[:-2] for x in given[0]]
        numbers = [math.prod(batch) for batch in batches]
        # A matrix by itself without the axis of length 1: with it a TPU moves a third more bytes.
        alone = sum(numbers) == 1 == len(members)
        together = f(*map(_by_itself if alone else _stack, given))
        made = jax.tree.leaves(together)[0]
        if made.size and meshes.may_be("cpu"):
            # Once: an element of a result is else computed again by all that waits for it, with all that it waits for.
            before = once(jnp.real(jax.lax.slice(made, [0] * made.ndim, [1] * made.ndim).reshape(())))
        leaves, structure = jax.tree.flatten(together)
        cut = [[y] for y in leaves] if len(members) == 1 else [write_order.parts(y, numbers) for y in leaves]
        for n, (i, batch) in enumerate(zip(members, batches, strict=True)):
            out[i] = structure.unflatten(y[n].reshape(*batch, *y[n].shape[0 if alone else 1 :]) for y in cut)
    return out


def each_at_home(f: Callable[[Array], Array], matrices: Sequence[Array]) -> list[Array]:
    """f of each matrix, on one device of the mesh in `meshes.mesh()`: one exchange in and one out for each shape.

    What whole rounds over the devices leave of stacks with equally many rows shares rounds, and has exchanges of its
    own. f must give columns of zeros where it gets them, and else ignore them.
    """
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(matrices):
        if x.size:
            groups.setdefault((x.dtype, *x.shape[-2:]), []).append(i)
    stacks = {key: _stack([matrices[i] for i in members]) for key, members in groups.items()}
    made = _over_rounds(f, stacks)
    out = list(matrices)  # those without elements stay
    for key, members in groups.items():
        given = [matrices[i] for i in members]
        numbers = [math.prod(x.shape[:-2]) for x in given]
        for i, x, y in zip(members, given, write_order.parts(made[key], numbers), strict=True):
            out[i] = y.reshape(x.shape)
    return out


def at_owners(f: Callable[..., Any], lists: Sequence[Sequence[Array]], common: Mapping[str, Any]) -> list[Any]:
    """What f makes of one entry of each list, each at its owner: an exchange in for each list, and out for each result.

    Args:
      f: from stacks (n, rows, columns), one for each list, and `common` by name, to a tree of such stacks.
    """
    groups: dict[Any, list[int]] = {}
    for i, xs in enumerate(zip(*lists, strict=True)):
        groups.setdefault(tuple((x.dtype, *x.shape[-2:]) for x in xs), []).append(i)
    out: list[Any] = [None] * len(lists[0])
    for members in groups.values():
        given = [dealt(_stack([xs[i] for i in members])) for xs in lists]
        made = by_owners(lambda _, xs, numbers: f(*xs, **numbers), given, dict(common))
        batches = [lists[0][i].shape[:-2] for i in members]
        numbers = [math.prod(batch) for batch in batches]
        ys, structure = jax.tree.flatten(made)
        cut = [write_order.parts(gathered(y, sum(numbers)), numbers) for y in ys]
        for n, (i, batch) in enumerate(zip(members, batches, strict=True)):
            out[i] = structure.unflatten(y[n].reshape(*batch, *y[n].shape[1:]) for y in cut)
    return out


def _over_rounds(f: Callable[[Array], Array], stacks: dict[Any, Array]) -> dict[Any, Array]:
    """f of stacks, by dtype, rows and columns."""
    size, left, out = meshes.mesh().size, {}, {}
    for family in dict.fromkeys(key[:2] for key in stacks):
        counts = {key[2]: len(x) for key, x in stacks.items() if key[:2] == family}
        for shared in shared_rounds(counts, size):
            keys = [(*family, columns) for columns in shared]
            parts = [stacks[key][len(stacks[key]) - shared[key[2]] :] for key in keys]
            left |= dict(zip(keys, together(f, parts), strict=True))
    for key, x in stacks.items():
        whole = x[: len(x) - len(left[key])] if key in left else x
        made = [computed(f, whole)] if len(whole) else []
        made += [left[key]] if key in left else []
        out[key] = made[0] if len(made) == 1 else jnp.concatenate(made)
    return out


def _by_itself(xs: Sequence[Array]) -> Array:
    return xs[0].reshape(xs[0].shape[-2:])


def _stack(xs: Sequence[Array]) -> Array:
    stacks = [x if x.ndim == 3 else x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:]) for x in xs]
    return jnp.concatenate(stacks) if len(stacks) > 1 else stacks[0]
