"""Bounds on gradients."""

from typing import Any

import jax.numpy as jnp

from gdjax import tree
from gdjax.leafwise import Hyper, leafwise
from gdjax.numerics import Array


def _norm(updates: Any, params: Any, **extra_args: Any) -> Array:
    return tree.global_norm(updates)


@leafwise()
def clip(g: Array, s: Any, p: Any, t: Any, max_delta: Hyper) -> Any:
    """Clips every element to [-max_delta, max_delta]; a complex number keeps its argument.

    Args:
      max_delta: the bound, at least 0.
    """
    if jnp.iscomplexobj(g):
        size = jnp.abs(g)
        return g * jnp.where(size > max_delta, max_delta / jnp.where(size == 0, 1, size), 1), s
    return jnp.clip(g, -max_delta, max_delta), s


@leafwise(reduce={"norm": _norm})
def clip_by_global_norm(g: Array, s: Any, p: Any, t: Any, max_norm: Hyper, *, norm: Any = None) -> Any:
    """Scales all updates by one factor so that their global norm is at most max_norm: u = g min(1, max_norm / |g|).

    Args:
      max_norm: the bound on `global_norm(updates)`, at least 0. 0 gives zeros, infinity changes nothing.

    The norm is taken in float32 without overflow (see `global_norm`). A NaN anywhere makes every update NaN.

    Reference:
      Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks, Algorithm 1,
      https://arxiv.org/abs/1211.5063
    """
    # One quotient for the whole tree, one product per element: with the quotient per element, XLA would keep a clipped
    # copy of the gradients.
    inside = norm <= max_norm
    return g * jnp.where(inside, 1, max_norm / jnp.where(inside, 1, norm)), s
