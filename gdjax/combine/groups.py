"""Groups of leaves, each with its transform."""

import functools
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
from jax.tree_util import DictKey, GetAttrKey

from gdjax.combine.chain import leaf_rules
from gdjax.combine.masking import MaskedState, check_prefix, hide, is_whole, mask_of, masked_update
from gdjax.core import base, callers, checks
from gdjax.core.base import GradientTransformation, set_to_zero, transform
from gdjax.core.number_domains import Check
from gdjax.core.part import Inside
from gdjax.core.parts import holding
from gdjax.core.paths import is_masked, paths_of
from gdjax.core.structures import few
from gdjax.core.types import ArrayTree, Mask, OptState, Params, Transform, Updates
from gdjax.leaf_roles.plan import ByRole, MatrixPlan, plan_of
from gdjax.lift.rule import Leafwise
from gdjax.linalg.matrices import is_numbers

__all__ = ["MultiTransformState", "PartitionState", "multi_transform", "partition", "selective_transform"]


class PartitionState(NamedTuple):
    """State of `partition`."""

    inner_states: Mapping[Hashable, Any]  # label -> MaskedState


MultiTransformState = PartitionState


CLIPS_ALONE = (
    "it takes the norm of that group alone; for the norm of all leaves put it before, in a chain; where each group is "
    "to have its own, say so by its argument groups"
)


class Labels:
    """A function that returns labels, and that `init` asks whether it has to warn of something."""

    def warn(self, params: Params) -> None:
        raise NotImplementedError


@transform
def partition(
    transforms: Annotated[Mapping[Any, Transform], Check("mapping")], param_labels: Any,
    *, mask_compatible_extra_args: bool = False,
) -> GradientTransformation:  # fmt: skip
    """Applies to each group of leaves its own transform.

    A transform sees the leaves of its own group only: the norm that `clip_by_global_norm` takes inside a group is that
    group's; for the norm of all leaves the clipping stands before the partition, in a chain. Leaves whose transform is
    `set_to_zero()` are frozen and keep no state. A line search of a group gets its part of `grad`, and `value_fn` as a
    function of its part of the parameters: the value falls along its step if the others stay as they are.

    Args:
      transforms: from label to transform.
      param_labels: a tree of labels shaped like the parameters or a prefix of it, or a function from the parameters to
        one, such as `label_by_path({...})`.
      mask_compatible_extra_args: also split the extra arguments whose tree has the structure of the updates.

    Raises:
      ValueError: leaves have a label without a transform; the message lists them. The labels are not a prefix.
      TypeError: the labels are None, or the function returned None.

    Warns:
      UserWarning: (in init) a group has no leaves, and the labels are a tree; one of several groups that are trained
        has a `clip_by_global_norm` beside other steps, without its argument `groups`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones(2), "body": jnp.ones(2), "head": jnp.ones(2)}
      >>> labels = gdjax.label_by_path({"head": "fast", "embed": "none", ".*": "slow"})
      >>> txs = {"slow": gdjax.sgd(0.5), "fast": gdjax.sgd(1.0), "none": gdjax.set_to_zero()}
      >>> tx = gdjax.partition(txs, labels)
      >>> u, _ = tx.update(params, tx.init(params), params)
      >>> print(u["embed"], u["body"], u["head"])
      [0. 0.] [-0.5 -0.5] [-1. -1.]
    """
    return grouped("gdjax.partition", transforms, param_labels, mask_compatible_extra_args)


