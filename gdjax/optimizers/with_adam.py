"""Optimizers of a direction for the hidden matrices and AdamW for the rest."""

from typing import Any

from gdjax.combine.chain import chain
from gdjax.combine.routed import routed
from gdjax.core import base
from gdjax.core.base import GradientTransformation
from gdjax.core.per_leaf import PerLeaf
from gdjax.core.types import DType, Mask, ScalarOrSchedule, Transform
from gdjax.optimizers.adam import adamw
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate


def with_adam(
    label: str, direction: Any, learning_rate: ScalarOrSchedule, numbers: Any, weight_decay: ScalarOrSchedule,
    weight_decay_mask: Mask, adam_learning_rate: ScalarOrSchedule | None, adam_b1: ScalarOrSchedule,
    adam_b2: ScalarOrSchedule, adam_eps: ScalarOrSchedule, adam_weight_decay: ScalarOrSchedule, mu_dtype: DType | None,
    others: Transform | None, adams_rates: bool = True,
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
