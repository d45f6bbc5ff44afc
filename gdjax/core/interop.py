"""To Optax and back.

A transform of this library works wherever one of Optax's does, and one of Optax's works inside every wrapper here. Only
the classes of their states differ: `ScaleByAdamState` here and there have the same fields and are two classes. That
matters to a program that asks `isinstance(state, optax.ScaleByAdamState)`, or maps over states of both libraries at
once. The functions here change the classes and nothing else.
"""

import sys
from typing import Any

import jax

from gdjax.core import base, checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.closures import value_of
from gdjax.core.part import Inside
from gdjax.core.parts import holding
from gdjax.core.types import ArrayTree, OptState, Params, Transform, Updates


def to_optax(tx: Transform) -> Any:
    """`tx` as an `optax.GradientTransformationExtraArgs` whose states are of Optax's classes.

    Its numbers are those of `tx`. A state stays as it is if Optax has no such class.

    Raises:
      ImportError: Optax is not installed.

    Example:
      >>> import gdjax, optax
      >>> tx = gdjax.to_optax(gdjax.adam(1e-3))
      >>> isinstance(tx.init(0.0)[0], optax.ScaleByAdamState)
      True
    """
    label = "gdjax.to_optax"
    inner, optax = base.check_transform(label, 0, tx), _import_optax(label)

    def init(params: Params) -> OptState:
        return state_to_optax(inner.init(params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        updates, state = base.call_update(inner, updates, state, params, extra_args)  # takes states of either library
        return updates, state_to_optax(state)

    made = base.made_by(base.checked_call(to_optax, (tx,), {}), holding(init, update, Inside(inner, ())))
    return optax.GradientTransformationExtraArgs(*map(value_of, made))  # plain values pickle in Optax's class too


@transform
def from_optax(tx: Transform) -> GradientTransformation:
    """A transform of Optax, or anything with `init` and `update`, as one of this library: a value.

    It takes any extra arguments and hands them on if `tx` takes some. A gradient that does not fit its parameter is an
    error that names it. Two are equal if their parts `init` and `update` are, and pickle if those do. The states are
    those of `tx`; `state_from_optax` gives them this library's classes.

    Example:
      >>> import gdjax, jax.numpy as jnp, optax
      >>> tx = gdjax.chain(gdjax.clip(1.0), gdjax.from_optax(optax.sgd(0.5)))
      >>> u, _ = tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))
      >>> print(u)
      [-0.5]
    """
    label = "gdjax.from_optax"
    inner = base.check_transform(label, 0, tx)

    def init(params: Params) -> OptState:
        checks.leaves(label, "params", params)
        return inner.init(params)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        checks.gradients(label, updates, params)
        return base.call_update(inner, updates, state, params, extra_args)

    return holding(init, update, Inside(inner, ()))


def state_to_optax(state: OptState) -> Any:
    """The state, or any tree with states in it, with Optax's classes in place of this library's.

    Raises:
      ImportError: Optax is not installed.

    Example:
      >>> import gdjax, jax.numpy as jnp, optax
      >>> state = gdjax.adam(1e-3).init(jnp.zeros(2))
      >>> theirs = gdjax.state_to_optax(state)  # goes into optax.adam(1e-3).update
      >>> type(theirs[0]) is optax.ScaleByAdamState
      True
    """
    _import_optax("gdjax.state_to_optax")
    return _of("optax", "gdjax", state)


def state_from_optax(state: OptState) -> Any:
    """The state, or any tree with states in it, with this library's classes in place of Optax's.

    Example:
      >>> import gdjax, jax.numpy as jnp, optax
      >>> state = optax.adam(1e-3).init(jnp.zeros(2))  # of a checkpoint, for instance
      >>> ours = gdjax.state_from_optax(state)  # goes into gdjax.adam(1e-3).update
      >>> type(ours[0]) is gdjax.ScaleByAdamState
      True
    """
    return _of("gdjax", "optax", state)


def is_optax(x: object) -> bool:
    """Whether an object's class is Optax's."""
    return isinstance(x, tuple) and _package(type(x)) == "optax"


def _import_optax(label: str) -> Any:
    try:
        import optax
        import optax.contrib
        import optax.experimental
    except ImportError as e:
        raise ImportError(f"{label} needs Optax: pip install optax") from e
    return optax


def _classes(package: str) -> dict[Any, type]:
    """The NamedTuple classes in the loaded modules of a package, by name and fields."""
    modules = [m for name, m in list(sys.modules.items()) if m is not None and name.partition(".")[0] == package]
    found = [x for m in modules for x in list(vars(m).values()) if isinstance(x, type) and issubclass(x, tuple)]
    return {_name(x): x for x in found if hasattr(x, "_fields") and _package(x) == package}


def _name(x: type) -> tuple[str, Any]:
    return x.__name__, getattr(x, "_fields", None)


def _package(x: type) -> str:
    return x.__module__.partition(".")[0]


def _of(package: str, other: str, tree: ArrayTree) -> Any:
    """The tree, with each NamedTuple of another package in the class of `package` with its name and fields."""
    classes = _classes(package)

    def counterpart(x: ArrayTree) -> Any:
        is_other = isinstance(x, tuple) and _package(type(x)) == other
        return classes.get(_name(type(x))) if is_other else None

    def convert(tree: ArrayTree) -> Any:
        return jax.tree.map(renamed, tree, is_leaf=lambda x: counterpart(x) is not None)

    def renamed(x: ArrayTree) -> Any:
        new = counterpart(x)
        return x if new is None else new(*map(convert, x))

    return convert(tree)
