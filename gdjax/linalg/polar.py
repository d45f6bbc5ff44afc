"""Polar factors of matrices by products alone."""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from gdjax import numerics
from gdjax.core import argument_kinds, checks
from gdjax.linalg import matrices, newton_schulz
from gdjax.numerics import Array
from gdjax.numerics.norms import unit_and_norm

__all__ = ["orthogonalize"]

JORDAN = (3.4445, -4.7750, 2.0315)

# Amsel et al. 2025, Algorithm 1: the best polynomials one after the other, if singular values are at least 1e-3.
_BEST = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def of_smaller(triple: Sequence[float], factor: float) -> tuple[float, ...]:
    """The polynomial of x / factor."""
    return tuple(x / factor ** (2 * i + 1) for i, x in enumerate(triple))


def _polar_express() -> tuple[tuple[float, ...], ...]:
    """With the authors' safety factor of 1.01, on all but the last, and once more on X: it is in the first triple."""
    safe = [*(of_smaller(x, 1.01) for x in _BEST[:-1]), _BEST[-1]]
    return (of_smaller(safe[0], 1.01), *safe[1:])


PRESETS: dict[str, Any] = {
    # a as large as possible if singular values are to end between about 0.7 and 1.2
    "standard": JORDAN,
    # found by You Jiacheng
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "polar_express": _polar_express(),
    # Grishina, Smirnov & Rakhuba 2025, by Remez' algorithm
    "cans": (
        (8.4703, -25.1081, 18.6293),
        (4.1828, -3.1087, 0.5806),
        (3.9619, -2.9541, 0.5630),
        (3.2866, -2.4647, 0.5074),
        (2.2737, -1.6447, 0.4162),
    ),
    # DeepSeek-V4: eight steps up to about 1, then two that converge
    "deepseek": (JORDAN,) * 8 + ((2.0, -1.5, 0.5),) * 2,
    # Boissin et al. 2025, for preconditioning="aol". An older table of theirs, which begins with 4.0098, makes
    # singular values above 0.88 negative: a matrix with orthogonal rows would come out with the other sign.
    "aol": (
        (4.6051, -9.6552, 5.6769),
        (4.7505, -6.0861, 2.1790),
        (2.7763, -2.3190, 0.5523),
        (2.4231, -2.2861, 0.8193),
    ),
}
PRESETS["muon"] = PRESETS["jordan"] = PRESETS["standard"]  # the first name is that of Optax's documentation
Coefficients = Any  # a name in PRESETS, or an array or nested sequence of one triple or one for each step
OF_ANY_LENGTH = "polar_express", "cans"  # as many as there are steps; after the last comes the last again


def coefficients(label: str, ns_coeffs: Coefficients, ns_steps: Any) -> Array:
    """The coefficients as an array: (3,) for every step, or (steps, 3).

    Args:
      ns_steps: an int. If it is a schedule or a traced number, all triples are kept.

    Raises:
      ValueError: an unknown preset, another shape, or more triples than ns_steps.
    """
    steps: int | None = None if isinstance(ns_steps, jax.Array) or callable(ns_steps) else int(ns_steps)
    given = ns_coeffs
    if isinstance(given, str):
        if given not in PRESETS:
            raise ValueError(f"{label}: ns_coeffs must be numbers or one of {', '.join(PRESETS)}, got {given!r}")
        ns_coeffs = PRESETS[given]
        if given in OF_ANY_LENGTH and steps is not None:
            ns_coeffs = (*ns_coeffs, *[ns_coeffs[-1]] * steps)[:steps]
    try:
        x = jnp.asarray("" if ns_coeffs is None else ns_coeffs, float)  # of None JAX 0.5 makes NaN
    except (TypeError, ValueError):
        raise TypeError(f"{label}: ns_coeffs must be numbers, got {ns_coeffs!r}") from None
    if x.ndim not in (1, 2) or x.shape[-1] != 3:
        raise ValueError(f"{label}: ns_coeffs must have shape (3,) or (steps, 3), got {x.shape}")
    if steps is not None and x.ndim == 2 and len(x) > steps:
        raise ValueError(f"{label}: ns_coeffs has {len(x)} triples, one for each step, and ns_steps is {ns_steps}")
    return x


_ALONG = {"outputs": -2, "inputs": -1}  # the axis of the vectors of all outputs, or inputs, of (..., inputs, outputs)
Equilibrate = Literal["outputs", "inputs", "both"] | None
Renormalize = Literal["outputs", "inputs", "outputs inputs", "inputs outputs", "frobenius"] | None


class Polar(NamedTuple):
    """How polar factors are computed: the settings of Newton-Schulz beside its numbers."""

    preconditioning: str = "frobenius"
    products: DTypeLike | None = None  # the dtype that factors are rounded to before they are multiplied
    equilibrate: str | None = None
    renormalize: str | None = None

    def one(self, x: Array, coeffs: Array, steps: int | Array, eps: ArrayLike) -> Array:
        """The polar factor of each matrix (..., rows, columns), without what comes before and after."""
        return newton_schulz.orthogonalize(x, coeffs, steps, self.preconditioning, eps, self.products)

    def factors(self, stacks: Sequence[Array], coeffs: Array, steps: int | Array, eps: ArrayLike) -> list[Array]:
        """The polar factors of stacks (number, rows, columns), those of one shape, or of its transpose, together."""
        alike = functools.partial(self.one, coeffs=coeffs, steps=steps, eps=eps)
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
    x: Array | np.ndarray, ns_coeffs: Coefficients = "polar_express", ns_steps: int | Array = 5,
    eps: float | Array = 1e-8, *, preconditioning: str = "frobenius", ns_dtype: Any = None,
) -> Array:  # fmt: skip
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
    coeffs = coefficients(label, ns_coeffs, ns_steps)
    polar = Polar(preconditioning, ns_dtype)
    wide = numerics.widen(x, numerics.widest_real(x)).reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
    return polar.one(wide, coeffs, ns_steps, eps).reshape(x.shape).astype(x.dtype)
