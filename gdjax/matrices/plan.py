"""Which leaves of a tree are matrices, and how: one plan for each tree of shapes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import calls, checks
from gdjax.core.paths import check_prefix, path_of
from gdjax.core.types import ArrayTree
from gdjax.lift.rule import OfLeaf
from gdjax.lift.whole_tree import Tree
from gdjax.linalg.matrices import Axes, Matrix, can_be_matrix, is_numbers, is_trained, matrix_axes
from gdjax.matrices.roles import ByRole, fixed
from gdjax.numerics import Array

_BY_DEFAULT = Matrix(0, 1)
NUMBERS = "dimension numbers"


class Leaf(NamedTuple):
    """A leaf of the plan. A leaf that is no matrix is one row."""

    path: str  # as in errors: params['layer']['kernel']
    shape: tuple[int, ...]
    role: str  # "matrix", or another one of `gdjax.matrices.roles`
    axes: Axes
    batch: int
    rows: int
    columns: int
    parts: tuple[int, ...] = ()  # the columns of each matrix if the columns are cut, as in q, k, v; else ()

    def __str__(self) -> str:
        """The matrices, number x rows x columns."""
        several = [f"{number} x {rows} x {columns}".removeprefix("1 x ") for number, rows, columns in self.sizes]
        return " + ".join(several) if self.is_matrix else ""

    @property
    def is_matrix(self) -> bool:
        return self.role == "matrix"

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """The shapes of the results of `split`."""
        if len(set(self.parts)) > 1:
            return [(self.batch, self.rows, n) for n in self.parts]
        number = len(self.parts) or 1
        return [(self.batch * number, self.rows, self.columns // number)]

    def split(self, x: Array) -> list[Array]:
        """x as stacks of matrices, each (number, rows, columns): one stack, or one for each part if these differ.

        The axes of its rows may be of length 1.
        """
        whole = self.axes.to_matrices(x)
        if len(set(self.parts)) > 1:
            ends = [sum(self.parts[: i + 1]) for i in range(len(self.parts))]
            return [whole[..., end - n : end] for end, n in zip(ends, self.parts, strict=True)]
        if not self.parts:
            return [whole]
        rows = whole.shape[1]
        apart = whole.reshape(self.batch, rows, len(self.parts), self.parts[0])
        return [apart.swapaxes(1, 2).reshape(self.batch * len(self.parts), rows, self.parts[0])]

    def joined(self, stacks: Sequence[Array], shape: tuple[int, ...] | None = None) -> Array:
        """The inverse of `split`, in the shape of the leaf or another."""
        if len(set(self.parts)) > 1:
            whole = jnp.concatenate(stacks, -1)
        elif not self.parts:
            (whole,) = stacks
        else:
            rows = stacks[0].shape[1]
            apart = stacks[0].reshape(self.batch, len(self.parts), rows, self.parts[0])
            whole = apart.swapaxes(1, 2).reshape(self.batch, rows, self.columns)
        return self.axes.from_matrices(whole, self.shape if shape is None else shape)


class MatrixPlan(NamedTuple):
    """The leaves in the order of the tree, without those that are None or hidden by a mask."""

    leaves: tuple[Leaf, ...]


def plan_of(
    label: str, tree: ArrayTree, numbers: Any = None, default: Any = None, quiet: bool = False, argument: str = NUMBERS
) -> MatrixPlan:
    """The plan of a tree of parameters or gradients, made once for each tree of shapes and axes.

    Args:
      label: the start of errors.
      numbers: which leaves are matrices and how: `ByRole`; a `Matrix`, or dimension numbers, for all; a tree of them
        and None that is a prefix of `tree`; or a function from `tree` to one. By default the floating leaves of two
        axes are matrices.
      default: the `Matrix` of a leaf that has none of its own; without this it is no matrix.
      quiet: whether `ByRole` does not warn, since another call for this tree does.
      argument: the name of `numbers` in errors.

    Raises:
      TypeError: the function of the tree cannot be called with it, or returned None; an entry is no dimension numbers.
      ValueError: the function raised an error; no prefix; axes that are not there or named twice; parts that do not
        fit the columns; with `default`, a leaf that has neither two axes nor dimension numbers.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    by_role = isinstance(numbers, ByRole)
    given = numbers.roles(label, tree, quiet) if by_role else numbers_of(label, argument, numbers, tree)
    key = []
    for (path, x), n in zip(leaves, given, strict=True):
        where = f"params{jax.tree_util.keystr(path)}"
        shape = np.shape(x)
        if numbers is None and default is None:
            n = _BY_DEFAULT if can_be_matrix(x) else None
        elif (n is None or isinstance(n, str)) and default is not None:
            if len(shape) != 2:
                kind = type(default).__name__
                one = f"{{{path_of(path)!r}: gdjax.Matrix(-2, -1)}}" if len(shape) > 2 else "..."
                how = f"roles={one}" if kind == "Matrix" else "weight_dimension_numbers=..."
                raise ValueError(f"{label}: {where}: shape {shape} is no matrix; give its {kind} by {how}")
            n = default
        if n is not None and not isinstance(n, str):
            n = fixed(n)
        key.append((where, shape, n, is_trained(x)))
    return _plan(label, tuple(key))


