"""Homes: each matrix of a stack is computed on one device of a mesh, where it goes and whence its result comes back.

What a method computes of a whole matrix, a polar factor say, would else be exchanged in every product. This is decided
by the step around the optimizer, for as long as it is traced, and in its own thread alone.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_MESH: ContextVar[Any] = ContextVar("gdjax.homes", default=None)


@contextlib.contextmanager
def of(mesh: Any) -> Iterator[None]:
    """While a function is traced here, each matrix of a stack is computed on one device of the mesh."""
    before = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(before)


def mesh() -> Any:
    """The mesh over whose devices stacks of matrices are divided; None for none."""
    return _MESH.get()
