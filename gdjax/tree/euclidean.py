"""The norm of a whole tree, without overflow, in as few passes over it as the device allows."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.base import is_float0
from gdjax.tree.sums import arrays, floating, joined, pairwise_sum, sum_of_squares, wide
from gdjax.vector_norms import SCALE, SMALL, precise, three_sums

Array = jax.Array


def global_norm(updates: Any) -> Array:
    """The Euclidean norm of all the numbers in a tree, sqrt(sum |x|^2): a scalar in float32 or wider.

    The tree is named `updates`, as in Optax; any will do. Where the sum of squares over- or underflows (float32 numbers
    near 1e20 or 1e-20), that of the numbers times about 2^-70 or 2^70 takes its place. On CPU that is a second pass,
    taken only then; elsewhere the one pass adds up all three.
    """
    leaves = arrays(updates)
    return _norm(leaves) if leaves else jnp.zeros((), jnp.float32)


@jax.custom_jvp
def _norm(leaves: Sequence[Array]) -> Array:
    return _of_sums(leaves, pairwise_sum(joined([_sums(x) for x in leaves])), _has_three_sums())


@_norm.defjvp
def _norm_jvp(primals: Any, tangents: Any) -> Any:
    """sum Re(conj(x) dx) / norm, and 0 where the norm is."""
    norm = _norm(*primals)
    # Two factors: for norms below 1e-38 or above 8e37 the reciprocal would be infinite or denormal.
    root = 1 / jnp.sqrt(jnp.where(norm == 0, 1, norm))
    products = []
    for x, dx in zip(*primals, *tangents, strict=True):
        if not is_float0(dx):
            with jax.numpy_dtype_promotion("standard"):
                unit = floating(x) * root * root
                products.append(jnp.sum(jnp.real(jnp.conj(unit) * wide(dx))))
    slope = pairwise_sum(joined(products)) if products else jnp.zeros_like(norm)
    return norm, slope.astype(norm.dtype)


def _has_three_sums() -> Array:
    """Whether `_sums` takes all three: a constant of the compiled program."""
    return jax.lax.platform_dependent(cpu=lambda: jnp.asarray(False), default=lambda: jnp.asarray(True))


@jax.jit
def _sums(x: Array) -> Array:
    """sum |f x|^2 for f = 1, SCALE and 1 / SCALE, of shape (1, 3); on CPU the first, and zeros."""
    return jax.lax.platform_dependent(x, cpu=_one_sum, default=_three_sums)


def _one_sum(x: Array) -> Array:
    return jnp.pad(sum_of_squares(x)[None], ((0, 0), (0, 2)))


def _three_sums(x: Array) -> Array:
    x = x if jnp.issubdtype(x.dtype, jnp.inexact) else floating(x)
    return jnp.stack(three_sums(x, tuple(range(x.ndim))))[None]


def _of_sums(leaves: Sequence[Array], sums: Array, three: Any) -> Array:
    total, large, small = sums
    # The branches close over the leaves, so XLA reads them in place.
    return jax.lax.cond(
        precise(total) | three,
        lambda: jnp.where(precise(total), jnp.sqrt(total), _scaled(total, large, small)),
        lambda: _scaled_norm(leaves, jnp.where(total < SMALL, SCALE, 1 / SCALE).astype(total.dtype)),
    )


def _scaled(total: Array, large: Array, small: Array) -> Array:
    return jnp.where(total < SMALL, jnp.sqrt(large) * (1 / SCALE), jnp.sqrt(small) * SCALE)


def _scaled_norm(leaves: Sequence[Array], scale: Array) -> Array:
    # A factor that leaves of one shape share, XLA:CPU broadcasts to that shape in memory: each large leaf has its own.
    # Small ones share, so that their compiled loops are the same.
    own = np.array([i / len(leaves) if x.size > 2**13 else 0 for i, x in enumerate(leaves)])
    factors = [scale * (1 + a) if a else scale for a in own]
    sums = joined([sum_of_squares(x, f) for x, f in zip(leaves, factors, strict=True)])
    norms = jnp.sqrt(sums) / (scale.astype(sums.dtype) * jnp.asarray(1 + own, sums.dtype))
    top = jnp.max(norms)
    usable = (top > 0) & jnp.isfinite(top)
    unit = jnp.where(usable, top, 1)
    return jnp.where(usable, unit * jnp.sqrt(pairwise_sum(jnp.square(norms / unit))), top)
