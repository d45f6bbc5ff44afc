"""Updates as large as their parameters say: trust ratios, and controlled norms."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.base import EmptyState
from gdjax.core.growth import relative
from gdjax.core.types import LayerAxes, OptState, Roles
from gdjax.leaf_roles.plan import Leaf, of_leaf, routing
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.meetings import total_norm
from gdjax.lift.wrapper import wrapper
from gdjax.numerics import Array, below_overflow, divide, scaled, sqrt, sum_sq
from gdjax.numerics.bounds import as_added

__all__ = [
    "RadialBrakeState", "UpdateFloorState", "normalize_by_update_norm", "radial_brake", "scale_by_param_block_norm",
    "scale_by_param_block_rms", "scale_by_trust_ratio", "update_floor",
]  # fmt: skip


def leaf_norm(x: Array) -> Array:
    """sqrt(sum |x|^2) of one array in float32 or wider, 0 with derivative 0 at 0; see `sum_sq`."""
    return sqrt(sum_sq(x))


@leafwise(growth=relative)
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
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

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


@leafwise(growth="parameter")
def scale_by_param_block_norm(
    g: Array, s: EmptyState, p: Array, t: Array, min_scale: hyper.Size = 1e-3, *, layer_axes: LayerAxes = None
) -> tuple[Array, EmptyState]:
    """Multiplies every leaf's update by the norm of its parameter.

        u = g max(|p|, min_scale)

    Args:
      min_scale: the least factor, at least 0: with 0, a parameter that is zero stays so.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

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


