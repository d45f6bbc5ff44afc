"""Proximal maps that take each number by itself: sums of absolute values and of squares."""

import jax
import jax.numpy as jnp

from gdjax.core.types import Array, ArrayTree
from gdjax.core.values import value
from gdjax.prox.common import Prox, map_of, remaining

__all__ = ["elastic_net", "l1", "nonnegative_l1", "nonnegative_ridge", "ridge"]


@value
def l1(weight: ArrayTree = 1.0) -> Prox:
    """The lasso, h(x) = weight |x|_1: the map is the soft threshold.

        y = sign(x) max(|x| - step weight, 0)

    Args:
      weight: a number of at least 0, an array, or a tree like the parameters or a prefix of it.

    Raises:
      ValueError: a weight below 0; (in the map) weights or steps that do not fit the tree.

    Complex numbers keep their direction. The derivative at the thresholds is 0. It is JAXopt's `prox_lasso`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.prox.l1(0.5)(jnp.array([2.0, -0.25, -1.0]), 1.0))
      [ 1.5  0.  -0.5]

    Reference:
      Parikh & Boyd 2014, Proximal algorithms, section 6.5.2, https://doi.org/10.1561/2400000003
    """
    return map_of("l1", lambda x, s, w: _soft(x, s * w), weight=weight)


def _soft(x: Array, less: Array) -> Array:
    if jnp.iscomplexobj(x):
        return x * remaining(jnp.abs(x), less)
    return jnp.where(jnp.abs(x) <= less, 0, x - jnp.sign(x) * less)


@value
def nonnegative_l1(weight: ArrayTree = 1.0) -> Prox:
    """The lasso of numbers that must not be negative: y = max(x - step weight, 0).

    Args:
      weight: a number of at least 0, an array, or a tree like the parameters or a prefix of it.

    Raises:
      ValueError: a weight below 0; (in the map) weights or steps that do not fit the tree.
      TypeError: (in the map) a complex leaf.

    It is JAXopt's `prox_non_negative_lasso`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.prox.nonnegative_l1(0.5)(jnp.array([2.0, 0.25, -1.0]), 1.0))
      [1.5 0.  0. ]
    """
    return map_of("nonnegative_l1", lambda x, s, w: jax.nn.relu(x - s * w), ordered=True, weight=weight)


@value
def elastic_net(weight: ArrayTree = 1.0, ratio: ArrayTree = 1.0) -> Prox:
    """The elastic net, h(x) = weight (|x|_1 + ratio / 2 |x|^2).

        y = soft threshold of x at step weight / (1 + step weight ratio)

    Args:
      weight: a number of at least 0, an array, or a tree like the parameters or a prefix of it.
      ratio: likewise. JAXopt's `prox_elastic_net` takes both as one pair; 0 is `l1`.

    Raises:
      ValueError: a number below 0; (in the map) weights or steps that do not fit the tree.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.prox.elastic_net(1.0, ratio=3.0)(jnp.array([5.0, -0.5]), 1.0))
      [1. 0.]

    Reference:
      Zou & Hastie 2005, Regularization and variable selection via the elastic net.
    """
    net = lambda x, s, w, r: _soft(x, s * w) / (1 + s * w * r)
    return map_of("elastic_net", net, weight=weight, ratio=ratio)


@value
def ridge(weight: ArrayTree = 1.0) -> Prox:
    """The square of the norm, h(x) = weight / 2 |x|^2: y = x / (1 + step weight).

    Args:
      weight: a number of at least 0, an array, or a tree like the parameters or a prefix of it.

    Raises:
      ValueError: a weight below 0; (in the map) weights or steps that do not fit the tree.

    It is what JAXopt's `prox_ridge` computes; its docstring leaves out the half.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.prox.ridge(1.0)(jnp.array([2.0, -1.0]), 1.0))
      [ 1.  -0.5]
    """
    return map_of("ridge", lambda x, s, w: x / (1 + s * w), weight=weight)


@value
def nonnegative_ridge(weight: ArrayTree = 1.0) -> Prox:
    """The square of the norm of numbers that must not be negative: y = max(x, 0) / (1 + step weight).

    Args:
      weight: a number of at least 0, an array, or a tree like the parameters or a prefix of it.

    Raises:
      ValueError: a weight below 0; (in the map) weights or steps that do not fit the tree.
      TypeError: (in the map) a complex leaf.

    It is JAXopt's `prox_non_negative_ridge`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.prox.nonnegative_ridge(1.0)(jnp.array([2.0, -1.0]), 1.0))
      [1. 0.]
    """
    shrunk = lambda x, s, w: jax.nn.relu(x) / (1 + s * w)
    return map_of("nonnegative_ridge", shrunk, ordered=True, weight=weight)
