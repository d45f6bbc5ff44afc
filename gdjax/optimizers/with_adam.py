"""Optimizers of a direction for the hidden matrices and AdamW for the rest."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gdjax.combine.chain import chain
from gdjax.combine.routed import routed
from gdjax.core import base
from gdjax.core.base import GradientTransformation
from gdjax.core.per_leaf import PerLeaf
from gdjax.core.types import Mask
from gdjax.matrices.roles import routing
from gdjax.optimizers.adam import adamw
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate


def taking(factory: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """The result of a factory, called with those arguments that it has."""
    names = inspect.signature(factory).parameters
    return factory(**{name: x for name, x in given.items() if name in names})


def beside_adam(
    label: str, scale_by: Callable[..., Any], given: Mapping[str, Any], adams_rates: bool = True
) -> GradientTransformation:
    """The optimizer of a direction for the matrices, with AdamW for the rest.

    Args:
      label: its name in errors.
      scale_by: the factory of the direction.
      given: the arguments of the optimizer, by their names: those of `scale_by` and of `with_adam`.
      adams_rates: the rates of the matrices are right for AdamW too.
    """
    given = {**given, "roles": routing(given["roles"])}
    direction = taking(scale_by, given)
    return taking(with_adam, {**given, "label": label, "direction": direction, "numbers": given["roles"],
                              "adams_rates": adams_rates})  # fmt: skip


def with_adam(
    label: str, direction: Any, learning_rate: Any, numbers: Any, weight_decay: Any, weight_decay_mask: Mask,
    adam_learning_rate: Any, adam_b1: Any, adam_b2: Any, adam_eps: Any, adam_weight_decay: Any, mu_dtype: Any,
    others: Any, adams_rates: bool = True,
) -> GradientTransformation:  # fmt: skip
    """The direction, the decay and the rate for what is a matrix by `numbers`; `others`, or AdamW, for what is not.

    The direction then reports errors as `label`. `adams_rates`: its rates are right for AdamW too.
    """
    direction = (base.part_of(direction) or direction).labelled(label)
    matrices = chain(
        direction, add_decayed_weights(weight_decay, weight_decay_mask), scale_by_learning_rate(learning_rate)
    )
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    own_rate = adam_learning_rate is not None or others is not None
    if others is not None:
        others = base.check_transform(label, "others", others)
    else:
        others = adamw(rate, adam_b1, adam_b2, adam_eps, mu_dtype=mu_dtype, weight_decay=adam_weight_decay)
    groups = {"matrix": matrices, "other": others}
    adams_rates = adams_rates or isinstance(learning_rate, PerLeaf)
    return routed(label, groups, numbers, adams_rates=adams_rates, own_rate=own_rate)
