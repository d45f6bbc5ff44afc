"""KL-Shampoo: Kronecker factors that are fitted together, each whitened by the other."""

from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import POSITIVE
from gdjax.core.types import Count, Decay, DType, Mask, Rate, Roles, Size, Steps
from gdjax.leaf_roles.plan import routing
from gdjax.lift.leafwise import Hyper, hyper
from gdjax.matrices.blocks import Sides
from gdjax.matrices.kronecker import Refresh, adjoint, averaged, gram, in_new_bases, into, out_of
from gdjax.matrices.matrixwise import matrixwise
from gdjax.matrices.slots import Along, Basis, Block, Side
from gdjax.numerics import Array, abs_sq
from gdjax.optimizers.with_adam import with_adam

__all__ = ["KLShampooState", "kl_shampoo", "scale_by_kl_shampoo"]

LEAST, MOST = 10, 4000  # 1 / sqrt(d) is at most the length of d, which counts as no less and no more than these


class KLShampooState(NamedTuple):
    """State of `scale_by_kl_shampoo`. All m x n blocks are one stack, named "mxn"; tall ones lie on their side."""

    count: Array  # () int32, updates made so far
    mu: Any  # (number, m, n), average of the gradients, in the coordinates of the bases
    L: Any  # (number, m, m), average of G R^-1 G^T / n; MaskedNode where that side has no factor
    R: Any  # (number, n, n), average of G^T L^-1 G / m
    QL: Any  # (number, m, m), eigenvectors of an earlier L
    QR: Any  # (number, n, n), eigenvectors of an earlier R
    dL: Any  # (number, m, 1), estimates of the eigenvalues of L
    dR: Any  # (number, 1, n), those of R


def whitened_factors(G: Array, s: Any, t: Array, beta: Hyper, g: Array) -> Any:
    """The state with new factors, each whitened by the other, and their eigenvalues; g is the gradient in the bases."""
    m, n = (max(size, 1) for size in G.shape)

    def whitening(d: Array | None) -> Any:
        return 1 if d is None else jnp.where(t > 1, 1 / numerics.sqrt(d), 1).astype(G.dtype)

    left, right = whitening(s.dL), whitening(s.dR)
    by_right, by_left = into(G, None, s.QR) * right, into(G, s.QL, None) * left
    return s._replace(
        L=averaged(s.L, lambda: gram(by_right) / n, beta),
        R=averaged(s.R, lambda: gram(adjoint(by_left)) / m, beta),
        dL=_eigenvalues(s.dL, lambda: jnp.sum(abs_sq(g * right), -1, keepdims=True) / n, t, beta),
        dR=_eigenvalues(s.dR, lambda: jnp.sum(abs_sq(g * left), -2, keepdims=True) / m, t, beta),
    )


def _eigenvalues(d: Array | None, new: Any, t: Array, beta: Hyper) -> Array | None:
    """The average of what is measured along the eigenvectors; the first step has none."""
    if d is None:
        return None
    most = max(LEAST, min(max(d.shape[-2:]), MOST))
    return jnp.where(t > 1, jnp.maximum(beta * d + (1 - beta) * new(), 1 / most**2), d)


SLOTS: dict[str, Any] = {
    "mu": Block(dtype="mu_dtype"), "L": Side(0), "R": Side(1),
    "QL": Basis(0), "QR": Basis(1),
    "dL": Along(0, "init_factor"), "dR": Along(1, "init_factor"),
}  # fmt: skip


@matrixwise(KLShampooState, **SLOTS)
def scale_by_kl_shampoo(
    G: Array, s: KLShampooState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, shampoo_beta: hyper.Decay = 0.98, eps: hyper.Size = 1e-8,
    precondition_frequency: hyper.Steps = 10, max_precond_dim: Count | None = 10000,
    *, init_factor: Annotated[float, POSITIVE] = 0.1, block_size: Count | None = None, sides: Sides = "both",
    refresh: Refresh = "qr", mu_dtype: DType | None = None, roles: Roles = None,
) -> tuple[Array, KLShampooState]:  # fmt: skip
    """KL-Shampoo's direction: Shampoo's, with two factors that are fitted together.

    Every leaf must be a matrix, or `roles` say how it is one; else `init` raises a ValueError.

    Formulas and arguments are those of `gdjax.kl_shampoo`, some of `gdjax.soap`, without its rate and decay.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.scale_by_kl_shampoo(), gdjax.scale_by_learning_rate(1e-2))
      >>> w = jax.random.normal(jax.random.key(0), (4, 3))
      >>> updates, state = tx.update(w, tx.init(w), w)
      >>> print(jnp.abs(updates).max())  # the first step makes the factors alone
      0.0
    """
    g = into(G, s.QL, s.QR)
    mu = b1 * s.mu + (1 - b1) * g * (t > 1).astype(g.dtype)
    s = whitened_factors(G, s._replace(mu=mu), t, shampoo_beta, g)
    left, right = (1.0 if d is None else numerics.sqrt(d) for d in (s.dL, s.dR))
    U = out_of(mu / jnp.asarray(left * right + eps).astype(g.dtype), s.QL, s.QR)
    return U, in_new_bases(s, precondition_frequency, ("mu",), ("d*",), refresh, in_order=False)


