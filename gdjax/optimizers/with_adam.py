"""Optimizers of a direction for the hidden matrices and AdamW for the rest."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gdjax.combine.routed import routed
from gdjax.core import base
from gdjax.core.base import GradientTransformation
from gdjax.core.per_leaf import PerLeaf
from gdjax.matrices.roles import routing
from gdjax.optimizers.adam import adamw
from gdjax.transforms.decay import descending


def taking(factory: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """The result of a factory, called with those arguments that it has."""
    names = inspect.signature(factory).parameters
    return factory(**{name: x for name, x in given.items() if name in names})


def with_adam(
    label: str, scale_by: Callable[..., Any], given: Mapping[str, Any], adams_rates: bool = True
) -> GradientTransformation:
    """A direction, a decay and a rate for what is a matrix by `roles`; `others`, or AdamW, for what is not.

    Args:
      label: the name in errors, of the direction's too.
      scale_by: the factory of the direction.
      given: the arguments of the optimizer by their names: those of `scale_by`, and those that are read here.
      adams_rates: the rates of the matrices are right for AdamW too.
    """
    roles = routing(given["roles"])
    learning_rate, rate, others = given["learning_rate"], given["adam_learning_rate"], given["others"]
    direction = base.part_of(taking(scale_by, {**given, "roles": roles})).labelled(label)
    matrices = descending(direction, learning_rate, given["weight_decay"], given["weight_decay_mask"])
    own_rate = rate is not None or others is not None
    if others is not None:
        others = base.check_transform(label, "others", others)
    else:
        others = adamw(
            learning_rate if rate is None else rate, given["adam_b1"], given["adam_b2"], given["adam_eps"],
            mu_dtype=given["mu_dtype"], weight_decay=given["adam_weight_decay"],
        )  # fmt: skip
    adams_rates = adams_rates or isinstance(learning_rate, PerLeaf)
    groups = {"matrix": matrices, "other": others}
    return routed(label, groups, roles, adams_rates=adams_rates, own_rate=own_rate)
