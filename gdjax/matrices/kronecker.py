"""Kronecker factors of gradients, and the bases of their eigenvectors.

All is for stacks: G is (..., rows, columns), the factors L of the rows (..., rows, rows) and R of the columns, QL and
QR their bases. A side without a factor is None. Eigenvectors are refreshed for a few matrices per step, see
`gdjax.matrices.turns`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from gdjax.linalg.bases import turned_basis
from gdjax.matrices.in_turns import in_turns
from gdjax.matrices.turns import Turned
from gdjax.numerics import Array

Refresh = Literal["qr", "eigh"]
REFRESHES: tuple[str, ...] = get_args(Refresh)
_highest = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def adjoint(x: Array) -> Array:
    return x.mT.conj()


def gram(g: Array) -> Array:
    """G G^H, in full float32 also where products are rounded."""
    return _highest(g, adjoint(g))


def into(g: Array, left: Array | None, right: Array | None) -> Array:
    """QL^H G QR: the matrix in the coordinates of the bases."""
    g = g if left is None else adjoint(left) @ g
    return g if right is None else g @ right


def out_of(u: Array, left: Array | None, right: Array | None) -> Array:
    """QL U QR^H: back from the coordinates of the bases."""
    u = u if left is None else left @ u
    return u if right is None else u @ adjoint(right)


def averaged(old: Array | None, new: Callable[[], Array], b: Any) -> Array | None:
    """b old + (1 - b) new; None where there is no factor."""
    return None if old is None else b * old + (1 - b) * new().astype(old.dtype)


def in_new_bases(
    s: Any, every: Any, moments: tuple[str, ...], squares: tuple[str, ...], refresh: str, in_order: bool = True
) -> Any:
    """The state of one matrix after the turns of its bases; see `bases`."""
    turned = bases(moments, squares, refresh, in_order)
    for side, letter in enumerate("LR"):
        a = getattr(s, letter)
        if a is None:
            continue
        fields = [x.replace("*", letter) for x in ("Q*", *moments, *squares)]
        f = lambda first, *xs, side=side: turned.f(first, xs[-1], *xs[:-1], side=side)  # noqa: E731
        olds = [getattr(s, field) for field in fields]
        s = s._replace(**dict(zip(fields, in_turns(f, every)(olds, a), strict=True)))
    return s


@functools.lru_cache
def bases(moments: tuple[str, ...], squares: tuple[str, ...], refresh: str, in_order: bool = True) -> Turned:
    """How bases are made anew, and with them what is in their coordinates.

    In its first turn a factor gets exact eigenvectors, later one power step from those that it has.

    Args:
      moments: the fields that are matrices in the bases, QL^H M QR.
      squares: second moments in the bases: of such matrices, or "d*", of the rows and of the columns.
      refresh: "qr", or "eigh" for exact eigenvectors in every turn.
      in_order: whether vectors are put in the order of their eigenvalues before a power step.
    """

    def f(first: Any, a: Array, old: Array, *xs: Array, side: int) -> list[Array]:
        new, mix = turned_basis(a, old, True if refresh == "eigh" else first, in_order)

        def moved(x: Array) -> Array:
            x = x.astype(old.dtype)
            return (x @ adjoint(old)) @ new if side else adjoint(new) @ (old @ x)

        def mixed(x: Array) -> Array:
            return _highest(x, mix.mT) if side else _highest(mix, x)

        n = len(moments)
        return [new, *map(moved, xs[:n]), *map(mixed, xs[n:])]

    return Turned(jax.jit(f, static_argnames="side"), ("Q*",), (*moments, *squares))
