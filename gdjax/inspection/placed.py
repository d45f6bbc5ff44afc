"""The state that a transform will have, from shapes alone, its bytes, and how many of them each device has."""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Sharding

from gdjax.core.types import OptState, Transform
from gdjax.lift.order import OrderWarning
from gdjax.numerics import is_key


class Share(NamedTuple):
    """What one device has of an array."""

    bytes: int
    devices: frozenset[Any]  # those that have as much; empty for all of a mesh that has no devices


def state_and_order(tx: Transform, shapes: Any) -> tuple[OptState, list[str]]:
    """The shapes of the state that `init` makes, and what it warns of averages that are not last.

    What else `init` warns of, it warns of when the state is made.
    """
    with warnings.catch_warnings(record=True, action="always") as caught:
        state = jax.eval_shape(lambda params: tx.init(params), shapes)  # a function that JAX has not traced before
    texts = [str(w.message) for w in caught if issubclass(w.category, OrderWarning)]
    return state, list(dict.fromkeys(text.partition(": ")[2] for text in texts))


def bytes_of(x: Any) -> int:
    """The bytes of an array, those of a PRNG key included; a float0 has none."""
    if is_key(x):
        x = jax.eval_shape(jax.random.key_data, x)
    return math.prod(x.shape) * (0 if x.dtype == jax.dtypes.float0 else x.dtype.itemsize)


def shares_of(label: str, state: OptState, shardings: Any) -> list[Any]:
    """For each array of a state its `Share`, or None where `shardings` is None.

    Raises:
      ValueError: `shardings` is no prefix of the state, or divides an axis unevenly.
      TypeError: it has a leaf that is neither a sharding nor an array.
    """
    if shardings is None:
        return [None] * len(jax.tree.leaves(state))
    try:
        paths, structure = jax.tree_util.tree_flatten_with_path(shardings, is_leaf=_is_leaf)
        below = structure.flatten_up_to(state)
    except (ValueError, TypeError, KeyError) as e:
        raise ValueError(f"{label}: shardings is no prefix of the state that init makes: {e}") from e
    return [
        _share(f"{label}: state{jax.tree_util.keystr((*path, *inner))}", x, where)
        for (path, where), tree in zip(paths, below, strict=True)
        for inner, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def most(shares: Sequence[Any]) -> int | None:
    """The bytes on the device with most of them; None where nothing is known."""
    if None in shares:
        return None
    sizes, everywhere = Counter[Any](), 0
    for size, devices in shares:
        everywhere += 0 if devices else size
        for device in devices:
            sizes[device] += size
    return everywhere + max(sizes.values(), default=0)


def _is_leaf(x: Any) -> bool:
    return x is None or isinstance(x, Sharding)


def _share(where: str, x: Any, sharding: Any) -> Share:
    sharding = getattr(sharding, "sharding", sharding)
    if sharding is None:
        return Share(bytes_of(x), frozenset())
    if not isinstance(sharding, Sharding):
        raise TypeError(f"{where}: shardings has {type(sharding).__name__}, neither a sharding nor an array")
    try:
        shape = sharding.shard_shape(x.shape)
    except ValueError as e:
        raise ValueError(f"{where} has shape {x.shape}, which {sharding} does not divide: {e}") from e
    try:
        devices = frozenset(sharding.device_set)
    except (ValueError, AttributeError):  # of an abstract mesh
        devices = frozenset()
    return Share(bytes_of(jax.ShapeDtypeStruct(shape, x.dtype)), devices)
