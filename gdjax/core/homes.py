"""Owner devices: one device of a mesh computes each matrix of a stack; the matrix goes there, its result comes back.

Otherwise every product inside a polar factor, say, would exchange the matrix. The step around the optimizer decides
this, while it is traced and for its own thread only.
"""

from contextlib import AbstractContextManager
from typing import Any

from gdjax.core.contexts import WHERE, within


def owned_by(mesh: Any) -> AbstractContextManager[None]:
    """While a function is traced here, each matrix of a stack is computed on one device of the mesh."""
    return within(WHERE, mesh=mesh)


def mesh() -> Any:
    """The mesh over whose devices stacks of matrices are divided; None for none."""
    return WHERE.get().mesh
