"""Matrices of all leaves together, in the middle of a rule: `together`, and what Muon and the like call."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.core import meshes
from gdjax.core.types import Array
from gdjax.leaf_roles.plan import Leaf
from gdjax.lift.meetings import Contribution, meet
from gdjax.lift.rule_checks import hashable
from gdjax.linalg.stacks import at_owners, in_stacks

__all__ = ["together"]


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
      TypeError: f closes over an array of the rule. (In update) an argument by name differs from leaf to leaf; it is
        called in a condition, a loop or a jitted function of the rule.

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
        shared, batch = _Common.of(common), arrays[0].shape[:-2]
        one = [jax.ShapeDtypeStruct(x.shape[-2:], x.dtype) for x in arrays]
        of_one = jax.make_jaxpr(lambda xs, numbers: f(*xs, **shared.tree(numbers)), return_shape=True)
        traced, shown = of_one(one, shared.numbers)
        if any(isinstance(x, Tracer) for x in traced.consts):
            raise TypeError("gdjax.together: f closes over an array of the rule; hand it over, together(f)(x, c=c)")
        results = [jnp.zeros((*batch, *y.shape), y.dtype) for y in jax.tree.leaves(shown)]
        like = [0 if (y.shape, y.dtype) == (arrays[0].shape, arrays[0].dtype) else y for y in results]
        results = _met(InStacks(hashable(f)), arrays, None, like, shared)
        return tuple(results) if isinstance(shown, tuple) else results[0]

    return called


class InStacks(NamedTuple):
    """A function of a matrix of each of several arrays, for lists of their stacks."""

    f: Callable[..., Any]
    owned: bool = True  # whether owner devices compute it, where there are any: not if it does so for parts of a matrix

    def __call__(self, *lists: list[Array], **common: Any) -> Any:
        if meshes.mesh() is None or not self.owned:
            return in_stacks(lambda *xs: self.f(*xs, **common), *lists)
        made = at_owners(self.f, lists, common)
        return tuple(map(list, zip(*made, strict=True))) if isinstance(made[0], tuple) else made


def of_stacks(f: Callable[..., Any], *xs: Any, leaf: Leaf, like: Sequence[int] = (0,), **common: Any) -> Any:
    """What f makes of the stacks of the matrices of all leaves, for this one.

    Args:
      f: a function of the module, from a list of stacks (number, rows, columns) for each of xs, and `common`, to such a
        list for each result.
      xs: an array of the leaf, or the stacks for its parts by themselves.
      leaf: how the array is matrices; the axes of its rows may be of length 1.
      like: for each result which of xs it is like.
      common: the same for all leaves, arrays and settings.
    """
    results = _met(f, xs, leaf, like, _Common.of(common))
    return results[0] if len(like) == 1 else results


class _Common(NamedTuple):
    """The arguments by name, the arrays among them apart."""

    numbers: Sequence[Array]
    settings: tuple[Any, ...]  # with None in the place of arrays
    places: tuple[int, ...]  # of these
    structure: Any

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> "_Common":
        flat, structure = jax.tree.flatten(arguments)
        places = tuple(i for i, x in enumerate(flat) if isinstance(x, jax.Array | np.ndarray))
        settings = tuple(None if i in places else x for i, x in enumerate(flat))
        return cls([jnp.asarray(flat[i]) for i in places], settings, places, structure)

    def tree(self, numbers: Sequence[Array]) -> dict[str, Any]:
        known = dict(enumerate(self.settings)) | dict(zip(self.places, numbers, strict=True))
        return self.structure.unflatten(known.values())


class _Facts(NamedTuple):
    """What a leaf brings beside arrays."""

    f: Callable[..., Any]
    leaf: Leaf | None  # None: each array is one stack
    xs: Any  # the structure of its arrays
    like: tuple[int | None, ...]
    common: _Common  # without the numbers

    def apart(self, xs: Any) -> list[list[Array]]:
        """The stacks of each array."""
        if self.leaf is None:
            return [[x] for x in xs]
        return [self.leaf.split(x) if hasattr(x, "shape") else jax.tree.leaves(x) for x in xs]

    def joined(self, results: list[list[Array]], xs: Any) -> list[Array]:
        """The results of these stacks, in a row."""
        row: list[Array] = []
        for stacks, i in zip(results, self.like, strict=True):
            if self.leaf is not None and i is not None and hasattr(xs[i], "shape"):
                stacks = [self.leaf.joined(stacks, xs[i].shape)]
            row += stacks
        return row

    def placed(self, xs: Any) -> list[Any]:
        """For each result an array that is divided as it is, or None."""
        return [x for i in self.like for x in ([None] if i is None else jax.tree.leaves(xs[i]))]


def _met(
    f: Callable[..., Any], xs: Sequence[Any], leaf: Leaf | None, like: Sequence[Any], common: _Common
) -> list[Any]:
    """The results for this leaf; `like` has a number of xs for each, or an array of its type."""
    arrays, structure = jax.tree.flatten(tuple(xs))
    numbers = tuple(i if isinstance(i, int) else None for i in like)
    facts = _Facts(f, leaf, structure, numbers, common._replace(numbers=()))
    types, results = jax.tree.flatten([xs[i] if isinstance(i, int) else i for i in like])
    made = meet("together", _of_leaves, arrays, common.numbers, facts)
    return results.unflatten(y.astype(x.dtype) for x, y in zip(types, made, strict=True))


def _of_leaves(leaves: list[Contribution], numbers: list[Array]) -> list[list[Array]]:
    facts: list[_Facts] = [leaf.facts for leaf in leaves]
    common = facts[0].common
    if other := next((x.common for x in facts if x.common != common), None):
        got = f"{common.settings} and {other.settings}"
        raise TypeError(f"gdjax.together: the arguments by name must be the same for all leaves, got {got}")
    # A function made in the rule may differ from leaf to leaf; that of leaves alike is one, since they share a trace.
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(facts):
        groups.setdefault(x.f, []).append(i)

    def of_all(trees: list[Any], numbers: list[Array]) -> list[list[Array]]:
        of_leaf: dict[int, list[Array]] = {}
        for f, members in groups.items():
            stacks = [facts[i].apart(trees[i]) for i in members]
            results = f(*(sum(column, []) for column in zip(*stacks, strict=True)), **common.tree(numbers))
            each = list(map(iter, results if isinstance(results, tuple) else [results]))
            for i, mine in zip(members, stacks, strict=True):
                of_leaf[i] = facts[i].joined([[next(ys) for _ in mine[0]] for ys in each], trees[i])
        return [of_leaf[i] for i in range(len(facts))]

    trees = [x.xs.unflatten(leaf.arrays) for x, leaf in zip(facts, leaves, strict=True)]
    placed = [x.placed(xs) for x, xs in zip(facts, trees, strict=True)]
    return meshes.partitioned(of_all, placed, trees, numbers)
