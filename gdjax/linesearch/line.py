"""A line: the loss along a direction, and values that a state keeps of it."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.core import base, checks, meshes
from gdjax.core.arrays import add
from gdjax.core.structures import as_formed
from gdjax.core.types import Array, ArrayLike, ArrayTree, OptState, Params, Updates
from gdjax.core.values import value as as_value

__all__ = ["value_and_grad_from_state"]


@as_value
def value_and_grad_from_state(value_fn: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., tuple[Any, Any]]:
    """Like `jax.value_and_grad(value_fn)`, but takes value and gradient from the state where a line search left them.

    A line search has evaluated both at the point it chose, where the next step starts: this saves one evaluation a
    step. It is right only if the function is the same in both steps (no mini-batches) and nothing after the line search
    changes the update.

    Args:
      value_fn: `value_fn(params, *args, **kwargs)` returns a real scalar.
      has_aux: `value_fn` returns a pair of that and anything else, which no search stores: it is evaluated at `params`,
        without the gradient. `update` still wants a function of the value alone, `value_fn=lambda p: f(p)[0]`.

    Returns:
      A function `(params, *args, state, **kwargs) -> (value, gradient)`, with `has_aux` `((value, aux), gradient)`.
      Where the value in `state` is not finite, as after `init`, where a backtracking search without `store_grad` left
      no gradient, and where a search under a mask left that of its part of the parameters, it evaluates both.

    Raises:
      ValueError: (when called) `state` has not the state of exactly one line search.

    Departs from Optax, which raises where the gradient is None.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> search = gdjax.scale_by_backtracking_linesearch(15, store_grad=True)
      >>> tx, x, f = gdjax.chain(gdjax.sgd(0.25), search), jnp.ones(2), lambda x: x @ x
      >>> value_and_grad = gdjax.value_and_grad_from_state(f)
      >>> value, g = value_and_grad(x, state=tx.init(x))  # evaluated
      >>> u, state = tx.update(g, tx.init(x), x, value=value, grad=g, value_fn=f)
      >>> print(*value_and_grad(gdjax.apply_updates(x, u), state=state))  # read
      0.5 [1. 1.]
    """

    def value_and_grad(params: Params, *args: Any, state: OptState, **kwargs: Any) -> tuple[Any, Any]:
        stored = searches(state)
        if len(stored) != 1:
            raise ValueError(
                f"gdjax.value_and_grad_from_state: state has {len(stored)} parts with a value and a grad; "
                "expected one, the state of a line search"
            )
        value, grad = jnp.asarray(stored[0].value), stored[0].grad
        if grad is None or jax.tree.structure(grad) != jax.tree.structure(params):
            return jax.value_and_grad(value_fn, has_aux=has_aux)(params, *args, **kwargs)

        def read() -> tuple[Any, Any]:
            return (value, value_fn(params, *args, **kwargs)[1]) if has_aux else value, grad

        def evaluate() -> tuple[Any, Any]:
            new, new_grad = jax.value_and_grad(value_fn, has_aux=has_aux)(params, *args, **kwargs)
            found = new[0] if has_aux else new
            kept = jax.tree.map(
                lambda x, old: jax.lax.convert_element_type(x, old.dtype), (found, new_grad), (value, grad)
            )
            return ((kept[0], new[1]) if has_aux else kept[0]), kept[1]

        return meshes.cond(jnp.isfinite(value), read, evaluate)

    return value_and_grad


def searches(state: OptState) -> list[Any]:
    """The states of line searches, this library's or Optax's, in the state of an optimizer."""
    return [x for x in jax.tree.leaves(state, is_leaf=_keeps_both) if _keeps_both(x)]


def _keeps_both(x: object) -> bool:
    return hasattr(x, "value") and hasattr(x, "grad")


ValueFn = Callable[..., Any]  # value_fn(params, **extra_args) -> real scalar
NUMBERS = "a number: a line search keeps no count for a schedule"  # what its arguments must be


def fit(label: str, name: str, gradients: ArrayTree, params: Params) -> None:
    """Raises unless the tree of gradients, called `name` in the message, fits the parameters leaf by leaf."""
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    gs = checks.flatten_like(label, ("params", name), structure, params, gradients)
    for (path, p), g in zip(paths, gs, strict=True):
        if not base.is_float0(g):
            where = f"{name}{jax.tree_util.keystr(path)}"
            checks.leaf(label, where, g)
            checks.gradient(label, lambda where=where: where, jnp.asarray(g), jnp.asarray(p))


class Line:
    """What `update` of a line search was given, in the working dtype: the widest of the parameters', float32 at least.

    Attributes:
      value, slope: phi(0) and phi'(0).
      grad: the gradient at `params` as `jax.grad` returns it.
    """

    def __init__(
        self, label: str, updates: Updates, params: Params, value: ArrayLike | None, grad: Params,
        value_fn: ValueFn | None, extra_args: dict[str, Any],
    ):  # fmt: skip
        checks.params(label, params)
        needed = {"value": value, "grad": grad, "value_fn": value_fn}
        if any(x is None for x in needed.values()):
            lacking = ", ".join(f"{name}=" for name, x in needed.items() if x is None)
            raise ValueError(
                f"{label}: update needs value=, grad= and value_fn= (missing: {lacking}): "
                "call update(updates, state, params, value=..., grad=..., value_fn=...)"
            )
        if not callable(value_fn):
            raise TypeError(f"{label}: value_fn must be a function of the parameters, got {value_fn!r}")
        for name, x in {"updates": updates, "grad": grad}.items():
            fit(label, name, x, params)
        self.label, self.params, self.updates = label, params, updates
        self.dtype = numerics.widest_real(params)
        self.f = bound(value_fn, extra_args)
        self.value = self.scalar("value", value)
        self.grad = jax.tree.map(_stored, grad, params)
        self.slope = jnp.real(tree.vdot(grad, updates)).astype(self.dtype)

    def number(self, x: ArrayLike) -> Array:
        """A hyperparameter in the working dtype."""
        return jnp.asarray(x).astype(self.dtype)

    def scalar(self, name: str, x: ArrayLike | None) -> Array:
        x = jnp.asarray(x)
        if x.shape != () or jnp.iscomplexobj(x):
            raise TypeError(f"{self.label}: {name} must be a real scalar, got {x.dtype}{list(x.shape)}")
        return x.astype(self.dtype)

    def step(self, eta: Array) -> Any:
        """eta u, each leaf rounded once to its own dtype: what `apply_updates` will add."""

        def leaf(u: ArrayLike) -> Any:
            u = jnp.asarray(u)
            wide = numerics.widen(u, self.dtype)
            return (eta.astype(wide.dtype) * wide).astype(u.dtype)

        return base.map_arrays(leaf, self.updates)

    def to_go_on_from(self, eta: Array, value: Array) -> Array:
        """The step size to keep of a search without a step: the last one tried, 0 if shorter ones would not help."""
        shorter = jnp.isfinite(self.value) & (~jnp.isfinite(value) | (value > self.value))
        return jnp.where(shorter & (eta > jnp.finfo(eta.dtype).tiny), eta, 0)

    def evaluate(self, eta: Array) -> tuple[Array, Any, Array]:
        """Value, gradient and slope at p + eta u."""
        value, pull = self.value_and_pull(eta)
        grad = pull()
        return value, grad, jnp.real(tree.vdot(tree.conj(grad), self.updates)).astype(self.dtype)

    def value_and_pull(self, eta: Array) -> tuple[Array, Callable[[], Any]]:
        """The value at p + eta u, and a function that returns the gradient there."""
        point = jax.tree.map(add, self.params, self.step(eta))  # the very parameters that `apply_updates` makes
        value, pullback = jax.vjp(self.f, point)

        def pull() -> Any:
            (grad,) = pullback(jnp.ones_like(value))
            return jax.tree.map(lambda g, p: jnp.zeros_like(p) if base.is_float0(g) else g, grad, self.params)

        return self.scalar("the result of value_fn", value), pull


def no_gradient(params: Params) -> Any:
    """Zeros in place of a gradient that is not known yet; of a Python number too in a dtype of its own."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), tree.zeros_like(params))


