"""Updates scaled by norms: of a leaf, of its parameter, of the whole tree."""

import jax.numpy as jnp

from gdjax.core.base import EmptyState
from gdjax.core.types import LayerAxes
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.meetings import total_norm
from gdjax.numerics import Array, divide, scaled, sqrt, sum_sq


def leaf_norm(x: Array) -> Array:
    """sqrt(sum |x|^2) of one array in float32 or wider, 0 with derivative 0 at 0; see `sum_sq`."""
    return sqrt(sum_sq(x))


@leafwise()
def scale_by_trust_ratio(
    g: Array, s: EmptyState, p: Array, t: Array,
    min_norm: hyper.Size = 0.0, trust_coefficient: hyper.Size = 1.0, eps: hyper.Size = 0.0,
    *, layer_axes: LayerAxes = None,
) -> tuple[Array, EmptyState]:  # fmt: skip
    """Scales every leaf's update to the norm of its parameter.

        u = g trust_coefficient |p| / (|g| + eps)

    A leaf whose parameter or update has norm 0 keeps its update as it is. Norms are of the whole leaf, in float32 or
    wider. A norm below 1e-19 counts as 0; in float32 the norm of n numbers counts as sqrt(n) 2^45 at most. Elements of
    the update count as 2^45 at most, so that the result is no larger than it should be.

    Args:
      min_norm: the least that both norms count for, at least 0.
      trust_coefficient: at least 0.
      eps: added to the norm of the update, at least 0.
      layer_axes: how many leading axes of a leaf are layers, each taken by itself: an int for all leaves; a pattern of
        paths for one, or a dict from patterns to ints; by role, `matrices_by_role()`; or a function from the parameters
        to a tree of ints. None for none.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.scale_by_adam(), gdjax.scale_by_trust_ratio(0.0, 0.01))
      >>> params = {"a": jnp.array([30.0, 40.0]), "b": jnp.array([0.3, 0.4])}
      >>> u, _ = tx.update({"a": jnp.ones(2), "b": jnp.ones(2)}, tx.init(params), params)
      >>> {name: round(float(gdjax.global_norm(x)), 4) for name, x in u.items()}
      {'a': 0.5, 'b': 0.005}

    Reference:
      You, Gitman & Ginsburg 2017, Large batch training of convolutional networks, equation 6,
      https://arxiv.org/abs/1708.03888
    """
    p_norm, g_norm = (jnp.maximum(leaf_norm(x), min_norm) for x in (p, g))
    usable = (p_norm > 0) & (g_norm > 0)
    # One quotient for the leaf, one product per element.
    return scaled(g, jnp.where(usable, trust_coefficient * p_norm / jnp.where(usable, g_norm + eps, 1), 1)), s


@leafwise()
def scale_by_param_block_norm(
    g: Array, s: EmptyState, p: Array, t: Array, min_scale: hyper.Size = 1e-3, *, layer_axes: LayerAxes = None
) -> tuple[Array, EmptyState]:
    """Multiplies every leaf's update by the norm of its parameter.

        u = g max(|p|, min_scale)

    Args:
      min_scale: the least factor, at least 0: with 0, a parameter that is zero stays so.
      layer_axes: how many leading axes of a leaf are layers, each taken by itself: an int for all leaves; a pattern of
        paths for one, or a dict from patterns to ints; by role, `matrices_by_role()`; or a function from the parameters
        to a tree of ints. None for none.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_param_block_norm()
      >>> params = {"w": jnp.array([3.0, 4.0]), "b": jnp.zeros(2)}
      >>> u, _ = tx.update({"w": jnp.ones(2), "b": jnp.ones(2)}, tx.init(params), params)
      >>> print(u["w"], u["b"])  # b, which is 0, moves by min_scale
      [5. 5.] [0.001 0.001]
    """
    return g * jnp.maximum(leaf_norm(p), min_scale), s


@leafwise()
def scale_by_param_block_rms(
    g: Array, s: EmptyState, p: Array, t: Array, min_scale: hyper.Size = 1e-3, *, layer_axes: LayerAxes = None
) -> tuple[Array, EmptyState]:
    """Multiplies every leaf's update by the root mean square of its parameter.

        u = g max(rms(p), min_scale)

    Args:
      min_scale: the least factor, at least 0: with 0, a parameter that is zero stays so.
      layer_axes: how many leading axes of a leaf are layers, each taken by itself: an int for all leaves; a pattern of
        paths for one, or a dict from patterns to ints; by role, `matrices_by_role()`; or a function from the parameters
        to a tree of ints. None for none.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_param_block_rms()
      >>> params = {"b": jnp.zeros(2), "w": jnp.array([1.0, 7.0])}
      >>> u, _ = tx.update({"b": jnp.ones(2), "w": jnp.ones(2)}, tx.init(params), params)
      >>> {name: round(float(x[0]), 3) for name, x in u.items()}
      {'b': 0.001, 'w': 5.0}

    Reference:
      Shazeer & Stern 2018, Adafactor, section 8, https://arxiv.org/abs/1804.04235
    """
    return g * jnp.maximum(leaf_norm(p) * max(p.size, 1) ** -0.5, min_scale), s


@leafwise()
def normalize_by_update_norm(
    g: Array, s: EmptyState, p: Array, t: Array, scale_factor: hyper.Finite = 1.0, eps: hyper.Size = 1e-6
) -> tuple[Array, EmptyState]:
    """Scales the updates of the whole tree to one norm.

        u = g scale_factor / (|g| + eps)

    Args:
      scale_factor: the norm that the result has, but for eps.
      eps: at least 0. With 0 a tree of zeros stays as it is.

    The norm is taken in float32 or wider, without overflow: see `global_norm`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.normalize_by_update_norm(scale_factor=2.0), gdjax.sgd(0.5))
      >>> u, _ = tx.update({"b": jnp.array([40.0]), "w": jnp.array([30.0])}, tx.init(None))
      >>> {name: round(float(x[0]), 3) for name, x in u.items()}
      {'b': -0.8, 'w': -0.6}
    """
    norm = total_norm(g)
    return g * divide(jnp.asarray(scale_factor, norm.dtype), norm + eps), s
