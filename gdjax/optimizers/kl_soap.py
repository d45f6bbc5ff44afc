"""KL-SOAP: Adam in the eigenbases of KL-Shampoo's factors."""

from typing import Annotated, Any, NamedTuple

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import POSITIVE
from gdjax.core.types import Bound, Count, Decay, DType, Mask, Rate, Roles, Size, Steps
from gdjax.leaf_roles.plan import routing
from gdjax.lift.leafwise import hyper
from gdjax.matrices.blocks import Sides
from gdjax.matrices.kronecker import Refresh, in_new_bases
from gdjax.matrices.matrixwise import matrixwise
from gdjax.matrices.slots import Block
from gdjax.numerics import Array
from gdjax.optimizers.kl_shampoo import SLOTS, whitened_factors
from gdjax.optimizers.soap import adam_in_bases
from gdjax.optimizers.with_adam import with_adam

__all__ = ["KLSoapState", "kl_soap", "scale_by_kl_soap"]


class KLSoapState(NamedTuple):
    """State of `scale_by_kl_soap`. As `KLShampooState`, with a second moment."""

    count: Array
    mu: Any
    nu: Any  # (number, m, n), average of the squares of the gradients, in the coordinates of the bases
    L: Any
    R: Any
    QL: Any
    QR: Any
    dL: Any
    dR: Any


@matrixwise(KLSoapState, nu=Block(real=True), growth="eigenbasis", **SLOTS)
def scale_by_kl_soap(
    G: Array, s: KLSoapState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Decay = 0.98, shampoo_beta: hyper.Decay | None = None, eps: hyper.Size = 1e-8,
    precondition_frequency: hyper.Steps = 10, max_precond_dim: Count | None = 10000,
    *, init_factor: Annotated[float, POSITIVE] = 0.1, block_size: Count | None = None, sides: Sides = "both",
    refresh: Refresh = "qr", bias_correction: bool = False, max_update_rms: hyper.Bound | None = None,
    mu_dtype: DType | None = None, roles: Roles = None,
) -> tuple[Array, KLSoapState]:  # fmt: skip
    """KL-SOAP's direction: Adam in the eigenbases of KL-Shampoo's factors.

    Every leaf must be a matrix, or `roles` say how it is one; else `init` raises a ValueError.

    Formulas and arguments are those of `gdjax.kl_soap`, some of `gdjax.soap`, without its rate and decay.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_kl_soap(sides="short")
      >>> state = tx.init({"w": jnp.ones((3, 40))})
      >>> jax.tree.map(jnp.shape, state.L), jax.tree.leaves(state.R)  # one factor alone
      ({'3x40': (1, 3, 3)}, [])
    """
    U, s, g = adam_in_bases(G, s, t, b1, b2, eps, bias_correction, max_update_rms)
    s = whitened_factors(G, s, t, b2 if shampoo_beta is None else shampoo_beta, g)
    return U, in_new_bases(s, precondition_frequency, ("mu",), ("nu", "d*"), refresh, in_order=False)


@transform
def kl_soap(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.98, shampoo_beta: Decay | None = None, eps: Size = 1e-8,
    precondition_frequency: Steps = 10, max_precond_dim: Count | None = 10000,
    *, init_factor: Annotated[float, POSITIVE] = 0.1, block_size: Count | None = None, sides: Sides = "both",
    refresh: Refresh = "qr", bias_correction: bool = False, max_update_rms: Bound | None = None,
    weight_decay: Size = 0.0, weight_decay_mask: Mask = None, mu_dtype: DType | None = None, roles: Roles = None,
    adam_learning_rate: Rate | None = None, others: Any = None,
) -> GradientTransformation:  # fmt: skip
    """KL-SOAP for hidden matrices: Adam in the eigenbases of KL-Shampoo's factors. AdamW for the rest.

        L_t = beta L_{t-1} + (1 - beta) G_t R^-1 G_t^T / n,    R_t = beta R_{t-1} + (1 - beta) G_t^T L^-1 G_t / m
        G'_t = QL^T G_t QR,    m_t = b1 m_{t-1} + (1 - b1) G'_t,    v_t = b2 v_{t-1} + (1 - b2) G'_t^2
        x_{t+1} = x_t - lr (QL (m_t / (sqrt(v_t) + eps)) QR^T + weight_decay x_t)

    QL and QR are eigenvectors of earlier L and R, and in the inverses the eigenvalues are averages of what is measured
    along them, as in `kl_shampoo`. For an m x n matrix the state has 2 m n + 2 m^2 + 2 n^2 + m + n numbers. Derivatives
    through steps are as in `soap`.

    Other arguments are those of `gdjax.soap`.

    Args:
      init_factor: what the eigenvalues of L and R start at, above 0.
      bias_correction: True for Adam's m_hat and v_hat.

    Departures: as in `kl_shampoo`, and of v as in `soap`.

    Raises:
      ValueError: an unknown `sides` or `refresh`; a size below 1; roles that do not fit.
      TypeError: a size that is no int.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((512, 64)), "mlp": {"kernel": jnp.ones((64, 256))}}
      >>> whole = gdjax.kl_soap(1e-3, adam_learning_rate=3e-4)
      >>> cut = gdjax.kl_soap(1e-3, adam_learning_rate=3e-4, block_size=64)  # smaller factors
      >>> gdjax.state_bytes(cut, params) < gdjax.state_bytes(whole, params)
      True

    Reference:
      Lin et al. 2025, Understanding and improving Shampoo and SOAP via Kullback-Leibler minimization, section 4,
      https://arxiv.org/abs/2509.03378
    """
    direction = scale_by_kl_soap(
        b1, b2, shampoo_beta, eps, precondition_frequency, max_precond_dim, init_factor=init_factor,
        block_size=block_size, sides=sides, refresh=refresh, bias_correction=bias_correction,
        max_update_rms=max_update_rms, mu_dtype=mu_dtype, roles=routing(roles),
    )  # fmt: skip
    return with_adam(
        "gdjax.kl_soap", direction, learning_rate, weight_decay, weight_decay_mask, roles, others,
        adam_learning_rate, mu_dtype,
    )  # fmt: skip