@transform
def grouped(
    label: str, transforms: Mapping[Any, Transform], param_labels: Any, mask_compatible_extra_args: bool = False
) -> GradientTransformation:
    """`partition`, whose errors begin with `label`; only `partition` itself warns of groups without leaves."""
    for key, tx in transforms.items():
        base.check_transform(label, repr(key), tx)
    if param_labels is None:
        raise TypeError(f"{label}: param_labels is None, not a tree of labels or a function that returns one")
    groups = Groups(label, transforms, param_labels)
    if not checks.is_function(param_labels):
        groups.check(param_labels)
    dict_of = _dict_of(transforms)

    def init(params: Params) -> PartitionState:
        masks = groups.masks(params)
        groups.warn(params, masks)
        states = ((key, MaskedState(tx.init(hide(masks[key], params)))) for key, tx in transforms.items())
        return PartitionState(dict_of(states))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, PartitionState]:
        checks.state(label, state, PartitionState)
        # For routes also each leaf, before one that is no array counts as no matrix.
        (checks.gradients if isinstance(param_labels, Routes) else checks.alike)(label, updates, params)
        masks, states = groups.masks(updates), {}
        for key, tx in transforms.items():
            old = state.inner_states[key]
            updates, states[key] = masked_update(
                label, tx, masks[key], updates, old, params, extra_args, mask_compatible_extra_args
            )
        return updates, PartitionState(dict_of(states.items()))

    def inside(key: Any) -> Inside:
        path = GetAttrKey("inner_states"), DictKey(key), GetAttrKey("inner_state")
        return Inside(transforms[key], path, (str(key),), lambda tree: hide(groups.masks(tree)[key], tree))

    return holding(init, update, *map(inside, transforms))


@dataclass(frozen=True)
class Groups:
    """The groups that labels make of leaves, and the transform of each."""

    label: str  # what errors begin with
    transforms: Mapping[Any, Transform]
    labels: Any  # a tree of labels, or a function that returns one

    def check(self, labels: Any) -> None:
        known = lambda name: isinstance(name, Hashable) and name in self.transforms
        unknown = [f"{path}: {name!r}" for path, name in paths_of(labels) if not known(name)]
        if unknown:
            raise ValueError(f"{self.label}: no transform for {', '.join(unknown)}; there are {list(self.transforms)}")

    def masks(self, tree: ArrayTree) -> Mapping[Hashable, Any]:
        """For each group a tree of booleans, True for a leaf that is in it."""
        labels = self.labels
        if checks.is_function(labels):
            labels = callers.of_tree(self.label, "param_labels", labels, tree)
        checks.returned(self.label, "the labels' function", labels)
        check_prefix(self.label, "labels", labels, tree)
        self.check(labels)
        return {key: jax.tree.map(lambda name, key=key: name == key, labels) for key in self.transforms}

    def warn(self, params: Params, masks: Mapping[Hashable, Any]) -> None:
        """The warnings of `partition`, and those of the labels."""
        used = [key for key, mask in masks.items() if any(jax.tree.leaves(mask))]
        empty = [key for key in masks if key not in used]
        of_user = self.label == "gdjax.partition"
        # A function may serve many models, of which some lack a group: Levanter has such tables.
        if of_user and empty and not checks.is_function(self.labels) and is_whole(params):
            callers.warn(f"{self.label}: no leaf has the label {', '.join(map(repr, empty))}; used are {used}")
        if isinstance(self.labels, Labels):
            self.labels.warn(params)
        if of_user:
            _warn_of_clips(self.label, {key: self.transforms[key] for key in used})


multi_transform = partition


def clips_by_norm(rule: Leafwise | None) -> bool:
    """Whether a rule bounds the norm of all leaves that it sees, and is not told of groups."""
    return rule is not None and rule.settings.get("groups", 0) is None


def _warn_of_clips(label: str, groups: Mapping[Hashable, Transform]) -> None:
    """Warns of groups that are clipped by their own norms, where several groups are trained.

    A group of which the clip is all that is done is no mistake.
    """
    trained = {key: list(leaf_rules(tx)) for key, tx in groups.items() if tx != set_to_zero()}
    clips = {
        repr(key): rule.label.removeprefix("gdjax.")
        for key, rules in trained.items() if len(rules) > 1 for rule in rules if rule and clips_by_norm(rule)
    }  # fmt: skip
    if clips and len(trained) > 1:
        clip = " and ".join(dict.fromkeys(clips.values()))
        callers.warn(f"{label}: {clip} in the group {' and '.join(clips)}: {CLIPS_ALONE}")