@leafwise(growth="parameter")
def scale_by_param_block_rms(
    g: Array, s: EmptyState, p: Array, t: Array, min_scale: hyper.Size = 1e-3, *, layer_axes: LayerAxes = None
) -> tuple[Array, EmptyState]:
    """Multiplies every leaf's update by the root mean square of its parameter.

        u = g max(rms(p), min_scale)

    Arguments are those of `gdjax.scale_by_param_block_norm`.

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


@leafwise(growth="direction")
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


class UpdateFloorState(NamedTuple):
    """State of `update_floor`."""

    inner_state: OptState  # of the optimizer


class RadialBrakeState(NamedTuple):
    """State of `radial_brake`."""

    inner_state: OptState  # of the optimizer


_WHOLE = 1, 2  # the axes of a matrix in a stack


def _norm(x: Array, axes: Any = _WHOLE) -> Array:
    unit, norm = numerics.unit_and_norm(x, axes)
    return below_overflow(unit * norm)


def _over(x: Array, y: Array) -> Array:
    """x / y, and 1 where y is 0."""
    return jnp.where(y == 0, 1, x / jnp.where(y == 0, 1, y))


def _lifted(W: Array, U: Array, floor: Hyper, outputs: bool) -> Array:
    """U, made longer where it is shorter than a share of W; or each output of it, a column."""
    axes = 1 if outputs else _WHOLE
    return U * jnp.maximum(_over(floor * _norm(W, axes), _norm(U, axes)), 1).astype(U.dtype)


def _braked(W: Array, U: Array, outward: Hyper, inward: Hyper, floor: Hyper, outputs: bool) -> Array:
    size = _norm(W)
    along = W / jnp.where(size == 0, 1, size).astype(W.dtype)

    def part(U: Array) -> Array:
        return jnp.sum(jnp.real(jnp.conj(along) * U), _WHOLE, keepdims=True)

    radial = part(U)
    scale = jnp.where(radial > 0, outward, inward)
    U = _lifted(W, U - ((1 - scale) * radial).astype(U.dtype) * along, floor, outputs)
    radius = jnp.maximum(size + part(U), 0)
    factor = _over(radius, _norm(W + U)).astype(U.dtype)
    return jnp.where(size == 0, U, factor * U + (factor - 1) * W)


def _of_matrices(f: Callable[..., Array], leaf: Leaf, p: Array, u: Array, *numbers: Hyper) -> Array:
    """f of each matrix of a leaf, and of its update; other leaves move as they would."""
    u = as_added(u, p)
    if not leaf.is_matrix:
        return u

    def of_stacks(p: Array, u: Array, *numbers: Hyper) -> Array:
        stacks = zip(leaf.split(p), leaf.split(u), strict=True)
        return leaf.joined([f(W, U, *numbers) for W, U in stacks])

    return meshes.partitioned(of_stacks, p, p, u, *numbers)


@wrapper(UpdateFloorState, static={"roles": of_leaf(routing)}, growth="direction")
def update_floor(
    u: Array, g: Array, s: UpdateFloorState, p: Array, t: Array,
    floor: hyper.Size, roles: Roles = None,
    *, outputs: bool = False,
) -> tuple[Array, UpdateFloorState]:  # fmt: skip
    """Makes an update of a matrix longer where it is shorter than a share of the matrix.

        U' = U max(1, floor |W| / |U|)

    with Frobenius norms. The longer W grows, the longer its updates: W turns by no less than about `floor` in a step,
    which weight decay brings about by keeping W short.

    Args:
      inner: the optimizer, with its rate; Muon or NorMuon in the records.
      floor: the least |U| over |W|, at least 0, a number or a schedule. The records' 0.35 and 0.3825 are of the
        direction, before the rate: here floor is 0.3825 lr, with the schedule of the rate.
      roles: which leaves are matrices, and how, if their names do not say it: a dict from pattern to role or `Matrix`,
        a tree of these, or a function from the parameters to one. Other leaves move as `inner` says.
      outputs: True to compare and lengthen the weights of each output by themselves, a column of a kernel.

    Zeros stay zeros.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"kernel": jnp.diag(jnp.array([3.0, 4.0]))}
      >>> grads = {"kernel": jnp.eye(2)[::-1]}
      >>> tx = gdjax.update_floor(gdjax.sgd(0.01), floor=0.1)
      >>> u, _ = tx.update(grads, tx.init(params), params)
      >>> print(jnp.linalg.norm(u["kernel"]).round(3))  # a tenth of 5
      0.5

    Reference:
      Code of modded-nanogpt, track 3 (optimization), results 9 (u/w-floor) and 46 (per output),
      https://github.com/KellerJordan/modded-nanogpt
    """
    return _of_matrices(lambda W, U, c: _lifted(W, U, c, outputs), roles, p, u, floor), s


@wrapper(RadialBrakeState, static={"roles": of_leaf(routing)}, growth="same")
def radial_brake(
    u: Array, g: Array, s: RadialBrakeState, p: Array, t: Array,
    outward_scale: hyper.Size = 0.5, inward_scale: hyper.Size = 1.0, floor: hyper.Size = 0.0, roles: Roles = None,
    *, outputs: bool = False,
) -> tuple[Array, RadialBrakeState]:  # fmt: skip
    """Lets the norm of a matrix grow less than its update would, and by nothing but what points outward.

        r = <U, W> / |W|
        V = U - (1 - c) r W / |W|,    c = outward_scale where r > 0, else inward_scale
        V' = V max(1, floor |W| / |V|)
        W_{t+1} = (|W| + <V', W> / |W|) (W + V') / |W + V'|

    with Frobenius norms and inner products. An update at a right angle to W makes W longer, by |U|^2 / (2 |W|); after
    the last line it only turns it. It is the place of weight decay: leave that out. Outward 0 and inward 0 keep |W|, as
    `hyperball` does.

    Other arguments are those of `gdjax.update_floor`.

    Args:
      outward_scale: the share of the outward part that is left, at least 0.
      inward_scale: the share of the inward part, at least 0.
      floor: the least |V| over |W|, at least 0, which the records have between the two steps: 0.3825 lr, with the
        schedule of the rate. `update_floor` is this alone.

    A matrix of zeros has no radius: it moves by U. The wrapper must be the last to change the updates.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"kernel": jnp.diag(jnp.array([3.0, 4.0]))}
      >>> grads = {"kernel": -params["kernel"]}  # whose descent goes outward
      >>> tx = gdjax.radial_brake(gdjax.sgd(0.1), outward_scale=0.5)
      >>> u, _ = tx.update(grads, tx.init(params), params)
      >>> print(jnp.linalg.norm(params["kernel"] + u["kernel"]))  # 5 + 0.5 / 2
      5.25

    Reference:
      Code of modded-nanogpt, track 3 (optimization), result 29, https://github.com/KellerJordan/modded-nanogpt/pull/294
    """

    def braked(W: Array, U: Array, *numbers: Hyper) -> Array:
        return _braked(W, U, *numbers, outputs=outputs)

    return _of_matrices(braked, roles, p, u, outward_scale, inward_scale, floor), s
