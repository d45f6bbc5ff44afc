"""The polar factors of many matrices together, and what methods do before and after."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from gdjax import numerics
from gdjax.core import argument_kinds, checks
from gdjax.linalg import matrices, newton_schulz, polar_coefficients
from gdjax.numerics import Array
from gdjax.numerics.norms import unit_and_norm

_ALONG = {"outputs": -2, "inputs": -1}  # the axis of the vectors of all outputs, or inputs, of (..., inputs, outputs)
Equilibrate = Literal["outputs", "inputs", "both"]
Renormalize = Literal["outputs", "inputs", "outputs inputs", "inputs outputs", "frobenius"] | None


class Polar(NamedTuple):
    """How polar factors are computed: the settings that shape the program."""

    steps: int | Array
    preconditioning: str = "frobenius"
    products: DTypeLike | None = None
    equilibrate: str | None = None
    renormalize: str | None = None

    def one(self, x: Array, coeffs: Array, eps: ArrayLike) -> Array:
        """The polar factor of each matrix (..., rows, columns), without what comes before and after."""
        return newton_schulz.orthogonalize(x, coeffs, self.steps, self.preconditioning, eps, self.products)

    def factors(self, stacks: Sequence[Array], coeffs: Array, eps: ArrayLike) -> list[Array]:
        """The polar factors of stacks (number, rows, columns), those of one shape, or of its transpose, together."""
        alike = functools.partial(self.one, coeffs=coeffs, eps=eps)
        if self.equilibrate:
            stacks = [equilibrated(x, self.equilibrate) for x in stacks]
        os = matrices.in_groups(alike, stacks, rounded=self.products is not None)
        return [renormalized(o, self.renormalize) for o in os] if self.renormalize else os


@functools.partial(jax.jit, static_argnums=1)
def equilibrated(x: Array, which: str) -> Array:
    """x with the vector of each output, or of each input, over its norm; "both" with the two norms of x. 0 stays 0."""
    if which != "both":
        return over_norm(x, _ALONG[which])
    scales = [unit_and_norm(x, axis) for axis in (-2, -1)]
    for unit, norm in scales:
        x = _over(x, unit, norm)
    return x


@functools.partial(jax.jit, static_argnums=1)
def renormalized(o: Array, which: str) -> Array:
    """o over the norms of its vectors, or with the norm that a polar factor has, sqrt(min(rows, columns))."""
    if which == "frobenius":
        return min(o.shape[-2:]) ** 0.5 * over_norm(o, (-2, -1))
    for name in which.split():
        o = over_norm(o, _ALONG[name])
    return o


def over_norm(x: Array, axis: int | tuple[int, ...] | None) -> Array:
    """x over its norms along an axis, zeros where they are 0."""
    return _over(x, *unit_and_norm(x, axis))


def _over(x: Array, unit: Array, norm: Array) -> Array:
    return x * (1 / unit).astype(x.dtype) * (1 / jnp.where(norm == 0, 1, norm)).astype(x.dtype)


def orthogonalize(
    x: Array | np.ndarray,
    ns_coeffs: polar_coefficients.Coefficients = "polar_express",
    ns_steps: int | Array = 5,
    eps: float | Array = 1e-8,
    *,
    preconditioning: str = "frobenius",
    ns_dtype: Any = None,
) -> Array:
    """About the polar factor U V^T of each matrix U S V^T, by products alone: its singular values made about 1.

    Args:
      x: (..., rows, columns), real or complex. 16-bit numbers are computed in float32.
      ns_coeffs: (a, b, c) of X <- a X + b A X + c A^2 X with A = X X^T, a sequence of such triples, one for each step,
        or the name of some: "polar_express", "standard" ("jordan"), "dion", "cans", "deepseek" or "aol".
      ns_steps: how many steps, at least 1. Five of "polar_express" leave singular values of more than a thousandth of
        |x| between 0.84 and 1.13, six between 0.993 and 1.002.
      eps: beside the norm of x, at least 0.
      preconditioning: the norm that x is divided by first: "frobenius", "spectral", "schatten" or "aol".
      ns_dtype: the dtype that factors are rounded to before they are multiplied, bfloat16 for speed; by default none.

    Returns:
      An array like x. Zeros for zeros.

    Raises:
      ValueError: fewer than two axes; an unknown preset or preconditioning; coefficients of another shape or for more
        steps than ns_steps.
      TypeError: complex x with `ns_dtype`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> u = gdjax.orthogonalize(jnp.array([[3.0, 0.0], [0.0, -1.0]]), ns_steps=6)
      >>> [[round(float(x), 1) for x in row] for row in u]
      [[1.0, 0.0], [0.0, -1.0]]

    Reference:
      Amsel et al. 2025, The Polar Express, Algorithm 1, https://arxiv.org/abs/2505.16932
    """
    label, x = "gdjax.orthogonalize", jnp.asarray(x)
    if x.ndim < 2:
        raise ValueError(f"{label}: x has shape {x.shape}, expected (..., rows, columns)")
    if ns_dtype is not None and jnp.iscomplexobj(x):
        raise TypeError(f"{label}: ns_dtype {jnp.dtype(ns_dtype)} does not support complex numbers ({x.dtype})")
    argument_kinds.choice(newton_schulz.NORMS, label, "preconditioning", preconditioning)
    if not isinstance(ns_steps, jax.Array):
        checks.structural(label, "ns_steps", ns_steps, 1)
    coeffs = polar_coefficients.coefficients(label, ns_coeffs, ns_steps)
    polar = Polar(ns_steps, preconditioning, ns_dtype)
    wide = numerics.widen(x, numerics.widest_real(x)).reshape(-1, *x.shape[-2:])
    return polar.one(wide, coeffs, eps).reshape(x.shape).astype(x.dtype)
