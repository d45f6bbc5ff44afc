"""Eigenvectors, roots and orthonormal columns with derivatives that are finite.

Those of LAPACK's vectors are infinite where eigenvalues are equal, or columns dependent. There the vectors may turn
within their space, as rounding has it: that part of their derivative is 0 here. What does not depend on it, as a root,
or the vectors of other eigenvalues, has its exact derivative.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.linalg.matrices import highest
from gdjax.numerics import Array

EQUAL = 8.0  # times sqrt(n) eps: the least relative difference of what is not equal


def _rounding(x: Array) -> float:
    """What is less, beside the largest number in a matrix with sides like those of x, may be rounding."""
    return EQUAL * float(jnp.finfo(x.dtype).eps) * max(x.shape[-1], 1) ** 0.5


def _quotients(x: Array, y: Array, where: Array) -> Array:
    """x / y, 0 elsewhere."""
    return jnp.where(where, x / jnp.where(where, y, 1), 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def eigh(a: Array, symmetrize: bool = True) -> tuple[Array, Array]:
    """Eigenvectors and eigenvalues of Hermitian matrices, the smallest first; vectors of equal values do not mix."""
    vectors, values = jax.lax.linalg.eigh(a, symmetrize_input=symmetrize)
    return vectors, values


@eigh.defjvp
def _eigh_jvp(symmetrize: bool, primals: tuple[Array], tangents: tuple[Array]) -> Any:
    vectors, values = eigh(primals[0], symmetrize)
    change = _within(vectors, tangents[0])
    gaps = values[..., None, :] - values[..., :, None]
    largest = jnp.max(jnp.abs(values), -1, initial=0)[..., None, None]
    turns = _quotients(jnp.ones_like(gaps), gaps, jnp.abs(gaps) > _rounding(values) * largest)
    return (vectors, values), (highest(vectors, turns.astype(change.dtype) * change), _diagonal(change))


def _within(vectors: Array, change: Array) -> Array:
    """V^H dA V of the Hermitian part of dA."""
    return highest(vectors.mT.conj(), highest((change + change.mT.conj()) / 2, vectors))


def _diagonal(x: Array) -> Array:
    return jnp.real(jnp.diagonal(x, axis1=-2, axis2=-1))


Function = Callable[..., Array]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def of_eigenvalues(f: Function, slope: Function, a: Array, *numbers: Array) -> Array:
    """V diag(f(w)) V^H of Hermitian matrices V diag(w) V^H, whose derivative does not depend on V.

    Args:
      f: from all eigenvalues of a matrix and the numbers to as many.
      slope: from these, the numbers and f of them, its derivative where two eigenvalues are equal.
      a: (..., n, n).
      numbers: further arguments of f, which may have derivatives too.
    """
    vectors, values = eigh(a)
    return highest(vectors * f(values, *numbers).astype(a.dtype)[..., None, :], vectors.mT.conj())


@of_eigenvalues.defjvp
def _of_eigenvalues_jvp(f: Function, slope: Function, primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> Any:
    vectors, values = eigh(primals[0])
    change = _within(vectors, tangents[0])
    found, along = jax.jvp(f, (values, *primals[1:]), (_diagonal(change), *tangents[1:]))
    root = highest(vectors * found.astype(vectors.dtype)[..., None, :], vectors.mT.conj())
    # Divided differences; of values that are near the mean of the slopes, where a difference would be rounding.
    less, gaps = (x[..., None, :] - x[..., :, None] for x in (found, values))
    sizes = jnp.abs(found[..., None, :]) + jnp.abs(found[..., :, None])
    apart = (jnp.abs(less) > float(jnp.finfo(values.dtype).eps) ** (1 / 3) * sizes) & (gaps != 0)
    slopes = slope(values, *primals[1:], found)
    means = (slopes[..., None, :] + slopes[..., :, None]) / 2
    divided = jnp.where(apart, _quotients(less, gaps, apart), means).astype(change.dtype)
    inner = jnp.where(_one(change) == 1, along.astype(change.dtype)[..., None, :], divided * change)
    return root, highest(vectors, highest(inner, vectors.mT.conj()))


def _one(like: Array) -> Array:
    return jnp.broadcast_to(jnp.eye(like.shape[-1], dtype=like.dtype), (*like.shape[:-2], *like.shape[-1:] * 2))


@jax.custom_jvp
def qr(x: Array) -> tuple[Array, Array]:
    """x = Q R. A column that depends on those before it has no derivative, but that it stays orthogonal to the others.

    Args:
      x: (..., m, n), m >= n.
    """
    q, r = jnp.linalg.qr(x)
    return q, r


@qr.defjvp
def _qr_jvp(primals: tuple[Array], tangents: tuple[Array]) -> Any:
    (q, r), change = qr(primals[0]), tangents[0]
    lengths = jnp.sqrt(jnp.sum(jnp.square(jnp.abs(r)), -2, keepdims=True))
    free = jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :] > _rounding(lengths) * lengths
    known, moved = jnp.where(free, r, _one(r)), jnp.where(free, change, 0)
    over = jax.lax.linalg.triangular_solve(known, moved)  # dX R^-1
    inside = highest(q.mT.conj(), over)
    lower = jnp.tril(inside, -1)
    turn = lower - lower.mT.conj()
    if jnp.iscomplexobj(turn):
        turn = turn + (inside - inside.mT.conj()) / 2 * _one(r)
    dq = over + highest(q, turn - inside)
    return (q, r), (dq, highest(q.mT.conj(), change) - highest(turn, r))
