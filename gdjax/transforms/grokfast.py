"""Grokfast: gradients with their slow part amplified."""

from typing import NamedTuple

import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.core import base
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, DType, Params, Size, Transform
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array, bounded


class GrokfastState(NamedTuple):
    """State of the filter of `grokfast`, which comes before that of the optimizer inside."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, average of the gradients, from the first on


@leafwise(GrokfastState, mu=Moment("accumulator_dtype", kind="slow"))
def _grokfast(
    g: Array, s: GrokfastState, p: Array, t: Array, alpha: Hyper, lamb: hyper.Size, accumulator_dtype: DType | None
) -> tuple[Array, GrokfastState]:
    g = bounded(g, "summed")  # so that with lamb times the average it is within what other rules bound squares to
    alpha = jnp.where(t > 1, alpha, 0.0)
    mu = alpha * s.mu + (1 - alpha) * g
    return g + lamb * mu, s._replace(mu=mu)


@transform
def grokfast(
    inner: Transform, alpha: Decay = 0.98, lamb: Size = 2.0, accumulator_dtype: DType | None = None
) -> GradientTransformation:
    """Grokfast around an optimizer: amplifies the slow part of the gradients, for generalisation that comes late.

        mu_t = alpha mu_{t-1} + (1 - alpha) g_t,    mu_1 = g_1
        g_t <- g_t + lamb mu_t

    The optimizer gets the sum for the gradient; its weight decay is not amplified. The reference trains small networks
    on tasks where they fit the training data long before they generalise.

    Args:
      inner: the optimizer. A clip by a norm belongs around this, not inside: `chain(clip, grokfast(...))`.
      alpha: decay of the average, in [0, 1); the authors use 0.8 to 0.99.
      lamb: how much of the average is added, at least 0; the authors use 0.1 to 5.
      accumulator_dtype: the dtype of mu, the parameter's by default.

    This is the authors' `gradfilter_ema`. Their other filter, a mean of the last 100 gradients, keeps all of these, and
    is not here.

    Raises:
      TypeError: `inner` is no transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.grokfast(gdjax.sgd(1.0), alpha=0.5, lamb=2.0)
      >>> state = tx.init(jnp.zeros(2))
      >>> for g in (jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0])):
      ...     u, state = tx.update(g, state)
      ...     print(u)  # of the second gradient the half that stays counts three times
      [-3. -3.]
      [-3.  1.]

    Reference:
      Lee, Kang, Kim & Lee 2024, Grokfast: accelerated grokking by amplifying slow gradients, section 3,
      https://arxiv.org/abs/2405.20233
    """
    label = "gdjax.grokfast"
    base.check_transform(label, 0, inner)
    return chain(base.part_of(_grokfast(alpha, lamb, accumulator_dtype)).labelled(label), inner)
