"""What the state of an optimizer is made of, from shapes alone."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.tree_util import GetAttrKey

from gdjax.combine.paths import path_of
from gdjax.core import base
from gdjax.core.types import OptState, Params, Transform
from gdjax.inspection.owners import Held, bytes_of, held, state_of
from gdjax.inspection.table import Table
from gdjax.inspection.walk import shapes_of


class Tabulated(NamedTuple):
    """A row of `tabulate`."""

    at: str  # where in the state its transform is: entry 0 of a chain, the group "decoder"
    transform: str  # the name of its state without "State": ScaleByAdam
    field: str
    arrays: str  # the shape of one, the number of several
    dtype: str
    bytes: int
    share: float  # of the bytes of the parameters, in %


def tabulate(tx: Transform, params: Params) -> Table:
    """What the state of `tx` is made of: a row for each field of each transform, and one for the total.

    Args:
      tx: any transform, of another library too.
      params: arrays, or shapes as of `jax.ShapeDtypeStruct`. No array is made; the bytes are those that `init` will
        allocate, if nothing divides them over devices.

    Returns:
      A `Table` whose columns are the fields of `Tabulated`.

    Raises:
      TypeError: tx is no transform; a leaf is neither an array nor a number.
      ValueError: params is None; whatever `init` raises.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}
      >>> table = gdjax.tabulate(gdjax.adam(1e-3), params)
      >>> table["field"], table["bytes"]
      (['count', 'mu', 'nu', ''], [4, 4000000, 4000000, 8000004])
    """
    shapes, state = _made("gdjax.tabulate", tx, params)
    whole = sum(map(bytes_of, jax.tree.leaves(shapes)))
    fields: dict[Any, list[Held]] = {}
    for x in held(tx, shapes, state):
        fields.setdefault(x.field, []).append(x)
    rows = [_row(state, path, [x.array for x in xs], whole) for path, xs in fields.items()]
    size = sum(row.bytes for row in rows)
    n = sum(len(xs) for xs in fields.values())
    total = Tabulated("", "total", "", _counted(n), "", size, _share(size, whole))
    return Table([*rows, total])


def state_bytes(tx: Transform, params: Params) -> int:
    """The bytes of the state that `tx.init(params)` allocates.

    Args:
      tx: any transform, of another library too.
      params: arrays, or shapes as of `jax.ShapeDtypeStruct`. No array is made.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}  # 4 MB
      >>> adam, adafactor = gdjax.adam(1e-3), gdjax.adafactor()
      >>> gdjax.state_bytes(adam, params), gdjax.state_bytes(adafactor, params)
      (8000004, 8008)
    """
    _, state = _made("gdjax.state_bytes", tx, params)
    return sum(map(bytes_of, jax.tree.leaves(state)))


def _made(label: str, tx: Transform, params: Params) -> tuple[Any, OptState]:
    base.check_transform(label, "tx", tx)
    shapes = shapes_of(label, params)
    return shapes, state_of(tx, shapes)


def _row(state: OptState, path: Sequence[Any], arrays: Sequence[Any], whole: int) -> Tabulated:
    """The row of a field; it is named after the innermost NamedTuple on the way to it."""
    nodes = [state]
    for key in path:
        nodes.append(_child(nodes[-1], key))
    fields = [i for i, key in enumerate(path) if isinstance(key, GetAttrKey)]
    last = fields[-1] if fields else 0
    name = type(nodes[last]).__name__.removesuffix("State") if fields else ""
    at = [key for key in path[:last] if not (isinstance(key, GetAttrKey) and re.search("_states?$", key.name))]
    size = sum(map(bytes_of, arrays))
    shown = str(arrays[0].shape) if len(arrays) == 1 else _counted(len(arrays))
    dtypes = ", ".join(sorted({str(x.dtype) for x in arrays}))
    return Tabulated(path_of(at), name, path_of(path[last:]), shown, dtypes, size, _share(size, whole))


def _child(node: Any, key: Any) -> Any:
    children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
    return next(x for path, x in children if path[0] == key)


def _counted(n: int) -> str:
    return f"{n} arrays"


def _share(size: int, whole: int) -> float:
    return 100 * size / whole if whole else 0.0
