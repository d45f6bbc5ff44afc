"""Sophia: momentum over the diagonal of the Hessian, clipped."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree as tree_math
from gdjax.core import base, checks, meshes
from gdjax.core.base import GradientTransformation, GradientTransformationExtraArgs, transform
from gdjax.core.part import Step
from gdjax.core.types import (
    Bound,
    Decay,
    DType,
    Finite,
    Mask,
    OptState,
    Params,
    Rate,
    Size,
    Squares,
    Steps,
    Transform,
    Updates,
)
from gdjax.lift.all_leaves import leaves_of
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.rule import Leafwise, run
from gdjax.lift.slots import Whole, second_moment
from gdjax.numerics import Array, debias, divide
from gdjax.transforms.averaging import EmaState, ema
from gdjax.transforms.curvature import hutchinson_estimator_diag_hessian
from gdjax.transforms.decay import descending

__all__ = ["SophiaState", "scale_by_sophia", "sophia"]


class SophiaState(NamedTuple):
    """State of `scale_by_sophia`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, momentum
    nu: Params  # like params, average of the Hessian's diagonal, float32 at least
    hessian_fn_state: OptState  # of the estimator


@leafwise(
    SophiaState, nu=replace(second_moment, kind="exact"),  # it may be negative
    hessian_fn_state=Whole(lambda params, x: x["hessian_diagonal_fn"].init(params), "hessian_diagonal_fn"),
)  # fmt: skip
def _sophia(
    g: Array, s: SophiaState, p: Array, t: Array,
    b1: hyper.Decay, b2: hyper.Squares, eps: hyper.Size, gamma: hyper.Finite, update_interval: hyper.Steps,
    bias_correction: bool, clip_threshold: hyper.Bound = None, mu_dtype: DType | None = None,
    hessian_diagonal_fn: Any = None,
) -> tuple[Array, SophiaState]:  # fmt: skip
    if jnp.iscomplexobj(g):
        raise TypeError(f"does not support complex numbers ({g.dtype}): its Hessian is of real parameters")
    mu = b1 * s.mu + (1 - b1) * g
    u = divide(debias(mu, b1, t) if bias_correction else mu, jnp.maximum(gamma * s.nu, eps))
    if clip_threshold is not None:
        u = jnp.clip(u, -clip_threshold, clip_threshold)
    return u, s._replace(mu=mu)


