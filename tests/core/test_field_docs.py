"""Documentation of the fields of results."""

import pydoc
from typing import NamedTuple

import pytest

import gdjax
from gdjax.core.field_docs import with_field_docs
from gdjax.training import sweep

RESULTS = (
    gdjax.MinimizeResult, gdjax.SweepResult, gdjax.MigrationReport, gdjax.ZoomLinesearchInfo,
    gdjax.BacktrackingLinesearchInfo, type(gdjax.check_gradients(lambda x: x * x, 1.0)), sweep.Best,
)  # fmt: skip


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_help_says_what_the_fields_of_a_result_are(kind: type):
    told = {name: getattr(kind, name).__doc__ for name in kind._fields}
    assert not [name for name, text in told.items() if text.startswith("Alias for")]
    shown = " ".join(pydoc.plain(pydoc.render_doc(kind)).partition("Data descriptors defined here")[2].split())
    for text in told.values():
        assert text in " ".join(shown.replace(" | ", " ").split())


def test_field_docs_end_where_the_section_ends():
    @with_field_docs
    class Two(NamedTuple):
        """Numbers.

        Attributes:
          a: one,
            in two lines: of text.
          b: two.

        Raises:
          c: not a field.
        """

        a: int
        b: int

    assert (Two.a.__doc__, Two.b.__doc__) == ("one, in two lines: of text.", "two.")
