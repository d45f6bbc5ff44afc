"""The polar factor of matrices by products only."""

from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.numerics import Array

# Coefficients (a, b, c), of every step or of each step in turn. "standard" are Jordan's: a is as large as it can be for
# singular values that end between about 0.7 and 1.2. Those of "dion", found by You Jiacheng, come closer to 1.
PRESETS: dict[str, Any] = {
    "standard": (3.4445, -4.7750, 2.0315),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}
PRESETS["muon"] = PRESETS["standard"]  # the name in Optax's documentation
NORMS = "frobenius", "spectral", "aol", "schatten"


def coefficients(label: str, ns_coeffs: Any, ns_steps: int) -> Array:
    """The coefficients as an array: (3,) for ns_steps steps, or (steps, 3) for at most ns_steps.

    Raises:
      ValueError: an unknown preset, another shape, or more triples than ns_steps.
    """
    if isinstance(ns_coeffs, str):
        if ns_coeffs not in PRESETS:
            raise ValueError(f"{label}: ns_coeffs must be numbers or one of {', '.join(PRESETS)}, got {ns_coeffs!r}")
        ns_coeffs = PRESETS[ns_coeffs]
    try:
        x = jnp.asarray(ns_coeffs, float)
    except (TypeError, ValueError):
        raise TypeError(f"{label}: ns_coeffs must be numbers, got {ns_coeffs!r}") from None
    if x.ndim not in (1, 2) or x.shape[-1] != 3:
        raise ValueError(f"{label}: ns_coeffs must have shape (3,) or (steps, 3), got {x.shape}")
    if x.ndim == 2 and len(x) > ns_steps:
        raise ValueError(f"{label}: ns_coeffs has {len(x)} triples, one for each step, and ns_steps is {ns_steps}")
    return x


def orthogonalize(x: Array, coeffs: Array, steps: int, preconditioning: str, eps: Any) -> Array:
    """About U V^T of X = U S V^T, for each matrix: X over a norm, then steps of

        A = X X^T,    X <- a X + (b A + c A^2) X

    which take each singular value s to a s + b s^3 + c s^5 and leave U and V.

    Args:
      x: (n, rows, columns), rows <= columns, real or complex, float32 or wider.
      coeffs: (a, b, c) for every step; or (n, 3), one triple for each of n steps, whatever `steps` is.
      preconditioning: the norm, which must bound the singular values: "frobenius", |X|; "spectral", the largest
        singular value, by the eigenvalues of X X^T; "schatten", |X X^T|^(1/2), between the two; "aol", a number for
        each row i, (sum_j |X X^T|_ij)^(1/2).
      eps: added to the first two norms; the least value of the last two.
    """
    if x.size == 0:
        return x
    # X over its largest number first: squares neither over- nor underflow. What follows cancels it, but for eps.
    # The bounds keep its reciprocal, by which XLA multiplies, a normal number.
    limits = jnp.finfo(x.dtype)
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), (-2, -1), keepdims=True))
    top = jnp.where(top == 0, 1, top.clip(limits.tiny, limits.max / 8))
    x, eps = x / top.astype(x.dtype), jnp.asarray(eps).astype(top.dtype) / top
    a = _gram(x)
    if preconditioning == "frobenius":
        norm = numerics.sqrt(jnp.sum(numerics.abs_sq(x), (-2, -1), keepdims=True)) + eps
    elif preconditioning == "spectral":
        norm = numerics.sqrt(jnp.linalg.eigvalsh(a)[:, -1:, None].clip(0)) + eps
    elif preconditioning == "schatten":
        norm = jnp.maximum(numerics.sqrt(numerics.sqrt(jnp.sum(numerics.abs_sq(a), (-2, -1), keepdims=True))), eps)
    else:
        norm = jnp.maximum(numerics.sqrt(jnp.sum(jnp.abs(a), -1, keepdims=True)), eps)
    over = (1 / jnp.where(norm == 0, 1, norm)).astype(x.dtype)
    x, a = x * over, a * over * over.mT
    coeffs = coeffs.astype(x.dtype)
    for i, c in enumerate([coeffs] * steps if coeffs.ndim == 1 else coeffs):
        a = a if i == 0 else _gram(x)
        x = c[0] * x + (c[1] * a + c[2] * (a @ a)) @ x
    return x


def _gram(x: Array) -> Array:
    return x @ x.conj().mT