@dataclass(frozen=True, eq=False)
class _Sophia(Leafwise):
    """The rule of the direction, and before it, in every k-th step, nu from a new estimate of the diagonal."""

    average: Any = None  # nu, as the average of the estimates
    newest: bool = False  # whether the direction has nu_t
    report: int = 0  # the win rate is printed every so many steps; 0 for never

    def steps(self, state: OptState) -> Iterator[Step] | None:
        if self.newest:
            return None
        return iter([Step(GradientTransformationExtraArgs(self.init, self.estimated), state), Step(self, state)])

    def joined(self, states: Iterator[Any]) -> Any:
        first = next(states)
        return first if self.newest else next(states)._replace(nu=first.nu, hessian_fn_state=first.hessian_fn_state)

    def update(self, updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        if self.newest:
            return super().update(*self.estimated(updates, state, params, **extra_args), params)
        updates, states = run(list(self.steps(state) or ()), updates, params, extra_args)
        return updates, self.joined(states)

    def estimated(self, updates: Updates, state: Any, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        """The updates as they are, and the state with nu_t and the estimator's new state."""
        checks.state(self.label, state, self.State)
        hyper, average = self.hyperparams(state), self.average.labelled(self.label)
        tree = leaves_of([self], updates, params).tree(self.label, extra_args)

        def due(nu: Params, inner: OptState) -> tuple[Params, OptState]:
            hs, inner = tree.updated(self.settings["hessian_diagonal_fn"], tree.chosen(tree.entries), inner, params)
            return average.update(tree.unflattened(hs), EmaState(state.count, nu), params)[1].ema, inner

        olds = state.nu, state.hessian_fn_state
        nu, inner = meshes.cond(state.count % hyper["update_interval"] == 0, due, lambda *olds: olds, *olds)
        new = state._replace(nu=nu, hessian_fn_state=inner)
        if self.report:
            free = replace(self, hyper={**self.hyper, "clip_threshold": math.inf})

            def shown() -> None:
                us, _ = Leafwise.update(free, updates, new if self.newest else state)
                us = tree.listed("updates", us)
                inside = [jnp.sum(jnp.abs(u) < hyper["clip_threshold"]) for u in us]  # which are not clipped
                jax.debug.print("Sophia's win rate: {}", tree_math.sum(inside) / tree_math.size(us))

            meshes.cond((state.count + 1) % self.report == 0, shown, lambda: None)
        return updates, new


@transform
def scale_by_sophia(
    b1: Decay = 0.965, b2: Squares = 0.99, eps: Size = 1e-8, gamma: Finite = 0.01, clip_threshold: Bound | None = 1.0,
    update_interval: Steps = 10, hessian_diagonal_fn: Transform = hutchinson_estimator_diag_hessian(),  # noqa: B008
    mu_dtype: DType | None = None, verbose: bool = False, print_win_rate_every_n_steps: int = 0,
    *, bias_correction: bool = True, newest: bool = False,
) -> Any:  # fmt: skip
    """Sophia's direction: momentum over an average of the Hessian's diagonal, every element clipped.

    Formulas and arguments are those of `gdjax.sophia`, without its rate and decay.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([3.0, -0.5])
      >>> tx, g = gdjax.scale_by_sophia(), jax.grad(loss)(params)
      >>> direction, state = tx.update(g, tx.init(params), params, obj_fn=loss)
      >>> print(direction, (100 * state.nu).round())  # clipped; 1 - b2 of the Hessian, 2
      [ 1. -1.] [2. 2.]
    """
    label = "gdjax.scale_by_sophia"
    base.check_transform(label, "hessian_diagonal_fn", hessian_diagonal_fn)
    every = checks.structural(label, "print_win_rate_every_n_steps", print_win_rate_every_n_steps, 0)
    rule = _sophia(b1, b2, eps, gamma, update_interval, bias_correction, clip_threshold, mu_dtype, hessian_diagonal_fn)
    average, report = base.part_of(ema(b2, debias=False)), every if verbose and clip_threshold is not None else 0
    return base.part_of(rule).as_kind(_Sophia, average=average, newest=newest, report=report)


@transform
def sophia(
    learning_rate: Rate, b1: Decay = 0.965, b2: Squares = 0.99, eps: Size = 1e-8, weight_decay: Size = 1e-4,
    weight_decay_mask: Mask = None, gamma: Finite = 0.01, clip_threshold: Bound | None = 1.0,
    update_interval: Steps = 10, hessian_diagonal_fn: Transform = hutchinson_estimator_diag_hessian(),  # noqa: B008
    mu_dtype: DType | None = None, verbose: bool = False, print_win_rate_every_n_steps: int = 0,
    *, bias_correction: bool = True, newest: bool = False,
) -> GradientTransformation:  # fmt: skip
    """Sophia: momentum over an average of the Hessian's diagonal, every element clipped.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t,    m_t = mu_t / (1 - b1^t)
        x_{t+1} = x_t - lr (clip(m_t / max(gamma nu_{t-1}, eps), -c, c) + weight_decay x_t)
        nu_t = b2 nu_{t-1} + (1 - b2) h_t every k steps, from t = 1 on, else nu_{t-1}

    with h_t an estimate of the Hessian's diagonal. Where the curvature is small or negative the step is lr c, in the
    direction of a sign.

    `update` passes its extra arguments on to the estimator. The default one needs the loss as a function of the
    parameters: `update(grads, state, params, obj_fn=lambda p: loss(p, batch))`.

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1: decay of the momentum, in [0, 1).
      b2: decay of the average of the diagonal, once every k steps, in [0, 1).
      eps: the least denominator, at least 0.
      weight_decay: decoupled, times lr.
      weight_decay_mask: which leaves decay: a tree of booleans, a prefix of the parameters, or a function from them to
        one; None for all.
      gamma: see above; the reference tunes it so that a tenth to half of the elements are not clipped (the win rate).
      clip_threshold: c, or None not to clip.
      update_interval: k, at least 1.
      hessian_diagonal_fn: the estimator, a transform that replaces the updates by h. Over several devices it must
        average h itself.
      mu_dtype: the dtype of mu, the parameter's by default.
      verbose, print_win_rate_every_n_steps: print the win rate every so many steps; 0 for never.
      bias_correction: False for the reference's m_t = mu_t.
      newest: True for the reference's order, which divides by nu_t. As in Optax the default divides by nu_{t-1}, which
        is 0 in the first step: that step is one of signs.

    Departures: the reference draws the vectors of the estimator from a Gaussian; signs have a smaller variance.

    Raises:
      ValueError: (in update) params is missing, or an argument of the estimator.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda params, batch: jnp.sum((params - batch) ** 2)
      >>> params, batch, tx = jnp.zeros(2), jnp.array([1.0, -2.0]), gdjax.sophia(1e-2)
      >>> grads = jax.grad(loss)(params, batch)
      >>> obj_fn = lambda params: loss(params, batch)  # for the Hessian's diagonal
      >>> updates, state = tx.update(grads, tx.init(params), params, obj_fn=obj_fn)
      >>> print((1e3 * updates).round())
      [ 10. -10.]

    Reference:
      Liu, Li, Hall, Liang & Ma 2024, Sophia: a scalable stochastic second-order optimizer for language model
      pre-training, Algorithms 1 and 3, https://arxiv.org/abs/2305.14342
    """
    direction = scale_by_sophia(
        b1, b2, eps, gamma, clip_threshold, update_interval, hessian_diagonal_fn, mu_dtype, verbose,
        print_win_rate_every_n_steps, bias_correction=bias_correction, newest=newest,
    )  # fmt: skip
    return descending(direction, learning_rate, weight_decay, weight_decay_mask)
