"""Codecs: they keep the numbers of a slot as something other than an array of its dtype."""

import abc
from typing import Any

import jax

Array = jax.Array


class Codec(abc.ABC):
    """How an array of a state is kept between two steps: `encode` makes codes of it, `decode` makes an array of them.

    A rule never sees codes. In each step they are decoded, the rule gets and returns float32 numbers, and these are
    encoded again, all in the loops of the rule. A codec has no state and is a value, equal and hashed by its settings,
    as a frozen dataclass is. Its codes are arrays in any container. Their structure, shapes and dtypes depend on the
    shape of the array alone; codes made element by element keep the sharding.
    """

    @abc.abstractmethod
    def encode(self, x: Array) -> Any:
        """The codes of a float32 array."""

    @abc.abstractmethod
    def decode(self, codes: Any) -> Array:
        """The float32 array."""


class Format(Codec):
    """A codec of `quantize_state`, whose codes say by their class and shapes how they are decoded.

    The codes are a NamedTuple with a property `format`, equal to the format that made them.
    """

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it can keep an array of this shape."""
        return True

    def of(self, shape: tuple[int, ...]) -> "Format":
        """The format that codes of an array of this shape, which it can keep, say they are of."""
        return self

    @abc.abstractmethod
    def encode(self, x: Array, salt: Array | None = None) -> Any:
        """The codes of a float32 array, rounded at random by the bits that follow from the salt, if it rounds so."""
