"""The types of the contract."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol, Union

import jax
import numpy as np
from jax.typing import ArrayLike, DTypeLike  # noqa: F401

from gdjax.core.codec import Codec
from gdjax.core.number_domains import BOUND, DECAY, FINITE, POSITIVE, RATE, SHARE, SIZE, SQUARES, Integer, Kind
from gdjax.core.per_leaf import PerLeaf

Array = jax.Array
ArrayTree = Any  # a pytree of arrays
Params = Any  # a pytree of arrays
Updates = Any  # a pytree like the parameters
OptState = Any  # a pytree that only its transform reads
Schedule = Callable[[Any], Any]  # int32 count of updates made so far -> scalar
# An array here is a scalar, and may be traced. Some programs call the type, which they could not if `|` made it.
Scalar = Union[float, Array, np.ndarray, np.number]  # noqa: UP007
ScalarOrSchedule = Union[Scalar, Schedule, PerLeaf]  # noqa: UP007
Axis = int | Sequence[int] | None  # of an array; None for all of them

# What `help` calls the types behind the next ones.
SHOWN: dict[str, Any] = {
    "DType": DTypeLike | Codec, "DTypeLike": DTypeLike, "KeyLike": Array | np.ndarray | int,
    "ScalarOrSchedule": ScalarOrSchedule,
}  # fmt: skip

# What an argument of a factory may be, by its type: `gdjax.core.domains` checks it when the factory is called.
Rate = Annotated[ScalarOrSchedule, RATE]
Decay = Annotated[ScalarOrSchedule, DECAY]
Squares = Annotated[ScalarOrSchedule, SQUARES]  # the decay of an average of squares, which may be 1, with a warning
Size = Annotated[ScalarOrSchedule, SIZE]
Positive = Annotated[ScalarOrSchedule, POSITIVE]
Finite = Annotated[ScalarOrSchedule, FINITE]
Bound = Annotated[ScalarOrSchedule, BOUND]  # infinite for none
Share = Annotated[ScalarOrSchedule, SHARE]
Steps = Annotated[ScalarOrSchedule, Integer(1)]
Count = Annotated[int, Integer(1, static=True)]
Natural = Annotated[int, Integer(0, static=True)]
DType = Annotated[DTypeLike | Codec, Kind("dtype_or_codec")]  # in which a slot is kept: a dtype, or a codec
Floating = Annotated[DTypeLike, Kind("dtype")]
KeyLike = Annotated[Array | np.ndarray | int, Kind("key")]  # a PRNG key, typed or raw, or an int that makes one
Seed = Annotated[int, Kind("key")]
Mask = Annotated[Any, Kind("mask")]  # a tree of booleans, a prefix of the parameters, or a function of them to one
Roles = Annotated[Any, Kind("roles")]  # a dict from patterns to roles, a tree of dimension numbers, or a function
Dimensions = Annotated[Any, Kind("dimensions")]  # a tree of dimension numbers, or a function of the parameters to one
LayerAxes = Annotated[Any, Kind("layer_axes")]  # an int, a pattern, a dict from patterns to ints, or a function


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
