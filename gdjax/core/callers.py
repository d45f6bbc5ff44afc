"""Warnings that point to the user's line, from however deep in the library they come."""

import contextlib
import functools
import os
import sys
import warnings
from types import FrameType

import jax

# JAX lies in between while `init` is traced, the other two between a decorated function and its call.
_BETWEEN = (
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
    os.path.dirname(jax.__file__) + os.sep,
    contextlib.__file__,
    functools.__file__,
)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line that called the library: the nearest frame outside the library and JAX.

    No one `stacklevel` would do: it differs by the way in, through `chain`, `init` or a trace.
    """
    here = sys._getframe(1)
    at: FrameType | None = here
    while at is not None and at.f_code.co_filename.startswith(_BETWEEN):
        at = at.f_back
    at = at or here
    registry = at.f_globals.setdefault("__warningregistry__", {})  # shows a warning once for each line
    module = at.f_globals.get("__name__") or "<unknown>"
    warnings.warn_explicit(message, category, at.f_code.co_filename, at.f_lineno, module, registry)


def line(outside: str) -> str:
    """The nearest calling line outside a file: "clipping.py:84"."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == outside:
        frame = frame.f_back
    return "" if frame is None else f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
