"""Kronecker factors of gradients, and the bases of their eigenvectors.

G is (..., rows, columns), its factors L (..., rows, rows) and R (..., columns, columns), their bases QL and QR. A side
without a factor is None. Eigenvectors are refreshed for a few matrices per step, see `gdjax.in_turns`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.linalg.bases import turned_basis
from gdjax.linalg.matrices import highest
from gdjax.matrices.in_turns import in_turns
from gdjax.numerics import Array

Refresh = Literal["qr", "eigh"]
GROWTH = 1.3, 1.5  # of the rms of an update by a turn: v follows the columns below, and turns as a covariance above
FLOOR = 1e-4  # of the largest root of a matrix: what is less in its bases may be the rounding of larger numbers


def adjoint(x: Array) -> Array:
    return x.mT.conj()


def gram(g: Array) -> Array:
    """G G^H, in full float32 even where products are rounded."""
    return highest(g, adjoint(g))


def into(g: Array, left: Array | None, right: Array | None) -> Array:
    """QL^H G QR: the matrix in the coordinates of the bases."""
    g = g if left is None else adjoint(left) @ g
    return g if right is None else g @ right


def out_of(u: Array, left: Array | None, right: Array | None) -> Array:
    """QL U QR^H: back from the coordinates of the bases."""
    u = u if left is None else left @ u
    return u if right is None else u @ adjoint(right)


def normalized(m: Array, v: Array, eps: Any) -> Array:
    """m / (sqrt(v) + eps) of a matrix in its bases, where no sqrt(v) counts as less than 1e-4 of the largest."""
    root = numerics.sqrt(v)
    root = jnp.maximum(root, FLOOR * numerics.peak(root))
    return m / numerics.divisor(root, eps).astype(m.dtype)


def averaged(old: Array | None, new: Callable[[], Array], b: Any) -> Array | None:
    """b old + (1 - b) new; None where there is no factor."""
    return None if old is None else b * old + (1 - b) * new().astype(old.dtype)


def in_new_bases(
    s: Any, every: Any, moments: tuple[str, ...], squares: tuple[str, ...], refresh: str, in_order: bool = True
) -> Any:
    """The state of one matrix, with the new factors L and R, after the turns of its bases.

    In its first turn a factor gets exact eigenvectors, later one power step from the old ones.

    Args:
      s: with L, QL, R and QR, None where a side has no factor.
      every: k, see `in_turns`.
      moments: the fields that are matrices in the bases, QL^H M QR.
      squares: second moments in the bases: of such matrices, or "d*", dL of the rows and dR of the columns.
      refresh: "qr", or "eigh" for exact eigenvectors in every turn.
      in_order: whether vectors are put in the order of their eigenvalues before a power step.
    """
    for side, letter in enumerate("LR"):
        if (a := getattr(s, letter)) is None:
            continue
        fields = [x.replace("*", letter) for x in ("Q*", *moments, *squares)]
        pairs = sum("*" not in x for x in squares)
        f = functools.partial(_turned, side=side, moments=len(moments), pairs=pairs, refresh=refresh, in_order=in_order)
        news = in_turns(f, every)([getattr(s, field) for field in fields], a)
        s = s._replace(**dict(zip(fields, news, strict=True)))
    return s


@functools.partial(jax.jit, static_argnames=("side", "moments", "pairs", "refresh", "in_order"))
def _turned(
    first: Array, old: Array, *rest: Array, side: int, moments: int, pairs: int, refresh: str, in_order: bool
) -> list[Array]:
    """The new basis of a factor, which is the last of `rest`, and the moments and squares in its coordinates."""
    *xs, a = rest
    new, mix = turned_basis(a, old, True if refresh == "eigh" else first, in_order)

    def moved(x: Array) -> Array:
        x = x.astype(old.dtype)
        return (x @ adjoint(old)) @ new if side else adjoint(new) @ (old @ x)

    def mixed(x: Array, by: Array) -> Array:
        return highest(x, by.mT) if side else highest(by, x)

    ms, vs = list(map(moved, xs[:moments])), [mixed(x, mix) for x in xs[moments:]]
    if pairs:
        shares = mix if refresh == "eigh" else numerics.abs_sq(highest(adjoint(new), old))
        turned = [mixed(x, shares) for x in xs[moments : moments + pairs]]
        vs[:pairs] = [_at_least(*x) for x in zip(vs[:pairs], turned, ms, xs[moments:], xs, strict=False)]
    return [new, *ms, *vs]


def _at_least(new_v: Array, turned_v: Array, new_m: Array, v: Array, m: Array) -> Array:
    """new_v, raised to where no update is longer than four times the longest with m and v, nor all of it longer.

    m turns, but v follows the columns: along a column in which there was nothing, m comes from others and v does not.
    And after a spike m is about one gradient, to whose vectors the basis turns: m then stands on the diagonal. So where
    a turn would lengthen the update, v is raised towards `turned_v`, that of a covariance which turns.
    """
    tiny, known = jnp.finfo(v.dtype).tiny, jnp.max(v, initial=0) > 0
    before = numerics.abs_sq(normalized(m, jnp.where(known, v, 1), tiny))
    most = 16 * numerics.peak(before)
    known &= most > 0
    new_v = jnp.maximum(new_v, jnp.where(known, numerics.abs_sq(new_m) / jnp.where(known, most, 1), 0))
    was, now = (jnp.sum(x) for x in (before, numerics.abs_sq(normalized(new_m, jnp.where(known, new_v, 1), tiny))))
    known &= (was < jnp.inf) & (now < jnp.inf)
    low, high = (x**2 for x in GROWTH)
    share = jnp.clip((jnp.where(known, now, 0) / jnp.where(known, was, 1) - low) / (high - low), 0, 1)
    return new_v + share * jnp.maximum(turned_v - new_v, 0)
