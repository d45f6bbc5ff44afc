"""A table: named columns and rows, printed as aligned text."""

import html
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
        found = tuple(_fields(rows[0]) if rows else ()) if columns is None else tuple(columns)
        for i, row in enumerate(rows):
            hides = columns is not None and not isinstance(row, Mapping)
            if unknown := [name for name in _fields(row) if name not in found and not hides]:
                raise ValueError(f"{LABEL}: row {i} has {unknown}, but the columns are {list(found)}")
        object.__setattr__(self, "columns", found)
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
        told = "".join(f"<p>{html.escape(text)}</p>" for text in self._told())
        return f"<table><thead>{row(self.columns, 'th')}</thead><tbody>{body}</tbody></table>{told}"

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
    """A cell: four digits of a float, thousands of an int apart; nothing for None."""
    x = _plain(x)
    if x is None:
        return ""
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, int):
        return f"{x:,}"
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def _plain(x: Any) -> Any:
    """A number of NumPy or JAX as Python's; anything else as it is."""
    return x.item() if getattr(x, "shape", None) == () and hasattr(x, "item") else x
