"""Noise: on the gradients, and to leave saddle points."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.core import base, checks, keys, meshes
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.parts import holding
from gdjax.core.types import Bound, Finite, KeyLike, OptState, Params, ScalarOrSchedule, Seed, Size, Transform, Updates
from gdjax.numerics import Array


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
    key = keys.or_zero(label, key, seed)

    def init(params: Params) -> AddNoiseState:
        return AddNoiseState(jnp.zeros((), jnp.int32), keys.fresh(key))

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
    wait, key = checks.structural(label, "wait", wait, 0), keys.required(label, key, None)
    base.check_transform(label, 0, inner)

    def init(params: Params) -> EscapeSaddlesState:
        last = jnp.full((), -wait - 1, jnp.int32)  # so that the first update may already perturb
        return EscapeSaddlesState(jnp.zeros((), jnp.int32), last, keys.fresh(key), inner.init(params))

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

    return holding(init, update, inner_state=inner)


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
