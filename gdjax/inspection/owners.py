"""The arrays of a state: which field each is in, which leaf of the parameters it belongs to, how many bytes it has."""

import contextlib
import math
import warnings
from typing import Any, NamedTuple

import jax
from jax.tree_util import GetAttrKey

from gdjax.core.types import OptState, Transform
from gdjax.lift.order import OrderWarning
from gdjax.numerics import is_key
from gdjax.tree.states import is_placeholder, placeholder


class Held(NamedTuple):
    """An array of a state."""

    field: tuple[Any, ...]  # the path to its field, of which it may be one leaf of many
    leaf: int | None  # the place of the leaf that it belongs to; None if it is of the whole tree
    array: Any  # its shape and dtype


def state_of(tx: Transform, shapes: Any) -> OptState:
    """The shapes of the state that `init` makes. What `init` warns of, it warns of when the state is made."""
    return state_and_order(tx, shapes)[0]


def state_and_order(tx: Transform, shapes: Any) -> tuple[OptState, list[str]]:
    """`state_of`, and what `init` warns of averages that are not last."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = jax.eval_shape(lambda params: tx.init(params), shapes)  # a function that JAX has not traced before
    texts = [str(w.message) for w in caught if issubclass(w.category, OrderWarning)]
    return state, list(dict.fromkeys(text.partition(": ")[2] for text in texts))


def held(tx: Transform, shapes: Any, state: OptState) -> list[Held]:
    """The arrays of a state.

    `init` of something that stands for the whole tree of parameters shows where in the state such trees are. Where an
    `init` of someone else cannot be called so, an array belongs to the leaf with whose path its own ends.
    """
    places: set[Any] = set()
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        like = jax.eval_shape(tx.init, placeholder())
        flat = jax.tree_util.tree_flatten_with_path(like, is_leaf=is_placeholder)[0]
        places = {path for path, x in flat if is_placeholder(x)}
    leaves = {path: i for i, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(shapes))}
    found = []
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        n = next((n for n in range(len(path) + 1) if path[:n] in places), None)
        if n is not None:  # codes and factors of a leaf stand below its path
            rest = path[n:]
            found.append(Held(path[:n], next((leaves[key] for key in _heads(rest) if key in leaves), None), x))
        elif not places and len(leaves) > 1 and (tails := [key for key in _tails(path) if key in leaves]):
            found.append(Held(path[: len(path) - len(tails[0])], leaves[tails[0]], x))
        else:
            last = max((i for i, key in enumerate(path) if isinstance(key, GetAttrKey)), default=len(path) - 1)
            found.append(Held(path[: last + 1], None, x))
    return found


def bytes_of(x: Any) -> int:
    """The bytes of an array, those of a PRNG key included; a float0 has none."""
    if is_key(x):
        x = jax.eval_shape(jax.random.key_data, x)
    return math.prod(x.shape) * (0 if x.dtype == jax.dtypes.float0 else x.dtype.itemsize)


def _heads(path: Any) -> list[Any]:
    return [path[:n] for n in range(len(path) + 1)]


def _tails(path: Any) -> list[Any]:
    return [path[n:] for n in range(len(path) + 1)]
