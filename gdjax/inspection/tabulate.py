"""What the state of an optimizer is made of, from shapes alone."""

import functools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
from jax.tree_util import GetAttrKey

from gdjax.codes import formats
from gdjax.core import base, callers
from gdjax.core.part import Path
from gdjax.core.parts import Owned, every, owned
from gdjax.core.paths import path_of
from gdjax.core.types import OptState, Params, Transform
from gdjax.inspection.placed import Share, bytes_of, most, shares_of, state_and_order
from gdjax.inspection.table import Table
from gdjax.inspection.walk import shapes_of


class Tabulated(NamedTuple):
    """A row of `tabulate`."""

    at: str  # where in the state its transform is: entry 0 of a chain, the group "decoder"
    transform: str  # the name of its state without "State": ScaleByAdam
    field: str
    arrays: str  # the shape of one, the number of several
    dtype: str  # or the format of `quantize_state`
    bytes: int
    percent_of_params: float  # 100 times its bytes over those of the parameters; Adam's moments together have 200
    bytes_per_device: int | None = None  # on the device that has most of them; None without shardings

    @property
    def share(self) -> float:
        """The older name of `percent_of_params`."""
        callers.warn("gdjax.tabulate: share is now percent_of_params", DeprecationWarning)
        return self.percent_of_params


def tabulate(tx: Transform, params: Params, shardings: Any = None) -> Table:
    """What the state of `tx` is made of: a row for each field of each transform, and one for the total.

    Args:
      tx: any transform, of another library too.
      params: arrays, or shapes as of `jax.ShapeDtypeStruct`. No array is made; the bytes are those that `init` will
        allocate, all together.
      shardings: where the state will lie, for a column more: the bytes on one device, the one with most. A tree like
        the state or a prefix of it, as `state_sharding` returns and `jax.jit` takes it, of shardings; or of arrays,
        whose own count, such as a state. None in the tree is one device.

    Returns:
      A `Table` whose columns are the fields of `Tabulated`; without shardings all but the last.

    Raises:
      TypeError: tx is no transform; a leaf is neither an array nor a number; `shardings` has a leaf that is neither a
        sharding nor an array.
      ValueError: params is None; whatever `init` raises; `shardings` is no prefix of the state, or divides an axis
        unevenly.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}
      >>> table = gdjax.tabulate(gdjax.adam(1e-3), params)
      >>> table["field"], table["bytes"]
      (['count', 'mu', 'nu', ''], [4, 4000000, 4000000, 8000004])
    """
    label = "gdjax.tabulate"
    shapes, state = _made(label, tx, params)
    whole = sum(map(bytes_of, jax.tree.leaves(shapes)))
    fields: dict[Any, list[tuple[Owned, Share, str]]] = {}
    for x in zip(owned(tx, state, shapes), shares_of(label, state, shardings), formats.names(state), strict=True):
        fields.setdefault(x[0].field, []).append(x)
    places = {place[:n] for *_, place in every(tx, state) for n in range(1, len(place) + 1)}
    rows = [_row(state, path, found, whole, places) for path, found in fields.items()]
    size = sum(row.bytes for row in rows)
    each = [share for found in fields.values() for _, share, _ in found]
    total = Tabulated("", "total", "", _counted(len(each)), "", size, _percent(size, whole), most(each))
    return Table([*rows, total], Tabulated._fields[: None if shardings is not None else -1])


def state_bytes(tx: Transform, params: Params, shardings: Any = None) -> int:
    """The bytes of the state that `tx.init(params)` allocates; with `shardings` those on the device with most of them.

    Args:
      tx: any transform, of another library too.
      params: arrays, or shapes as of `jax.ShapeDtypeStruct`. No array is made.
      shardings: where the state will lie: a tree like the state or a prefix of it, of shardings or of arrays.

    Raises:
      TypeError, ValueError: as in `tabulate`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}  # 4 MB
      >>> adam, adafactor = gdjax.adam(1e-3), gdjax.adafactor()
      >>> gdjax.state_bytes(adam, params), gdjax.state_bytes(adafactor, params)
      (8000004, 8008)
    """
    label = "gdjax.state_bytes"
    _, state = _made(label, tx, params)
    if shardings is None:
        return sum(map(bytes_of, jax.tree.leaves(state)))
    return most(shares_of(label, state, shardings)) or 0


def _made(label: str, tx: Transform, params: Params) -> tuple[Any, OptState]:
    base.check_transform(label, "tx", tx)
    shapes = shapes_of(label, params)
    return shapes, state_and_order(tx, shapes)[0]


def _row(
    state: OptState, path: Path, found: Sequence[tuple[Owned, Share, str]], whole: int, places: Collection[Path]
) -> Tabulated:
    """The row of a field; it is named after the innermost NamedTuple on the way to it.

    `places` are the paths to states of transforms: of these the fields are not told.
    """
    fields = [i for i, key in enumerate(path) if isinstance(key, GetAttrKey)]
    last = fields[-1] if fields else 0
    name = type(functools.reduce(_child, path[:last], state)).__name__.removesuffix("State") if fields else ""
    at = [key for n, key in enumerate(path[:last], 1) if not (isinstance(key, GetAttrKey) and path[:n] in places)]
    arrays, shares = [x.array for x, _, _ in found], [share for _, share, _ in found]
    size = sum(map(bytes_of, arrays))
    shown = str(arrays[0].shape) if len(arrays) == 1 else _counted(len(arrays))
    dtypes = ", ".join(sorted({kept for _, _, kept in found}))
    of_params = _percent(size, whole)
    return Tabulated(path_of(at), name, path_of(path[last:]), shown, dtypes, size, of_params, most(shares))


def _child(node: Any, key: Any) -> Any:
    children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
    return next(x for path, x in children if path[0] == key)


def _counted(n: int) -> str:
    return f"{n} arrays"


def _percent(size: int, whole: int) -> float:
    return 100 * size / whole if whole else 0.0
