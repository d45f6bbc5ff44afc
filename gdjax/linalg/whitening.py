"""Preconditioners that whiten: Kronecker factors Q_l, Q_r of P = Q^H Q, fitted to one matrix after the other (PSGD).

Each function is of one matrix G (rows, columns); U = P_l G P_r with P_l = Q_l^H Q_l and P_r = Q_r^H Q_r is about white.
A factor is (n, n), or (n, 1), real, where it is diagonal.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from gdjax import numerics
from gdjax.linalg.matrices import highest
from gdjax.numerics import Array
from gdjax.numerics.bounds import largest_of

Form = Literal["Q0.5EQ1.5", "QUAD", "EQ"]
FORMS: tuple[str, ...] = get_args(Form)
_SUBSPACE = 32  # random vectors in the estimate of a norm
_MOST = 1 / 8  # the largest angle of a Procrustes step


class Settings(NamedTuple):
    """Of a fit: the form of the step, one of `FORMS`, and numbers."""

    form: str
    rate: Array
    decay: Array
    damping: Array


def is_diagonal(q: Array) -> bool:
    return q.shape[-1] == 1


def whitened(left_product: Array, right_product: Array, g: Array, most: ArrayLike) -> Array:
    """P_l G P_r, with a root mean square of `most` at most."""
    x, unit = _applied(left_product, right_product, g)
    rms = numerics.safe_root_mean_squares(x, 0)
    return x * _at_most(unit, rms, most).astype(x.dtype)


def _at_most(unit: Array, size: Array, most: ArrayLike) -> Array:
    """min(unit, most / size), whose derivative is that of the one it takes: that of the other may be infinite."""
    inside = unit <= most / _or_one(size)
    return jnp.where(inside, unit, most / jnp.where(inside, 1, _or_one(size)))


def fitted(
    left: Array, right: Array, left_product: Array, right_product: Array, smooth: Array, g: Array, key: Array,
    settings: Settings,
) -> list[Array]:  # fmt: skip
    """One step of the factors towards those that whiten G, with noise from a key.

    Args:
      left, right: Q_l and Q_r.
      left_product, right_product: P_l and P_r.
      smooth: (1, 2), Lipschitz constants of Q_l and Q_r.

    Returns:
      The first five anew.
    """
    v, *vectors = _normals(key, [g.shape, *((_SUBSPACE, n) for n in g.shape)], g.dtype)
    wide = settings.damping + float(jnp.finfo(g.dtype).eps) * jnp.abs(g)
    g = g + wide.astype(g.dtype) * v
    if settings.form == "EQ":
        x, unit = _applied(left, _adjoint(right), g)
        b = _solved(right, _solved(left, v).mT.conj()).mT.conj()
    else:
        x, unit = _applied(left_product, right_product, g)
        b = None
    top = numerics.peak(jnp.abs(x))
    x = x * _at_most(unit, top, largest_of(x.dtype, "summed")).astype(x.dtype)
    left, left_smooth = _side(left, x, b, smooth[0, 0], vectors[0], settings)
    turned = None if b is None else b.mT.conj()
    right, right_smooth = _side(right, x.mT.conj(), turned, smooth[0, 1], vectors[1], settings)
    left, right = _balanced(left, right)
    return [left, right, product(left), product(right), jnp.stack([left_smooth, right_smooth])[None]]


def _normals(key: Array, shapes: Sequence[tuple[int, ...]], dtype: DTypeLike) -> list[Array]:
    """Arrays of normal numbers, drawn at once: a program for each would take long to compile."""
    ends = list(itertools.accumulate(map(math.prod, shapes), initial=0))
    numbers = jax.random.normal(key, (ends[-1],), dtype)
    return [numbers[a:b].reshape(shape) for a, b, shape in zip(ends, ends[1:], shapes, strict=False)]


def product(q: Array) -> Array:
    """Q^H Q."""
    return jnp.square(q) if is_diagonal(q) else highest(q.mT.conj(), q)


def _applied(left: Array, right: Array, g: Array) -> tuple[Array, Array]:
    """left (G / unit) right, and the unit, |G|'s largest element."""
    unit = jax.lax.stop_gradient(jnp.max(jnp.abs(g), initial=0))  # the product does not depend on it
    unit = jnp.where(unit == 0, 1, unit)
    x = g / unit.astype(g.dtype)
    x = left.astype(x.dtype) * x if is_diagonal(left) else highest(left, x)
    return (x * right.mT.astype(x.dtype) if is_diagonal(right) else highest(x, right)), unit


