"""Gradients from values of the loss alone, by random directions; and steps that keep nothing beside the parameters."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics, tree
from gdjax.core import argument_kinds, checks, meshes
from gdjax.core.arrays import fresh_key, required_key, shape_of
from gdjax.core.types import Array, KeyLike, Params, Scalar
from gdjax.xla.write_order import in_one_turn

__all__ = ["mezo_step", "spsa_gradient"]

Loss = Callable[..., Any]
Noise = Literal["rademacher", "normal"]
SAMPLERS = {"rademacher": jax.random.rademacher, "normal": jax.random.normal}


def spsa_gradient(
    loss_fn: Loss, key: KeyLike, *, scale: Scalar = 1e-3, samples: int = 1, noise: Noise = "rademacher"
) -> Callable[..., tuple[Array, Any]]:
    """The value and an estimate of the gradient, from two values of the loss: where `jax.value_and_grad` cannot go.

        g = (f(x + c z) - f(x - c z)) / (2 c) z    with a random z whose elements have the variance 1

    Its mean is the gradient, up to terms in c^2; its noise grows with the number of parameters. Any optimizer goes on
    from it. A loss that has a derivative has a better one by `jax.grad`; this is for one that is a simulation, counts
    errors, or has no room for what a backward pass keeps.

    Args:
      loss_fn: `(params, *args, **kwargs) -> loss`, a real scalar. It need not have a derivative.
      key: a PRNG key, typed or raw, or an int; another one in each step: `jax.random.fold_in(key, step)`.
      scale: c, above 0. The values should differ by much more than their rounding.
      samples: over how many directions g is averaged, at least 1; each costs two values.
      noise: of z, "rademacher" for signs, as in the paper, or "normal".

    Returns:
      A function `(params, *args, **kwargs) -> (value, gradient)`. The value is the mean of those computed. The gradient
      is that of `jax.grad`, conjugate for complex leaves, and float0 for integers.

    Compile it: a call outside of `jax.jit` compiles its loops anew.

    z is drawn anew from its key, leaf by leaf, wherever it is needed: `samples` costs no memory. Compiled, the memory
    beside the gradient is one moved copy of the parameters and a few arrays as large as the largest leaf. Divided
    parameters have the noise that whole ones have, on every mesh, by JAX's default `jax_threefry_partitionable`.

    Raises:
      TypeError: `loss_fn` returns no real scalar; `key` is no key; a leaf cannot be a parameter.
      ValueError: `scale` is not above 0, `samples` below 1, or `noise` unknown.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum(jnp.abs(x - jnp.array([1.0, -2.0, 0.5])))
      >>> gradient = jax.jit(lambda x, key: gdjax.spsa_gradient(loss, key)(x)[1])
      >>> x, rate = jnp.zeros(3), 0.02
      >>> for key in jax.random.split(jax.random.key(0), 200):
      ...     x = x - rate * gradient(x, key)
      >>> bool(loss(x) < 0.5)
      True

    Reference:
      Spall 1992, Multivariate stochastic approximation using a simultaneous perturbation gradient approximation,
      equation 2.2, https://doi.org/10.1109/9.119632; "normal" is Nesterov & Spokoiny 2017, Random gradient-free
      minimization of convex functions, https://doi.org/10.1007/s10208-015-9296-2
    """
    label = "gdjax.spsa_gradient"
    key = _checked_key(label, key, scale, noise)
    samples = checks.structural(label, "samples", samples, 1)

    def value_and_gradient(params: Params, *args: Any, **kwargs: Any) -> tuple[Array, Any]:
        leaves, whole = _trained(label, params)
        z_of = lambda sample: jax.random.fold_in(key, sample)

        def value(trial: tuple[Array, Array]) -> Array:
            sample, by = trial
            return _value(label, loss_fn(whole(_moved(leaves, z_of(sample), by, noise)), *args, **kwargs))

        c = jnp.asarray(scale, numerics.widest_real(leaves))
        values = jax.lax.map(value, (jnp.repeat(jnp.arange(samples), 2), jnp.tile(jnp.stack([c, -c]), samples)))
        plus, minus = values[::2], values[1::2]
        slopes = ((plus - minus) / (2 * c).astype(values.dtype)).astype(c.dtype) / samples
        zeros = [jnp.zeros_like(x, numerics.at_least_float32(x.dtype)) for x in leaves]
        added = lambda sample, gs: _moved(gs, z_of(sample), slopes[sample], noise)
        gs = meshes.fori_loop(samples, added, zeros)
        fixed = lambda x: np.zeros(jnp.shape(x), jax.dtypes.float0)
        return jnp.mean(values), whole([jnp.conj(g).astype(x.dtype) for g, x in zip(gs, leaves, strict=True)], fixed)

    return value_and_gradient


def mezo_step(
    loss_fn: Loss, key: KeyLike, learning_rate: Scalar, *, scale: Scalar = 1e-3, noise: Noise = "normal"
) -> Callable[..., tuple[Array, Params]]:
    """MeZO: a step of SGD with `spsa_gradient`'s estimate, in the memory of the forward pass.

        w <- w + c z,    a = f(w)
        w <- w - 2 c z,    b = f(w)
        w <- w + c z - lr (a - b) / (2 c) z

    Each line moves the parameters where they are. There is no second copy of them, no gradient, no state of an
    optimizer, and z is drawn from its key three times, one leaf at a time.

    Args:
      loss_fn: `(params, *args, **kwargs) -> loss`, a real scalar.
      key: a PRNG key, typed or raw, or an int; another one in each step: `jax.random.fold_in(key, step)`.
      learning_rate: lr of this step, far smaller than with exact gradients: 1e-7 to 1e-6 in the paper, for models of
        billions of parameters.
      scale: c, above 0.
      noise: of z, "normal", as in the paper, or "rademacher".

    Returns:
      A function `(params, *args, **kwargs) -> (value, params)`, to be compiled with the parameters donated:
      `jax.jit(step, donate_argnums=0)`. The value is the mean of a and b.

    Compiled for a CPU the noise of one leaf takes six arrays of its size, whatever the number of leaves. w comes back
    up to its rounding, which in 16 bits is coarse: there c |z| should be some 2^-7 |w|, or keep the parameters in
    float32. Where a value or the step is not finite the parameters stay.

    Raises:
      TypeError: `loss_fn` returns no real scalar; `key` is no key; a leaf cannot be a parameter.
      ValueError: `scale` is not above 0, or `noise` unknown.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda w: jnp.sum((w - jnp.arange(4.0)) ** 2)
      >>> step = jax.jit(lambda w, key: gdjax.mezo_step(loss, key, 0.02)(w), donate_argnums=0)
      >>> w = jnp.zeros(4)
      >>> for key in jax.random.split(jax.random.key(0), 200):
      ...     value, w = step(w, key)
      >>> bool(value < 1e-2)
      True

    Reference:
      Malladi et al. 2023, Fine-tuning language models with just forward passes, Algorithm 1,
      https://arxiv.org/abs/2305.17333
    """
    label = "gdjax.mezo_step"
    key = _checked_key(label, key, scale, noise)

    def step(params: Params, *args: Any, **kwargs: Any) -> tuple[Array, Params]:
        leaves, whole = _trained(label, params)
        value = lambda leaves: _value(label, loss_fn(whole(leaves), *args, **kwargs))
        c = jnp.asarray(scale, numerics.widest_real(leaves))

        def tried(turn: Array, carry: tuple[list[Array], Array]) -> tuple[list[Array], Array]:
            leaves, values = carry
            leaves = _moved(leaves, key, jnp.where(turn == 0, c, -2 * c), noise)
            return leaves, values.at[turn].set(value(leaves))

        start = jnp.zeros(2, jax.eval_shape(value, leaves).dtype)
        leaves, values = meshes.fori_loop(2, tried, (leaves, start))
        slope = ((values[0] - values[1]) / (2 * c).astype(values.dtype)).astype(c.dtype)
        back = c - jnp.asarray(learning_rate).astype(c.dtype) * slope
        return jnp.mean(values), whole(_moved(leaves, key, jnp.where(jnp.isfinite(back), back, c), noise))

    return step


def _checked_key(label: str, key: KeyLike, scale: Scalar, noise: Noise) -> Array:
    """The key as a typed one."""
    argument_kinds.key(label, "key", key)
    argument_kinds.choice(tuple(SAMPLERS), label, "noise", noise)
    if isinstance(scale, checks.NUMBER) and not 0 < scale < np.inf:
        raise ValueError(f"{label}: scale must be finite and above 0, got {scale}")
    return fresh_key(required_key(label, key, None))


def _trained(label: str, params: Params) -> tuple[list[Array], Callable[..., Any]]:
    """The leaves that are moved, and a function from such leaves, and one of the others, to a tree."""
    checks.leaves(label, "params", params)
    leaves, structure = jax.tree.flatten(params)
    moves = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves]

    def whole(moved: list[Array], fixed: Callable[[Any], Any] = lambda x: x) -> Any:
        new = iter(moved)
        return structure.unflatten([next(new) if m else fixed(x) for m, x in zip(moves, leaves, strict=True)])

    return [jnp.asarray(x) for m, x in zip(moves, leaves, strict=True) if m], whole


def _value(label: str, value: Any) -> Array:
    value = jnp.asarray(value)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{label}: loss_fn must return a real scalar, got {shape_of(value)}")
    return value.astype(numerics.at_least_float32(value.dtype))


def _moved(leaves: list[Array], key: Array, by: Array, noise: Noise) -> list[Array]:
    """Every leaf x plus by z, with the noise of one leaf in memory at a time."""
    word = jnp.ravel(jax.random.key_data(key))[0]

    def move(i: int, x: Array) -> Array:
        def turn(count: Array, x: Array) -> Array:
            z = _direction(jax.random.fold_in(jax.random.fold_in(key, i), count), x, noise)
            return (x.astype(z.dtype) + by.astype(z.dtype) * z).astype(x.dtype)

        return in_one_turn(turn, x, word)

    return [move(i, x) for i, x in enumerate(leaves)]


def _direction(key: Array, x: Array, noise: Noise) -> Array:
    """z for a leaf, in float32 or wider; two real ones for complex numbers."""
    real = numerics.real_dtype(numerics.at_least_float32(x.dtype))
    draw = lambda key: tree.random_like(key, x, SAMPLERS[noise], real)
    return jax.lax.complex(*map(draw, jax.random.split(key))) if jnp.iscomplexobj(x) else draw(key)
