"""The table: what it prints, and what it refuses."""

from typing import NamedTuple

import numpy as np
import pytest

from gdjax import Table


class Row(NamedTuple):
    name: str
    size: int
    rate: float | None
    frozen: bool


TABLE = Table([Row("a/kernel", 12345, 0.5, False), Row("b", 7, None, True)], None, ["b <is> frozen"], ["a & b"])

PRINTED = """\
name        size  rate  frozen
--------  ------  ----  ------
a/kernel  12,345   0.5  no
b              7        yes
warning: b <is> frozen
note: a & b"""


def test_it_prints_aligned_text():
    assert repr(TABLE) == str(TABLE) == PRINTED


def test_it_is_a_value():
    again = Table(TABLE.rows, TABLE.columns, TABLE.warnings, TABLE.notes)
    assert again == TABLE and hash(again) == hash(TABLE)
    assert Table(TABLE.rows, TABLE.columns, TABLE.warnings) != TABLE != Table(TABLE.rows)
    with pytest.raises(AttributeError):
        TABLE.rows = ()  # type: ignore[misc]


def test_columns_rows_and_cells():
    assert TABLE.columns == Row._fields
    assert TABLE["size"] == [12345, 7]
    assert list(TABLE) == list(TABLE.rows) and len(TABLE) == 2
    with pytest.raises(KeyError, match=r"gdjax.Table: no column 'sizes'; there are name, size"):
        TABLE["sizes"]


def test_html_escapes():
    shown = TABLE._repr_html_()
    assert shown.count("<tr>") == 3 and "<th>frozen</th>" in shown and "<td>12,345</td>" in shown
    assert "b &lt;is&gt; frozen" in shown and "<p>note: a &amp; b</p>" in shown and "<is>" not in shown
    assert "<td>&lt;b&gt;</td>" in Table([{"name": "<b>"}])._repr_html_()


def test_rows_may_be_dicts():
    table = Table([{"rate": 1e-3, "loss": 0.25}, {"rate": 1e-2}], ["rate", "loss"])
    assert table["loss"] == [0.25, None]
    assert repr(table).splitlines()[2:] == ["0.001  0.25", " 0.01"]


def test_numbers_of_numpy_are_numbers():
    table = Table([{"loss": np.float32(0.1), "step": np.int32(2000), "ok": np.bool_(True)}])
    assert repr(table).splitlines()[2].split() == ["0.1", "2,000", "yes"]


def test_no_rows():
    assert repr(Table([], ["path"])) == "path\n----"
    assert len(Table([])) == 0 and repr(Table([])) == "\n"


def test_errors():
    with pytest.raises(TypeError, match="row 1 is 3, neither a NamedTuple nor a dict"):
        Table([{"a": 1}, 3])
    with pytest.raises(ValueError, match=r"row 1 has \['b'\], but the columns are \['a'\]"):
        Table([{"a": 1}, {"b": 2}])