@transform
def selective_transform(optimizer: Transform, *, freeze_mask: Mask) -> Any:
    """Applies `optimizer` where the mask is False; where it is True the update is zero and no state is kept.

    Args:
      optimizer: the transform of the leaves that are trained.
      freeze_mask: True for a leaf that is held fixed: a tree of booleans shaped like the parameters or a prefix of it,
        or a function from the parameters to one, such as `mask_by_path(...)`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
      >>> frozen = {"body": True, "head": False}
      >>> tx = gdjax.selective_transform(gdjax.adam(0.5), freeze_mask=frozen)
      >>> u, state = tx.update(params, tx.init(params))
      >>> print(u["body"], gdjax.state_bytes(tx, params))  # two moments of the head, a count
      [0. 0.] 20
    """
    labels = functools.partial(_frozen, freeze_mask)
    return grouped("gdjax.selective_transform", {"train": optimizer, "freeze": set_to_zero()}, labels)


def _frozen(freeze_mask: Mask, params: Params) -> Any:
    """The groups of `selective_transform`."""
    seen = mask_of("gdjax.selective_transform", freeze_mask, params, "freeze_mask")
    return jax.tree.map(lambda m: "freeze" if m else "train", seen)


def _dict_of(labels: Iterable[Any]) -> Any:
    """A dict; for labels that do not compare an OrderedDict, whose keys JAX does not sort."""
    try:
        sorted(labels)
    except TypeError:
        return OrderedDict
    return dict


_RATE = "the learning rate of the matrices"


class Slip(NamedTuple):
    """Leaves whose routing is probably not meant."""

    leaves: Mapping[int, str]  # by place, how the sentence calls it
    sentence: str  # with {} for the leaves
    remedy: str
    reported_by: str  # "init", which warns, "explain" or "both"

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
        labels = [names.get(leaf.role, leaf.role) for leaf in plan.leaves]
        return jax.tree.structure(tree).unflatten([label if label in self.groups else rest for label in labels])

    def plan(self, tree: ArrayTree, quiet: bool = False) -> MatrixPlan:
        return plan_of(self.label, tree, self.numbers, quiet=quiet, argument=self.argument)

    def warn(self, params: Params) -> None:
        """Warns of leaves in the wrong group, at a rate that is not for them, or of unknown axes in a group of them."""
        slips = [slip for slip in self.slips(params) if slip.leaves and slip.reported_by != "explain"]
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
        meant = self.numbers is not None and (self.adams_rates or not is_numbers(self.numbers))
        left_out, as_matrices, others = dict[int, str](), dict[int, str](), dict[int, str]()
        for i, (read, leaf) in enumerate(zip(route.read(tree), self.plan(tree).leaves, strict=True)):
            look = read.kind
            if len(leaf.shape) < 2 or look == "other":
                continue
            if leaf.is_matrix:
                if look != "matrix" and not meant:
                    as_matrices[i] = f"{read.path} ({look})"
            elif look == "matrix" and not meant:
                left_out[i] = read.path
            elif look in ("matrix", "embedding", "head"):
                others[i] = f"{read.path} ({look})"
        roles = f"{self.argument}=gdjax.matrices_by_role()"
        if is_masked(tree):  # the roles of a group alone cannot find a head by the shape of an embedding outside it
            roles = f"Do both: make the groups with gdjax.label_by_role(), and pass {roles}"
        else:
            roles = f"Pass {roles}" + ("" if self.own_rate else " and adam_learning_rate")
        at = "" if self.own_rate else f" at {_RATE}"
        several = f"its Adam trains these leaves{at}, and they look like hidden matrices of more than two axes: {{}}"
        yield Slip(left_out, several, roles, "explain" if self.own_rate else "both")
        first = dict(sorted(as_matrices.items(), key=lambda x: not x[1].endswith(("(embedding)", "(head)"))))
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
