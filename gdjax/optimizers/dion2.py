"""Dion2: the largest rows of a momentum orthonormalized, the others kept."""

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import Check
from gdjax.core.types import Decay, DType, Floating, Mask, Params, Rate, Roles, Size, Steps, Transform
from gdjax.leaf_roles.plan import MATRICES, routing
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import matrix_moment
from gdjax.linalg.newton_schulz import Preconditioning
from gdjax.linalg.polar import Polar
from gdjax.matrices.together import InStacks, of_stacks
from gdjax.numerics import Array, bounded
from gdjax.optimizers.orthogonal import NS_COEFFS, refuse_complex
from gdjax.optimizers.with_adam import with_adam

__all__ = ["ScaleByDion2State", "dion2", "scale_by_dion2"]


class ScaleByDion2State(NamedTuple):
    """State of `scale_by_dion2`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, the sum of the gradients that is not yet in the parameters
    ns_coeffs: Array  # (3,) or (steps, 3), coefficients of Newton-Schulz


def _submatrix(
    m: Array, polar: Polar, coeffs: Array, steps: Hyper, fraction: float, ef_decay: Any, eps: Hyper
) -> tuple[Array, Array]:
    """The update of each matrix, and its momentum, of which the rows in use decay.

    The rows are those of the shorter side; of a square the outputs.
    """
    if m.size == 0:
        return m, m
    turned = m.shape[-1] <= m.shape[-2]
    M = m.mT if turned else m
    size = jnp.sum(jnp.abs(M), -1)
    _, chosen = jax.lax.top_k(size, max(1, math.ceil(fraction * M.shape[-2])))
    rows = jnp.take_along_axis(M, chosen[..., None], -2)
    o = (m.shape[-1] / m.shape[-2]) ** 0.5 * polar.one(rows, coeffs, steps, eps)
    put = lambda x, rows, chosen: x.at[chosen].set(rows, unique_indices=True)
    put = jax.vmap(put) if m.ndim > 2 else put
    used = numerics.scalar(ef_decay, M.real.dtype) * rows
    u, M = put(jnp.zeros_like(M), o, chosen), put(M, used, chosen)
    u = u + 0 * M  # NaN in a row that was not chosen
    return (u.mT, M.mT) if turned else (u, M)


@leafwise(ScaleByDion2State, mu=matrix_moment, static={"roles": MATRICES}, ns_coeffs=NS_COEFFS, growth="fits")
def scale_by_dion2(
    g: Array, s: ScaleByDion2State, p: Array, t: Array,
    fraction: Annotated[float, Check("share")] = 0.25, ef_decay: hyper.Decay = 0.95, eps: hyper.Size = 1e-8,
    ns_coeffs: Any = "polar_express", ns_steps: hyper.Steps = 5,
    *, preconditioning: Preconditioning = "frobenius", ns_dtype: Floating | None = None, mu_dtype: DType | None = None,
    roles: Roles = None,
) -> tuple[Array, ScaleByDion2State]:  # fmt: skip
    """Dion2's direction: Muon on the largest rows of each matrix, the others kept.

    Every leaf must be a matrix, or `roles` say how it is one; else `update` raises a ValueError.

    Formulas and arguments are those of `gdjax.dion2`, some of `gdjax.normuon`, without its rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_dion2(fraction=0.5)
      >>> g = jnp.array([[5.0, 1.0, 0.0], [0.0, 0.2, 0.1]])
      >>> direction, state = tx.update(g, tx.init(g))
      >>> print(jnp.abs(direction).sum(1) > 0)  # the larger row alone
      [ True False]
    """
    refuse_complex(ns_dtype, g)
    B = s.mu + bounded(g, "summed")
    u, M = of_stacks(
        InStacks(_submatrix, owned=False), B, leaf=roles, like=(0, 0), coeffs=s.ns_coeffs,
        steps=ns_steps, polar=Polar(preconditioning, ns_dtype), fraction=fraction, ef_decay=ef_decay, eps=eps,
    )  # fmt: skip
    return u, s._replace(mu=M)


@transform
def dion2(
    learning_rate: Rate, fraction: Annotated[float, Check("share")] = 0.25, ef_decay: Decay = 0.95, eps: Size = 1e-8,
    ns_coeffs: Any = "polar_express", ns_steps: Steps = 5,
    *, preconditioning: Preconditioning = "frobenius", ns_dtype: Floating | None = None, weight_decay: Size = 0.0,
    weight_decay_mask: Mask = None, mu_dtype: DType | None = None, roles: Roles = None,
    adam_learning_rate: Rate | None = None, others: Transform | None = None,
) -> GradientTransformation:  # fmt: skip
    """Dion2 for hidden matrices, AdamW for the rest: Muon on the largest rows of each matrix, the others kept.

        B_t = M_{t-1} + G_t
        K = the share `fraction` of the rows of B_t whose sums of |B_ij| are largest
        M_t = B_t, in the rows K times ef_decay
        O_t = the polar factor of the rows K of B_t, by Newton-Schulz, and 0 in the other rows
        X_{t+1} = X_t - lr (sqrt(outputs / inputs) O_t + weight_decay X_t)

    for the matrix with its shorter side first, of a square the outputs. Matrices of one shape are computed together,
    16-bit ones in float32.

    Other arguments are those of `gdjax.normuon`.

    Args:
      fraction: see above, in (0, 1]; rounded up.
      ef_decay: what stays of the rows in use, in [0, 1).
      eps: beside the norm in Newton-Schulz, at least 0.

    Departures: the authors decay by 0.01, compute in bfloat16, and take coefficients of Polar Express that are made for
    five steps. Of a matrix that is divided over devices they choose rows on each device.

    Raises:
      ValueError: fraction is not in (0, 1]; an unknown preset or preconditioning; coefficients of another shape or for
        more steps than ns_steps; roles that do not fit.
      TypeError: fraction is no number. (In update) a complex matrix with `ns_dtype`.

    Warns:
      UserWarning: (in init) AdamW has the rate of the matrices for embeddings or heads, see `docs/matrix_methods.md`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((9, 4)), "mlp": {"kernel": jnp.eye(4)}}
      >>> tx = gdjax.dion2(0.02, fraction=0.25, adam_learning_rate=1e-3)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print((jnp.abs(updates["mlp"]["kernel"]).max(1) > 0).sum())  # rows that move
      1
      >>> print((1e3 * updates["embed"][0]).round())  # Adam's
      [-1. -1. -1. -1.]

    Reference:
      Ahn et al. 2025, Dion2: a simple method to shrink matrix in Muon, Algorithm 1, https://arxiv.org/abs/2512.16928
    """
    direction = scale_by_dion2(
        fraction, ef_decay, eps, ns_coeffs, ns_steps, preconditioning=preconditioning, ns_dtype=ns_dtype,
        mu_dtype=mu_dtype, roles=routing(roles),
    )  # fmt: skip
    return with_adam(
        "gdjax.dion2", direction, learning_rate, weight_decay, weight_decay_mask, roles, others,
        adam_learning_rate, mu_dtype, b2=0.95, adams_rates=False,
    )  # fmt: skip
