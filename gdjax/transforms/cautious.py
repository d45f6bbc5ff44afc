"""Cautious updates."""

from typing import NamedTuple

import jax.numpy as jnp

from gdjax.core.types import LayerAxes, OptState
from gdjax.lift.leafwise import hyper
from gdjax.lift.wrapper import wrapper
from gdjax.linalg.sums import share_of_nonzeros
from gdjax.numerics import Array, real_product, spoiled


class CautiousState(NamedTuple):
    """State of `cautious`."""

    inner_state: OptState  # of the optimizer


@wrapper(CautiousState)
def cautious(
    u: Array, g: Array, s: CautiousState, p: Array, t: Array,
    eps: hyper.Size = 0.0, clamp: hyper.Size = 1e-3,
    *, ascends: bool = False, layer_axes: LayerAxes = None,
) -> tuple[Array, CautiousState]:  # fmt: skip
    """Keeps the elements of an update that go down the gradient, and enlarges them to make up for the others.

        m_t = 1 where u_t g_t < 0, else 0        x_{t+1} = x_t + u_t m_t / max(mean(m_t) + eps, clamp)

    with the mean over each array. `cautious(adamw(lr))` is C-AdamW, `cautious(lion(lr))` C-Lion. The state is that of
    the optimizer, which does not learn that its updates were changed.

    Args:
      inner: the optimizer, whose updates are added to the parameters: it has the learning rate, and so the sign.
      eps: added to the mean, at least 0: the paper's Algorithm 1 has it, the authors' code does not.
      clamp: the least denominator, above 0: the authors' code has 1e-3, the paper none. An array without an element
        that agrees does not move.
      ascends: the updates go up the gradient, as those of `scale_by_adam()` alone do: m_t is 1 where u_t g_t > 0.
      layer_axes: how many leading axes of a leaf are layers, each taken by itself: an int for all leaves; a pattern of
        paths for one, or a dict from patterns to ints; by role, `matrices_by_role()`; or a function from the parameters
        to a tree of ints. None for none.

    Departure: the authors do not mask the weight decay; here the mask is for all that `inner` does. Theirs is
    `with_weight_decay(cautious(adam(lr)), lr, weight_decay)`.

    Complex numbers agree where the real part of conj(g_t) u_t is negative. Infinity and NaN become NaN in the update.

    Raises:
      TypeError: `inner` is no transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.cautious(gdjax.sgd(1.0, momentum=0.5))
      >>> _, state = tx.update(jnp.array([1.0, 1.0]), tx.init(jnp.zeros(2)))
      >>> u, state = tx.update(jnp.array([1.0, -0.25]), state)
      >>> print(u)  # momentum alone gives [-1.5, -0.25], and the second goes uphill
      [-3.  0.]

    Reference:
      Liang, Chen, Liu & Liu 2024, Cautious optimizers: improving training with one line of code, Algorithm 1,
      https://arxiv.org/abs/2411.16085
    """
    along = real_product(g, u)
    drop = along <= 0 if ascends else along >= 0  # not NaN, so that it shows
    # Where u is 0 it is dropped, so what is kept shows the mask; NaN, which the mean must not see, is an infinity.
    kept = jnp.where(drop, 0, jnp.where(jnp.isnan(u), jnp.inf, u))
    mean = share_of_nonzeros(kept).astype(along.dtype)
    return spoiled(kept * (1 / jnp.maximum(mean + eps, clamp)), kept), s
