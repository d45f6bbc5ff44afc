"""Errors: raised once, at construction or while tracing, naming the transform, the leaf and both sides.

Nothing here looks at a traced value or adds an operation to a compiled step.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.core import structures
from gdjax.core.structures import SWAPPED as SWAPPED
from gdjax.core.structures import alike as alike
from gdjax.core.structures import flatten_like as flatten_like
from gdjax.core.types import Array, ArrayLike, ArrayTree, OptState, Params, Updates

NUMBER = int, float, np.number
NO_STATE = "state is None; call init(params) first"
RESTORE = "restored from a checkpoint, give the restorer init(params) as its target"


def structural(label: str, name: str, value: object, low: int) -> int:
    """A count that shapes the program, such as a number of steps: a Python integer of at least `low`."""
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{label}: {name} shapes the program and cannot be traced; with inject_hyperparams name it in static_args"
        )
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{label}: {name} must be an int, got {value!r}")
    if value < low:
        raise ValueError(f"{label}: {name} must be at least {low}, got {value}")
    return int(value)


def array(label: str, where: str, x: Any) -> None:
    """Raises unless `x` is an array (or its shape and dtype) or a number."""
    if not (hasattr(x, "dtype") or isinstance(x, bool | int | float | complex)):
        raise TypeError(
            f"{label}: {where} is {_name(x)}, not an array: keep only the arrays of a model, "
            "for instance eqx.filter(model, eqx.is_inexact_array)"
        )


def leaf(label: str, where: str, x: Any) -> None:
    """Raises unless `x` can be trained: an array (or its shape and dtype) of a supported kind, or a number."""
    number(label, where, x)
    narrow = hasattr(x, "dtype") and x.dtype.itemsize == 1 and jnp.issubdtype(x.dtype, jnp.floating)
    if narrow or "int4" in str(getattr(x, "dtype", "")):
        raise TypeError(f"{label}: {where} has dtype {x.dtype}: keep the parameters in bfloat16 or wider")


def number(label: str, where: str, x: Any) -> None:
    """Raises unless `x` is of numbers: an array (or its shape and dtype) of a supported kind, or a number."""
    array(label, where, x)
    if not hasattr(x, "dtype"):
        return
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):
        raise TypeError(f"{label}: {where} is a PRNG key ({x.dtype}), not a parameter: mask it")
    if not jnp.issubdtype(x.dtype, jnp.number) and x.dtype not in (np.bool, jax.dtypes.float0):
        raise TypeError(f"{label}: {where} has dtype {x.dtype}, which is not numeric")


def gradient(label: str, where: Callable[[], str], g: Array, p: Array | None) -> None:
    """Raises unless the gradient `g` has a differentiable dtype and fits its parameter `p`, if that is given."""
    if not jnp.issubdtype(g.dtype, jnp.inexact):
        leaf(label, where(), g)
        raise TypeError(f"{label}: {where()}: gradient has dtype {g.dtype}; mask or freeze what is not differentiable")
    if p is None:
        return
    if g.shape != p.shape:
        text = f"{label}: {where()}: gradient shape {g.shape} does not match parameter shape {p.shape}"
        raise ValueError(text + (f": {structures.LOSS}" if g.shape == () and where() == "params" else ""))
    if not jnp.issubdtype(p.dtype, jnp.inexact):
        raise TypeError(f"{label}: {where()} has dtype {p.dtype}, and takes no gradient: mask or freeze it")
    if jnp.issubdtype(g.dtype, jnp.complexfloating) and not jnp.issubdtype(p.dtype, jnp.complexfloating):
        raise TypeError(f"{label}: {where()}: complex gradient ({g.dtype}) for a real parameter ({p.dtype})")


def leaves(label: str, name: str, tree: ArrayTree) -> None:
    """Raises if the tree called `name` is None, or a leaf of it cannot be a parameter."""
    if tree is None:
        raise ValueError(f"{label}: {name} is None; pass the tree of parameters")
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        leaf(label, f"{name}{jax.tree_util.keystr(path)}", x)


def gradients(label: str, updates: Updates, params: Params = None) -> None:
    """Raises unless each update is a gradient that fits its parameter; `fused` does this for leaf rules."""
    paths, structure = jax.tree_util.tree_flatten_with_path(updates)
    ps = [None] * len(paths)
    if params is not None:
        ps = flatten_like(label, ("updates", "params"), structure, updates, params)
    for (path, g), p in zip(paths, ps, strict=True):
        where = jax.tree_util.keystr(path)
        if getattr(g, "dtype", None) == jax.dtypes.float0:
            continue
        leaf(label, f"updates{where}", g)
        gradient(label, lambda where=where: f"params{where}", typed(g), None if p is None else typed(p))


def slot(label: str, where: str, field: str, x: object, shape: tuple[int, ...], of: str = "the gradient") -> None:
    """Raises unless `x`, from the `field` of the state, has this shape; `of` says whose shape that is."""
    if getattr(x, "shape", None) != shape:
        if structures.is_container(x):
            slip = structures.LOSS if shape == () else "another model's state?"
            here = f"state.{field} is {structures.described(x)}, but {of} {structures.of_shape(shape)}"
            raise ValueError(f"{label}: {'' if where == 'params' else f'{where}: '}{here}: {slip}")
        raise ValueError(
            f"{label}: {where}: state.{field} has shape {getattr(x, 'shape', x)}, {of} {shape}; "
            "init(params) anew after changing the parameters"
        )


def slots(label: str, updates: Updates, /, **fields: ArrayTree) -> None:
    """Raises unless the trees `fields` of a state are shaped like the updates; `fused` does this for leaf rules."""
    paths, structure = jax.tree_util.tree_flatten_with_path(updates)
    for field, tree in fields.items():
        xs = flatten_like(label, ("updates", f"state.{field}"), structure, updates, tree)
        for (path, g), x in zip(paths, xs, strict=True):
            if getattr(g, "dtype", None) != jax.dtypes.float0:
                slot(label, f"params{jax.tree_util.keystr(path)}", field, x, typed(g).shape)


def typed(x: object) -> Any:
    """`x`; a Python number as an array."""
    return x if hasattr(x, "dtype") else np.asarray(x, jax.dtypes.canonicalize_dtype(type(x)))


def mask(label: str, name: str, tree: ArrayTree) -> None:
    """Raises unless the leaves of a mask are booleans."""
    for path, m in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if isinstance(m, Tracer) or getattr(m, "dtype", type(m)) not in (bool, np.bool) or np.ndim(m):
            raise TypeError(f"{label}: {name}{jax.tree_util.keystr(path)} must be a bool, got {m!r}")


def returned(label: str, name: str, tree: ArrayTree) -> None:
    """Raises if the user's function `name` of the parameters returned None."""
    if tree is None:
        raise TypeError(f"{label}: {name} returned None, not a tree shaped like the parameters; does it lack a return?")


