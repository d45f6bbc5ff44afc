"""Dion: a momentum orthonormalized in a few dimensions, of which the rest is kept."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import arrays
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import Check
from gdjax.core.types import Decay, DType, KeyLike, Mask, Params, Rate, Roles, Size, Transform
from gdjax.leaf_roles.plan import MATRICES, plan_of, routing
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Planned, matrix_moment
from gdjax.linalg.decompositions import qr
from gdjax.linalg.matrices import Matrix, highest
from gdjax.matrices.together import InStacks, of_stacks
from gdjax.numerics import Array, bounded
from gdjax.numerics.norms import unit_and_norm
from gdjax.optimizers.with_adam import with_adam

__all__ = ["ScaleByDionState", "dion", "scale_by_dion"]


class ScaleByDionState(NamedTuple):
    """State of `scale_by_dion`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, the sum of the gradients that is not yet in the parameters
    Q: Any  # for each leaf a list with, for each part, (number, shorter side, rank): the directions on that side


def _first_q(params: Params, arguments: Mapping[str, Any]) -> list[Any]:
    """Random directions."""
    leaves = plan_of("gdjax.scale_by_dion", params, routing(arguments["roles"]), Matrix()).leaves
    key, first = arrays.fresh_key(arguments["key"]), []
    for i, (leaf, p) in enumerate(zip(leaves, jax.tree.leaves(params), strict=True)):
        real = numerics.widest_real(p)
        dtype = numerics.complex_dtype(real) if jnp.issubdtype(jnp.result_type(p), jnp.complexfloating) else real
        parts = []
        for j, (number, rows, columns) in enumerate(leaf.sizes):
            part_key = jax.random.fold_in(jax.random.fold_in(key, i), j)
            side = min(rows, columns)
            rank = min(math.ceil(arguments["rank_fraction"] * side), side)
            parts.append(jax.random.normal(part_key, (number, side, rank), dtype))
        first.append(parts)
    return first


def _power_step(m: Array, q: Array, mu: Any, eps: Hyper) -> tuple[Array, Array, Array]:
    """The update of each matrix, its momentum without a part of what is in the update, and the new directions.

    B is the matrix with the longer side first; of a square the outputs.
    """
    turned = m.shape[-1] >= m.shape[-2]
    B = m.mT if turned else m
    mu, eps = numerics.scalar(mu, B.real.dtype), numerics.scalar(eps, B.real.dtype)
    unit, norm = unit_and_norm(B, (-2, -1))
    B = B * (1 / unit).astype(B.dtype)
    P, _ = qr(highest(B, q.astype(B.dtype)))
    R = highest(B.mT.conj(), P)
    B = B - ((1 - mu) * highest(P, R.mT.conj())).astype(B.dtype)
    length = numerics.sqrt(jnp.sum(numerics.abs_sq(R), -2, keepdims=True)) + eps / unit
    new = jnp.where(norm == 0, q, R / jnp.where(length == 0, 1, length).astype(R.dtype))
    u = jnp.where(norm == 0, 0, highest(P, new.mT.conj()))
    u = (m.shape[-1] / max(m.shape[-2], 1)) ** 0.5 * u
    B = B * unit.astype(B.dtype)
    return (u.mT, B.mT, new) if turned else (u, B, new)


@leafwise(
    ScaleByDionState, mu=matrix_moment, static={"roles": MATRICES}, Q=Planned(_first_q, "rank_fraction key"),
    growth="fits",
)  # fmt: skip
def scale_by_dion(
    g: Array, s: ScaleByDionState, p: Array, t: Array,
    mu: hyper.Decay = 0.95, rank_fraction: Annotated[float, Check("share")] = 1.0, eps: hyper.Size = 1e-8,
    *, key: KeyLike = 0, mu_dtype: DType | None = None, roles: Roles = None,
) -> tuple[Array, ScaleByDionState]:  # fmt: skip
    """Dion's direction: orthonormal, of low rank, with the remainder kept.

    Every leaf must be a matrix, or `roles` say how it is one; else `update` raises a ValueError.

    Formulas and arguments are those of `gdjax.dion`, without its rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_dion(rank_fraction=0.5)
      >>> g = jnp.eye(6, 4)
      >>> direction, state = tx.update(g, tx.init(g))
      >>> int(jnp.linalg.matrix_rank(direction, rtol=1e-3))  # half of the shorter side
      2
    """
    M = s.mu + bounded(g, "summed")
    u, M, Q = of_stacks(InStacks(_power_step), M, s.Q, leaf=roles, like=(0, 0, 1), mu=mu, eps=eps)
    return u, s._replace(mu=M, Q=Q)


