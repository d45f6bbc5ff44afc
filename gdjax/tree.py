"""Functions of trees."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.base import is_float0

Array = jax.Array

SMALL = 2.0**-80  # a sum of squares below this has lost digits to underflow


def global_norm(tree: Any) -> Array:
    """The Euclidean norm of all the numbers in a tree, sqrt(sum |x|^2): a scalar in float32 or wider.

    Squares are summed in float32 (float64 where a leaf is), within each leaf and then pairwise over the leaves, so the
    sum neither stalls in 16 bits nor depends on the order of the leaves beyond rounding. Where it over- or underflows
    (float32 numbers near 1e20 or 1e-20), and only there, a second pass scales the numbers by about 2^-70 or 2^70.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree) if jnp.size(x) and not is_float0(x)]
    if not leaves:
        return jnp.zeros((), jnp.float32)
    total = pairwise_sum(_sums_of_squares(leaves, [None] * len(leaves)))
    # The branches close over the leaves, so XLA reads them in place.
    return jax.lax.cond(
        (total >= SMALL) & jnp.isfinite(total),
        lambda: numerics.sqrt(total),
        lambda: _scaled_norm(leaves, jnp.where(total < SMALL, 2.0**70, 2.0**-70).astype(total.dtype)),
    )


def _scaled_norm(leaves: Sequence[Array], scale: Array) -> Array:
    # A factor that leaves of one shape share, XLA:CPU broadcasts to that shape in memory: each large leaf has its own.
    # Small ones share, so that their compiled loops are the same.
    own = np.array([i / len(leaves) if x.size > 2**13 else 0 for i, x in enumerate(leaves)])
    factors = [scale * (1 + a) if a else scale for a in own]
    norms = numerics.sqrt(_sums_of_squares(leaves, factors))
    norms = norms / (scale.astype(norms.dtype) * jnp.asarray(1 + own, norms.dtype))
    top = jnp.max(norms)
    usable = (top > 0) & jnp.isfinite(top)
    unit = jax.lax.stop_gradient(jnp.where(usable, top, 1))  # the result does not depend on it
    return jnp.where(usable, unit * numerics.sqrt(pairwise_sum(jnp.square(norms / unit))), top)


def _sums_of_squares(leaves: Sequence[Array], factors: Sequence[Any]) -> Array:
    """A vector of sum |factor x|^2, one for each leaf."""
    return _joined([_sum_of_squares(x, f) for x, f in zip(leaves, factors, strict=True)])


@jax.jit
def _sum_of_squares(x: Array, factor: Any) -> Array:
    x = x.astype(numerics.at_least_float32(x.dtype))
    if factor is not None:
        # Without the barrier XLA squares a constant x (zero gradients in a jitted step) and the factor apart: 0 inf.
        x = jax.lax.optimization_barrier(x * factor.astype(x.dtype))
    return jnp.sum(numerics.abs_sq(x)).reshape(1)


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
        x if is_float0(x) else sampler(k, jnp.shape(x), numerics.at_least_float32(x.dtype)).astype(x.dtype)
        for k, x in zip(keys, leaves, strict=False)
    ]
    return structure.unflatten(samples)
