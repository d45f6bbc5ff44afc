"""What each leaf of a tree of parameters is: a hidden matrix, an embedding, a head, a norm, a bias, a router."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from gdjax.linalg.matrices import Matrix, can_be_matrix

ROLES = "matrix embedding head norm bias router other".split()


@dataclass(frozen=True)
class ByRole:
    """Routing by role: a function from a tree to a tree of `Matrix`, and None for what is no hidden matrix."""

    overrides: tuple[tuple[Any, Any], ...] = ()  # (pattern of paths, role or `Matrix`), the first that matches wins

    def __call__(self, tree: Any) -> Any:
        found = [x if isinstance(x, Matrix) else None for x in self.roles("gdjax.matrices_by_role", tree)]
        return jax.tree.structure(tree).unflatten(found)

    def roles(self, label: str, tree: Any) -> list[Matrix | str]:
        """For each leaf how it is a matrix, or its role if it is none."""
        return [Matrix() if can_be_matrix(x) else "other" for x in jax.tree.leaves(tree)]


def matrices_by_role(overrides: Mapping[Any, Any] | None = None) -> ByRole:
    return ByRole(tuple((overrides or {}).items()))


def routing(roles: Any) -> Any:
    """The argument `roles` of an optimizer as the `numbers` of `plan_of`: None and a dict of patterns are by role."""
    return matrices_by_role(roles) if roles is None or isinstance(roles, Mapping) else roles
