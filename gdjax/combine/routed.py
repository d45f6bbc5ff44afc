"""Optimizers of which each role of leaf has its own transform."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from gdjax.combine.groups import grouped
from gdjax.core.base import GradientTransformation
from gdjax.core.types import Transform
from gdjax.linalg.plan import Plan, plan_of


@dataclass(frozen=True)
class Routes:
    """The labels of `routed`: a function from a tree to the key of the group of each leaf."""

    label: str
    groups: tuple[str, ...]
    numbers: Any
    matrices: str

    def __call__(self, tree: Any) -> Any:
        names, rest = {"matrix": self.matrices}, self.groups[-1]
        found = [names.get(leaf.role, leaf.role) for leaf in self.plan(tree).leaves]
        return jax.tree.structure(tree).unflatten([name if name in self.groups else rest for name in found])

    def plan(self, tree: Any) -> Plan:
        return plan_of(self.label, tree, self.numbers)


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
    return grouped(label, groups, Routes(label, tuple(groups), numbers, matrices))
