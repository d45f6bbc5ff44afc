"""Functions of trees."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics

Array = jax.Array


def global_norm(tree: Any) -> Array:
    """The Euclidean norm of all the numbers in a tree, sqrt(sum |x|^2): a scalar in float32 or wider.

    Squares are summed in float32 (float64 where a leaf is), within each leaf and then pairwise over the leaves, so the
    sum neither stalls in 16 bits nor depends on the order of the leaves beyond rounding. Where it over- or underflows
    (float32 numbers near 1e20 or 1e-20), and only there, a second pass sums the squares of 2^-70 x or 2^70 x instead.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree) if jnp.size(x)]
    if not leaves:
        return jnp.zeros((), jnp.float32)
    total = _sum_of_squares(leaves)
    small = total < 2.0**-80
    unit = jnp.where(small, 2.0**-70, 2.0**70).astype(total.dtype)
    # The second branch closes over the leaves, so XLA reads them in place.
    return jax.lax.cond(
        small | ~jnp.isfinite(total),
        lambda: unit * numerics.sqrt(_sum_of_squares(leaves, 1 / unit)),
        lambda: numerics.sqrt(total),
    )


def _sum_of_squares(leaves: Sequence[Array], factor: Array | None = None) -> Array:
    sums = [_squares(x, factor) for x in leaves]
    widest = max((x.dtype for x in sums), key=lambda d: d.itemsize)
    return pairwise_sum(jax.lax.concatenate([x.astype(widest) for x in sums], 0))


@jax.jit
def _squares(x: Array, factor: Array | None) -> Array:
    """sum |factor x|^2, of shape (1,)."""
    x = x.astype(numerics.at_least_float32(x.dtype))
    if factor is not None:
        # Without the barrier XLA squares a constant x (zero gradients in a jitted step) and the factor apart: 0 inf.
        x = jax.lax.optimization_barrier(x * factor.astype(x.dtype))
    return jnp.sum(numerics.abs_sq(x)).reshape(1)


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
