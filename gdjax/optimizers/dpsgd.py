"""Differentially private gradient descent."""

from typing import Annotated

from gdjax.combine.chain import chain
from gdjax.core import arrays
from gdjax.core.base import GradientTransformation, identity, transform
from gdjax.core.number_domains import SIZE
from gdjax.core.types import KeyLike, Rate, Scalar, Seed, Share
from gdjax.transforms.momentum import trace
from gdjax.transforms.noise import differentially_private_aggregate
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = ["dpsgd"]


@transform
def dpsgd(
    learning_rate: Rate, l2_norm_clip: Annotated[Scalar, SIZE], noise_multiplier: Annotated[Scalar, SIZE],
    key: KeyLike | None = None, momentum: Share | None = None, nesterov: bool = False,
    *, seed: Seed | None = None,
) -> GradientTransformation:  # fmt: skip
    """DP-SGD: gradient descent on a mean of clipped gradients of single examples, with Gaussian noise.

        u_t = (sum_i g_i min(1, C / |g_i|) + N(0, (C noise_multiplier)^2)) / B
        x_{t+1} = x_t - lr u_t

    `update` takes gradients with an axis 0 over the B examples, as `jax.vmap(jax.grad(loss), (None, 0))` makes them.

    Args:
      learning_rate: lr, a scalar or a schedule.
      l2_norm_clip: C, the bound on the norm of one example's gradient; finite and at least 0.
      noise_multiplier: the noise's standard deviation over C; finite and at least 0.
      key: a PRNG key, or an int to seed one.
      momentum: in [0, 1]: the step is v_{t+1} = momentum v_t + u_t; None for none.
      nesterov: the step is u_t + momentum v_{t+1}, which looks one step ahead.
      seed: the name of `key` in Optax 0.2.8.

    Raises:
      ValueError: no key, or both names for it; nesterov without momentum.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda w, x: jnp.sum((w - x) ** 2)
      >>> w, batch = jnp.zeros(2), jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
      >>> grads = jax.vmap(jax.grad(loss), (None, 0))(w, batch)  # of each example: (3, 2)
      >>> tx = gdjax.dpsgd(0.1, l2_norm_clip=1.0, noise_multiplier=1.1, key=0)
      >>> updates, state = tx.update(grads, tx.init(w), w)
      >>> updates.shape
      (2,)

    Reference:
      Abadi et al. 2016, Deep learning with differential privacy, Algorithm 1, https://arxiv.org/abs/1607.00133
    """
    key = arrays.required_key("gdjax.dpsgd", key, seed)
    if nesterov and momentum is None:
        raise ValueError("gdjax.dpsgd: nesterov=True needs a momentum, got None")
    return chain(
        differentially_private_aggregate(l2_norm_clip, noise_multiplier, key),
        identity() if momentum is None else trace(momentum, nesterov),
        scale_by_learning_rate(learning_rate),
    )
