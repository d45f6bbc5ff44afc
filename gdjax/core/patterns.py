"""Patterns of paths: regular expressions, or predicates of a path and its leaf."""

import re
from collections.abc import Iterable
from typing import Any


def check(label: str, patterns: Iterable[Any], functions: bool = True) -> None:
    """Raises unless each pattern is a regular expression, or where `functions` are allowed a function.

    Raises:
      ValueError: a text is no regular expression.
      TypeError: a pattern is neither text nor a function.
    """
    for pattern in patterns:
        if isinstance(pattern, str):
            try:
                re.compile(pattern)
            except re.error as e:
                glob = "; for any text write '.*', not '*'" if re.search(r"(^|[^.\])])\*", pattern) else ""
                raise ValueError(f"{label}: the pattern {pattern!r} is no regular expression: {e}{glob}") from None
        elif not (isinstance(pattern, re.Pattern) or functions and callable(pattern)):
            either = "neither a regular expression nor a function of (path, leaf)"
            raise TypeError(f"{label}: {pattern!r} is {either if functions else 'no regular expression'}")
