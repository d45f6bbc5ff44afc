"""SOAP-Muon: momentum whitened as in SOAP, then orthogonalized as in Muon."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import AtLeast
from gdjax.core.types import Count, Decay, DType, Mask, Rate, Roles, Size, Steps
from gdjax.leaf_roles.plan import routing
from gdjax.lift.leafwise import Hyper, hyper
from gdjax.linalg.newton_schulz import Preconditioning
from gdjax.linalg.polar import Polar, coefficients
from gdjax.matrices.blocks import Sides
from gdjax.matrices.kronecker import Refresh, in_new_bases, into, normalized, out_of
from gdjax.matrices.matrixwise import matrixwise
from gdjax.matrices.slots import Basis, Block, Side
from gdjax.numerics import Array
from gdjax.optimizers.soap import with_factors
from gdjax.optimizers.with_adam import with_adam

__all__ = ["SoapMuonState", "scale_by_soap_muon", "soap_muon"]


class SoapMuonState(NamedTuple):
    """State of `scale_by_soap_muon`. All m x n blocks are one stack, named "mxn"; tall ones lie in it on their side."""

    count: Array  # () int32, updates made so far
    mu: Any  # (number, m, n), momentum, in the coordinates of the bases
    nu: Any  # (number, m, n), average of the squares of Nesterov's momentum there
    L: Any  # (number, m, m), average of G G^T; MaskedNode where that side has no factor
    R: Any  # (number, n, n), average of G^T G
    QL: Any  # (number, m, m), eigenvectors of an earlier L
    QR: Any  # (number, n, n), eigenvectors of an earlier R


def whole(
    Us: Sequence[Array], ns_coeffs: Any, ns_steps: int, by_shape: bool, block_size: int | None, polar: Polar
) -> Sequence[Array]:
    """Of blocks the polar factors of the matrices; by shape times sqrt(max(1, columns / rows))."""
    if block_size is not None:
        coeffs = coefficients("gdjax.scale_by_soap_muon", ns_coeffs, ns_steps)
        Us = polar.factors(Us, coeffs, ns_steps, 0.0)
    return [max(1, x.shape[-1] / max(x.shape[-2], 1)) ** 0.5 * x for x in Us] if by_shape else Us


@matrixwise(
    SoapMuonState, then=whole, mu=Block(dtype="mu_dtype"), nu=Block(real=True),
    L=Side(0), R=Side(1), QL=Basis(0), QR=Basis(1),
    growth=lambda arguments, *_: "by_shape" if arguments["by_shape"] else "orthonormal",
)  # fmt: skip
def _soap_muon(
    G: Array, s: SoapMuonState, p: Array, t: Array,
    beta: Hyper, b2: hyper.Squares, eps: hyper.Size, precondition_frequency: hyper.Steps, max_precond_dim: Count | None,
    block_size: Count | None, sides: str, refresh: str, mu_dtype: DType | None, roles: Roles,
    shampoo_beta: hyper.Decay | None, ns_coeffs: Any, ns_steps: int, polar: Polar, **of_whole: Any,
) -> tuple[Array, SoapMuonState]:  # fmt: skip
    b3 = b2 if shampoo_beta is None else shampoo_beta
    g = into(G, s.QL, s.QR)
    mu = beta * s.mu + (1 - beta) * g
    m = beta * mu + (1 - beta) * g
    nu = b2 * s.nu + (1 - b2) * numerics.abs_sq(m) * (t > 1).astype(s.nu.dtype)
    u = jnp.where(t > 1, normalized(m, nu, eps), m)  # the first step has no bases
    U, s = out_of(u, s.QL, s.QR), with_factors(G, s._replace(mu=mu, nu=nu), b3)
    if block_size is None:
        coeffs = coefficients("gdjax.scale_by_soap_muon", ns_coeffs, ns_steps)
        U = polar.one(U, coeffs, ns_steps, 0.0)
    return U, in_new_bases(s, precondition_frequency, ("mu",), ("nu",), refresh)


@transform
def scale_by_soap_muon(
    beta: Decay = 0.95, b2: Decay = 0.9, shampoo_beta: Decay | None = None, eps: Size = 1e-8,
    precondition_frequency: Steps = 10, max_precond_dim: Count | None = 10000,
    *, ns_coeffs: Any = "standard", ns_steps: Annotated[int, AtLeast(1)] = 5,
    preconditioning: Preconditioning = "frobenius", block_size: Count | None = None, sides: Sides = "both",
    refresh: Refresh = "qr", mu_dtype: DType | None = None, roles: Roles = None,
) -> GradientTransformation:  # fmt: skip
    """SOAP-Muon's direction, whose singular values are about 1.

    Every leaf must be a matrix, or `roles` say how it is one; else `init` raises a ValueError.

    Formulas and arguments are those of `gdjax.soap_muon`, some of `gdjax.soap`, without its rate and decay. The
    direction is U V^T.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_soap_muon(ns_coeffs="polar_express", ns_steps=8)
      >>> g = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
      >>> direction, state = tx.update(g, tx.init(g), g)
      >>> print(jnp.linalg.svd(direction, compute_uv=False).round())
      [1. 1.]
    """
    coefficients("gdjax.scale_by_soap_muon", ns_coeffs, ns_steps)
    return _soap_muon(
        beta, b2, eps, precondition_frequency, max_precond_dim, block_size, sides, refresh, mu_dtype, roles,
        shampoo_beta, ns_coeffs=ns_coeffs, ns_steps=ns_steps, polar=Polar(preconditioning), by_shape=False,
    )  # fmt: skip


@transform
def soap_muon(
    learning_rate: Rate, beta: Decay = 0.95, b2: Decay = 0.9, shampoo_beta: Decay | None = None, eps: Size = 1e-8,
    precondition_frequency: Steps = 10, max_precond_dim: Count | None = 10000,
    *, ns_coeffs: Any = "standard", ns_steps: Annotated[int, AtLeast(1)] = 5,
    preconditioning: Preconditioning = "frobenius", block_size: Count | None = None, sides: Sides = "both",
    refresh: Refresh = "qr", weight_decay: Size = 0.0, weight_decay_mask: Mask = None,
    mu_dtype: DType | None = None, roles: Roles = None, adam_learning_rate: Rate | None = None, others: Any = None,
) -> GradientTransformation:  # fmt: skip
    """SOAP-Muon for hidden matrices: momentum whitened as in SOAP, then orthogonalized as in Muon. AdamW for the rest.

        L_t = b3 L_{t-1} + (1 - b3) G_t G_t^T,    R_t = b3 R_{t-1} + (1 - b3) G_t^T G_t,    b3 = shampoo_beta
        m_t = beta m_{t-1} + (1 - beta) G_t,    M_t = QL^T (beta m_t + (1 - beta) G_t) QR
        v_t = b2 v_{t-1} + (1 - b2) M_t^2,      S_t = QL (M_t / (sqrt(v_t) + eps)) QR^T
        x_{t+1} = x_t - lr (sqrt(max(1, columns / rows)) U V^T + weight_decay x_t),    S_t = U S V^T

    with QL and QR eigenvectors of earlier factors, and U V^T by Newton-Schulz. The first step is one of Muon: it has no
    bases yet.

    For an m x n matrix the state has 2 m n + 2 m^2 + 2 n^2 numbers. Derivatives through steps are as in `soap`.

    Other arguments are those of `gdjax.soap`.

    Args:
      beta: of the momentum, in [0, 1).
      b2: of v, in [0, 1).
      shampoo_beta: of L and R, in [0, 1); b2 by default.
      block_size: matrices are cut evenly into blocks with sides of at most that, which are whitened each by itself and
        orthogonalized together; None for whole matrices.
      ns_coeffs: (a, b, c) of Newton-Schulz, a sequence of such triples, or the name of one: "standard", "jordan",
        "dion", "polar_express", "cans", "deepseek" or "aol".
      ns_steps: how many steps of Newton-Schulz, an int; with a sequence of triples only a bound on their number.
      preconditioning: the norm that S is divided by before them: "frobenius", "spectral", "schatten" or "aol".
      sides: which sides have factors: "both"; "short", the shorter one of each block; "rows"; "columns". Vyas et al.
        take the "short" side, the records of modded-nanogpt both.

    Departures: the records of modded-nanogpt refresh all bases in one step, and have further parts around this. Result
    44 has precondition_frequency=1, preconditioning="schatten", ns_coeffs=(2.0, -1.5, 0.5), ns_steps=12. Vyas et al.
    take Adam's first moment for the momentum, and a signed square root of S in the bases. Of v as in `soap`.

    Raises:
      ValueError: an unknown preset, `sides` or `refresh`; a size below 1; roles that do not fit.
      TypeError: a size that is no int.

    Warns:
      UserWarning: (in init) AdamW has the rate of the matrices for embeddings or heads, see `docs/matrix_methods.md`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((9, 4)), "mlp": {"kernel": jnp.eye(4)}}
      >>> tx = gdjax.soap_muon(0.02, sides="short", adam_learning_rate=1e-3)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> step = jnp.linalg.svd(updates["mlp"]["kernel"], compute_uv=False)
      >>> bool((step > 0.01).all() & (step < 0.03).all())  # singular values of about lr
      True

    References:
      Vyas, Zhao, Morwani, Kwun & Kakade 2025, Improving SOAP using iterative whitening and Muon,
      https://nikhilvyas.github.io/SOAP_Muon.pdf;
      Jordan et al. 2026, modded-nanogpt, track 3, results 14 and 44, https://github.com/KellerJordan/modded-nanogpt
    """
    coefficients("gdjax.soap_muon", ns_coeffs, ns_steps)
    direction = _soap_muon(
        beta, b2, eps, precondition_frequency, max_precond_dim, block_size, sides, refresh, mu_dtype, routing(roles),
        shampoo_beta, ns_coeffs=ns_coeffs, ns_steps=ns_steps, polar=Polar(preconditioning), by_shape=True,
    )  # fmt: skip
    return with_adam(
        "gdjax.soap_muon", direction, learning_rate, weight_decay, weight_decay_mask, roles, others,
        adam_learning_rate, mu_dtype, adams_rates=False,
    )  # fmt: skip
