"""Shampoo, for the blocks of one shape: averages, roots of the factors, directions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from gdjax import numerics
from gdjax.linalg import spectral
from gdjax.matrices.kronecker import adjoint, gram
from gdjax.numerics import Array, debias
from gdjax.numerics.norms import unit_and_norm

RIDGE = 1e-7  # of the largest eigenvalue: what is less is rounding


def averages(x: Mapping[str, Any], b1: Any, b2: Any, grafting_b2: Any) -> dict[str, Any]:
    g = x["g"]
    new = jnp.where(b2 < 1, 1 - b2, 1)  # b2 = 1 is a sum

    def added(old: Array | None, square: Callable[[], Array]) -> Array | None:
        return None if old is None else b2 * old + new.astype(old.dtype) * square()

    nu = None if x["nu"] is None else grafting_b2 * x["nu"] + (1 - grafting_b2) * numerics.abs_sq(g)
    mu = b1 * x["mu"].astype(g.dtype) + (1 - b1) * g
    left, right = added(x["L"], lambda: gram(g)), added(x["R"], lambda: gram(adjoint(g)))
    return {"mu": mu, "nu": nu, "L": left, "R": right}


def root(a: Array, _: Array, *basis: Array, p: Any, size: Array, eps: Array, method: str) -> tuple[Array, ...]:
    """(A / size + eps I)^(-1/p); with a basis for "qr" that too, one power step further."""
    one = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
    a = a * (1 / size).astype(a.dtype) + eps.astype(a.dtype) * one
    if basis:
        return spectral.root_in_basis(a, basis[0], p, RIDGE)
    return (spectral.inverse_root(a, p, RIDGE, method),)


def direction(
    x: Mapping[str, Any], t: Any, b1: Any, grafting_b2: Any, grafting_eps: Any, start: Any, grafting: Any
) -> dict[str, Any]:
    m = debias(x["mu"].astype(x["g"].dtype), b1, t)
    u = m if x["PL"] is None else x["PL"] @ m
    u = u if x["PR"] is None else u @ x["PR"]
    if grafting is None:
        return {"u": u}
    if grafting == "adam":
        m = m / (numerics.sqrt(debias(x["nu"], grafting_b2, t)) + grafting_eps).astype(m.dtype)
    return {"u": jnp.where(t >= start, u * _length_over(m, u).astype(u.dtype), m)}


def _length_over(x: Array, y: Array) -> Array:
    """|x| / |y| of matrices, 0 where both are."""
    (unit, norm), (own, length) = unit_and_norm(x, (-2, -1)), unit_and_norm(y, (-2, -1))
    return unit / own * (norm / jnp.where(length == 0, 1, length))
