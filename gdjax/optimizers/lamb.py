"""LAMB."""

from gdjax.combine.chain import chain
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, LayerAxes, Mask, Rate, Size, Squares
from gdjax.optimizers.adam import scale_by_adam
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.transforms.trust_ratio import scale_by_trust_ratio

__all__ = ["lamb"]


@transform
def lamb(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-6, eps_root: Size = 0.0,
    weight_decay: Size = 0.0, mask: Mask = None,
    *, layer_axes: LayerAxes = None,
) -> GradientTransformation:  # fmt: skip
    """LAMB: AdamW whose update is scaled to the norm of its layer (leaf), for large batches.

        r_t = mu_hat_t / (sqrt(nu_hat_t + eps_root) + eps) + weight_decay x_t
        x_{t+1} = x_t - lr (|x_t| / |r_t|) r_t

    with the factor 1 where a norm is 0, as `scale_by_trust_ratio` has it.

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1, b2: decay of the first and second moment, in [0, 1).
      eps, eps_root: outside and inside the root, at least 0.
      weight_decay: inside the norm, at least 0. A scalar or a schedule.
      mask: which leaves decay: a tree of booleans, a prefix of the parameters, or a function from them to one; None for
        all. All are scaled by their norms.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    Departure: the reference lets |x_t| count for no more than a bound phi, which its experiments use in one form or
    another; here phi is the identity.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jnp.array([3.0, 4.0]), "b": jnp.array([0.6, 0.8])}  # of norms 5, 1
      >>> g = {"w": jnp.array([1.0, 1.0]), "b": jnp.array([9.0, 9.0])}
      >>> tx = gdjax.lamb(0.01)
      >>> updates, state = tx.update(g, tx.init(params), params)
      >>> jax.tree.map(lambda u: int((1e3 * jnp.linalg.norm(u)).round()), updates)
      {'b': 10, 'w': 50}

    Reference:
      You et al. 2020, Large batch optimization for deep learning: training BERT in 76 minutes, Algorithm 2,
      https://arxiv.org/abs/1904.00962
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(layer_axes=layer_axes),
        scale_by_learning_rate(learning_rate),
    )
