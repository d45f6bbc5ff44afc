"""Bounds on gradients."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from gdjax.core import calls, checks
from gdjax.core.base import EmptyState
from gdjax.core.number_domains import Kind
from gdjax.core.paths import label_by_path
from gdjax.core.types import LayerAxes
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.meetings import total_norm
from gdjax.lift.whole_tree import Tree
from gdjax.numerics import Array, shrinking
from gdjax.numerics.norms import safe_root_mean_squares

NormalizeState = EmptyState  # Optax's name for it


def _group(tree: Tree, groups: Any) -> list[Any]:
    """For each leaf the label of its group, None without groups."""
    if groups is None:
        return tree.of_each([None] * len(tree.paths))
    whole = tree.structure.unflatten(tree.entries)
    found = calls.of_tree(tree.label, "groups", groups, whole) if callable(groups) else label_by_path(groups)(whole)
    checks.returned(tree.label, "the groups' function", found)
    each = jax.tree.map(lambda name, part: jax.tree.map(lambda _: name, part), found, whole)
    return tree.of_each(jax.tree.leaves(each))


@leafwise()
def clip(g: Array, s: EmptyState, p: Array, t: Array, max_delta: hyper.Bound) -> tuple[Array, EmptyState]:
    """Clips every element to [-max_delta, max_delta]; a complex number keeps its argument.

    Args:
      max_delta: the bound, at least 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.clip(1.0), gdjax.sgd(0.5))
      >>> u, _ = tx.update(jnp.array([0.5, -3.0]), tx.init(jnp.zeros(2)))
      >>> print(u)
      [-0.25  0.5 ]
    """
    if jnp.iscomplexobj(g):
        size = jnp.abs(g)
        return g * jnp.where(size > max_delta, max_delta / jnp.where(size == 0, 1, size), 1), s
    return jnp.clip(g, -max_delta, max_delta), s


@leafwise(static={"groups": _group})
def clip_by_global_norm(
    g: Array, s: EmptyState, p: Array, t: Array, max_norm: hyper.Bound, *, groups: Annotated[Any, Kind("groups")] = None
) -> tuple[Array, EmptyState]:
    """Scales all updates by one factor so that their global norm is at most max_norm.

        u = g min(1, max_norm / |g|)

    Args:
      max_norm: the bound on `global_norm(updates)`, at least 0. 0 gives zeros, infinity changes nothing.
      groups: clips each group of leaves by its own norm: a dict from pattern to label, where the first pattern that is
        found in the path of a leaf counts; or a function from the tree to a tree of labels, or to a prefix of one. None
        is one group.

    The norm is that of the leaves that the clipping sees: inside a group of `partition` that group's alone. For the
    norm over all groups it stands before: `chain(clip_by_global_norm(1.0), partition(...))`.

    The norm is taken in float32 without overflow (see `global_norm`). A NaN in a group makes its every update NaN.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> g = {"encoder": jnp.array([3.0, 0.0]), "decoder": jnp.array([0.0, 4.0])}
      >>> for tx in (gdjax.clip_by_global_norm(2.5),
      ...            gdjax.clip_by_global_norm(2.5, groups={"encoder": "a", ".*": "b"})):
      ...     u, _ = tx.update(g, tx.init(g))
      ...     print(u["encoder"], u["decoder"])
      [1.5 0. ] [0. 2.]
      [2.5 0. ] [0.  2.5]

    Reference:
      Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks, Algorithm 1,
      https://arxiv.org/abs/1211.5063
    """
    # One quotient for the whole tree, one product per element.
    return g * shrinking(total_norm(g, groups), max_norm), s


@leafwise()
def clip_by_block_rms(
    g: Array, s: EmptyState, p: Array, t: Array, threshold: hyper.Bound, *, layer_axes: LayerAxes = None
) -> tuple[Array, EmptyState]:
    """Scales each array so that its root mean square is at most threshold.

        u = g min(1, threshold / rms(g))

    Args:
      threshold: the bound, at least 0. 0 gives zeros, infinity changes nothing.
      layer_axes: how many leading axes of a leaf are layers, each taken by itself: an int for all leaves; a pattern of
        paths for one, or a dict from patterns to ints; by role, `matrices_by_role()`; or a function from the parameters
        to a tree of ints. None for none.

    A NaN in an array makes that array NaN.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.clip_by_block_rms(2.5)
      >>> g = {"w": jnp.array([1.0, 7.0]), "b": jnp.array([0.5])}
      >>> u, _ = tx.update(g, tx.init(g))
      >>> print(u["w"], u["b"])  # the root mean square of w was 5
      [0.5 3.5] [0.5]

    Reference:
      Shazeer & Stern 2018, Adafactor: adaptive learning rates with sublinear memory cost, section 6,
      https://arxiv.org/abs/1804.04235
    """
    return g * shrinking(safe_root_mean_squares(g, 0.0), threshold), s


@leafwise()
def normalize(g: Array, s: EmptyState, p: Array, t: Array) -> tuple[Array, EmptyState]:
    """Scales all updates by one factor so that their global norm is 1.

        u = g / |g|

    Zeros stay zeros. The norm is that of `global_norm`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.normalize()
      >>> u, _ = tx.update({"b": jnp.array([-4.0]), "w": jnp.array([3.0])}, tx.init(None))
      >>> {name: round(float(x[0]), 3) for name, x in u.items()}
      {'b': -0.8, 'w': 0.6}
    """
    # Two factors: for norms below 1e-38 or above 8e37 the reciprocal would be infinite or denormal.
    norm = total_norm(g)
    root = jnp.sqrt(jnp.where(norm == 0, 1, norm))
    return g * (1 / root) * (1 / root), s