def _adjoint(q: Array) -> Array:
    return q if is_diagonal(q) else q.mT.conj()


def _solved(q: Array, v: Array) -> Array:
    """Q^-H V of a triangular Q."""
    if is_diagonal(q):
        return v / q.astype(v.dtype)
    return jax.scipy.linalg.solve_triangular(q, v, trans="C")


def _gram(x: Array, diagonal: bool) -> Array:
    """X X^H, or its diagonal."""
    return jnp.sum(numerics.abs_sq(x), 1, keepdims=True) if diagonal else highest(x, x.mT.conj())


def _side(
    q: Array, x: Array, b: Array | None, smooth: Array, vectors: Array, settings: Settings
) -> tuple[Array, Array]:
    """One factor, Q = Q_l of X, after a step, and its Lipschitz constant."""
    diagonal, size = is_diagonal(q), x.size // max(q.shape[0], 1)  # the trace of X X^H over that of I, if white
    found = _gram(x, diagonal)
    if b is not None:
        wanted = _gram(b, diagonal)
        most = numerics.peak(found + wanted) if diagonal else norm_bound(found + wanted, vectors)
    else:
        wanted = float(size)
        most = (numerics.peak(found) if diagonal else norm_bound(found, vectors)) + wanted
    smooth = jnp.maximum(settings.decay * smooth + (1 - settings.decay) * most, most)
    rate = settings.rate / jnp.where(smooth == 0, 1, smooth)
    if diagonal:
        step = rate * (found - wanted)
        return q * (jnp.square(1 - step / 2) if settings.form == "QUAD" else 1 - step), smooth
    over = found * rate.astype(found.dtype)  # divided first: the products of huge numbers would overflow
    if b is not None:
        return q - highest(jnp.triu(over - wanted * rate.astype(found.dtype)), q), smooth
    less = (wanted * rate).astype(q.dtype)
    if settings.form == "QUAD":
        half = q - (highest(over, q) - less * q) / 2
        new = half - (highest(half, over) - less * half) / 2
        return (new + new.mT.conj()) / 2, smooth
    return _turned(q - (highest(over, q) - less * q), vectors), smooth


def _balanced(left: Array, right: Array) -> tuple[Array, Array]:
    """Both with the same largest element, which does not change their Kronecker product."""
    tops = [numerics.peak(jnp.abs(q)) for q in (left, right)]
    good = (tops[0] > 0) & (tops[1] > 0)
    roots = [jnp.sqrt(jnp.where(good, top, 1)) for top in tops]
    ratio = roots[1] / roots[0]
    return left * ratio.astype(left.dtype), right / ratio.astype(right.dtype)


def _turned(q: Array, vectors: Array) -> Array:
    """Q after a rotation exp(a R) Q, to the second order, that brings it nearer to a Hermitian matrix."""
    r = q.mT.conj() - q
    r = r / _or_one(norm_bound(r, vectors)).astype(q.dtype)
    rq = highest(r, q)
    rrq = highest(r, rq)
    slope, curve = (jnp.real(jnp.trace(x)) for x in (rq, rrq))
    a = jnp.where(curve < 0, jnp.minimum(-slope / jnp.where(curve < 0, curve, -1), _MOST), _MOST).astype(q.dtype)
    return q + a * (rq + a / 2 * rrq)


def norm_bound(a: Array, vectors: Array) -> Array:
    """A lower bound of the spectral norm of a Hermitian or a skew-Hermitian A, near it, by subspace iteration.

    The random vectors (k, n) are turned towards the row of A with the largest norm, so that A may be of low rank.
    """
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(a), initial=0))  # the bound does not depend on it
    a = a / _or_one(top).astype(a.dtype)
    row = a[jnp.argmax(jnp.sum(numerics.abs_sq(a), 1))][None]
    v = row + jnp.sign(jnp.sum(row * vectors.conj(), 1, keepdims=True)) * vectors
    for _ in range(2):
        v = highest(v, a)
        v = highest(v / _or_one(_lengths(v)).astype(v.dtype), a)
    return top * numerics.peak(_lengths(v))


def _lengths(v: Array) -> Array:
    return numerics.sqrt(jnp.sum(numerics.abs_sq(v), 1, keepdims=True))


def _or_one(x: Array) -> Array:
    return jnp.where(x == 0, 1, x)
