"""Where to compute a value that both branches of a condition need first."""

from collections.abc import Callable
from typing import Any

import jax

from gdjax.core import meshes


def before(f: Callable[..., Any], x: Any, *others: Any) -> Any:
    """`f(x, *others)` if it is better computed before a condition; x if `within` is to compute it.

    A GPU or a TPU computes it in the loops of each branch, and does not write it to memory. XLA:CPU cannot write a
    result of a branch over an input that several loops of the branch read.
    """
    axes = meshes.axes_of_results((f,), x, *others)  # both results are of one type
    made = lambda x, *others: meshes.varying(f(x, *others), axes)  # noqa: E731
    return jax.lax.platform_dependent(x, *others, cpu=made, default=lambda x, *others: meshes.varying(x, axes))


def within(f: Callable[..., Any], x: Any, *others: Any) -> Any:
    """`f(x, *others)`, for an x from `before`."""
    axes = meshes.axes_of_results((f,), x, *others)
    made = lambda x, *others: meshes.varying(f(x, *others), axes)  # noqa: E731
    return jax.lax.platform_dependent(x, *others, cpu=lambda x, *others: meshes.varying(x, axes), default=made)
