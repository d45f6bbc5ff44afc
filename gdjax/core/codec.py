"""What keeps the numbers of a slot as something else than an array of its dtype."""

import abc
from typing import Any

import jax

Array = jax.Array


class Codec(abc.ABC):
    """How an array of a state is kept between two steps: `encode` makes codes of it, `decode` makes an array of them.

    A rule never sees codes: in each step they are decoded, the rule gets and returns float32 numbers, and those are
    encoded again, in the loops that the rule takes anyway. A codec is a value, equal and hashed by its
    settings (a frozen dataclass is), and has no state. Its codes are arrays in any container, of one structure, with
    shapes and dtypes that depend on the array's shape alone; codes made element by element keep the sharding.
    """

    @abc.abstractmethod
    def encode(self, x: Array) -> Any:
        """The codes of a float32 array."""

    @abc.abstractmethod
    def decode(self, codes: Any) -> Array:
        """The float32 array."""
