"""Codecs: other forms for the numbers of a slot than an array of its dtype."""

import abc
from typing import Any

import jax

Array = jax.Array


class Codec(abc.ABC):
    """How an array of a state is kept between two steps: `encode` turns it into codes, `decode` back into an array.

    A rule sees float32 numbers, never codes: each step decodes before the rule and encodes after it, in the same loops.
    A codec has no state and is a value, equal and hashed by its settings, as a frozen dataclass is. Its codes are
    arrays in any container. Their structure, shapes and dtypes depend on the shape of the array alone; codes made
    element by element keep the sharding.
    """

    @abc.abstractmethod
    def encode(self, x: Array) -> Any:
        """The codes of a float32 array."""

    @abc.abstractmethod
    def decode(self, codes: Any) -> Array:
        """The float32 array."""


class Format(Codec):
    """A codec of `quantize_state`: the class and shapes of its codes say how to decode them.

    The codes are a NamedTuple with a property `format`, equal to the format that made them.
    """

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it can keep an array of this shape."""
        return True

    def for_shape(self, shape: tuple[int, ...]) -> "Format":
        """The format named by the codes of an array of this shape, which it can keep."""
        return self

    @abc.abstractmethod
    def encode(self, x: Array, salt: Array | None = None) -> Any:
        """The codes of a float32 array; a format that rounds at random takes its bits from the salt."""
