"""Gradients of single examples: clipped each, summed, and with noise for differential privacy."""

import functools
import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.core import base, checks, keys
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import SIZE
from gdjax.core.parts import holding
from gdjax.core.signatures import short_types
from gdjax.core.types import KeyLike, OptState, Params, Scalar, Seed, Updates
from gdjax.numerics import Array


class DifferentiallyPrivateAggregateState(NamedTuple):
    """State of `differentially_private_aggregate`."""

    rng_key: Array  # () key of the next noise


@short_types
def per_example_global_norm_clip(grads: Updates, l2_norm_clip: Scalar) -> tuple[Any, Array]:
    """Clips the gradient of every example to a global norm and sums over the examples.

        sum_i g_i min(1, C / |g_i|)

    Args:
      grads: a tree of arrays whose axis 0 runs over the examples, as from `jax.vmap(jax.grad(loss), ...)`.
      l2_norm_clip: C, the bound on the norm of one example's gradient over all arrays; at least 0, or infinity.

    Returns:
      The sum, in the dtypes of `grads`, and how many examples were clipped.

    Raises:
      ValueError: the arrays do not all have an axis 0 of one size; the message names the leaf.

    An example whose gradient has a NaN or an infinity, or whose norm overflows, counts as clipped and adds nothing, so
    that no example moves the sum by more than C. In Optax its NaN reaches the sum.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> grads = {"w": jnp.array([[3.0, 4.0], [0.0, 0.5]])}  # of two examples
      >>> total, clipped = gdjax.per_example_global_norm_clip(grads, l2_norm_clip=2.5)
      >>> print(total["w"], clipped)
      [1.5 2.5] 1

    Reference:
      Abadi et al. 2016, Deep learning with differential privacy, Algorithm 1, https://arxiv.org/abs/1607.00133
    """
    sums, clipped = _clipped_sum("gdjax.per_example_global_norm_clip", grads, l2_norm_clip)
    return jax.tree.map(lambda x, g: x.astype(_dtype(g)), sums, grads), clipped


@short_types
def per_example_layer_norm_clip(grads: Updates, global_l2_norm_clip: Scalar, uniform: bool = True) -> tuple[Any, Any]:
    """Clips every array of every example's gradient to a norm of its own and sums over the examples.

        C_k = C / sqrt(K)            where uniform
        C_k = C sqrt(n_k / n)        where not uniform

    for K arrays, the k-th of which has n_k of all n numbers of one example; so sum_k C_k^2 = C^2.

    Args:
      grads: a tree of arrays whose axis 0 runs over the examples, as from `jax.vmap(jax.grad(loss), ...)`.
      global_l2_norm_clip: C, the bound on the norm of one example's gradient over all arrays; at least 0, or infinity.
      uniform: whether all arrays get the same bound.

    Returns:
      The sum, and a tree of how many examples were clipped in each array.

    Raises:
      ValueError: the arrays do not all have an axis 0 of one size; the message names the leaf.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> grads = {"b": jnp.array([[8.0], [9.0]]), "w": jnp.array([[8.0], [0.5]])}
      >>> total, clipped = gdjax.per_example_layer_norm_clip(grads, 2**0.5)  # C_k = 1
      >>> {name: (round(float(total[name][0]), 3), int(clipped[name])) for name in grads}
      {'b': (2.0, 2), 'w': (1.5, 1)}

    Reference:
      McMahan, Ramage, Talwar & Zhang 2018, Learning differentially private recurrent language models, section 3.1,
      https://arxiv.org/abs/1710.06963
    """
    label = "gdjax.per_example_layer_norm_clip"
    _batch_size(label, grads)
    leaves, structure = jax.tree.flatten(grads)
    sizes = [math.prod(g.shape[1:]) for g in leaves]
    shares = [1 / len(leaves) if uniform else n / max(sum(sizes), 1) for n in sizes]
    pairs = [_clipped_sum(label, g, global_l2_norm_clip * a**0.5) for g, a in zip(leaves, shares, strict=True)]
    sums = [x.astype(_dtype(g)) for (x, _), g in zip(pairs, leaves, strict=True)]
    return structure.unflatten(sums), structure.unflatten([n for _, n in pairs])


def _dtype(g: Array) -> Any:
    """The dtype of a sum of g times real numbers: g's, or floating where g has integers."""
    return g.dtype if jnp.issubdtype(g.dtype, jnp.inexact) else jax.dtypes.canonicalize_dtype(float)


def _batch_size(label: str, grads: Updates) -> int:
    """The number of examples; 0 in an empty tree."""
    size = None
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        where, shape = f"{label}: grads{jax.tree_util.keystr(path)}", jnp.shape(g)
        if not shape:
            raise ValueError(f"{where}: shape () has no axis of examples; pass one gradient per example")
        if size is not None and shape[0] != size:
            raise ValueError(f"{where}: shape {shape} has {shape[0]} examples in axis 0, the leaf before it {size}")
        size = shape[0]
    return size or 0


