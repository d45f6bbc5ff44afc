"""One step of gradient descent: loss, gradient, update and what is told of them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.combine.hyperparams import learning_rates
from gdjax.core import base
from gdjax.core.types import Array, ArrayLike, ArrayTree, OptState, Params, Transform, Updates
from gdjax.linesearch.line import searches
from gdjax.optimizers.gauss_newton import GaussNewtonState
from gdjax.tree.norms import total, wide
from gdjax.tree.updates import apply_updates

# What a step reports of the run. Any but RUNNING freezes it: steps that the host has already sent change nothing.
RUNNING, SMALL_GRADIENT, STEADY_LOSS, NO_LOWER_POINT, NON_FINITE, STEADY_RESIDUALS = range(6)
Functions = Mapping[str, Callable[..., Any]]  # of the parameters and the batch
NO_FUNCTIONS: Functions = {}
UNCHANGED = 1e-3  # of the loss, at most, where `gauss_newton` is steady
TINY = 1e-17  # the square of a norm below it may lose digits in float32


class Inputs(NamedTuple):
    """What the loss gets in a step beside the parameters."""

    batch: tuple[Any, ...]
    number: np.int32 | Array  # of the step; () int32
    key: Array | None  # of the run; that of the step is `fold_in(key, number)`


class Last(NamedTuple):
    """What a step leaves to the next, beside parameters and state."""

    status: Array | np.int32  # () int32
    loss: Array  # ()
    failures: Array | np.int32  # () int32, line searches in a row that found no lower point
    steady: Array | np.bool_ = np.bool_(False)  # () bool, whether `gauss_newton` hardly lowers the residuals any more


class Gradient(NamedTuple):
    """The loss and its gradient at some parameters."""

    loss: Array
    aux: ArrayTree
    grads: ArrayTree
    norm: Array
    extra: dict[str, Any]  # what an update that takes extra arguments gets


def gradient(f: Callable[..., Any], params: Params, inputs: Inputs, extra_fns: Functions = NO_FUNCTIONS) -> Gradient:
    """Evaluates `f`, a checked loss, and its gradient; an update gets `extra_fns` as functions of the parameters."""
    # A fold, not a chain of splits: a run that goes on at a step needs its number alone.
    named = {} if inputs.key is None else {"key": jax.random.fold_in(inputs.key, inputs.number)}
    (loss, aux), grads = jax.value_and_grad(f, has_aux=True, allow_int=True)(params, *inputs.batch, **named)
    # In a complex parameter, the direction of steepest ascent is the conjugate of what jax.grad returns.
    grads = jax.tree.map(lambda g: jnp.conj(g) if jnp.iscomplexobj(g) else g, grads)
    # A `Partial` is a pytree: wrappers may take it into the branches of a cond.
    value_fn = jax.tree_util.Partial(lambda batch, named, p: f(p, *batch, **named)[0], inputs.batch, named)
    extra = {name: jax.tree_util.Partial(_on_batch(g), inputs.batch) for name, g in extra_fns.items()}
    extra |= {"value": loss, "grad": grads, "value_fn": value_fn}
    return Gradient(loss, aux, grads, norm_of(grads), extra)


def _on_batch(g: Callable[..., Any]) -> Callable[..., Any]:
    return lambda batch, p: g(p, *batch)


def updated(tx: Transform, grad: Gradient, params: Params, state: OptState) -> tuple[Params, OptState]:
    """The new parameters and state."""
    updates, new_state = base.call_update(tx, grad.grads, state, params, grad.extra)
    # A transform of others may change dtypes; the step would be compiled again.
    pinned = jax.tree.map(lambda y, x: jax.lax.convert_element_type(y, x.dtype), new_state, state)
    return apply_updates(params, updates), pinned


def guarded_step(
    f: Callable[..., Any], tx: Transform, grad_tol: float | None, loss_tol: float | None, norm_to_stop: Any = None,
    extra_fns: Functions = NO_FUNCTIONS,
) -> Callable[..., Any]:  # fmt: skip
    """The function to compile: it takes `params`, and writes the new parameters over `last_good`.

    `norm_to_stop(params, grads)` is what `grad_tol` bounds; None is the norm of the gradient.
    """

    def step(last_good: Params, state: OptState, params: Params, last: Last, inputs: Inputs) -> Any:
        grad = gradient(f, params, inputs, extra_fns)
        loss = grad.loss.astype(last.loss.dtype)
        stopping = grad.norm if norm_to_stop is None else norm_to_stop(params, grad.grads)
        now = _status(loss, last, grad.norm, stopping, grad_tol, loss_tol)
        status = jnp.where(last.status == RUNNING, now, last.status)
        # A branch, because a select would hold old and new arrays at once. The other branch must return arrays that lie
        # where the first one writes, or parameters and state are copied in every step.
        going = status == RUNNING
        new, new_state = jax.lax.cond(going, lambda: updated(tx, grad, params, state), lambda: (last_good, state))
        # Of the parameters: the updates are not written to memory, and would be for a norm of theirs.
        update_norm = jnp.where(going, change(new, params).astype(grad.norm.dtype), 0)
        metrics = {"loss": loss, "grad_norm": grad.norm, "update_norm": update_norm, **learning_rates(tx, state)}
        if norm_to_stop is not None:
            metrics["projected_grad_norm"] = stopping
        failures = jnp.where((update_norm == 0) & none_lower(state, new_state, inputs), last.failures + 1, 0)
        steady = jnp.asarray(is_steady(new_state, inputs))
        return new, new_state, Last(status, loss, failures, steady), {**_scalars(grad.aux), **metrics}, grad.aux

    return step


def none_lower(old: OptState, new: OptState, inputs: Inputs) -> Array | bool:
    """Whether the line searches found no lower point, and would find none if they went on with shorter steps."""
    if inputs.batch or inputs.key is not None:  # of another batch the same line may have lower points
        return False
    pairs = [(x, y) for x, y in zip(searches(old), searches(new), strict=True) if hasattr(y, "info")]
    failed = [
        jnp.isfinite(y.value) & (y.info.decrease_error > 0)
        & ((y.learning_rate == 0) | (y.learning_rate >= x.learning_rate)) for x, y in pairs
    ]  # fmt: skip
    return jnp.stack(failed).all() if failed else False


def is_steady(state: OptState, inputs: Inputs) -> Array | bool:
    """Whether every `gauss_newton` in the state is; of other points the residuals may be larger."""
    parts = [x for x in jax.tree.leaves(state, is_leaf=_is_gauss_newton) if _is_gauss_newton(x)]
    if not parts or inputs.batch or inputs.key is not None:
        return False
    return jnp.stack([jnp.asarray(x.steady) for x in parts]).all()


def _is_gauss_newton(x: object) -> bool:
    return isinstance(x, GaussNewtonState)


def _status(
    loss: Array, last: Last, norm: Array, stopping: Array, grad_tol: float | None, loss_tol: float | None
) -> Array:
    status = jnp.full((), RUNNING, jnp.int32)
    if loss_tol is not None:
        change, size = jnp.abs(loss - last.loss), jnp.maximum(jnp.abs(loss), jnp.abs(last.loss))
        steady = jnp.isfinite(last.loss) & (change <= loss_tol * size)
        status = jnp.where(steady & (last.failures == 0), STEADY_LOSS, status)
    unchanged = jnp.abs(loss - last.loss) <= UNCHANGED * jnp.abs(loss)  # not by another part of the optimizer
    status = jnp.where(last.steady & unchanged, STEADY_RESIDUALS, status)
    status = jnp.where(last.failures >= 2, NO_LOWER_POINT, status)  # the second was along the gradient
    if grad_tol is not None:
        status = jnp.where(stopping <= grad_tol, SMALL_GRADIENT, status)
    return jnp.where(jnp.isfinite(loss) & jnp.isfinite(norm), status, NON_FINITE)


def norm_of(updates: Updates) -> Array:
    """The global norm of the floating leaves; without the gradients of integers."""
    return tree.global_norm([x for x in jax.tree.leaves(updates) if jnp.issubdtype(x.dtype, jnp.inexact)])


def change(new: Params, old: Params) -> Array:
    """The global norm of what an update changed."""
    leaves = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    changes = [wide(x) - wide(y) for x, y in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
    # One pass that writes nothing; the norm that cannot overflow would write the differences to memory first.
    norm = jnp.sqrt(total([jnp.sum(jnp.real(d * jnp.conj(d))) for d in changes]))
    return jax.lax.cond(jnp.isfinite(norm) & (norm > TINY), lambda: norm, lambda: norm_of(changes).astype(norm.dtype))


def _scalars(aux: ArrayTree) -> dict[str, Any]:
    named = isinstance(aux, dict) and jax.tree_util.all_leaves(aux.values()) and all(isinstance(k, str) for k in aux)
    return aux if named and all(jnp.ndim(x) == 0 for x in aux.values()) else {}


def overwritable(x: ArrayTree) -> Any:
    """A copy that may be overwritten, strongly typed as the results of a step are, so that there is no second trace."""

    def copy(x: ArrayLike) -> Array:
        x = x.copy() if isinstance(x, jax.Array) else jnp.array(x)
        return jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(copy, x)
