"""What each leaf of a tree of parameters is, and what a larger model makes of its rate, as tables."""

import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from gdjax.core.paths import paths_of
from gdjax.core.types import Params, Transform, unboxed
from gdjax.inspection.tabulate import Table
from gdjax.inspection.walk import shapes_of
from gdjax.leaf_roles.plan import matrices_by_role, plan_of
from gdjax.transfer_laws.transfer import Row, shapes_of_base, transferred

__all__ = ["roles", "transfer_table"]


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


def transfer_table(
    tx: Transform, params: Params, base: Params, *, roles: Mapping[Any, Any] | None = None,
    depth: str | re.Pattern[str] | None = None,
) -> Table:  # fmt: skip
    """What `transfer(tx, base)` makes of the numbers of each leaf of `params`, and why: a table with a row for each.

    Args:
      tx: the optimizer as it was tuned.
      params, base: the large and the small model: arrays, or shapes as of `jax.ShapeDtypeStruct`.
      roles: from pattern to role or `Matrix`, as in `matrices_by_role`, for leaves that names and shapes do not tell.
      depth: "fold", "forward" or a pattern, as of `transfer`, for more layers than in the base.

    Returns:
      A `Table`: the path and the shape of each leaf, its role, the axes that grew, the factors of its rate, decay, eps
      and of the scale at which its weights start, and from what growth of its updates they follow.

    Raises:
      ValueError, TypeError: as `transfer`, and its `init`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def model(n):
      ...     return {"embed": jnp.ones((9, n)), "head": jnp.ones((n, 9))}
      >>> table = gdjax.transfer_table(gdjax.adamw(1e-2), model(16), base=model(4))
      >>> [(row.path, row.rate, row.decay, row.eps, row.start) for row in table]
      [('embed', 1.0, 1.0, 0.25, 1.0), ('head', 0.25, 4.0, 1.0, 0.25)]
    """
    label = "gdjax.transfer_table"
    part = transferred(label, tx, shapes_of_base(label, base), roles, depth)
    return Table(list(part.rows(shapes_of(label, unboxed(params)))), Row._fields)
