"""Weight decay."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.combine.masking import mask_of, masked
from gdjax.core.base import EmptyState, GradientTransformation, transform
from gdjax.core.per_leaf import per_leaf
from gdjax.core.types import Mask, Params, ScalarOrSchedule, Transform
from gdjax.lift.leafwise import Hyper, leafwise
from gdjax.numerics import Array
from gdjax.transforms.scaling import scale_by_learning_rate


class WeightDecaySchedule(NamedTuple):
    """State of `add_decayed_weights` with a scheduled decay."""

    count: Array  # () int32, updates made so far


@leafwise(scheduled=WeightDecaySchedule)
def _decay(g: Array, s: EmptyState, p: Array, t: Array, weight_decay: Hyper) -> tuple[Array, EmptyState]:
    return decayed(g, p, weight_decay), s


@leafwise(scheduled=WeightDecaySchedule)
def _cautious_decay(g: Array, s: EmptyState, p: Array, t: Array, weight_decay: Hyper) -> tuple[Array, EmptyState]:
    agrees = jnp.real(jnp.conj(g) * p) if jnp.iscomplexobj(g) else g * p
    return g + weight_decay * jnp.where(agrees < 0, 0, p), s


def decayed(g: Array, p: Array, weight_decay: Hyper) -> Array:
    """g + weight_decay p; for a constant 0 it is g, and p is not read, finite or not."""
    return g if isinstance(weight_decay, int | float) and weight_decay == 0 else g + weight_decay * p


def of_some(label: str, weight_decay: ScalarOrSchedule, mask: Mask, name: str = "weight_decay_mask") -> Any:
    """The weight decay of a rule that has decay among its arguments: 0 for the leaves that the mask, `name`, hides."""
    return weight_decay if mask is None else per_leaf(weight_decay, functools.partial(_factors, label, name, mask))


def _factors(label: str, name: str, mask: Mask, params: Params) -> Any:
    return jax.tree.map(float, mask_of(label, mask, params, name))


@transform
def add_decayed_weights(weight_decay: ScalarOrSchedule = 0.0, mask: Mask = None, *, cautious: bool = False) -> Any:
    """Adds the parameters times a rate to the updates.

        u = g + weight_decay p

    After an adaptive direction and before the learning rate this is decoupled decay (AdamW); before the direction it is
    the gradient of an L2 penalty of weight_decay / 2 |p|^2.

    Args:
      weight_decay: the rate, at least 0, or a schedule.
      mask: which leaves decay, all by default: a tree of booleans shaped like the parameters or a prefix of it, or a
        function from the parameters to one.
      cautious: only the elements decay that the step itself moves towards 0, or not at all: those with g p >= 0. The
        decay then does not pull against the gradient. Here g is still to be multiplied by a negative rate.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> decay = gdjax.add_decayed_weights(0.25, mask={"w": True, "b": False})
      >>> params = {"w": jnp.array([2.0]), "b": jnp.array([2.0])}
      >>> g = {"w": jnp.array([1.0]), "b": jnp.array([1.0])}
      >>> u, _ = decay.update(g, decay.init(params), params)
      >>> print(u["w"], u["b"])
      [1.5] [1.]
      >>> adamw = gdjax.chain(gdjax.scale_by_adam(), decay, gdjax.scale_by_learning_rate(0.1))

    Reference:
      Loshchilov & Hutter 2019, Decoupled weight decay regularization, https://arxiv.org/abs/1711.05101;
      Chen et al. 2025, Cautious weight decay, Algorithm 1, https://arxiv.org/abs/2510.12402 (`cautious`)
    """
    rule = (_cautious_decay if cautious else _decay)(weight_decay)
    return rule if mask is None else masked(rule, mask)


def descending(
    direction: Transform,
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule | None = None,
    mask: Mask = None,
) -> GradientTransformation:
    """A direction, decoupled decay where there is one, and the step against both."""
    decay = () if weight_decay is None else (add_decayed_weights(weight_decay, mask),)
    return chain(direction, *decay, scale_by_learning_rate(learning_rate))
