"""What updates must not do: make parameters negative, or carry NaN."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import base, checks
from gdjax.core.base import EmptyState, GradientTransformation, transform
from gdjax.core.types import OptState, Params, Updates
from gdjax.lift.leafwise import leafwise
from gdjax.lift.slots import Integer
from gdjax.numerics import Array, at_least_float32

__all__ = ["ZeroNansState", "keep_params_nonnegative", "zero_nans"]


class ZeroNansState(NamedTuple):
    """State of `zero_nans`."""

    found_nan: Params  # like params, () bool each: whether the last gradient had a NaN


@leafwise(ZeroNansState, found_nan=Integer(False, dtype=bool), growth="same")
def zero_nans(g: Array, s: ZeroNansState, p: Array, t: Array) -> tuple[Array, ZeroNansState]:
    """Replaces every NaN by 0, and notes in the state which arrays had one. Infinities stay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> g = {"b": jnp.array([jnp.inf]), "w": jnp.array([1.0, jnp.nan])}
      >>> tx = gdjax.zero_nans()
      >>> u, state = tx.update(g, tx.init(g))
      >>> print(u["b"], u["w"])
      [inf] [1. 0.]
      >>> {name: bool(found) for name, found in state.found_nan.items()}
      {'b': False, 'w': True}
    """
    nans = jnp.isnan(g)
    return jnp.where(nans, 0, g), ZeroNansState(found_nan=jnp.any(nans))


@transform
def keep_params_nonnegative() -> GradientTransformation:
    """Shortens updates so that no parameter becomes negative.

        u = max(g, -p)

    It belongs at the end of a chain. A parameter that is negative already is moved to 0; NaN passes through.

    Raises:
      ValueError: (in update) params is missing.
      TypeError: (in update) complex parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.sgd(1.0), gdjax.keep_params_nonnegative())
      >>> params = jnp.array([2.0, 2.0])
      >>> u, _ = tx.update(jnp.array([1.0, 3.0]), tx.init(params), params)
      >>> print(gdjax.apply_updates(params, u))
      [1. 0.]
    """
    label = "gdjax.keep_params_nonnegative"

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        checks.state(label, state, EmptyState)
        checks.params(label, params)
        checks.gradients(label, updates, params)
        paths, structure = jax.tree_util.tree_flatten_with_path(updates)
        ps = checks.flatten_like(label, ("updates", "params"), structure, updates, params)
        return structure.unflatten([_bounded(label, path, u, p) for (path, u), p in zip(paths, ps, strict=True)]), state

    return GradientTransformation(base.init_empty_state, update)


def _bounded(label: str, path: tuple[Any, ...], u: Array, p: Array) -> Any:
    if base.is_float0(u):
        return u
    u, p = jnp.asarray(u), jnp.asarray(p)
    u = jax.lax.convert_element_type(u, u.dtype)  # a definite dtype, of a Python number too
    if jnp.iscomplexobj(p):
        where = f"params{jax.tree_util.keystr(path)}"
        raise TypeError(f"{label}: {where}: does not support complex numbers, which have no sign ({p.dtype})")
    wide = max(at_least_float32(u.dtype), at_least_float32(p.dtype), key=lambda d: d.itemsize)
    u = u.astype(p.dtype) if u.dtype.itemsize < p.dtype.itemsize else u  # narrower, -p might round to below 0
    return jnp.where(p.astype(wide) + u.astype(wide) < 0, (-p).astype(u.dtype), u)
