"""Derivatives of functions that have none, by random perturbation; the noise to perturb with."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.core import checks
from gdjax.core.types import Array, ArrayTree, DTypeLike, Scalar


class Normal:
    """The standard normal distribution."""

    def sample(self, key: Array, sample_shape: tuple[int, ...] = (), dtype: DTypeLike = float) -> Array:
        return jax.random.normal(key, sample_shape, dtype)

    def log_prob(self, inputs: Array) -> Array:
        """The logarithm of the density, up to a constant."""
        return -0.5 * inputs**2


class Gumbel:
    """The standard Gumbel distribution: the argmax of perturbed logits is a sample of their softmax."""

    def sample(self, key: Array, sample_shape: tuple[int, ...] = (), dtype: DTypeLike = float) -> Array:
        return jax.random.gumbel(key, sample_shape, dtype)

    def log_prob(self, inputs: Array) -> Array:
        """The logarithm of the density."""
        return -inputs - jnp.exp(-inputs)


GUMBEL = Gumbel()


def make_perturbed_fun(
    fun: Callable[[Any], Any], num_samples: int = 1000, sigma: Scalar = 0.1, noise: Any = GUMBEL,
    use_baseline: bool = True,
) -> Callable[[Array, Any], Any]:  # fmt: skip
    """A smooth version of a function, E f(x + sigma z) over noise z, estimated from samples.

    Derivatives of any order are those of the expectation, estimated with the density p of z (the score function):

        d/dx E f(x + sigma z) = -1/sigma E (f(x + sigma z) - f(x)) (log p)'(z)

    They need values of f alone, which may be piecewise constant: an argmax, a ranking, a shortest path.

    Args:
      fun: from a tree of floating arrays to a tree of arrays.
      num_samples: how many samples to average over, at least 1.
      sigma: the size of the perturbations, in units of x.
      noise: anything with `sample(key, shape, dtype)` and `log_prob(z)`, such as `Gumbel()` or `Normal()`.
      use_baseline: subtract f(x) as above. It lowers the variance of the derivatives and changes neither their
        expectation nor the value.

    Returns:
      A function `(key, x) -> tree`.

    Departures: the score is taken at z itself. Optax recovers z as (x + sigma z - x) / sigma, which in float32 loses it
    where |x| is much larger than sigma.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> sign = gdjax.perturbations.make_perturbed_fun(
      ...     jnp.sign, num_samples=1000, sigma=0.5, noise=gdjax.perturbations.Normal())
      >>> key, x = jax.random.key(0), jnp.array(0.0)
      >>> bool(abs(sign(key, x)) < 0.2), bool(jax.grad(sign, argnums=1)(key, x) > 1.0)
      (True, True)

    References:
      Berthet et al. 2020, Learning with differentiable perturbed optimizers, Proposition 3.1,
      https://arxiv.org/abs/2002.08676
      Foerster et al. 2018, DiCE: the infinitely differentiable Monte Carlo estimator, section 3,
      https://arxiv.org/abs/1802.05098
    """
    num_samples = checks.structural("gdjax.make_perturbed_fun", "num_samples", num_samples, 1)

    def estimate(key: Array, x: ArrayTree) -> Any:
        fixed = jax.lax.stop_gradient(x)
        baseline = fun(fixed) if use_baseline else None

        def sample(key: Array) -> Any:
            z = tree.random_like(key, fixed, noise.sample)
            out = fun(tree.cast_like(tree.add_scale(fixed, sigma, z), fixed))
            moved = tree.add(z, tree.scale(1 / sigma, tree.sub(fixed, x)))  # z; its derivative -1 / sigma
            score = tree.sum(jax.tree.map(noise.log_prob, moved))
            one = jnp.exp(score - jax.lax.stop_gradient(score))  # 1; its derivative that of the score
            out = tree.scale(one, out)
            return tree.add_scale(out, 1 - one, baseline) if use_baseline else out

        def mean(y: Array, like: Array) -> Array:
            with jax.numpy_dtype_promotion("standard"):
                dtype = jnp.promote_types(like.dtype, tree.dtype(x, "promote"))
            return jnp.mean(y, axis=0).astype(dtype)

        return jax.tree.map(mean, jax.vmap(sample)(jax.random.split(key, num_samples)), jax.eval_shape(fun, fixed))

    return estimate


class MultiNormalDiagFromLogScale:
    """The normal distribution with independent components, N(loc, exp(log_scale)^2).

    Its samples are differentiable functions of `params`.
    """

    def __init__(self, loc: ArrayTree, log_scale: ArrayTree):
        self._mean, self._log_scale = jnp.asarray(loc), jnp.asarray(log_scale)
        self._shape = jnp.broadcast_shapes(self._mean.shape, self._log_scale.shape)

    def sample(self, shape: Sequence[int], key: Array) -> Array:
        """Samples along new leading axes of the given sizes."""
        z = jax.random.normal(key, (*shape, *self._shape), self._mean.dtype)
        with jax.numpy_rank_promotion("allow"):
            return z * jnp.exp(self._log_scale) + self._mean

    def log_prob(self, x: ArrayTree) -> Array:
        """The logarithm of the density, summed over the components."""
        with jax.numpy_rank_promotion("allow"):
            z = (x - self._mean) * jnp.exp(-self._log_scale)
            each = -0.5 * (z**2 + jnp.log(2 * jnp.pi)) - self._log_scale
        return jnp.sum(each, axis=tuple(range(-len(self._shape), 0)))

    @property
    def log_scale(self) -> Array:
        return self._log_scale

    @property
    def params(self) -> list[Array]:
        return [self._mean, self._log_scale]


def multi_normal(loc: ArrayTree, log_scale: ArrayTree) -> MultiNormalDiagFromLogScale:
    """The normal distribution with mean `loc` and standard deviation exp(log_scale), component by component.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> normal = gdjax.multi_normal(loc=jnp.array([1.0, 2.0]), log_scale=jnp.zeros(2))
      >>> normal.sample((3,), jax.random.key(0)).shape
      (3, 2)
    """
    return MultiNormalDiagFromLogScale(loc, log_scale)
