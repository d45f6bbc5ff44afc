"""Where something that both branches of a condition begin with is computed."""

from collections.abc import Callable
from typing import Any

import jax

from gdjax.core import meshes


def before(f: Callable[..., Any], x: Any, *others: Any) -> Any:
    """`f(x, *others)` where it is better computed before a condition, and x where `within` computes it.

    A GPU or a TPU computes it in the loops of each branch, and does not write it to memory. XLA:CPU does not write a
    result of a branch over what the branch has read in several loops.
    """
    axes = meshes.axes_of_results((f,), x, *others)  # both results are of one type
    made = lambda x, *others: meshes.varying(f(x, *others), axes)  # noqa: E731
    return jax.lax.platform_dependent(x, *others, cpu=made, default=lambda x, *others: meshes.varying(x, axes))


def within(f: Callable[..., Any], x: Any, *others: Any) -> Any:
    """`f(x, *others)`, of an x that comes from `before`."""
    axes = meshes.axes_of_results((f,), x, *others)
    made = lambda x, *others: meshes.varying(f(x, *others), axes)  # noqa: E731
    return jax.lax.platform_dependent(x, *others, cpu=lambda x, *others: meshes.varying(x, axes), default=made)
