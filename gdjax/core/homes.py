"""Owner devices: one device of a mesh computes each matrix of a stack; the matrix goes there, its result comes back.

Otherwise every product inside a polar factor, say, would exchange the matrix. The step around the optimizer decides
this, while it is traced and for its own thread only.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_MESH: ContextVar[Any] = ContextVar("gdjax.homes", default=None)


@contextlib.contextmanager
def owned_by(mesh: Any) -> Iterator[None]:
    """Functions traced in this context compute each matrix of a stack on its owner device of the mesh."""
    before = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(before)


def mesh() -> Any:
    """The mesh whose devices own the matrices of stacks; None for none."""
    return _MESH.get()
