"""AdamC."""

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, DType, Mask, Positive, Rate, Size, Squares
from gdjax.optimizers.adam import adam
from gdjax.transforms.decay import decaying

__all__ = ["adamc"]


@transform
def adamc(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8, eps_root: Size = 0.0,
    mu_dtype: DType | None = None, weight_decay: Size = 1e-4, mask: Mask = None,
    *, peak_learning_rate: Positive | None = None, nesterov: bool = False, nu_dtype: DType | None = None,
) -> GradientTransformation:  # fmt: skip
    """AdamC: AdamW whose decay follows the square of the rate, so that a schedule leaves the norm of weights alone.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t          mu_hat_t = mu_t / (1 - b1^t)
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2        nu_hat_t = nu_t / (1 - b2^t)
        x_{t+1} = x_t - lr_t mu_hat_t / (sqrt(nu_hat_t + eps_root) + eps) - lr_t^2 / lr_max weight_decay x_t

    The gradient of weights before a normalisation is orthogonal to them. Steps of the size lr then make |x|^2 larger by
    a multiple of lr^2, and AdamW's decay makes it smaller by 2 lr weight_decay |x|^2: they balance where |x|^2 is in
    proportion to lr / weight_decay. So under AdamW these weights shrink, and their gradients grow, as the rate falls.
    Here growth and decay both fall as lr^2, and the norm stays.

    Other arguments are those of `gdjax.adamw`.

    Args:
      weight_decay: at least 0. A scalar or a schedule, or `per_leaf(...)` of one.
      mask: which leaves decay: a tree of booleans, a prefix of the parameters, or a function from them to one; None for
        all. The paper corrects the decay of layers before a normalisation alone. The rest, such as the head, decays as
        in AdamW with `with_weight_decay(adamc(rate, mask=body, ...), rate, weight_decay, head)`.
      peak_learning_rate: lr_max, the largest number of the schedule, above 0. It may be left out where `learning_rate`
        is a number.

    Raises:
      ValueError: no peak for a schedule.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> zero, x, rate = jnp.zeros(1), jnp.ones(1), gdjax.linear_schedule(0.5, 0.0, 2)
      >>> tx = gdjax.adamc(rate, weight_decay=0.5, peak_learning_rate=0.5)
      >>> _, state = tx.update(zero, tx.init(x), x)
      >>> u, _ = tx.update(zero, state, x)  # at half the rate; AdamW's is -0.125
      >>> print(u)
      [-0.0625]

    Reference:
      Defazio 2025, Why gradients rapidly increase near the end of training, https://arxiv.org/abs/2506.02285
    """
    tx = adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype)
    return decaying("gdjax.adamc", tx, learning_rate, weight_decay, mask, "corrected", False, peak_learning_rate)
