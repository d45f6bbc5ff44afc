"""Optimizers of which each role of leaf has its own transform."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from gdjax.combine.groups import Labels, grouped
from gdjax.core import callers
from gdjax.core.base import GradientTransformation
from gdjax.core.paths import is_masked
from gdjax.core.structures import few
from gdjax.core.types import ArrayTree, Params, Transform
from gdjax.linalg.matrices import Matrix, is_numbers
from gdjax.matrices.plan import MatrixPlan, plan_of
from gdjax.matrices.roles import ByRole

_RATE = "the learning rate of the matrices"


class Slip(NamedTuple):
    """Leaves whose routing is probably not meant."""

    leaves: Mapping[int, str]  # by place, how the sentence calls it
    sentence: str  # with {} for the leaves
    remedy: str
    told_by: str  # "init", which warns, "explain" or "both"

    def text(self, places: Any) -> str:
        """The sentence about those of its leaves that are in `places`; "" if none is."""
        names = [name for i, name in self.leaves.items() if i in places]
        return self.sentence.format(few(names, 4)) if names else ""


@dataclass(frozen=True)
class Routes(Labels):
    """The labels of `routed`: a function from a tree to the key of the group of each leaf."""

    label: str
    groups: tuple[str, ...]
    numbers: Any
    matrices: str
    argument: str
    adams_rates: bool
    own_rate: bool

    def __call__(self, tree: ArrayTree) -> Any:
        names, rest = {"matrix": self.matrices}, self.groups[-1]
        plan = self.plan(tree, quiet=True)  # `init` asks for labels and warnings both, `update` for labels alone
        found = [names.get(leaf.role, leaf.role) for leaf in plan.leaves]
        return jax.tree.structure(tree).unflatten([name if name in self.groups else rest for name in found])

    def plan(self, tree: ArrayTree, quiet: bool = False) -> MatrixPlan:
        return plan_of(self.label, tree, self.numbers, quiet=quiet, argument=self.argument)

    def warn(self, params: Params) -> None:
        """Warns of leaves in the wrong group, at a rate that is not for them, or of unknown axes in a group of them."""
        slips = [slip for slip in self.slips(params) if slip.leaves and slip.told_by != "explain"]
        if slips:
            texts = "; ".join(slip.text(slip.leaves) for slip in slips)
            callers.warn(f"{self.label}: {texts}. {slips[0].remedy}")
        if isinstance(self.numbers, ByRole) and is_masked(params):  # of a whole tree `plan` warns
            for text in self.numbers.notes(params):
                callers.warn(f"{self.label}: {text}")

    def slips(self, tree: ArrayTree) -> Iterator[Slip]:
        """Leaves that are routed as something else than what they look like, or to an Adam with the matrices' rate.

        Roles and dimension numbers of the user are meant as they are, but for one `Matrix` for all leaves of a method
        whose rates are not Adam's. Leaves of fewer than two axes do not count.
        """
        route = self.numbers if isinstance(self.numbers, ByRole) else ByRole()
        told = self.numbers is not None and (self.adams_rates or not is_numbers(self.numbers))
        left, taken, others = dict[int, str](), dict[int, str](), dict[int, str]()
        for i, (read, leaf) in enumerate(zip(route.read(tree), self.plan(tree).leaves, strict=True)):
            look = "matrix" if isinstance(read.role, Matrix) else read.role
            if len(leaf.shape) < 2 or look == "other":
                continue
            if leaf.is_matrix:
                if look != "matrix" and not told:
                    taken[i] = f"{read.path} ({look})"
            elif look == "matrix" and not told:
                left[i] = read.path
            elif look in ("matrix", "embedding", "head"):
                others[i] = f"{read.path} ({look})"
        roles = f"{self.argument}=gdjax.matrices_by_role()"
        if is_masked(tree):  # the roles of a group alone cannot find a head by the shape of an embedding outside it
            roles = f"Do both: make the groups with gdjax.label_by_role(), and pass {roles}"
        else:
            roles = f"Pass {roles}" + ("" if self.own_rate else " and adam_learning_rate")
        at = "" if self.own_rate else f" at {_RATE}"
        several = f"its Adam trains these leaves{at}, and they look like hidden matrices of more than two axes: {{}}"
        yield Slip(left, several, roles, "explain" if self.own_rate else "both")
        first = dict(sorted(taken.items(), key=lambda x: not x[1].endswith(("(embedding)", "(head)"))))
        # `explain` has another sentence for these, one for each leaf: any rule takes matrices, not only such a method.
        hidden = "it trains these leaves as hidden matrices, and they look like something else: {}"
        yield Slip(first, hidden, roles, "init")
        if not (self.own_rate or self.adams_rates):
            rates = f"its Adam trains these leaves at {_RATE}, which is too large for Adam: {{}}"
            yield Slip(others, rates, "Pass adam_learning_rate", "both")


def routed(
    label: str, groups: Mapping[str, Transform], numbers: Any, matrices: str = "matrix", *, argument: str = "roles",
    adams_rates: bool = True, own_rate: bool = True,
) -> GradientTransformation:  # fmt: skip
    """A transform for the matrices, and one for the rest.

    Args:
      label: what errors begin with.
      groups: from a role, as "embedding", to the transform of its leaves. Those of all other roles get the last one.
      numbers: as in `plan_of`.
      matrices: the key of the matrices.
      argument: the name under which the user gives `numbers`.
      adams_rates: whether the rates that the method takes are right for Adam too, or the user gave each leaf its own.
      own_rate: whether the user gave the rest a rate of its own.

    Warns:
      UserWarning: (in init) leaves at a rate that is not for them, see `Routes.slips`.
    """
    return grouped(label, groups, Routes(label, tuple(groups), numbers, matrices, argument, adams_rates, own_rate))
