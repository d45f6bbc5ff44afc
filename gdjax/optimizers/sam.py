"""SAM: sharpness-aware minimisation."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey

from gdjax import numerics
from gdjax.combine.conditional import as_before
from gdjax.core import base, checks, meshes
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.part import Inside
from gdjax.core.parts import holding
from gdjax.core.types import OptState, Params, Transform, Updates, without_skipped
from gdjax.lift import slots
from gdjax.numerics import Array
from gdjax.tree.updates import apply_updates

__all__ = ["SAMState", "sam"]

LABEL = "gdjax.sam"


class SAMState(NamedTuple):
    """State of `sam`."""

    steps_since_sync: Array  # () int32, adversarial steps since the last step of the optimizer
    opt_state: OptState  # of the optimizer
    adv_state: OptState  # of the adversarial optimizer
    cache: Params | None  # the parameters that the next step of the optimizer starts from; None in opaque mode


@transform
def sam(
    optimizer: Transform, adv_optimizer: Transform, sync_period: int = 2, reset_state: bool = True,
    opaque_mode: bool = False, batch_axis_name: str | None = None,
) -> GradientTransformation:  # fmt: skip
    """SAM: steps with the gradient at the worst point nearby, so that flat minima are found.

        x'_t = x_t + rho g(x_t) / |g(x_t)|,    x_{t+1} = x_t - lr g(x'_t)

    That is `sam(sgd(lr), chain(normalize(), sgd(rho)))`: the adversarial optimizer's steps are taken uphill, and with
    the gradient where they have led the optimizer makes its step from where they began.

    Args:
      optimizer: makes the steps; it sees the parameters x_t.
      adv_optimizer: makes the way to the adversarial point.
      sync_period: 1 + the number of adversarial steps before each step of the optimizer; at least 1.
      reset_state: begin each way with a new state of the adversarial optimizer.
      opaque_mode: False takes one gradient a call, and the parameters between two steps of the optimizer are the
        adversarial ones. True makes all of that in one call, to which the gradient must be given as a function too:
        `update(grads, state, params, grad_fn=f)` with `f(params, i)` the gradient at the i-th adversarial point, i = 0,
        ..., sync_period - 2. A program that keeps statistics of what it sees at its parameters (batch norm, averages)
        wants this.
      batch_axis_name: in opaque mode, the mapped axis over which to average what grad_fn returns.

    In transparent mode the parameters to keep or evaluate are those after a multiple of sync_period calls.

    Raises:
      ValueError: update gets no parameters, or in opaque mode no grad_fn.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> gradient = jax.grad(lambda x: jnp.sum((x - 3.0) ** 2))
      >>> nearby = gdjax.chain(gdjax.normalize(), gdjax.sgd(0.05))  # uphill by rho = 0.05
      >>> tx = gdjax.sam(gdjax.sgd(0.1), nearby, opaque_mode=True)
      >>> x = jnp.zeros(2)
      >>> u, state = tx.update(gradient(x), tx.init(x), x, grad_fn=lambda x, i: gradient(x))
      >>> print((1e3 * u).round())  # by the gradient there
      [607. 607.]

    Reference:
      Foret, Kleiner, Mobahi & Neyshabur 2021, Sharpness-aware minimization for efficiently improving generalization,
      Algorithm 1, https://arxiv.org/abs/2010.01412
    """
    base.check_transform(LABEL, 0, optimizer)
    base.check_transform(LABEL, 1, adv_optimizer)
    sync_period = checks.structural(LABEL, "sync_period", sync_period, 1)

    def init(params: Params) -> SAMState:
        checks.leaves(LABEL, "params", params)
        cache = None if opaque_mode else jax.tree.map(lambda p: slots.initial_parameter(p, {}), params)
        return SAMState(jnp.zeros((), jnp.int32), optimizer.init(params), adv_optimizer.init(params), cache)

    steps = Steps(optimizer, adv_optimizer, sync_period, reset_state, batch_axis_name)
    update = steps.opaque if opaque_mode else steps.transparent
    adversarial = Inside(adv_optimizer, (GetAttrKey("adv_state"),), shown=False)
    return holding(init, update, adversarial, opt_state=optimizer, like="cache", at_once=False)


class Steps(NamedTuple):
    """The steps of the two optimizers; the arguments of `sam`."""

    optimizer: Transform
    adv_optimizer: Transform
    sync_period: int
    reset_state: bool
    batch_axis_name: str | None

    def opaque(
        self, updates: Updates, state: OptState, params: Params = None, *, grad_fn: Callable[..., Any] | None = None,
        **extra_args: Any,
    ) -> tuple[Any, SAMState]:  # fmt: skip
        """The update of opaque mode."""
        _check(state, params)
        if grad_fn is None:
            raise ValueError(f"{LABEL}: opaque mode needs grad_fn: call update(updates, state, params, grad_fn=...)")
        point, adv_state = params, state.adv_state
        for i in range(self.sync_period - 1):
            way, adv_state = self.climb(updates, adv_state, point, extra_args)
            point = apply_updates(point, way)
            updates = grad_fn(point, i)
            if self.batch_axis_name is not None:
                updates = jax.lax.pmean(updates, self.batch_axis_name)
        updates, opt_state = base.call_update(self.optimizer, updates, state.opt_state, params, extra_args)
        return updates, SAMState(jnp.zeros((), jnp.int32), opt_state, self.fresh(params, adv_state), None)

    def transparent(
        self, updates: Updates, state: OptState, params: Params = None, *,
        grad_fn: Callable[..., Updates] | None = None, **extra_args: Any,
    ) -> tuple[Any, SAMState]:  # fmt: skip
        """The update of transparent mode."""
        _check(state, params)
        checks.gradients(LABEL, updates, params)
        checks.slots(LABEL, updates, cache=state.cache)
        n = state.steps_since_sync
        anchor = meshes.cond(n == 0, lambda old: as_before(params, old), lambda old: old, state.cache)

        def descend(opt_state: OptState, adv_state: OptState) -> Any:
            new, new_state = base.call_update(self.optimizer, updates, opt_state, anchor, extra_args)
            back = base.map_arrays(_from_anchor, new, *(without_skipped(new, x) for x in (anchor, params)))
            return as_before(back, updates), as_before(new_state, opt_state), self.fresh(params, adv_state)

        def ascend(opt_state: OptState, adv_state: OptState) -> Any:
            way, new_state = self.climb(updates, adv_state, params, extra_args)
            return as_before(way, updates), opt_state, as_before(new_state, adv_state)

        last = n >= self.sync_period - 1
        new, opt_state, adv_state = meshes.cond(last, descend, ascend, state.opt_state, state.adv_state)
        steps = jnp.where(last, 0, n + 1).astype(jnp.int32)
        return new, SAMState(steps, opt_state, adv_state, anchor)

    def climb(self, updates: Updates, state: OptState, params: Params, extra_args: dict[str, Any]) -> tuple[Any, Any]:
        """The updates of the adversarial optimizer, uphill."""
        updates, state = base.call_update(self.adv_optimizer, updates, state, params, extra_args)
        return base.map_arrays(operator.neg, updates), state

    def fresh(self, params: Params, adv_state: OptState) -> Any:
        """The state from which the adversarial optimizer begins its next way."""
        return as_before(self.adv_optimizer.init(params), adv_state) if self.reset_state else adv_state


def _check(state: OptState, params: Params) -> None:
    checks.state(LABEL, state, SAMState)
    checks.params(LABEL, params)


def _from_anchor(u: Array, anchor: Array, p: Array) -> Any:
    """The update from p that leads where u leads from the anchor."""
    wide = numerics.widen([anchor, p, u], numerics.widest_real([anchor, p, u]))
    return (wide[0] - wide[1] + wide[2]).astype(jnp.result_type(u))
