"""NAdam and NAdamW."""

from typing import Any, NamedTuple

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.misuse import Dialect, dialects
from gdjax.core.types import Decay, DType, Mask, Params, Rate, Size, Squares, Transform
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Shared, second_moment
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, sqrt
from gdjax.optimizers.adam import adam, adamw
from gdjax.transforms.decay import descending

__all__ = ["ScaleByNadamState", "nadam", "nadamw"]


class ScaleByNadamState(NamedTuple):
    """State of `nadam` and `nadamw` where b1 grows with the step."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, first moment
    nu: Params  # like params, second moment, float32 at least
    b1_product: Array  # (), the product of all b1_k so far, float32 at least


@leafwise(ScaleByNadamState, nu=second_moment, b1_product=Shared(1.0), growth="elementwise")
def _by_dozat(
    g: Array, s: ScaleByNadamState, p: Array, t: Array,
    b1: hyper.Decay, b2: hyper.Squares, eps: hyper.Size, eps_root: hyper.Size, mu_dtype: DType | None,
    momentum_decay: hyper.Size, nu_dtype: DType | None,
) -> tuple[Array, ScaleByNadamState]:  # fmt: skip
    """NAdam's direction with the growing b1 of Dozat's report."""
    g = bounded(g)
    b1_t, b1_next = (b1 * (1 - 0.96 ** (k * momentum_decay) / 2) for k in (t, t + 1))
    product = s.b1_product * b1_t
    mu = b1 * s.mu + (1 - b1) * g
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    mu_hat = b1_next / (1 - product * b1_next) * mu + (1 - b1_t) / (1 - product) * g
    return divide(mu_hat, sqrt(debias(nu, b2, t) + eps_root), eps), ScaleByNadamState(s.count, mu, nu, product)


def _growing(label: str, nesterov: bool, *hyper: Any) -> Transform:
    if not nesterov:
        raise ValueError(f"{label}: momentum_decay is of Nesterov's momentum, and nesterov=False has none")
    return _by_dozat(*hyper)


_DOZAT = {"momentum_decay": 4e-3}


@transform
@dialects(torch=_DOZAT, paper=_DOZAT)
def nadam(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8, eps_root: Size = 0.0,
    mu_dtype: DType | None = None,
    *, nesterov: bool = True, nu_dtype: DType | None = None, momentum_decay: Size | None = None,
    like: Dialect = "optax",
) -> GradientTransformation:  # fmt: skip
    """NAdam: Adam with Dozat's Nesterov momentum.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2        nu_hat_t = nu_t / (1 - b2^t)
        x_{t+1} = x_t - lr (b1 mu_t / (1 - b1^(t+1)) + (1 - b1) g_t / (1 - b1^t)) / (sqrt(nu_hat_t + eps_root) + eps)

    Args:
      learning_rate: lr, a scalar or a schedule, or `per_leaf(...)` of one.
      b1, b2: decay of the first and second moment, in [0, 1).
      eps, eps_root: outside and inside the root, at least 0.
      mu_dtype: the dtype of mu, the parameter's by default; of a complex one that of the parts, float32 at least.
      nesterov: False for Adam's own mu_hat_t = mu_t / (1 - b1^t).
      nu_dtype: the dtype of nu; by default the parameter's, but float32 at least.
      momentum_decay: how fast b1 grows, at least 0; None for a constant b1.
      like: "optax", or "torch" or "paper" for a momentum_decay of 0.004 by default.

    With momentum_decay the b1 of the direction, but not of mu, grows from b1 / 2 to b1:

        b1_k = b1 (1 - 0.96^(k momentum_decay) / 2)
        x_{t+1} = x_t - lr (b1_{t+1} mu_t / (1 - b1_1 ... b1_{t+1}) + (1 - b1_t) g_t / (1 - b1_1 ... b1_t))
                  / (sqrt(nu_hat_t + eps_root) + eps)

    So have it Dozat's report, `torch.optim.NAdam` and Keras; the listing of the workshop paper differs a little again.

    Raises:
      ValueError: momentum_decay without nesterov.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.nadam(0.1), steps=200)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Dozat 2015, Incorporating Nesterov momentum into Adam, https://cs229.stanford.edu/proj2015/054_report.pdf, and the
      workshop paper of 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
    """
    if momentum_decay is None:
        return adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype)
    growing = _growing("gdjax.nadam", nesterov, b1, b2, eps, eps_root, mu_dtype, momentum_decay, nu_dtype)
    return descending(growing, learning_rate)


@transform
@dialects(torch=_DOZAT, paper=_DOZAT)
def nadamw(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8, eps_root: Size = 0.0,
    mu_dtype: DType | None = None, weight_decay: Size = 1e-4, mask: Mask = None,
    *, nesterov: bool = True, nu_dtype: DType | None = None, momentum_decay: Size | None = None,
    like: Dialect = "optax",
) -> GradientTransformation:  # fmt: skip
    """NAdamW: AdamW with Dozat's Nesterov momentum.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t          mu_hat_t = b1 mu_t / (1 - b1^(t+1)) + (1 - b1) g_t / (1 - b1^t)
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2        nu_hat_t = nu_t / (1 - b2^t)
        x_{t+1} = x_t - lr (mu_hat_t / (sqrt(nu_hat_t + eps_root) + eps) + weight_decay x_t)

    Other arguments are those of `gdjax.nadam`.

    Args:
      weight_decay: times lr, at least 0. A scalar or a schedule, or `per_leaf(...)` of one.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.

    With momentum_decay b1 grows as in `nadam`. With like="torch" this is `torch.optim.NAdam` with
    `decoupled_weight_decay=True`.

    Raises:
      ValueError: momentum_decay without nesterov.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.array([1.0, 2.0])
      >>> tx = gdjax.nadamw(0.01, weight_decay=0.1)
      >>> updates, state = tx.update(jnp.zeros(2), tx.init(params), params)
      >>> print((1e3 * updates).round())  # no gradient: the decay alone, times the rate
      [-1. -2.]

    Reference:
      Loshchilov & Hutter 2019, Algorithm 2, https://arxiv.org/abs/1711.05101; Dozat 2016, as for `nadam`.
    """
    if momentum_decay is None:
        return adamw(
            learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov, nu_dtype=nu_dtype
        )
    growing = _growing("gdjax.nadamw", nesterov, b1, b2, eps, eps_root, mu_dtype, momentum_decay, nu_dtype)
    return descending(growing, learning_rate, weight_decay, mask)
