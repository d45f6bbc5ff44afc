"""DoG and DoWG: gradient descent whose step size is a distance over gradients."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.combine.chain import chain
from gdjax.core import domains
from gdjax.core.base import GradientTransformation, identity, transform
from gdjax.core.number_domains import POSITIVE
from gdjax.core.types import Mask, Params, Rate, Size
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.meetings import total
from gdjax.lift.slots import Shared, initial_parameter
from gdjax.numerics import Array, below_overflow, bounded, divide, sqrt, sum_sq
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = ["DoGState", "DoWGState", "dog", "dowg", "scale_by_dog", "scale_by_dowg"]

_INIT_STEPS = "distance", "learning_rate", "heuristic"


class DoGState(NamedTuple):
    """State of `scale_by_dog`."""

    is_init_step: Array  # () bool, whether all gradients have been zero so far
    init_params: Params  # like params, the parameters at the start
    max_dist: Array  # () the largest distance from there
    sum_sq_norm_grads: Array  # () sum of squared norms of gradients


class DoWGState(NamedTuple):
    """State of `scale_by_dowg`."""

    init_params: Params  # like params, the parameters at the start
    weighted_sq_norm_grads: Array  # () sum of squared norms of gradients, each times the squared distance then
    estim_sq_dist: Array  # () the largest squared distance from the start


class _InitialDistance(Shared):
    def __call__(self, params: Sequence[Any], hyper: Mapping[str, Any]) -> Array:
        real = numerics.widest_real(params)
        if hyper["kind"] == "learning_rate":
            return jnp.zeros((), real)
        distance = numerics.widen(hyper["init_step"], real)
        if hyper["kind"] == "heuristic":
            trained = [p for p in params if jnp.issubdtype(jnp.result_type(p), jnp.inexact)]
            trained = [jnp.zeros(p.shape, p.dtype) if isinstance(p, jax.ShapeDtypeStruct) else p for p in trained]
            distance = distance * (1 + numerics.below_overflow(tree.global_norm(trained).astype(real)))
        return distance


@leafwise(
    DoGState, is_init_step=Shared(True, dtype=bool), init_params=initial_parameter, max_dist=_InitialDistance(),
    sum_sq_norm_grads=Shared(),
)  # fmt: skip
def _dog(
    g: Array, s: DoGState, p: Array, t: Array, init_step: Hyper, eps: hyper.Size, kind: str
) -> tuple[Array, DoGState]:
    square = total(sum_sq(g))
    r = jnp.maximum(s.max_dist, sqrt(total(sum_sq(p - s.init_params))))
    G = below_overflow(s.sum_sq_norm_grads + square)
    rate = divide(r, sqrt(G + eps))
    if kind == "learning_rate":
        rate = jnp.where(s.is_init_step, init_step, rate)
    u = rate * bounded(g, "summed")
    return u, s._replace(max_dist=r, sum_sq_norm_grads=G, is_init_step=s.is_init_step & (square == 0))


@transform
def scale_by_dog(init_step: tuple[str, Any], eps: Size = 1e-8) -> Any:
    """Multiplies the gradients by a distance over gradients.

    Formulas and arguments are those of `gdjax.dog`, without its rate and decay.

    Raises:
      ValueError: an unknown kind of `init_step`; its number is not above 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.scale_by_dog(("learning_rate", 0.1)), gdjax.scale(-1.0))
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.array([4.0, -0.5]), tx.init(params), params)
      >>> print((100 * updates).round())  # the first step has the rate given
      [-40.   5.]

    Reference:
      Ivgi, Hinder & Carmon 2023, https://arxiv.org/abs/2302.12022
    """
    label = "gdjax.scale_by_dog"
    if not isinstance(init_step, tuple | list) or len(init_step) != 2 or init_step[0] not in _INIT_STEPS:
        raise ValueError(f"{label}: init_step must be a pair of {' or '.join(_INIT_STEPS)} and a number: {init_step!r}")
    kind, size = init_step
    domains.number(POSITIVE, label, "init_step[1]", size)
    return _dog(size, eps, kind)


@transform
def dog(
    learning_rate: Rate = 1.0, init_step: tuple[str, Any] = ("heuristic", 1e-6), eps: Size = 1e-8,
    weight_decay: Size | None = None, mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """DoG (distance over gradients): descent whose step size comes from how far it has got.

        r_t = max(r_{t-1}, |x_t - x_0|)        G_t = G_{t-1} + |g_t|^2
        x_{t+1} = x_t - lr r_t / sqrt(G_t + eps) g_t,    norms over the whole tree

    Args:
      learning_rate: lr, a scalar or a schedule; 1 is what the reference analyses.
      init_step: what the first step is. ("heuristic", a) for r_0 = a (1 + |x_0|), with a = 1e-6, or 1e-4 with batch
        normalization; ("distance", r_0); ("learning_rate", eta) for a first step of eta, with r_0 = 0.
      eps: at least 0.
      weight_decay: L2: weight_decay x_t is added to the gradient. None for none.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.

    The reference evaluates an average of the iterates, and recommends to: see `gdjax.incremental_update`. `init` needs
    the parameters themselves, since x_0 is kept. With ("learning_rate", eta) that step is the first with a gradient
    other than zero: in Optax the first of all, so that after a gradient of zero the distance stays 0 for ever.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.dog(), steps=300)  # no rate
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Ivgi, Hinder & Carmon 2023, DoG is SGD's best friend: a parameter-free dynamic step size schedule,
      https://arxiv.org/abs/2302.12022
    """
    decay = identity() if weight_decay is None else add_decayed_weights(weight_decay, mask)
    return chain(decay, scale_by_dog(init_step, eps), scale_by_learning_rate(learning_rate))


class _InitialSquare(Shared):
    def __call__(self, params: Sequence[Any], hyper: Mapping[str, Any]) -> Array:
        name = "eps" if hyper["init_estim_sq_dist"] is None else "init_estim_sq_dist"
        return Shared(name)(params, hyper)


@leafwise(DoWGState, init_params=initial_parameter, weighted_sq_norm_grads=Shared(), estim_sq_dist=_InitialSquare())
def scale_by_dowg(
    g: Array, s: DoWGState, p: Array, t: Array, init_estim_sq_dist: hyper.Size | None = None, eps: hyper.Size = 1e-4
) -> tuple[Array, DoWGState]:
    """Multiplies the gradients by a distance over weighted gradients.

    Formulas and arguments are those of `gdjax.dowg`, without its rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.chain(gdjax.scale_by_dowg(), gdjax.scale(-1.0))  # no rate but the sign
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=300)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Khaled, Mishchenko & Jin 2023, Algorithm 1, https://arxiv.org/abs/2305.16284
    """
    r_sq = jnp.maximum(s.estim_sq_dist, total(sum_sq(p - s.init_params)))
    v = below_overflow(s.weighted_sq_norm_grads + r_sq * total(sum_sq(g)))
    u = divide(r_sq, sqrt(v) + eps) * bounded(g, "summed")
    return u, s._replace(estim_sq_dist=r_sq, weighted_sq_norm_grads=v)


@transform
def dowg(
    learning_rate: Rate = 1.0, init_estim_sq_dist: Size | None = None, eps: Size = 1e-4,
    weight_decay: Size | None = None, mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """DoWG: DoG with later gradients weighted by how far the descent has got by then.

        r_t^2 = max(r_{t-1}^2, |x_t - x_0|^2)        v_t = v_{t-1} + r_t^2 |g_t|^2
        x_{t+1} = x_t - lr r_t^2 / (sqrt(v_t) + eps) g_t,    norms over the whole tree

    Args:
      learning_rate: lr, a scalar or a schedule; 1 is what the reference analyses.
      init_estim_sq_dist: r_0^2, above 0; eps by default.
      eps: outside the root, at least 0.
      weight_decay: L2: weight_decay x_t is added to the gradient. None for none.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.

    The eps is in the authors' code, not in the paper. `init` needs the parameters themselves, since x_0 is kept.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.dowg(), steps=300)  # no rate
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Khaled, Mishchenko & Jin 2023, DoWG unleashed: an efficient universal parameter-free gradient descent method,
      Algorithm 1, https://arxiv.org/abs/2305.16284
    """
    decay = identity() if weight_decay is None else add_decayed_weights(weight_decay, mask)
    return chain(decay, scale_by_dowg(init_estim_sq_dist, eps), scale_by_learning_rate(learning_rate))
