"""Functions of trees."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics

Array = jax.Array

SMALL = 2.0**-80  # a sum of squares below this has lost digits to underflow


def global_norm(tree: Any) -> Array:
    """The Euclidean norm of all the numbers in a tree, sqrt(sum |x|^2): a scalar in float32 or wider.

    Squares are summed in float32 (float64 where a leaf is), within each leaf and then pairwise over the leaves, so the
    sum neither stalls in 16 bits nor depends on the order of the leaves beyond rounding. Where it over- or underflows
    (float32 numbers near 1e20 or 1e-20), and only there, a second pass scales each leaf by a power of two first.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree) if jnp.size(x)]
    if not leaves:
        return jnp.zeros((), jnp.float32)
    sums = [_sum_of_squares(x) for x in leaves]
    total = pairwise_sum(_joined(sums))
    # The second branch closes over the leaves, so XLA reads them in place.
    return jax.lax.cond(
        (total >= SMALL) & jnp.isfinite(total),
        lambda: numerics.sqrt(total),
        lambda: _norm_of_norms(_joined([_norm(x, s) for x, s in zip(leaves, sums, strict=True)])),
    )


@jax.jit
def _sum_of_squares(x: Array) -> Array:
    """sum |x|^2, of shape (1,)."""
    return jnp.sum(numerics.abs_sq(x.astype(numerics.at_least_float32(x.dtype)))).reshape(1)


@jax.jit
def _norm(x: Array, sum_of_squares: Array) -> Array:
    """The norm of one leaf, of shape (1,), its numbers scaled so that their squares, summed above, stay in range."""
    # Each leaf chooses its own scale: one that all leaves shared XLA would broadcast to their shape, in memory.
    unit = jnp.where(sum_of_squares < SMALL, 2.0**-70, jnp.where(jnp.isfinite(sum_of_squares), 1.0, 2.0**70))
    wide = numerics.at_least_float32(x.dtype)
    scaled = x.astype(wide) * (1 / unit).reshape(()).astype(wide)
    # Without the barrier XLA squares a constant x (zero gradients in a jitted step) and the factor apart: 0 inf.
    return unit.astype(sum_of_squares.dtype) * numerics.sqrt(_sum_of_squares(jax.lax.optimization_barrier(scaled)))


def _norm_of_norms(norms: Array) -> Array:
    top = jnp.max(norms)
    usable = (top > 0) & jnp.isfinite(top)
    unit = jax.lax.stop_gradient(jnp.where(usable, top, 1))  # the norm does not depend on it
    return jnp.where(usable, unit * numerics.sqrt(pairwise_sum(jnp.square(norms / unit))), top)


def _joined(xs: Sequence[Array]) -> Array:
    """Arrays of shape (1,) as one vector, in the widest of their dtypes."""
    widest = max((x.dtype for x in xs), key=lambda d: d.itemsize)
    return jax.lax.concatenate([x.astype(widest) for x in xs], 0)


def pairwise_sum(x: Array) -> Array:
    """The sum of a vector, added up as a balanced tree: the error grows with log n, not n."""
    while x.size > 1:
        half = (x.size + 1) // 2
        x = x[:half] + jnp.pad(x[half:], (0, 2 * half - x.size))
    return x.reshape(())


def random_like(key: Array, tree: Any, sampler: Callable[..., Array] = jax.random.normal) -> Any:
    """A tree like `tree` of independent samples, one subkey a leaf; 16-bit leaves are sampled in float32."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    samples = [
        sampler(k, jnp.shape(x), numerics.at_least_float32(x.dtype)).astype(x.dtype)
        for k, x in zip(keys, leaves, strict=False)
    ]
    return structure.unflatten(samples)