@functools.partial(jax.jit, static_argnums=0)
def _clipped_sum(label: str, grads: Updates, bound: Array) -> tuple[Any, Array]:
    """The sums in float32 or wider, and how many examples were clipped."""
    _batch_size(label, grads)
    wide = jax.tree.map(lambda g: jnp.asarray(g).astype(numerics.at_least_float32(_dtype(g))), grads)
    if not jax.tree.leaves(wide):
        return wide, jnp.zeros((), jnp.int32)
    norms = jax.vmap(tree.global_norm)(wide)
    real = norms.dtype
    bound, usable = jnp.asarray(bound).astype(real), jnp.isfinite(norms)
    inside = usable & (norms <= bound)
    factors = jnp.where(inside, 1, jnp.where(usable, bound / jnp.where(usable & ~inside, norms, 1), 0))

    def total(g: Array) -> Array:
        along = (-1, *[1] * (g.ndim - 1))
        kept = jnp.where(usable.reshape(along), g, 0)
        return jnp.tensordot(factors.astype(g.dtype), kept, axes=1, precision=jax.lax.Precision.HIGHEST)

    return jax.tree.map(total, wide), jnp.sum(~inside, dtype=jnp.int32)


@transform
def differentially_private_aggregate(
    l2_norm_clip: Annotated[Scalar, SIZE], noise_multiplier: Annotated[Scalar, SIZE], key: KeyLike | None = None,
    *, seed: Seed | None = None,
) -> GradientTransformation:  # fmt: skip
    """The private mean of the gradients of B examples: each is clipped, and their sum gets Gaussian noise.

        u = (sum_i g_i min(1, C / |g_i|) + N(0, (C noise_multiplier)^2)) / B

    The gradients that `update` takes have an axis 0 over the examples, as from `jax.vmap(jax.grad(loss), ...)`; the
    updates do not. It comes first in a chain. Accumulating wrappers (`MultiSteps`, `apply_every`) must stay outside.

    Args:
      l2_norm_clip: C, the bound on the norm of one example's gradient; finite and at least 0.
      noise_multiplier: the noise's standard deviation over C; finite and at least 0.
      key: a PRNG key, or an int to seed one. The noise is a function of the key and the step.
      seed: Optax's older name for an int `key`.

    Raises:
      ValueError: no key; Optax falls back on the key 0, whose noise everybody knows. (In update) no common axis of
        examples; a gradient without that axis does not match the parameter's shape.

    An example whose gradient is not finite adds nothing, see `per_example_global_norm_clip`. How private the result is
    depends on noise_multiplier, the sampling of the batches and the number of steps: a privacy accountant computes it.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> private = gdjax.differentially_private_aggregate(1.0, noise_multiplier=1.1, key=0)
      >>> tx = gdjax.chain(private, gdjax.sgd(0.1))
      >>> params, x = jnp.zeros(2), jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
      >>> grads = jax.vmap(jax.grad(jnp.vdot), (None, 0))(params, x)  # of each example
      >>> u, state = tx.update(grads, tx.init(params), params)
      >>> print(grads.shape, u.shape)
      (3, 2) (2,)

    Reference:
      Abadi et al. 2016, Deep learning with differential privacy, Algorithm 1, https://arxiv.org/abs/1607.00133
    """
    label = "gdjax.differentially_private_aggregate"
    key = keys.required(label, key, seed)

    def init(params: Params) -> DifferentiallyPrivateAggregateState:
        return DifferentiallyPrivateAggregateState(keys.fresh(key))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, DifferentiallyPrivateAggregateState]:
        checks.state(label, state, DifferentiallyPrivateAggregateState)
        checks.gradients(label, updates)
        paths, structure = jax.tree_util.tree_flatten_with_path(updates)
        ps: list[Any] = [None] * len(paths)
        if params is not None:
            ps = checks.flatten_like(label, ("updates", "params"), structure, updates, params)
        trained = [i for i, (_, g) in enumerate(paths) if not base.is_float0(g)]
        size = _batch_size(label, [paths[i][1] for i in trained])
        sums, _ = _clipped_sum(label, [paths[i][1] for i in trained], l2_norm_clip)
        new_key, *noise_keys = jax.random.split(state.rng_key, len(trained) + 1)
        out = [_of_one_example(g) if base.is_float0(g) else g for _, g in paths]
        for i, x, noise_key in zip(trained, sums, noise_keys, strict=True):
            path, g = paths[i]
            where = f"params{jax.tree_util.keystr(path)}"
            if ps[i] is not None and x.shape != jnp.shape(ps[i]):
                raise ValueError(
                    f"{label}: {where}: gradients of shape {g.shape}, with the examples along axis 0, do not match "
                    f"parameter shape {jnp.shape(ps[i])}"
                )
            checks.gradient(label, lambda where=where: where, x, None if ps[i] is None else checks.typed(ps[i]))
            std = jnp.asarray(l2_norm_clip * noise_multiplier).astype(x.dtype)
            noise = jax.random.normal(noise_key, x.shape, x.dtype)
            out[i] = ((x + std * noise) / size).astype(_dtype(g))
        return structure.unflatten(out), DifferentiallyPrivateAggregateState(new_key)

    return holding(init, update)


def _of_one_example(g: Array) -> Any:
    return g[0] if g.ndim and len(g) else g
