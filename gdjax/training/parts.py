"""The loss of a part of the batch: its mean, its weight, what else it tells; and how those of all parts are one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.types import Array, ArrayTree, Params
from gdjax.tree.sums import wide

Rows = tuple[ArrayTree, Any]  # of the batch, and their keys: one for each part, along the first axis; None for no key


def rows_of(batch: ArrayTree, key: Array | None, parts: int) -> Rows:
    """The batch and the keys of its parts, which are divided as the batch is."""
    return batch, None if key is None else jax.random.split(key, parts)


def of_part(
    label: str, loss: Callable[..., Any], has_aux: bool, weighted: bool, reduces: bool
) -> Callable[[Params, Rows], Any]:
    """A user's loss as f(params, rows of one part) -> mean, (weight, aux). Without `weighted` the weight is None.

    Args:
      label: of the step, for errors.
      loss: loss(params, batch), and `key=` where there are keys.
      has_aux, weighted: as of `sharded_step`.
      reduces: whether one aux is made of those of the parts.

    Raises:
      TypeError: (in a trace) the loss returns something else; aux has a leaf that is no number, if one is made of all.
    """

    def f(params: Params, rows: Rows) -> Any:
        batch, keys = rows
        found, aux = loss(params, batch, **({} if keys is None else {"key": keys[0]})), None
        if has_aux:
            found, aux = _pair(label, "with has_aux=True the loss returns a pair, the loss and more", found)
        aux = jax.tree_util.tree_map_with_path(lambda path, x: _told(label, path, x, reduces), aux)
        if not weighted:
            if isinstance(found, tuple | list) and len(found) == 2:
                hint = "" if has_aux else "has_aux=True for (loss, aux), "
                raise TypeError(f"{label}: the loss returned a pair; pass {hint}weighted=True for (total, weight)")
            return found, (None, aux)
        total, weight = map(jnp.asarray, _pair(label, "with weighted=True the loss returns (total, weight)", found))
        if total.shape or weight.shape or not jnp.issubdtype(total.dtype, jnp.floating):
            raise TypeError(
                f"{label}: with weighted=True the loss returns (total, weight), a real number and its weight; got "
                f"{total.dtype} of shape {total.shape} and {weight.dtype} of shape {weight.shape}"
            )
        # The mean, not the total, is what is differentiated: gradients of a total may overflow in 16 bits.
        weight = jax.lax.stop_gradient(weight).astype(numerics.at_least_float32(total.dtype))
        return (wide(total) / _or_one(weight)).astype(total.dtype), (weight, aux)

    return f


def counted(weight: Array | None, x: Array) -> Array:
    """x, or 0 where a part has the weight 0, whatever x is: a NaN times 0 is a NaN."""
    return x if weight is None else jnp.where(weight == 0, jnp.zeros((), x.dtype), x)


def weighed(weight: Array | None, x: Array) -> Array:
    """What a part adds to a sum: weight x, in float32 at least; of an integer x itself, in the dtype of `jnp.sum`."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x.astype(jax.eval_shape(jnp.sum, x).dtype)
    x = wide(counted(weight, x))
    return x if weight is None else _as_factor(weight, x) * x


def mean_of(weight: Any, total: Array, dtype: Any) -> Array:
    """The mean, in this dtype, of a sum of what is `weighed`; 0 for a weight of 0. A sum of integers stays one."""
    if not jnp.issubdtype(total.dtype, jnp.inexact):
        return total
    return (total / (weight if isinstance(weight, int) else _as_factor(_or_one(weight), total))).astype(dtype)


def _or_one(weight: Array) -> Array:
    return jnp.where(weight == 0, jnp.ones((), weight.dtype), weight)


def _as_factor(weight: Array, x: Array) -> Array:
    return weight.astype(numerics.real_dtype(x.dtype)).astype(x.dtype)


def _pair(label: str, wanted: str, found: Any) -> Any:
    if isinstance(found, tuple | list) and len(found) == 2:
        return found
    raise TypeError(f"{label}: {wanted}; got {found!r}")


def _told(label: str, path: Any, x: Any, reduces: bool) -> Array:
    x = jnp.asarray(x)
    if reduces and not jnp.issubdtype(x.dtype, jnp.number):
        raise TypeError(
            f"{label}: aux{jax.tree_util.keystr(path)} is {x.dtype}, of which parts of a batch have neither a mean nor "
            'a sum: return an int or a float, or pass aux="stack" for what each part has'
        )
    return x
