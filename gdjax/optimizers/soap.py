"""SOAP: Adam in the eigenbases of Shampoo's factors."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Bound, Count, Decay, DType, Mask, Rate, Roles, Size, Steps
from gdjax.leaf_roles.plan import routing
from gdjax.lift.leafwise import Hyper, hyper
from gdjax.matrices.blocks import Sides
from gdjax.matrices.kronecker import Refresh, adjoint, averaged, gram, in_new_bases, into, normalized, out_of
from gdjax.matrices.matrixwise import matrixwise
from gdjax.matrices.slots import Basis, Block, Side
from gdjax.numerics import Array, debias
from gdjax.optimizers.with_adam import with_adam

__all__ = ["SoapState", "scale_by_soap", "soap"]


class SoapState(NamedTuple):
    """State of `scale_by_soap`. All m x n blocks are one stack, named "mxn"; tall ones lie in it on their side."""

    count: Array  # () int32, updates made so far
    mu: Any  # (number, m, n), average of the gradients, in the coordinates of the bases
    nu: Any  # (number, m, n), average of their squares there
    L: Any  # (number, m, m), average of G G^T; MaskedNode where that side has no factor
    R: Any  # (number, n, n), average of G^T G
    QL: Any  # (number, m, m), eigenvectors of an earlier L
    QR: Any  # (number, n, n), eigenvectors of an earlier R


def adam_in_bases(
    G: Array, s: Any, t: Array, b1: Hyper, b2: Hyper, eps: Hyper, bias_correction: bool, max_update_rms: Hyper | None
) -> tuple[Array, Any, Array]:
    """Adam of a matrix in its bases: U, the state with new moments, and the gradient there.

    The first step has no bases: it leaves the moments at 0.
    """
    g = into(G, s.QL, s.QR)
    x, n = g * (t > 1).astype(g.dtype), jnp.maximum(t - 1, 1)
    mu = b1 * s.mu + (1 - b1) * x
    nu = b2 * s.nu + (1 - b2) * numerics.abs_sq(x)
    m, v = (debias(mu, b1, n), debias(nu, b2, n)) if bias_correction else (mu, nu)
    u = shortened(normalized(m, v, eps), max_update_rms)
    return out_of(u, s.QL, s.QR), s._replace(mu=mu, nu=nu), g


def shortened(u: Array, most: Hyper | None) -> Array:
    """u, with a root mean square of `most` at most; None for no limit."""
    if most is None:
        return u
    return u * numerics.shrinking(numerics.safe_root_mean_squares(u, 0), most).astype(u.dtype)


def with_factors(G: Array, s: Any, beta: Hyper) -> Any:
    """The state with new averages of G G^T and G^T G."""
    left, right = averaged(s.L, lambda: gram(G), beta), averaged(s.R, lambda: gram(adjoint(G)), beta)
    return s._replace(L=left, R=right)


@matrixwise(
    SoapState, mu=Block(dtype="mu_dtype"), nu=Block(real=True),
    L=Side(0), R=Side(1), QL=Basis(0), QR=Basis(1),
    growth="eigenbasis",
)  # fmt: skip
def scale_by_soap(
    G: Array, s: SoapState, p: Array, t: Array,
    b1: hyper.Decay = 0.95, b2: hyper.Decay = 0.95, shampoo_beta: hyper.Decay | None = None, eps: hyper.Size = 1e-8,
    precondition_frequency: hyper.Steps = 10, max_precond_dim: Count | None = 10000,
    *, block_size: Count | None = None, sides: Sides = "both", refresh: Refresh = "qr", bias_correction: bool = True,
    max_update_rms: hyper.Bound | None = None, mu_dtype: DType | None = None, roles: Roles = None,
) -> tuple[Array, SoapState]:  # fmt: skip
    """SOAP's direction: Adam in the eigenbases of Shampoo's factors.

    Every leaf must be a matrix, or `roles` say how it is one; else `init` raises a ValueError.

    Formulas and arguments are those of `gdjax.soap`, without its rate and decay.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_soap(precondition_frequency=5)
      >>> state = tx.init({"a": jnp.ones((4, 3)), "b": jnp.ones((4, 3))})
      >>> jax.tree.map(jnp.shape, state.QL)  # matrices of one shape are one stack
      {'3x4': (2, 3, 3)}
    """
    U, s, _ = adam_in_bases(G, s, t, b1, b2, eps, bias_correction, max_update_rms)
    s = with_factors(G, s, b2 if shampoo_beta is None else shampoo_beta)
    return U, in_new_bases(s, precondition_frequency, ("mu",), ("nu",), refresh)


@transform
def soap(
    learning_rate: Rate, b1: Decay = 0.95, b2: Decay = 0.95, shampoo_beta: Decay | None = None, eps: Size = 1e-8,
    precondition_frequency: Steps = 10, max_precond_dim: Count | None = 10000,
    *, block_size: Count | None = None, sides: Sides = "both", refresh: Refresh = "qr", bias_correction: bool = True,
    max_update_rms: Bound | None = None, weight_decay: Size = 0.0, weight_decay_mask: Mask = None,
    mu_dtype: DType | None = None, roles: Roles = None, adam_learning_rate: Rate | None = None, others: Any = None,
) -> GradientTransformation:  # fmt: skip
    """SOAP for hidden matrices: Adam in the eigenbases of Shampoo's factors. AdamW for the rest.

        L_t = beta L_{t-1} + (1 - beta) G_t G_t^T,    R_t = beta R_{t-1} + (1 - beta) G_t^T G_t
        G'_t = QL^T G_t QR,    m_t = b1 m_{t-1} + (1 - b1) G'_t,    v_t = b2 v_{t-1} + (1 - b2) G'_t^2
        x_{t+1} = x_t - lr (QL (m_hat_t / (sqrt(v_hat_t) + eps)) QR^T + weight_decay x_t)

    QL and QR are eigenvectors of earlier factors: exact ones at first, and every k steps one power step further, Q' of
    L QL = Q' T, with the columns of QL in the order of their eigenvalues. m is then turned into the new coordinates,
    and v follows the columns. The first step makes the factors and moves no matrix. An update uses the bases from
    before its step, so it does not wait for new ones.

    For an m x n matrix the state has 2 m n + 2 m^2 + 2 n^2 numbers.

    Derivatives through steps go through QL and QR. They are exact where the eigenvalues of a factor differ; vectors of
    equal ones, which rounding turns as it likes, count as not turning among each other.

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1, b2: decay of m and v, in [0, 1).
      shampoo_beta: beta, in [0, 1); b2 by default.
      eps: at least 0.
      precondition_frequency: k, at least 1. For an int the factors are spread over k steps, so that no step is long; QL
        and QR are I until their first turn. For a schedule all have their turn in one step.
      max_precond_dim: a side longer than that has no factor, its basis is I. None for no limit.
      block_size: matrices are cut evenly into blocks with sides of at most that, each with factors of its own; None for
        whole matrices.
      sides: which sides have factors: "both"; "short", the shorter one of each block; "rows"; "columns".
      refresh: "qr" for one power step of the bases in each turn; "eigh" for exact eigenvectors. v is then turned as
        the diagonal of a covariance is.
      bias_correction: False for m and v in the place of m_hat and v_hat.
      max_update_rms: the largest root mean square of a matrix's update before the rate; None for no limit.
      weight_decay: of the matrices, times lr; at least 0.
      weight_decay_mask: which of them decay: a tree of booleans, a prefix of the parameters, or a function from them to
        one; None for all.
      mu_dtype: the dtype of m, float32 at least by default; of AdamW's too.
      roles: which leaves are matrices: None, by their paths and shapes; a dict from patterns of paths to roles, which
        overrides that; or dimension numbers, a tree of `MuonDimensionNumbers` or a function from the parameters to one.
      adam_learning_rate: AdamW's, lr by default. It has no decay; in `soap`, but not in variants, b1 and b2 are 0.95.
      others: a transform in place of that AdamW, as `gdjax.adamw(rate, weight_decay=0.1)`.

    Departures: along directions in which L is 0 up to rounding, L does not determine QL. There QL stays near its old
    value, so an error of rounding in L moves the updates by about as much; the reference then has an arbitrary basis of
    these directions. No sqrt(v_hat) counts as less than 1e-4 of its matrix's largest: less may be the rounding of
    larger numbers. After a turn v is raised to where no number of the direction in the bases is more than four times
    the largest before. Where a turn would lengthen the whole direction by more than 1.3, as after a spike, v is raised
    towards what the diagonal of a covariance turns to, all the way from 1.5 on. The reference refreshes all bases in
    one step. eps stands beside sqrt(v_hat), the reference's beside sqrt(v). A matrix decays before it moves, and in the
    first step too. Of an array with more than two axes the reference makes a factor for each axis, here `roles` say how
    it is a matrix.

    Raises:
      ValueError: an unknown `sides` or `refresh`; a size below 1; roles that do not fit.
      TypeError: a size that is no int.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> x, w = jax.random.normal(jax.random.key(0), (16, 4)), jnp.ones((4, 3))
      >>> loss = lambda p: jnp.mean((x @ p["kernel"] + p["bias"][None] - x @ w) ** 2)
      >>> params = {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}  # AdamW takes the bias
      >>> tx = gdjax.soap(gdjax.linear_schedule(0.1, 0.0, 100), adam_learning_rate=1e-3)
      >>> result = gdjax.minimize(loss, params, tx, steps=100)
      >>> bool(result.history["loss"][-1] < 0.1 * result.history["loss"][0])
      True

    Reference:
      Vyas et al. 2024, SOAP: improving and stabilizing Shampoo using Adam, Algorithm 3, https://arxiv.org/abs/2409.11321
    """
    direction = scale_by_soap(
        b1, b2, shampoo_beta, eps, precondition_frequency, max_precond_dim, block_size=block_size, sides=sides,
        refresh=refresh, bias_correction=bias_correction, max_update_rms=max_update_rms, mu_dtype=mu_dtype,
        roles=routing(roles),
    )  # fmt: skip
    return with_adam(
        "gdjax.soap", direction, learning_rate, weight_decay, weight_decay_mask, roles, others,
        adam_learning_rate, mu_dtype, b1=0.95, b2=0.95,
    )  # fmt: skip