@transform
def dion(
    learning_rate: Rate, mu: Decay = 0.95, rank_fraction: Annotated[float, Check("share")] = 1.0, eps: Size = 1e-8,
    *, key: KeyLike = 0, weight_decay: Size = 0.0, weight_decay_mask: Mask = None, mu_dtype: DType | None = None,
    roles: Roles = None, adam_learning_rate: Rate | None = None, others: Transform | None = None,
) -> GradientTransformation:  # fmt: skip
    """Dion for hidden matrices, AdamW for the rest: orthonormal updates of low rank, with the remainder kept.

        B_t = M_{t-1} + G_t
        P_t = orthonormal columns of B_t Q_{t-1},    R_t = B_t^T P_t
        M_t = B_t - (1 - mu) P_t R_t^T,    Q_t = R_t with its columns over (their norms + eps)
        X_{t+1} = X_t - lr (sqrt(outputs / inputs) P_t Q_t^T + weight_decay X_t)

    for the matrix with its longer side first. Q has r columns, r = rank_fraction times the shorter side; it follows the
    first r singular vectors, one step of power iteration each time. On several devices a step moves P and R, and not
    the matrix. Those of one shape are computed together, 16-bit ones in float32. In derivatives through steps a
    column of P that B Q does not determine, as where a unit is dead, only stays orthogonal to the others.

    Other arguments are those of `gdjax.normuon`.

    Args:
      mu: how much stays of what was used, in [0, 1): M is then a momentum in these directions, and elsewhere a sum of
        gradients that wait for their turn.
      rank_fraction: see above, in (0, 1]; rounded up.
      eps: see above, at least 0.
      key: a PRNG key, or an int to seed one, for Q_0, which is normal.
      mu_dtype: the dtype of M, the parameter's by default; of AdamW's moment too. Q has float32 at least.
      roles: which leaves are matrices, and how: by role (None, or a dict from pattern to role), a tree, or a function
        from the parameters to one.

    Departures: the authors decay by 0.01, and orthonormalize by a Cholesky decomposition of a random sketch; here it is
    a QR decomposition, which needs no condition.

    Raises:
      ValueError: rank_fraction is not in (0, 1]; roles that do not fit.
      TypeError: rank_fraction is no number.

    Warns:
      UserWarning: (in init) AdamW has the rate of the matrices for embeddings or heads, see `docs/matrix_methods.md`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((9, 4)), "mlp": {"kernel": jnp.eye(4)}}
      >>> tx = gdjax.dion(0.02, rank_fraction=0.5, adam_learning_rate=1e-3)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print(jnp.linalg.matrix_rank(updates["mlp"]["kernel"], rtol=1e-3))
      2
      >>> print((1e3 * updates["embed"][0]).round())  # Adam's
      [-1. -1. -1. -1.]

    Reference:
      Ahn et al. 2025, Dion: distributed orthonormalized updates, Algorithm 1, https://arxiv.org/abs/2504.05295
    """
    direction = scale_by_dion(mu, rank_fraction, eps, key=key, mu_dtype=mu_dtype, roles=routing(roles))
    return with_adam(
        "gdjax.dion", direction, learning_rate, weight_decay, weight_decay_mask, roles, others,
        adam_learning_rate, mu_dtype, b2=0.95, adams_rates=False,
    )  # fmt: skip
