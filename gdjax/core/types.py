"""The types of the contract."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Union

import jax
import numpy as np
from jax.typing import ArrayLike, DTypeLike  # noqa: F401

from gdjax.core.codec import Codec
from gdjax.core.per_leaf import PerLeaf

Array = jax.Array
ArrayTree = Any  # a pytree of arrays
Params = Any  # a pytree of arrays
Updates = Any  # a pytree like the parameters
OptState = Any  # a pytree that only its transform reads
DType = Union[DTypeLike, Codec]  # in which a slot is kept: a dtype, or a codec  # noqa: UP007
Mask = Any  # a tree of booleans, a prefix of the parameters, or a function from the parameters to one
Roles = Any  # a dict from patterns of paths to roles, a tree of dimension numbers, or a function to one
LayerAxes = Any  # an int, a pattern of paths, a dict from patterns to ints, or a function from the parameters to a tree
Schedule = Callable[[Any], Any]  # int32 count of updates made so far -> scalar
# An array here is a scalar, and may be traced. Some programs call the type, which they could not if `|` made it.
Scalar = Union[float, Array, np.ndarray, np.number]  # noqa: UP007
ScalarOrSchedule = Union[Scalar, Schedule, PerLeaf]  # noqa: UP007
KeyLike = Array | np.ndarray | int  # a PRNG key, typed or raw, or an int that makes one
Axis = int | Sequence[int] | None  # of an array; None for all of them


class TransformUpdateFn(Protocol):
    """`update(updates, state, params=None, **extra_args) -> (updates, state)`."""

    def __call__(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]: ...


class TransformInitFn(Protocol):
    """`init(params) -> state`."""

    def __call__(self, params: Params) -> OptState: ...


class Transform(Protocol):
    """Anything with `init` and `update`, of this library or another."""

    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def update(self) -> Callable[..., Any]: ...
