"""LARS."""

from gdjax.combine.chain import chain
from gdjax.combine.masking import masked
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import LayerAxes, Mask, Rate, Share, Size
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.momentum import trace
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.transforms.trust_ratio import scale_by_trust_ratio

__all__ = ["lars"]


@transform
def lars(
    learning_rate: Rate, weight_decay: Size = 0.0, weight_decay_mask: Mask = True, trust_coefficient: Size = 0.001,
    eps: Size = 0.0, trust_ratio_mask: Mask = True, momentum: Share = 0.9, nesterov: bool = False,
    *, layer_axes: LayerAxes = None,
) -> GradientTransformation:  # fmt: skip
    """LARS: momentum of gradients that are scaled to the norms of their layers (leaves), for large batches.

        d_t = g_t + weight_decay x_t
        v_{t+1} = momentum v_t - lr trust_coefficient |x_t| / (|d_t| + eps) d_t
        x_{t+1} = x_t + v_{t+1}

    with the factor 1 where a norm is 0; see `scale_by_trust_ratio`.

    Args:
      learning_rate: lr, a scalar or a schedule.
      weight_decay: at least 0. A scalar or a schedule.
      weight_decay_mask: which leaves decay, commonly not biases and norms: a tree of booleans, a prefix of the
        parameters, or a function from them to one; True for all.
      trust_coefficient: the relative length of a step with lr = 1, at least 0.
      eps: at least 0.
      trust_ratio_mask: which leaves are scaled: a tree of booleans, a prefix of the parameters, or a function from them
        to one; True for all. For the others d_t stays as it is.
      momentum: in [0, 1]. The rate is inside it.
      nesterov: that momentum looks one step ahead.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    Departure: the reference has |g_t| + weight_decay |x_t| where |d_t| is here, as in Optax. Without weight decay they
    are the same.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.lars(1.0, trust_coefficient=0.001)
      >>> params = jnp.array([3.0, 4.0])  # of norm 5
      >>> updates, state = tx.update(jnp.array([60.0, 80.0]), tx.init(params), params)
      >>> print((1e4 * updates).round())  # 0.001 of that norm, whatever the gradient's
      [-30. -40.]

    Reference:
      You, Gitman & Ginsburg 2017, Large batch training of convolutional networks, Algorithm 1,
      https://arxiv.org/abs/1708.03888
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        masked(scale_by_trust_ratio(0.0, trust_coefficient, eps, layer_axes=layer_axes), trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )
