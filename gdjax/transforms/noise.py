"""Noise: annealed, and for private gradients."""

import functools
import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.core import arrays, base, checks, meshes
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import SIZE
from gdjax.core.parts import holding
from gdjax.core.signatures import plain_types
from gdjax.core.types import (
    Bound,
    Finite,
    KeyLike,
    OptState,
    Params,
    Scalar,
    ScalarOrSchedule,
    Seed,
    Size,
    Transform,
    Updates,
)
from gdjax.numerics import Array

__all__ = [
    "AddNoiseState", "DifferentiallyPrivateAggregateState", "EscapeSaddlesState", "add_noise",
    "differentially_private_aggregate", "escape_saddles", "per_example_global_norm_clip", "per_example_layer_norm_clip",
]  # fmt: skip


class AddNoiseState(NamedTuple):
    """State of `add_noise`."""

    count: Array  # () int32, updates made so far
    rng_key: Array  # () key of the next noise


class EscapeSaddlesState(NamedTuple):
    """State of `escape_saddles`."""

    count: Array  # () int32, updates made so far
    last_noise: Array  # () int32, the count at the last perturbation
    rng_key: Array  # () key of the next perturbation
    inner_state: OptState


@transform
def add_noise(
    eta: Size, gamma: Finite, key: KeyLike | None = None, *, seed: Seed | None = None
) -> GradientTransformation:
    """Adds Gaussian noise that decays with the step.

        u_t = g_t + N(0, eta / t^gamma),    t = 1, 2, ...

    Args:
      eta: the variance at the first step, at least 0.
      gamma: how fast the variance decays; the reference uses 0.55.
      key: a PRNG key, or an int to seed one. The noise is a function of the key and the step. The default is the key 0,
        as in Optax, with a warning: every run gets the same noise.
      seed: Optax's older name for an int `key`.

    Raises:
      ValueError: key and seed.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> noise = gdjax.add_noise(eta=0.01, gamma=0.55, key=jax.random.key(0))
      >>> tx = gdjax.chain(noise, gdjax.sgd(1.0))
      >>> g = jnp.zeros(10_000)
      >>> u, _ = tx.update(g, tx.init(g))
      >>> round(float(u.std()), 2)  # the root of eta
      0.1

    Reference:
      Neelakantan et al. 2015, Adding gradient noise improves learning for very deep networks, section 3,
      https://arxiv.org/abs/1511.06807
    """
    label = "gdjax.add_noise"
    key = arrays.key_or_zero(label, key, seed)

    def init(params: Params) -> AddNoiseState:
        return AddNoiseState(jnp.zeros((), jnp.int32), arrays.fresh_key(key))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, AddNoiseState]:
        checks.state(label, state, AddNoiseState)
        checks.gradients(label, updates, params)
        count = numerics.safe_increment(state.count)
        t = count.astype(jnp.float32)
        variance, rate = (_scalar(label, name, x, state.count) for name, x in (("eta", eta), ("gamma", gamma)))
        scale = numerics.sqrt(variance / t**rate)
        rng_key, sample_key = jax.random.split(state.rng_key)
        return _add_scaled(updates, scale, tree.random_like(sample_key, updates)), AddNoiseState(count, rng_key)

    return holding(init, update)


@transform
def escape_saddles(
    inner: Transform, radius: Size, threshold: Bound, wait: int, key: KeyLike | None
) -> GradientTransformation:
    """Perturbs the parameters when the gradient is small: plain descent stays at a saddle point, this leaves it.

    Where |g| <= threshold and more than `wait` updates have passed since the last perturbation, it adds to the updates
    of `inner` a point drawn uniformly from the ball of the given radius, in the space of all the parameters.

    Args:
      inner: the transform that makes the updates; in the reference `sgd(learning_rate)`.
      radius: of the perturbation, in units of the parameters (r in the reference).
      threshold: on the global norm of the gradient (g_thres).
      wait: updates between perturbations, at least 0 (t_thres).
      key: a PRNG key, or an int to seed one.

    Departures: the reference perturbs, then takes the gradient at the perturbed point; a transform has the gradient
    already, so both are added at once. The reference also stops when a perturbation has not lowered the loss within
    `wait` steps, and returns the point before it; here that is left to the training loop.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> tx = gdjax.escape_saddles(
      ...     gdjax.sgd(0.1), radius=0.01, threshold=1e-3, wait=10, key=jax.random.key(0))
      >>> saddle = jnp.zeros(2)  # of x^2 - y^2, where the gradient is 0
      >>> u, _ = tx.update(jnp.zeros(2), tx.init(saddle), saddle)
      >>> bool(0.0 < gdjax.global_norm(u) <= 0.01)
      True

    Reference:
      Jin, Ge, Netrapalli, Kakade & Jordan 2017, How to escape saddle points efficiently, Algorithm 2 (PGD),
      https://arxiv.org/abs/1703.00887
    """
    label = "gdjax.escape_saddles"
    wait, key = checks.structural(label, "wait", wait, 0), arrays.required_key(label, key, None)
    base.check_transform(label, 0, inner)

    def init(params: Params) -> EscapeSaddlesState:
        last = jnp.full((), -wait - 1, jnp.int32)  # so that the first update may already perturb
        return EscapeSaddlesState(jnp.zeros((), jnp.int32), last, arrays.fresh_key(key), inner.init(params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, EscapeSaddlesState]:
        checks.state(label, state, EscapeSaddlesState)
        checks.gradients(label, updates, params)
        norm = tree.global_norm(updates)
        small = norm <= _scalar(label, "threshold", threshold, state.count).astype(norm.dtype)
        stuck = small & (state.count - state.last_noise > wait)
        updates, inner_state = base.call_update(inner, updates, state.inner_state, params, extra_args)
        rng_key, sample_key = jax.random.split(state.rng_key)
        size = _scalar(label, "radius", radius, state.count)
        updates = meshes.cond(stuck, lambda u: _add_scaled(u, size, _in_unit_ball(sample_key, u)), lambda u: u, updates)
        last = jnp.where(stuck, state.count, state.last_noise)
        return updates, EscapeSaddlesState(numerics.safe_increment(state.count), last, rng_key, inner_state)

    return holding(init, update, inner_state=inner, growth="same")


def _in_unit_ball(key: Array, like: Updates) -> Any:
    """A uniform sample: a Gaussian gives the direction, the n-th root of a uniform number the distance."""
    direction_key, distance_key = jax.random.split(key)
    direction = tree.random_like(direction_key, like)
    n = sum(x.size for x in jax.tree.leaves(like) if not base.is_float0(x))
    distance = jax.random.uniform(distance_key) ** (1 / max(n, 1))
    factor = numerics.divide(distance.astype(jnp.float32), tree.global_norm(direction).astype(jnp.float32))
    return base.map_arrays(lambda d: d * factor.astype(d.dtype), direction)


def _add_scaled(updates: Updates, scale: Array, noise: Updates) -> Updates:
    """updates + scale noise, computed in float32 or wider."""

    def add(u: Array, n: Array) -> Array:
        wide = numerics.at_least_float32(u.dtype)
        return (u.astype(wide) + scale.astype(wide) * n.astype(wide)).astype(u.dtype)

    return base.map_arrays(add, updates, noise)


def _scalar(label: str, name: str, x: ScalarOrSchedule, count: Array) -> Array:
    """A hyperparameter at the count, in float32."""
    return (checks.scalar(label, name, x(count)) if callable(x) else jnp.asarray(x)).astype(jnp.float32)


class DifferentiallyPrivateAggregateState(NamedTuple):
    """State of `differentially_private_aggregate`."""

    rng_key: Array  # () key of the next noise


@plain_types
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


@plain_types
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
        usable_g = jnp.where(usable.reshape(along), g, 0)
        return jnp.tensordot(factors.astype(g.dtype), usable_g, axes=1, precision=jax.lax.Precision.HIGHEST)

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
    key = arrays.required_key(label, key, seed)

    def init(params: Params) -> DifferentiallyPrivateAggregateState:
        return DifferentiallyPrivateAggregateState(arrays.fresh_key(key))

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
