"""Mirror descent with the entropy: steps that multiply, on a simplex."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core.types import Params
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment, initial_parameter
from gdjax.numerics import Array, spoiled
from gdjax.xla.reads import original

__all__ = ["MirrorDescentState", "mirror_descent"]


class MirrorDescentState(NamedTuple):
    """State of `mirror_descent`."""

    logits: Params  # like params, log x, float32 at least


@dataclass(frozen=True)
class _LogOfParameter(Moment):
    """log x of the parameter given to `init`, where x is not above 0 a number so small that x stays 0."""

    def __call__(self, p: Any, hyper: Any) -> Array:
        x = initial_parameter(p, hyper)
        like = super().__call__(p, hyper)
        return jnp.log(jnp.maximum(x.real.astype(like.dtype), 0)).clip(_least(like.dtype))


def _least(dtype: Any) -> float:
    return -float(jnp.finfo(dtype).max) / 8


@leafwise(MirrorDescentState, logits=_LogOfParameter(wide=True, real=True, kind="exact"))
def mirror_descent(
    g: Array, s: MirrorDescentState, p: Array, t: Array, learning_rate: hyper.Rate, axis: Literal[-1] | None = -1
) -> tuple[Array, MirrorDescentState]:
    """Mirror descent with the entropy, or exponentiated gradients: each row of numbers at least 0 that sum to 1.

        x_{t+1} = x_t exp(-lr g_t) / sum(x_t exp(-lr g_t))

    It minimizes a function over distributions: mixture weights, strategies in a game, attention. Their number counts by
    its logarithm alone, where it counts linearly for projected gradients. The update leads to the new x, also from
    parameters that are no distribution: at `init` numbers below 0 count as 0, and the others over their sum.

    The state holds log x: a step too small for the parameter's 16 bits counts later, and a number that underflows to 0
    comes back. A number that is 0 at `init` stays 0; where all are, x is uniform.

    Args:
      learning_rate: lr, a scalar or a schedule. It suits gradients of which the largest number counts: at most 1 / L
        for |grad f(x) - grad f(y)|_inf <= L |x - y|_1.
      axis: -1: each row along the last axis of a leaf is a distribution; None: each leaf is.

    `solve` and `minimize` judge x by x - P(x - g), P the Euclidean projection onto the simplex.

    Raises:
      TypeError: (in update) a complex leaf.

    Departs from JAXopt's `MirrorDescent` with the logarithm, which takes log x anew from x in each step: there a number
    that has become 0 stays 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> payoff = jnp.array([[0.0, 2.0], [1.0, 0.0]])
      >>> loss = lambda x: jnp.sum((payoff @ x - jnp.array([0.5, 0.75])) ** 2)
      >>> tx = gdjax.mirror_descent(0.5)
      >>> run = gdjax.minimize(loss, jnp.full(2, 0.5), tx, steps=50)
      >>> [round(float(x), 3) for x in run.params]
      [0.75, 0.25]

    Reference:
      Beck & Teboulle 2003, Mirror descent and nonlinear projected subgradient methods for convex optimization, section
      5, https://doi.org/10.1016/S0167-6377(02)00231-6; Kivinen & Warmuth 1997, Exponentiated gradient versus gradient
      descent for linear predictors, https://doi.org/10.1006/inco.1996.2612
    """
    if jnp.iscomplexobj(g):
        raise TypeError(f"does not support complex numbers ({g.dtype}), which have no order")
    if not g.size:
        return g, s
    along = axis if g.ndim else None
    step = jnp.clip(learning_rate * g, _least(g.dtype), -_least(g.dtype))  # no infinity comes of a finite gradient
    z = s.logits - step
    old, new = jax.nn.softmax(s.logits, along), jax.nn.softmax(z, along)
    digits = 1 + jnp.minimum(jnp.abs(s.logits), 128)
    rounding = float(jnp.finfo(original(p).dtype).eps) + 4 * float(jnp.finfo(z.dtype).eps) * digits
    # A gradient of 0 moves nothing: neither what rounding leaves of the parameter, nor that of two softmaxes.
    missing = jnp.where(jnp.abs(old - p) <= rounding * old, 0, old - p)
    change = jnp.where(jnp.any(step != 0, along, keepdims=True), new - old, 0)
    z = jnp.maximum(z - jax.nn.logsumexp(z, along, keepdims=True), _least(z.dtype))
    return spoiled(change + missing, g), MirrorDescentState(z)
