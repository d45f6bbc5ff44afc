"""The polar factor of matrices by products only."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.numerics import Array
from gdjax.numerics.norms import unit_and_norm

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


def orthogonalize(x: Array, coeffs: Array, steps: int, preconditioning: str, eps: Any, products: Any = None) -> Array:
    """About U V^T of X = U S V^T, for each matrix: X over a norm, then steps of

        A = X X^T,    X <- a X + (b A + c A^2) X

    which take each singular value s to a s + b s^3 + c s^5 and leave U and V. A tall X has A = X^H X, and the
    polynomial on its right: to transpose it instead is dear on a TPU.

    Args:
      x: (n, rows, columns) or (rows, columns), real or complex, float32 or wider.
      coeffs: (a, b, c) for every step; or (n, 3), one triple for each of n steps, whatever `steps` is.
      preconditioning: the norm, which must bound the singular values: "frobenius", |X|; "spectral", the largest
        singular value, by the eigenvalues of A; "schatten", |A|^(1/2), between the two; "aol", a number for each row
        i of A, and so of X, or column of a tall X, (sum_j |A_ij|)^(1/2).
      eps: added to the first two norms; the least value of the last two.
      products: the dtype that factors are rounded to, for real x; sums of their products have the dtype of x.
    """
    if x.size == 0:
        return x
    # X over its Frobenius norm first: squares neither over- nor underflow. What follows cancels it, but for eps.
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
    """The same in fewer operations for a long X: with X <- P X and A <- P A P only the product of some P meets X.

    Of three at most: then errors are those of steps by columns, where products are in full float32. GPU and TPU do not
    take them so by default.
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

    A is rounded in b A too, not only as a factor: b + 2 c is small where 2 c is not, and so is what the rounding does.
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
