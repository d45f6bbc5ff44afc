"""Optimizers of a direction for the hidden matrices and AdamW for the rest."""

from gdjax.combine.groups import routed
from gdjax.core import base
from gdjax.core.base import GradientTransformation
from gdjax.core.types import DType, Mask, PerLeaf, Roles, ScalarOrSchedule, Transform
from gdjax.leaf_roles.plan import routing
from gdjax.optimizers.adam import adamw
from gdjax.transforms.decay import descending


def with_adam(
    label: str, direction: GradientTransformation, learning_rate: ScalarOrSchedule, weight_decay: ScalarOrSchedule,
    weight_decay_mask: Mask, roles: Roles, others: Transform | None, adam_learning_rate: ScalarOrSchedule | None,
    mu_dtype: DType | None = None,
    *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, adams_rates: bool = True,
) -> GradientTransformation:  # fmt: skip
    """A direction, a decay and a rate for what is a matrix by `roles`; `others`, or AdamW, for what is not.

    Args:
      label: the name in errors, of the direction's too.
      b1, b2, eps: AdamW's.
      adams_rates: the rates of the matrices are right for AdamW too.
    """
    matrices = descending(base.part_of(direction).labelled(label), learning_rate, weight_decay, weight_decay_mask)
    return beside_adam(
        label, matrices, learning_rate, roles, others, adam_learning_rate, mu_dtype, b1=b1, b2=b2, eps=eps,
        adams_rates=adams_rates,
    )  # fmt: skip


def beside_adam(
    label: str, matrices: GradientTransformation, learning_rate: ScalarOrSchedule, roles: Roles,
    others: Transform | None, adam_learning_rate: ScalarOrSchedule | None, mu_dtype: DType | None = None,
    *, b1: ScalarOrSchedule = 0.9, b2: ScalarOrSchedule = 0.999, eps: ScalarOrSchedule = 1e-8,
    adams_rates: bool = True,
) -> GradientTransformation:  # fmt: skip
    """An optimizer for what is a matrix by `roles`; `others`, or AdamW, for what is not."""
    own_rate = adam_learning_rate is not None or others is not None
    if others is not None:
        others = base.check_transform(label, "others", others)
    else:
        rate = learning_rate if adam_learning_rate is None else adam_learning_rate
        others = adamw(rate, b1, b2, eps, mu_dtype=mu_dtype, weight_decay=0.0)
    adams_rates = adams_rates or isinstance(learning_rate, PerLeaf)
    groups = {"matrix": matrices, "other": others}
    return routed(label, groups, routing(roles), adams_rates=adams_rates, own_rate=own_rate)
