"""Optimizers of which each role of leaf has its own transform."""

from collections.abc import Mapping
from typing import Any

import jax

from gdjax.combine.groups import grouped
from gdjax.core.base import GradientTransformation
from gdjax.core.types import Transform
from gdjax.linalg.plan import plan_of


def routed(
    label: str, groups: Mapping[str, Transform], numbers: Any, matrices: str = "matrix"
) -> GradientTransformation:
    """A transform for the matrices, and one for the rest.

    Args:
      label: what errors begin with.
      groups: from a role, as "embedding", to the transform of its leaves. Those of all other roles get the last one.
      numbers: as in `plan_of`.
      matrices: the key of the matrices.
    """
    names = {"matrix": matrices}
    rest = list(groups)[-1]

    def labels(params: Any) -> Any:
        found = [names.get(leaf.role, leaf.role) for leaf in plan_of(label, params, numbers).leaves]
        return jax.tree.structure(params).unflatten([name if name in groups else rest for name in found])

    return grouped(label, groups, labels)