def is_function(x: object) -> bool:
    """Whether `x` is a function of a tree: a callable, but not a callable pytree such as a module of booleans."""
    return callable(x) and jax.tree.leaves(x) == [x]


def params(label: str, tree: Params | None) -> None:
    """Raises unless `update` was given the parameters."""
    if tree is None:
        raise ValueError(f"{label}: this transform needs params: call update(updates, state, params)")


def entries(label: str, state: OptState, number: int) -> None:
    """Raises unless `state` has as many entries as a chain has transforms."""
    if state is None:
        raise ValueError(f"{label}: {NO_STATE}")
    if len(state) != number:
        raise ValueError(f"{label}: state has {len(state)} entries for {number} transforms")


def state(label: str, got: object, expected: type) -> None:
    """Raises unless `got` has the fields of the state class `expected`."""
    fields = getattr(got, "_fields", None)
    if fields == getattr(expected, "_fields", None):
        return
    if got is None:
        raise ValueError(f"{label}: {NO_STATE}")
    shown = f"fields {fields}" if fields is not None else f"type {type(got).__name__}"
    wanted = getattr(expected, "_fields", ())
    hint = "; of another optimizer? Start with tx.init(params), or carry over what fits with gdjax.migrate"
    hint = hint if fields is not None else f"; {whence(got, wanted)}"
    if fields is not None and set(fields) < set(wanted):
        lacking = ", ".join(f for f in wanted if f not in fields)
        hint = f"; of an older version, without {lacking}? Take these fields from init(params), the others from it"
    raise ValueError(f"{label}: state has {shown}, expected {expected.__name__} with fields {wanted}{hint}")


def whence(got: object, names: Iterable[Any]) -> str:
    """A guess at what was passed instead of a state with these `names`: part of a checkpoint, or the parameters."""
    if isinstance(got, Mapping) and set(names).isdisjoint(got):
        return f"{SWAPPED}; {RESTORE}"
    return RESTORE if isinstance(got, Mapping | list | tuple) else SWAPPED


def scheduled(label: str, name: str, value: object) -> Any:
    """`value`, which the schedule of the hyperparameter `name` returned, as an array."""
    try:
        if value is None:
            raise TypeError
        return jnp.asarray(value)
    except TypeError:
        hint = "; if it makes schedules, call it first" if callable(value) else ""
        raise TypeError(f"{label}: the schedule of {name} returned {value!r}, not a number{hint}") from None


def unscheduled(label: str, arguments: Mapping[str, Any], must: str = "a number or a scalar array") -> None:
    """Raises for a schedule where no count is known."""
    for name, x in arguments.items():
        if callable(x):
            raise TypeError(f"{label}: {name} must be {must}, got {x!r}")


def scalar(label: str, name: str, value: object) -> Any:
    """`scheduled`, and raises unless the value is a scalar."""
    x = scheduled(label, name, value)
    if x.shape != ():
        raise ValueError(f"{label}: the schedule of {name} returned shape {x.shape}, expected a scalar")
    return x


def extra(label: str, name: str, value: ArrayLike | None) -> Array:
    """An extra argument of `update`, of any real type, as a scalar array."""
    if value is None or jnp.shape(value):
        got = "None" if value is None else f"shape {jnp.shape(value)}"
        raise ValueError(f"{label}: {name} must be a scalar, got {got}; call update(..., params, {name}=...)")
    return jnp.asarray(value)


def _name(x: Any) -> str:
    return f"the function {x.__name__}" if hasattr(x, "__name__") else f"{x!r} ({type(x).__name__})"