def of_leaf(numbers: Callable[[Any], Any], default: Any = None) -> OfLeaf:
    """How each leaf is matrices, for a rule: `static={"roles": of_leaf(routing, Matrix())}`.

    `numbers` makes the argument of `plan_of` from that of the rule.
    """

    def of_each(tree: Tree, argument: Any) -> list[Leaf]:
        plan = plan_of(tree.label, tree.structure.unflatten(tree.entries), numbers(argument), default)
        return tree.of_each([leaf._replace(path="") for leaf in plan.leaves])  # equal leaves share one trace

    return of_each


def numbers_of(label: str, name: str, numbers: Any, tree: ArrayTree) -> list[Any]:
    """For each leaf of `tree` its dimension numbers, or None; errors call `numbers`, as in `plan_of`, by `name`."""
    if not jax.tree.leaves(tree):
        return []
    if callable(numbers):
        numbers = calls.of_tree(label, name, numbers, tree)
        if not jax.tree_util.all_leaves([tree]):  # for one array None is an answer: it is no matrix
            checks.returned(label, f"the function of {name}", numbers)
    is_entry = lambda x: x is None or is_numbers(x)  # noqa: E731
    for path, x in jax.tree_util.tree_flatten_with_path(numbers, is_leaf=is_entry)[0]:
        if not is_entry(x):
            slip = "; roles by their names are for gdjax.matrices_by_role" if isinstance(x, str) else ""
            got = f"{name}{jax.tree_util.keystr(path)} is {x!r}"
            raise TypeError(f"{label}: {got}, neither a gdjax.Matrix nor None for what is no matrix{slip}")
    check_prefix(label, name, jax.tree.map(is_entry, numbers, is_leaf=is_entry), tree)
    found: list[Any] = []
    jax.tree.map(lambda x, part: found.extend([x] * len(jax.tree.leaves(part))), numbers, tree, is_leaf=is_entry)
    return found


@functools.lru_cache(maxsize=1024)
def _plan(label: str, leaves: tuple[tuple[str, tuple[int, ...], Any, bool], ...]) -> MatrixPlan:
    made = []
    for where, shape, given, trained in leaves:
        if not isinstance(given, Matrix) or not trained:
            row = Axes((), (), tuple(range(len(shape))))
            role = given if isinstance(given, str) else "other"
            made.append(Leaf(where, shape, role, row, *row.sizes(shape)))
        else:
            axes = matrix_axes(f"{label}: {where}", shape, given)
            sizes = axes.sizes(shape)
            made.append(Leaf(where, shape, "matrix", axes, *sizes, _parts(f"{label}: {where}", given.parts, sizes[-1])))
    return MatrixPlan(tuple(made))


def _parts(where: str, parts: Any, columns: int) -> tuple[int, ...]:
    """The columns of each part; () for one matrix."""
    if isinstance(parts, int):
        if parts < 1 or columns % parts:
            raise ValueError(f"{where}: {columns} columns are no {parts} parts of one size")
        parts = (columns // parts,) * parts
    if sum(parts) != columns or any(n < 1 for n in parts):
        raise ValueError(f"{where}: the parts {parts} do not add up to {columns} columns")
    return parts if len(parts) > 1 else ()
