"""Tables of an optimizer's state: shapes, bytes, devices, and what they exchange."""

import functools
import html
import math
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, Sharding
from jax.tree_util import GetAttrKey

from gdjax.codes import formats
from gdjax.core import base, callers
from gdjax.core.part import Path
from gdjax.core.parts import StateArray, every, state_arrays
from gdjax.core.paths import path_of
from gdjax.core.types import OptState, Params, Transform
from gdjax.inspection.walk import shapes_of
from gdjax.lift.order import OrderWarning
from gdjax.numerics import is_key

__all__ = ["Table", "state_bytes", "tabulate"]

LABEL = "gdjax.Table"


@dataclass(frozen=True, init=False, repr=False)
class Table:
    """Rows under named columns. It prints as aligned text, and a notebook shows it as an HTML table.

    `table["path"]` is the list of what the rows have under "path"; `len` counts the rows, and a loop goes over them.

    Args:
      rows: NamedTuples, or dicts from column to value, kept as they are.
      columns: the columns in their order; by default the fields of the first row. A dict may lack some, which print
        as nothing; a NamedTuple may have more fields. A table without rows needs them.
      warnings, notes: sentences, printed below the rows: what is probably a mistake, and what is told besides.

    Raises:
      TypeError: a row is neither a NamedTuple nor a dict.
      ValueError: a dict has a key that is no column.
      KeyError: (of `table[name]`) there is no such column.

    Example:
      >>> import gdjax
      >>> table = gdjax.Table([{"name": "sgd", "loss": 0.5}, {"name": "adam", "loss": 0.25}])
      >>> print(table)
      name  loss
      ----  ----
      sgd    0.5
      adam  0.25
    """

    columns: tuple[str, ...]
    rows: tuple[Any, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def __init__(
        self, rows: Iterable[Any], columns: Iterable[str] | None = None, warnings: Iterable[str] = (),
        notes: Iterable[str] = (),
    ):  # fmt: skip
        rows = tuple(rows)
        for i, row in enumerate(rows):
            if not (isinstance(row, Mapping) or hasattr(row, "_asdict")):
                raise TypeError(f"{LABEL}: row {i} is {row!r}, neither a NamedTuple nor a dict")
        names = tuple(_fields(rows[0]) if rows else ()) if columns is None else tuple(columns)
        for i, row in enumerate(rows):
            hides = columns is not None and not isinstance(row, Mapping)
            if unknown := [name for name in _fields(row) if name not in names and not hides]:
                raise ValueError(f"{LABEL}: row {i} has {unknown}, but the columns are {list(names)}")
        object.__setattr__(self, "columns", names)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "warnings", tuple(warnings))
        object.__setattr__(self, "notes", tuple(notes))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self.columns:
            raise KeyError(f"{LABEL}: no column {column!r}; there are {', '.join(self.columns)}")
        return [_fields(row).get(column) for row in self.rows]

    def __repr__(self) -> str:
        lines = [self.columns, *self._shown()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        numbers = [all(map(_is_number, self[name])) and bool(self.rows) for name in self.columns]
        pads = [str.rjust if is_numbers else str.ljust for is_numbers in numbers]
        padded = [[pad(x, n) for pad, x, n in zip(pads, line, widths, strict=True)] for line in lines]
        padded.insert(1, ["-" * n for n in widths])
        shown = ["  ".join(line).rstrip() for line in padded]
        return "\n".join([*shown, *self._told()])

    def _repr_html_(self) -> str:
        def row(cells: Iterable[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{html.escape(x)}</{tag}>' for x in cells)}</tr>"

        body = "".join(row(cells, "td") for cells in self._shown())
        paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in self._told())
        return f"<table><thead>{row(self.columns, 'th')}</thead><tbody>{body}</tbody></table>{paragraphs}"

    def _told(self) -> list[str]:
        return [f"warning: {text}" for text in self.warnings] + [f"note: {text}" for text in self.notes]

    def _shown(self) -> list[list[str]]:
        return [[_text(_fields(row).get(name)) for name in self.columns] for row in self.rows]


def _fields(row: Any) -> Mapping[str, Any]:
    return row if isinstance(row, Mapping) else row._asdict()


def _is_number(x: Any) -> bool:
    x = _plain(x)
    return x is None or not isinstance(x, bool) and isinstance(x, int | float)


def _text(x: Any) -> str:
    """A cell: four digits of a float, thousands apart and then as an int; nothing for None."""
    x = _plain(x)
    if x is None:
        return ""
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, int):
        return f"{x:,}"
    if isinstance(x, float) and 1000 <= abs(x) < 1e15:
        return f"{x:,.0f}"
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def _plain(x: Any) -> Any:
    """A number of NumPy or JAX as Python's; anything else as it is."""
    return x.item() if getattr(x, "shape", None) == () and hasattr(x, "item") else x


class Share(NamedTuple):
    """What one device has of an array."""

    bytes: int
    devices: frozenset[Any]  # those that have as much; empty for all of a mesh that has no devices


def state_and_order(tx: Transform, shapes: Any) -> tuple[OptState, list[str]]:
    """The shapes of the state that `init` makes, and what it warns of averages that are not last.

    What else `init` warns of, it warns of when the state is made.
    """
    with warnings.catch_warnings(record=True, action="always") as caught:
        state = jax.eval_shape(lambda params: tx.init(params), shapes)  # a function that JAX has not traced before
    texts = [str(w.message) for w in caught if issubclass(w.category, OrderWarning)]
    return state, list(dict.fromkeys(text.partition(": ")[2] for text in texts))


def bytes_of(x: Any) -> int:
    """The bytes of an array, those of a PRNG key included; a float0 has none."""
    if is_key(x):
        x = jax.eval_shape(jax.random.key_data, x)
    return math.prod(x.shape) * (0 if x.dtype == jax.dtypes.float0 else x.dtype.itemsize)


def shares_of(label: str, state: OptState, shardings: Any) -> list[Any]:
    """For each array of a state its `Share`, or None where `shardings` is None.

    Raises:
      ValueError: `shardings` is no prefix of the state, or divides an axis unevenly.
      TypeError: it has a leaf that is neither a sharding nor an array.
    """
    if shardings is None:
        return [None] * len(jax.tree.leaves(state))
    try:
        paths, structure = jax.tree_util.tree_flatten_with_path(shardings, is_leaf=_is_leaf)
        below = structure.flatten_up_to(state)
    except (ValueError, TypeError, KeyError) as e:
        raise ValueError(f"{label}: shardings is no prefix of the state that init makes: {e}") from e
    return [
        _share(f"{label}: state{jax.tree_util.keystr((*path, *inner))}", x, where)
        for (path, where), tree in zip(paths, below, strict=True)
        for inner, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def most(shares: Sequence[Any]) -> int | None:
    """The bytes on the device with most of them; None where nothing is known."""
    if None in shares:
        return None
    sizes, everywhere = Counter[Any](), 0
    for size, devices in shares:
        everywhere += 0 if devices else size
        for device in devices:
            sizes[device] += size
    return everywhere + max(sizes.values(), default=0)


def _is_leaf(x: Any) -> bool:
    return x is None or isinstance(x, Sharding)


def _share(where: str, x: Any, sharding_or_array: Any) -> Share:
    sharding = getattr(sharding_or_array, "sharding", sharding_or_array)
    if sharding is None:
        return Share(bytes_of(x), frozenset())
    if not isinstance(sharding, Sharding):
        raise TypeError(f"{where}: shardings has {type(sharding).__name__}, neither a sharding nor an array")
    shape = getattr(sharding_or_array, "shape", x.shape)
    try:
        if isinstance(sharding, NamedSharding) and len(sharding.spec) > len(shape):
            shape = -(-shape[0] // sharding.mesh.size), *shape[1:]  # of a stack that is dealt to owners, `meshes.dealt`
        else:
            shape = sharding.shard_shape(shape)
    except ValueError as e:
        raise ValueError(f"{where} has shape {x.shape}, which {sharding} does not divide: {e}") from e
    try:
        devices = frozenset(sharding.device_set)
    except (ValueError, AttributeError):  # of an abstract mesh
        devices = frozenset()
    return Share(bytes_of(jax.ShapeDtypeStruct(shape, x.dtype)), devices)


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
    model_bytes = sum(map(bytes_of, jax.tree.leaves(shapes)))
    fields: dict[Any, list[tuple[StateArray, Share, str]]] = {}
    for x in zip(
        state_arrays(tx, state, shapes), shares_of(label, state, shardings), formats.names(state), strict=True
    ):
        fields.setdefault(x[0].field, []).append(x)
    places = {place[:n] for *_, place in every(tx, state) for n in range(1, len(place) + 1)}
    rows = [_row(state, path, arrays, model_bytes, places) for path, arrays in fields.items()]
    size = sum(row.bytes for row in rows)
    each = [share for arrays in fields.values() for _, share, _ in arrays]
    total = Tabulated("", "total", "", _counted(len(each)), "", size, _percent(size, model_bytes), most(each))
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
    state: OptState,
    path: Path,
    entries: Sequence[tuple[StateArray, Share, str]],
    model_bytes: int,
    places: Collection[Path],
) -> Tabulated:
    """The row of a field; it is named after the innermost NamedTuple on the way to it.

    `places` are the paths to states of transforms: of these the fields are not told.
    """
    fields = [i for i, key in enumerate(path) if isinstance(key, GetAttrKey)]
    last = fields[-1] if fields else 0
    name = type(functools.reduce(_child, path[:last], state)).__name__.removesuffix("State") if fields else ""
    at = [key for n, key in enumerate(path[:last], 1) if not (isinstance(key, GetAttrKey) and path[:n] in places)]
    arrays, shares = [x.array for x, _, _ in entries], [share for _, share, _ in entries]
    size = sum(map(bytes_of, arrays))
    shown = str(arrays[0].shape) if len(arrays) == 1 else _counted(len(arrays))
    dtypes = ", ".join(sorted({format for _, _, format in entries}))
    of_params = _percent(size, model_bytes)
    return Tabulated(path_of(at), name, path_of(path[last:]), shown, dtypes, size, of_params, most(shares))


def _child(node: Any, key: Any) -> Any:
    children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
    return next(x for path, x in children if path[0] == key)


def _counted(n: int) -> str:
    return f"{n} arrays"


def _percent(size: int, total: int) -> float:
    return 100 * size / total if total else 0.0
