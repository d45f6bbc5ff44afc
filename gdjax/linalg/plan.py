"""Which leaves of a tree are which matrices: one plan for each tree of shapes, for all that a matrix method does."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import base
from gdjax.linalg.matrices import Axes, can_be_matrix, matrix_axes, numbers_of


class _Numbers(NamedTuple):
    reduction_axis: Any = 0
    output_axis: Any = 1


_BY_DEFAULT = _Numbers()


class Leaf(NamedTuple):
    """A leaf of the plan. A leaf that is no matrix has the role "other", and is one row."""

    path: str  # as in errors: params['layer']['kernel']
    shape: tuple[int, ...]
    role: str  # "matrix" or "other"
    axes: Axes
    batch: int
    rows: int
    columns: int

    @property
    def is_matrix(self) -> bool:
        return self.role == "matrix"


class Plan(NamedTuple):
    """The leaves in the order of the tree, without those that are None or hidden by a mask."""

    leaves: tuple[Leaf, ...]

    @property
    def buckets(self) -> dict[tuple[int, int], list[int]]:
        """The places of the matrices by (rows, columns): a bucket for each stack."""
        found: dict[tuple[int, int], list[int]] = {}
        for i, leaf in enumerate(self.leaves):
            if leaf.is_matrix:
                found.setdefault((leaf.rows, leaf.columns), []).append(i)
        return found


def plan_of(label: str, tree: Any, numbers: Any = None, default: Any = None) -> Plan:
    """The plan of a tree of parameters or gradients; made once for each tree of shapes and axes.

    Args:
      label: what errors begin with.
      numbers: which leaves are matrices and how: dimension numbers `(reduction_axis, output_axis)` for all, a tree of
        them and None that is a prefix of `tree`, or a function from `tree` to one. Along the axes that they do not name
        lie independent matrices. By default the floating leaves of two axes are matrices.
      default: the dimension numbers of a leaf that has none of its own; without this it is no matrix.

    Raises:
      ValueError: no prefix; axes that are not there or named twice; with `default`, a leaf that has neither two axes
        nor dimension numbers.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    key = []
    for (path, x), n in zip(leaves, numbers_of(label, numbers, tree), strict=True):
        where = f"params{jax.tree_util.keystr(path)}"
        shape = jnp.shape(x)
        if numbers is None and default is None:
            n = _BY_DEFAULT if can_be_matrix(x) else None
        elif n is None and default is not None:
            if len(shape) != 2:
                raise ValueError(f"{label}: {where}: shape {shape} is no matrix; give its {type(default).__name__}")
            n = default
        fixed = None if n is None else (_fixed(n.reduction_axis), _fixed(n.output_axis))
        key.append((where, shape, fixed, _is_trained(x)))
    return _plan(label, tuple(key))


def _is_trained(x: Any) -> bool:
    known = hasattr(x, "dtype") or isinstance(x, float | complex)
    return known and not base.is_float0(x) and jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _fixed(axis: Any) -> Any:
    return axis if isinstance(axis, int) else tuple(axis)


@functools.lru_cache(maxsize=1024)
def _plan(label: str, leaves: tuple[tuple[str, tuple[int, ...], Any, bool], ...]) -> Plan:
    made = []
    for where, shape, numbers, trained in leaves:
        axes = None if numbers is None else matrix_axes(f"{label}: {where}", shape, _Numbers(*numbers))
        if axes is None or not trained:
            row = Axes((), (), tuple(range(len(shape))))
            made.append(Leaf(where, shape, "other", row, *row.sizes(shape)))
        else:
            made.append(Leaf(where, shape, "matrix", axes, *axes.sizes(shape)))
    return Plan(tuple(made))
