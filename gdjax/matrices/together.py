"""Matrices of all leaves together, in the middle of a rule: `together`, and what Muon and its kin call."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.lift.meetings import Brought, meet
from gdjax.linalg.stacks import in_stacks
from gdjax.matrices.plan import Leaf

Array = jax.Array


def together(f: Callable[..., Any]) -> Callable[..., Any]:
    """f of the matrices of all leaves, those of one shape at once: to be called in a rule.

    `together(f)(x, y, c=c)` is for each leaf what f makes of its x and y: `gdjax.in_stacks` over the leaves of the
    tree. Called elsewhere it is f of one leaf.

    Args:
      f: from one array for each argument by place, and the arguments by name, to an array or a tuple of them. Of the
        arrays it gets (n, rows, columns), or (rows, columns) of a matrix by itself, and returns arrays with the same n,
        or without it. It closes over no array that the rule is given or computes: such an array it gets by name.

    Returns:
      A function of arrays with two axes or more, the last two those of a matrix, and of arguments by name, which are
      the same for all leaves: numbers and shared fields of the state, in any tree, and settings.

    Raises:
      ValueError: an array has fewer than two axes.
      TypeError: (in update) an argument by name differs from leaf to leaf; it is called in a condition, a loop or a
        jitted function of the rule.

    Example:
      >>> import collections, gdjax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "mu")
      >>> @gdjax.leafwise(State)
      ... def muon(g, s, p, t, beta=0.95):
      ...     mu = beta * s.mu + (1 - beta) * g
      ...     return gdjax.together(gdjax.orthogonalize)(mu, ns_steps=8), s._replace(mu=mu)
      >>> params = {"key": 3 * jnp.eye(2), "query": -jnp.eye(2)}  # one stack of two
      >>> updates, _ = muon().update(params, muon().init(params))
      >>> print(updates["key"].round(1))
      [[1. 0.]
       [0. 1.]]
    """

    def called(*xs: Any, **common: Any) -> Any:
        arrays = tuple(map(jnp.asarray, xs))
        if wrong := [x.shape for x in arrays if x.ndim < 2]:
            raise ValueError(f"gdjax.together takes matrices, (..., rows, columns), got shape {wrong[0]}")
        batch, one = arrays[0].shape[:-2], [jax.ShapeDtypeStruct(x.shape[-2:], x.dtype) for x in arrays]
        shown = jax.eval_shape(lambda *xs: f(*xs, **common), *one)
        results = [jnp.zeros((*batch, *y.shape), y.dtype) for y in jax.tree.leaves(shown)]
        like = [0 if (y.shape, y.dtype) == (arrays[0].shape, arrays[0].dtype) else y for y in results]

        def of_lists(*lists: list[Array], **common: Any) -> Any:
            return in_stacks(lambda *xs: f(*xs, **common), *lists)

        found = _met(of_lists, arrays, None, like, common)
        return tuple(found) if isinstance(shown, tuple) else found[0]

    return called


def of_stacks(f: Callable[..., Any], *xs: Any, leaf: Leaf, like: Sequence[int] = (0,), **common: Any) -> Any:
    """What f makes of the stacks of the matrices of all leaves, for this one.

    Args:
      f: from a list of stacks (number, rows, columns) for each of xs, and `common`, to such a list for each result.
      xs: an array of the leaf, or the stacks for its parts by themselves.
      leaf: how the array is matrices; the axes of its rows may be of length 1.
      like: for each result which of xs it is like.
      common: the same for all leaves, arrays and settings.
    """
    found = _met(f, xs, leaf, like, common)
    return found[0] if len(like) == 1 else found


class _Own(NamedTuple):
    """What a leaf tells of the arrays that it brings."""

    leaf: Leaf | None  # None: each array is one stack
    xs: Any  # the structure of its arrays
    like: tuple[int | None, ...]
    common: Any  # what is the same for all leaves, None in the place of arrays

    def apart(self, x: Any) -> list[Array]:
        if self.leaf is None:
            return [x]
        return self.leaf.split(x) if hasattr(x, "shape") else jax.tree.leaves(x)

    def joined(self, results: list[list[Array]], xs: Any) -> list[Array]:
        """The results of these stacks, in a row."""
        found: list[Array] = []
        for stacks, i in zip(results, self.like, strict=True):
            whole = self.leaf is not None and i is not None and hasattr(xs[i], "shape")
            found += [self.leaf.joined(stacks, xs[i].shape)] if whole else stacks
        return found

    def placed(self, xs: Any) -> list[Any]:
        """For each result an array that is divided as it is, or None."""
        return [x for i in self.like for x in ([None] if i is None else jax.tree.leaves(xs[i]))]


def _met(
    f: Callable[..., Any], xs: Sequence[Any], leaf: Leaf | None, like: Sequence[Any], common: dict[str, Any]
) -> list[Any]:
    """The results for this leaf; `like` has a number of xs for each, or an array of its type."""
    arrays, structure = jax.tree.flatten(tuple(xs))
    settings, of_common = jax.tree.flatten(common)
    places = [i for i, x in enumerate(settings) if isinstance(x, jax.Array)]
    fixed = tuple(None if i in places else x for i, x in enumerate(settings)), of_common

    def of_leaves(leaves: list[Brought], numbers: list[Array]) -> list[list[Array]]:
        owns: list[_Own] = [leaf.own for leaf in leaves]
        if other := next((own.common for own in owns if own.common != fixed), None):
            raise TypeError(f"gdjax.together: arguments by name differ from leaf to leaf: {fixed[0]} and {other[0]}")

        def of_all(trees: list[Any], numbers: list[Array]) -> list[list[Array]]:
            known = dict(enumerate(settings)) | dict(zip(places, numbers, strict=True))
            stacks = [[own.apart(x) for x in xs] for own, xs in zip(owns, trees, strict=True)]
            found = f(*(sum(column, []) for column in zip(*stacks, strict=True)), **of_common.unflatten(known.values()))
            each = list(map(iter, found if isinstance(found, tuple) else [found]))
            rows = [[[next(ys) for _ in row[0]] for ys in each] for row in stacks]
            return [own.joined(row, xs) for own, row, xs in zip(owns, rows, trees, strict=True)]

        trees = [own.xs.unflatten(leaf.arrays) for own, leaf in zip(owns, leaves, strict=True)]
        placed = [own.placed(xs) for own, xs in zip(owns, trees, strict=True)]
        return meshes.partitioned(of_all, placed, trees, numbers)

    own = _Own(leaf, structure, tuple(i if isinstance(i, int) else None for i in like), fixed)
    types, results = jax.tree.flatten([xs[i] if isinstance(i, int) else i for i in like])
    return results.unflatten(meet("together", of_leaves, arrays, [settings[i] for i in places], own, types))
