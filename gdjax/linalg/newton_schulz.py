"""The polar factor of matrices, computed by products alone."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.numerics import Array
from gdjax.numerics.norms import unit_and_norm

# Coefficients (a, b, c), for every step or for each step in turn. "standard" are Jordan's: a is as large as possible if
# singular values are to end between about 0.7 and 1.2. Those of "dion", found by You Jiacheng, end closer to 1.
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


def orthogonalize(x: Array, coeffs: Array, steps: int, preconditioning: str, eps: Any, products: Any = None) -> Array:
    """About U V^T of X = U S V^T, for each matrix: X over a norm, then steps of

        A = X X^T,    X <- a X + (b A + c A^2) X

    which take each singular value s to a s + b s^3 + c s^5 and leave U and V. For a tall X it is A = X^H X, with the
    polynomial on the right: a transposition instead would be expensive on a TPU.

    Args:
      x: (n, rows, columns) or (rows, columns), real or complex, float32 or wider.
      coeffs: (a, b, c) for every step; or (n, 3), one triple for each of n steps, whatever `steps` is.
      preconditioning: the norm, which must bound the singular values: "frobenius", |X|; "spectral", the largest
        singular value, by the eigenvalues of A; "schatten", |A|^(1/2), between the two; "aol", for each row i of A a
        number (sum_j |A_ij|)^(1/2), by which that row of X, or that column of a tall X, is divided.
      eps: added to the first two norms; the least value of the last two.
      products: the dtype that factors are rounded to, for real x; sums of their products have the dtype of x.
    """
    if x.size == 0:
        return x
    # First X over its Frobenius norm, so that squares neither over- nor underflow. The rest cancels that, but for eps.
    unit, size = unit_and_norm(x, (-2, -1))
    over = 1 / jnp.where(size == 0, 1, size)
    eps = jnp.asarray(eps).astype(unit.dtype) / unit * over
    if preconditioning == "frobenius":
        x = x * (1 / unit).astype(x.dtype) * (over / (1 + eps)).astype(x.dtype)
        a = _gram(x, products)
    else:
        x = x * (1 / unit).astype(x.dtype) * over.astype(x.dtype)
        a = _gram(x, products)
        if preconditioning == "spectral":
            norm = numerics.sqrt(jnp.linalg.eigvalsh(a)[..., -1:, None].clip(0)) + eps
        elif preconditioning == "schatten":
            norm = jnp.maximum(numerics.sqrt(numerics.sqrt(jnp.sum(numerics.abs_sq(a), (-2, -1), keepdims=True))), eps)
        else:
            norm = jnp.maximum(numerics.sqrt(jnp.sum(jnp.abs(a), -1, keepdims=True)), eps)
        over = (1 / jnp.where(norm == 0, 1, norm)).astype(x.dtype)
        x, a = x * (over.mT if _tall(x) else over), a * over * over.mT
    coeffs = coeffs.astype(x.dtype)
    triples = [coeffs] * steps if coeffs.ndim == 1 else list(coeffs)
    if products is not None:
        return _rounded(products, triples, x, a)
    if 2 * max(x.shape[-2:]) <= 3 * min(x.shape[-2:]):
        return _by_columns(triples, x, a)
    by_rows, by_columns = functools.partial(_by_rows, triples), functools.partial(_by_columns, triples)
    return jax.lax.platform_dependent(x, a, cpu=by_rows, default=by_columns)


def _by_columns(triples: Sequence[Array], x: Array, a: Array) -> Array:
    for i, c in enumerate(triples):
        a = a if i == 0 else _gram(x)
        x = c[0] * x + _times(c[1] * a + c[2] * (a @ a), x)
    return x


def _by_rows(triples: Sequence[Array], x: Array, a: Array) -> Array:
    """The same in fewer operations for a long X: with X <- P X and A <- P A P, only a product of several P meets X.

    Of three P at most: where products are in full float32, the errors then are those of the plain steps. On GPU and
    TPU products are not in full float32 by default.
    """
    one = _one(a)
    for start in range(0, len(triples), 3):
        a, product = a if start == 0 else _gram(x), one
        for i, c in enumerate(three := triples[start : start + 3]):
            p = c[0] * one + c[1] * a + c[2] * (a @ a)
            product = p if i == 0 else p @ product
            a = p @ a @ p if i + 1 < len(three) else a
        x = _times(product, x)
    return x


def _rounded(dtype: Any, triples: Sequence[Array], x: Array, a: Array) -> Array:
    """The same with X, A and the polynomial of A rounded to `dtype`.

    A is rounded in b A too, not only as a factor: b + 2 c is small where 2 c is not, and so is the effect of rounding.
    """
    wide, one = x.dtype, _one(a)
    for i, c in enumerate(triples):
        a = (a if i == 0 else _gram(x, dtype)).astype(dtype).astype(wide)
        p = c[0] * one + c[1] * a + c[2] * _product("...ij,...jk->...ik", a, a, dtype)
        x = _times(p, x, dtype).astype(dtype).astype(wide)
    return x


def _one(a: Array) -> Array:
    return jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)


def _tall(x: Array) -> bool:
    return x.shape[-2] > x.shape[-1]


def _gram(x: Array, dtype: Any = None) -> Array:
    """X X^H; X^H X of a tall X."""
    if _tall(x):
        return _product("...ji,...jk->...ik", x.conj(), x, dtype)
    return _product("...ij,...kj->...ik", x, x.conj(), dtype)


def _times(p: Array, x: Array, dtype: Any = None) -> Array:
    """P X; X P of a tall X."""
    return _product("...ij,...jk->...ik", *((x, p) if _tall(x) else (p, x)), dtype)


def _product(indices: str, x: Array, y: Array, dtype: Any) -> Array:
    """The product of x and y, rounded to `dtype` if there is one, in the dtype of x."""
    narrow = x.dtype if dtype is None else dtype
    return jnp.einsum(indices, x.astype(narrow), y.astype(narrow), preferred_element_type=x.dtype)
