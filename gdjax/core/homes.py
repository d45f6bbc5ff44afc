"""Homes: each matrix of a stack is computed on one device of a mesh, where it goes and whence its result comes back.

What a method computes of a whole matrix, a polar factor say, would else be exchanged in every product. This is decided
by the step around the optimizer, for as long as it is traced.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

_HOMES: list[Any] = []  # of the trace that runs; the innermost last


@contextlib.contextmanager
def of(mesh: Any) -> Iterator[None]:
    """While a function is traced here, each matrix of a stack is computed on one device of the mesh."""
    _HOMES.append(mesh)
    try:
        yield
    finally:
        _HOMES.pop()


def mesh() -> Any:
    """The mesh over whose devices stacks of matrices are divided; None for none."""
    return _HOMES[-1] if _HOMES else None