def bound(value_fn: ValueFn, extra_args: dict[str, Any]) -> Callable[[Any], Any]:
    """`value_fn` as a function of the parameters alone, with those of the extra arguments that it names."""
    accepted = list(inspect.signature(value_fn).parameters.values())
    names = {p.name for p in accepted}
    if any(p.kind is p.VAR_KEYWORD for p in accepted):
        names |= extra_args.keys()
    names -= {p.name for p in accepted[:1]}  # the parameters'
    kept = {name: x for name, x in extra_args.items() if name in names}
    return lambda params: value_fn(params, **kept)


def _stored(g: ArrayLike, p: ArrayLike) -> Array:
    """The gradient `g` (steepest ascent, see the docstrings of the searches) as `jax.grad` returns it.

    Where there is none it is 0 in the dtype of the parameter: a loop cannot carry a float0.
    """
    return jnp.zeros_like(p) if base.is_float0(g) else jnp.conj(jnp.asarray(g).astype(jnp.asarray(p).dtype))


def like(state: OptState, old: OptState) -> Any:
    """`state` in the dtypes of `old`, which has the same leaves, though its classes may be Optax's."""
    leaves, structure = jax.tree.flatten(as_formed(state, old))
    pairs = zip(leaves, jax.tree.leaves(old), strict=True)
    return structure.unflatten([jnp.asarray(x).astype(jnp.asarray(y).dtype) for x, y in pairs])