@transform
def kl_shampoo(
    learning_rate: Rate, b1: Decay = 0.9, shampoo_beta: Decay = 0.98, eps: Size = 1e-8,
    precondition_frequency: Steps = 10, max_precond_dim: Count | None = 10000,
    *, init_factor: Annotated[float, POSITIVE] = 0.1, block_size: Count | None = None, sides: Sides = "both",
    refresh: Refresh = "qr", weight_decay: Size = 0.0, weight_decay_mask: Mask = None, mu_dtype: DType | None = None,
    roles: Roles = None, adam_learning_rate: Rate | None = None, others: Any = None,
) -> GradientTransformation:  # fmt: skip
    """KL-Shampoo for hidden matrices: Shampoo whose two factors are fitted together. AdamW for the rest.

        L_t = beta L_{t-1} + (1 - beta) G_t R^-1 G_t^T / n,    R_t = beta R_{t-1} + (1 - beta) G_t^T L^-1 G_t / m
        m_t = b1 m_{t-1} + (1 - b1) G_t
        x_{t+1} = x_t - lr (QL ((QL^T m_t QR) / (sqrt(dL dR^T) + eps)) QR^T + weight_decay x_t)

    for an m x n matrix. In the inverses L is QL diag(dL) QL^T, and R alike: QL and QR are eigenvectors of earlier
    factors, see `soap`, and dL and dR averages of what is measured along them, for dL the row means of
    |QL^T G QR|^2 / dR. The Kronecker product of L and R then is near the covariance of G in the Kullback-Leibler
    divergence of Gaussians. An update divides by the dL and dR that have seen its gradient. The first step makes the
    factors, of G G^T / n and G^T G / m, and moves no matrix.

    The state has m n + 2 m^2 + 2 n^2 + m + n numbers. Derivatives through steps are as in `soap`.

    Other arguments are those of `gdjax.soap`.

    Args:
      b1: decay of the momentum, in [0, 1).
      shampoo_beta: beta, in [0, 1).
      max_precond_dim: a side longer than that has no factor, it is I. None for no limit.
      refresh: "qr" for one power step of the bases in each turn; "eigh" for exact eigenvectors.
      init_factor: what dL and dR start at, above 0.

    1 / sqrt(d) is at most the length of d, which counts as at least 10 and at most 4000.

    Departures: an update divides by dL and dR that have seen its gradient, as the paper's equation 5 does, so that a
    spike is bounded; its authors' code divides by those of the step before. QL and QR are those of before. The
    reference computes in bfloat16 by default. Others as in `soap`, but for eps.

    Raises:
      ValueError: an unknown `sides` or `refresh`; a size below 1; roles that do not fit.
      TypeError: a size that is no int.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((9, 4)), "mlp": {"kernel": jnp.eye(4)}}
      >>> tx = gdjax.kl_shampoo(1e-3, precondition_frequency=5, adam_learning_rate=3e-4)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> jax.tree.map(lambda u: bool((u != 0).any()), updates)  # no matrix in the first step
      {'embed': True, 'mlp': {'kernel': False}}

    Reference:
      Lin et al. 2025, Understanding and improving Shampoo and SOAP via Kullback-Leibler minimization, Figure 3,
      https://arxiv.org/abs/2509.03378
    """
    direction = scale_by_kl_shampoo(
        b1, shampoo_beta, eps, precondition_frequency, max_precond_dim, init_factor=init_factor,
        block_size=block_size, sides=sides, refresh=refresh, mu_dtype=mu_dtype, roles=routing(roles),
    )  # fmt: skip
    return with_adam(
        "gdjax.kl_shampoo", direction, learning_rate, weight_decay, weight_decay_mask, roles, others,
        adam_learning_rate, mu_dtype,
    )  # fmt: skip
