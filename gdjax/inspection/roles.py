"""What each leaf of a tree of parameters is, as a table."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from gdjax.core.paths import paths_of
from gdjax.core.types import Params
from gdjax.inspection.tabulate import Table
from gdjax.inspection.walk import shapes_of
from gdjax.matrices.plan import matrices_by_role, plan_of


class Role(NamedTuple):
    """A row of `roles`."""

    path: str
    shape: tuple[int, ...]
    role: str
    matrices: str  # number x rows x columns, as in "3 x 768 x 768"; rows are inputs
    rows: tuple[int, ...] | None  # the axes of the inputs; None for what is no matrix
    columns: tuple[int, ...] | None  # the axes of the outputs


def roles(params: Params, overrides: Mapping[Any, Any] | None = None) -> Table:
    """What each leaf of `params` is, and how it is a matrix: a table with a row for each leaf.

    Args:
      params: arrays, or shapes as of `jax.ShapeDtypeStruct`.
      overrides: from pattern to role or `Matrix`, the first that matches wins. A pattern is a regular expression,
        searched for anywhere in the path, or a predicate of `(path, leaf)`. A role is "matrix", "embedding", "head",
        "norm", "bias", "router" or "other".

    Returns:
      A `Table`, whose columns are the fields of `Role`. Its `warnings` tell what names and shapes leave unknown.

    Raises:
      TypeError: a leaf is neither an array nor a number; the overrides are no mapping.
      ValueError: params is None; an unknown role; axes that a leaf does not have.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> mlp = {"bias": jnp.ones(8), "kernel": jnp.ones((4, 8))}
      >>> table = gdjax.roles({"embed": jnp.ones((9, 4)), "mlp": mlp})
      >>> list(zip(table["path"], table["role"]))
      [('embed', 'embedding'), ('mlp/bias', 'bias'), ('mlp/kernel', 'matrix')]
    """
    shapes = shapes_of("gdjax.roles", params)
    numbers = matrices_by_role(overrides)
    with warnings.catch_warnings(record=True, action="always") as caught:
        leaves = plan_of("gdjax.roles", shapes, numbers).leaves
    rows = [
        Role(path, leaf.shape, leaf.role, str(leaf), *(leaf.axes[1:] if leaf.is_matrix else (None, None)))
        for (path, _), leaf in zip(paths_of(shapes), leaves, strict=True)
    ]
    idle = [str(w.message).removeprefix("gdjax.roles: ") for w in caught]
    return Table(rows, Role._fields, dict.fromkeys([*idle, *numbers.notes(shapes)]))
