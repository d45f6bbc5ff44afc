"""Documentation for each field of a result, as `help` shows it."""

import inspect
import re
from typing import TypeVar

T = TypeVar("T", bound=type)


def with_field_docs(kind: T) -> T:
    """Gives each field of a NamedTuple its text from `Attributes:` in the docstring of the class.

    Without this `help` says "Alias for field number 0".
    """
    docs = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    section = re.match(r"(?:  .*\n?)*", docs)
    for name, text in re.findall(r"^  (\w+): ((?:.+\n?)(?:    .*\n?)*)", section[0] if section else "", re.MULTILINE):
        getattr(kind, name).__doc__ = " ".join(text.split())
    return kind
