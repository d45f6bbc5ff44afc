"""The state that a transform will have, from shapes alone, and the bytes of its arrays."""

import math
import warnings
from typing import Any

import jax

from gdjax.core.types import OptState, Transform
from gdjax.lift.order import OrderWarning
from gdjax.numerics import is_key


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


def bytes_of(x: Any) -> int:
    """The bytes of an array, those of a PRNG key included; a float0 has none."""
    if is_key(x):
        x = jax.eval_shape(jax.random.key_data, x)
    return math.prod(x.shape) * (0 if x.dtype == jax.dtypes.float0 else x.dtype.itemsize)
