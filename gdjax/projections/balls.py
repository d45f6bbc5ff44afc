"""Projections onto the simplex, and onto spheres and balls of the 1-norm and the 2-norm."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import tree as trees
from gdjax.core.types import ArrayLike, ArrayTree
from gdjax.numerics import largest
from gdjax.projections.common import Array, each, of_vector, radius

__all__ = [
    "projection_l1_ball", "projection_l1_sphere", "projection_l2_ball", "projection_l2_sphere", "projection_simplex",
]  # fmt: skip


def projection_simplex(tree: ArrayTree, scale: ArrayLike = 1) -> Any:
    """The nearest tree of non-negative numbers that sum to `scale`.

        y = max(x - tau, 0),  with tau such that sum y = scale

    tau is found by sorting: it is the mean of the largest numbers above it, less scale over how many they are.

    Args:
      tree: any pytree of real arrays; -inf gives 0.
      scale: the sum, a scalar of at least 0.

    Raises:
      TypeError: a complex leaf.
      ValueError: a negative scale.

    Adding a constant to x changes nothing, also in the last digits: Optax loses them for large x. A scale of 0 gives
    zeros, in Optax NaN.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.projections.projection_simplex(jnp.array([1.0, 0.5])))
      [0.75 0.25]

    Reference:
      Duchi et al. 2008, Efficient projections onto the l1-ball for learning in high dimensions, Figure 1,
      https://doi.org/10.1145/1390156.1390191
    """
    label = "gdjax.projection_simplex"
    scale = radius(label, scale)

    def projected(v: Array) -> Array:
        if jnp.iscomplexobj(v):
            raise TypeError(f"{label}: a leaf is complex ({v.dtype}), and has no order")
        return simplex(v, scale)

    return of_vector(projected, tree)


def simplex(v: Array, scale: ArrayLike) -> Array:
    """The point of the simplex that is nearest to a real vector."""
    scale = jnp.asarray(scale, v.dtype)
    # What lies more than scale below the largest is not in the support: the sums stay as small as they can be.
    z = jnp.maximum(v - jax.lax.stop_gradient(largest(v)), -jax.lax.stop_gradient(scale))
    u = jnp.sort(jax.lax.stop_gradient(z), descending=True)
    sums = jnp.cumsum(u) - jax.lax.stop_gradient(scale)
    rho = jnp.maximum(jnp.sum(jnp.arange(1, v.size + 1, dtype=v.dtype) * u > sums, dtype=jnp.int32), 1)
    support = ~(z <= sums[rho - 1] / rho.astype(v.dtype))  # NaN is in it
    count = jnp.maximum(jnp.sum(support, dtype=v.dtype), 1)
    tau = (jnp.sum(jnp.where(support, z, 0)) - scale) / count
    return jnp.where(support, jax.nn.relu(z - tau), 0)


def projection_l1_sphere(tree: ArrayTree, scale: ArrayLike = 1) -> Any:
    """The nearest tree with sum |y| = scale: the projection of |x| onto the simplex, with the signs of x.

    Args:
      tree: any pytree of arrays.
      scale: the radius, a scalar of at least 0.

    Raises:
      ValueError: a negative radius.

    A zero counts as positive, one of its two equally near choices. In Optax it stays 0, off the sphere.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.projections.projection_l1_sphere(jnp.array([0.5, -0.25])))
      [ 0.625 -0.375]
    """
    scale = radius("gdjax.projection_l1_sphere", scale)
    return of_vector(lambda v: _l1_sphere(v, scale), tree)


def _l1_sphere(v: Array, scale: ArrayLike) -> Array:
    size = jnp.abs(v)
    if not jnp.iscomplexobj(v):  # the derivative of v / |v| would square |v|
        return jnp.where(v < 0, -1, 1) * simplex(size, scale)
    with jax.numpy_dtype_promotion("standard"):  # v may be complex
        return jnp.where(size == 0, 1, v / jnp.where(size == 0, 1, size)) * simplex(size, scale)


def projection_l1_ball(tree: ArrayTree, scale: ArrayLike = 1) -> Any:
    """The nearest tree with sum |y| <= scale: x itself if it lies in the ball, else its projection onto the sphere.

    Args:
      tree: any pytree of arrays.
      scale: the radius, a scalar of at least 0.

    Raises:
      ValueError: a negative radius.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.projections.projection_l1_ball(jnp.array([2.0, -1.5])))
      [ 0.75 -0.25]
    """
    scale = radius("gdjax.projection_l1_ball", scale)

    def projected(v: Array) -> Array:
        inside = jnp.sum(jnp.abs(v)) <= jnp.asarray(scale, v.real.dtype)
        return jnp.where(inside, v, _l1_sphere(v, scale))

    return of_vector(projected, tree)


def projection_l2_sphere(tree: ArrayTree, scale: ArrayLike = 1) -> Any:
    """The nearest tree with Euclidean norm `scale`.

        y = scale x / |x|

    Args:
      tree: any pytree of arrays.
      scale: the radius, a scalar of at least 0.

    Raises:
      ValueError: a negative radius.

    To zeros every point of the sphere is equally near: the one with equal numbers is returned. Optax gives NaN.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> y = gdjax.projections.projection_l2_sphere(jnp.array([0.3, 0.4]), scale=10.0)
      >>> [round(float(x), 3) for x in y]
      [6.0, 8.0]
    """
    scale = radius("gdjax.projection_l2_sphere", scale)
    norm = trees.global_norm(tree)
    zero = norm == 0
    equal = 1 / math.sqrt(max(trees.size(tree), 1))
    return each(lambda x: scale * jnp.where(zero, equal, x / jnp.where(zero, 1, norm)), tree)


def projection_l2_ball(tree: ArrayTree, scale: ArrayLike = 1) -> Any:
    """The nearest tree with a Euclidean norm of at most `scale`.

        y = x min(1, scale / |x|)

    Args:
      tree: any pytree of arrays.
      scale: the radius, a scalar of at least 0.

    Raises:
      ValueError: a negative radius.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = {"b": jnp.array([4.0]), "w": jnp.array([3.0])}
      >>> y = gdjax.projections.projection_l2_ball(x, scale=2.5)
      >>> print(y["b"], y["w"])
      [2.] [1.5]
    """
    scale = radius("gdjax.projection_l2_ball", scale)
    norm = trees.global_norm(tree)
    inside = norm <= scale
    return each(lambda x: jnp.where(inside, x, scale * (x / jnp.where(inside, 1, norm))), tree)
