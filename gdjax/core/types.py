"""Types, and kinds of leaves: boxes around arrays, leaves left out, one value for each leaf.

A leaf that is None, masked or float0 stays untouched, whatever its parameter and its state are.
"""

import abc
import contextlib
import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol, Union

import jax
import numpy as np
from jax.typing import ArrayLike as ArrayLike
from jax.typing import DTypeLike as DTypeLike

from gdjax.core.contexts import WHERE, within
from gdjax.core.keys import key_of
from gdjax.core.number_domains import (
    BOUND,
    DECAY,
    FINITE,
    POSITIVE,
    PROBABILITY,
    RATE,
    SHARE,
    SIZE,
    SQUARES,
    AtLeast,
    Check,
)

__all__ = [
    "ArrayTree", "Codec", "OptState", "Params", "PerLeaf", "ScalarOrSchedule", "Schedule", "TransformInitFn",
    "TransformUpdateFn", "Updates", "per_leaf",
]  # fmt: skip

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
    def encode(self, x: Array, salt: Any = None) -> Any:
        """The codes of a float32 array; a format that rounds at random takes its bits from the salt."""


def check_patterns(label: str, patterns: Iterable[Any], functions: bool = True) -> None:
    """Raises unless each pattern is a regular expression, or where `functions` are allowed a function.

    Raises:
      ValueError: a text is no regular expression.
      TypeError: a pattern is neither text nor a function.
    """
    for pattern in patterns:
        if isinstance(pattern, str):
            try:
                re.compile(pattern)
            except re.error as e:
                glob = "; for any text write '.*', not '*'" if re.search(r"(^|[^.\])])\*", pattern) else ""
                raise ValueError(f"{label}: the pattern {pattern!r} is no regular expression: {e}{glob}") from None
        elif not (isinstance(pattern, re.Pattern) or functions and callable(pattern)):
            either = "neither a regular expression nor a function of (path, leaf)"
            raise TypeError(f"{label}: {pattern!r} is {either if functions else 'no regular expression'}")


LABEL = "gdjax.per_leaf"
Number = int | float | np.number | np.ndarray | jax.Array


@jax.tree_util.register_pytree_node_class
class PerLeaf:
    """A base and its factors, made by `per_leaf`; the base is a number, an array, a schedule or another `PerLeaf`."""

    def __init__(self, base: Any, patterns: tuple[Any, ...] | None, factors: Any):
        self.base, self.patterns, self.factors = base, patterns, factors

    @property
    def number(self) -> Any:
        """The innermost base: a number, an array or a schedule."""
        return self.levels()[-1].base

    def with_base(self, base: Any) -> "PerLeaf":
        """The same factors with another innermost base."""
        base = self.base.with_base(base) if isinstance(self.base, PerLeaf) else base
        return PerLeaf(base, self.patterns, self.factors)

    def levels(self) -> "list[PerLeaf]":
        """This and the `PerLeaf`s inside its base."""
        return [self, *(self.base.levels() if isinstance(self.base, PerLeaf) else [])]

    def constants(self) -> list[float]:
        """The factors that are plain numbers, known when a transform is built."""
        factors = jax.tree.leaves([level.factors for level in self.levels()])
        return [float(x) for x in factors if isinstance(x, int | float | np.number)]

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self.base, self.factors), self.patterns

    @classmethod
    def tree_unflatten(cls, patterns: Any, children: Any) -> "PerLeaf":
        return cls(children[0], patterns, children[1])

    def _key(self) -> Hashable:
        return key_of((self.base, self.patterns, self.factors))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerLeaf) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        factors = self.factors if self.patterns is None else dict(zip(self.patterns, self.factors, strict=True))
        return f"per_leaf({self.base!r}, {factors!r})"


def per_leaf(base: Any, factors: Any) -> PerLeaf:
    """A number that differs from leaf to leaf: base times the leaf's factor.

    It may stand wherever an optimizer or a transform takes a number for each array: `adamw(per_leaf(schedule,
    {"embed": 0.1, "head": 10.0}), weight_decay=per_leaf(1e-2, {"bias$": 0.0}))`. There is one schedule, and no state.

    Args:
      base: a number, a scalar array, a schedule, or another `per_leaf`, whose factors this one multiplies.
      factors: from pattern to factor, where the first pattern that matches the path of a leaf counts, a regular
        expression or a predicate of `(path, leaf)`; a leaf that none matches has the factor 1. Or a tree of factors,
        the parameters' or a prefix; or a function from the parameters to one, such as `layerwise_decay(...)`. A dict
        whose values are all numbers is one of patterns. A factor is a number or an array that broadcasts against the
        leaf.

    A weight decay with the factor 0 does not read the parameter. Behind a transform of another library write
    `chain(tx, scale(per_leaf(1.0, factors)))`.

    Raises:
      TypeError: base is None, or a factor is no number; (in the transform) one number for the whole tree depends on it,
        as in Prodigy.
      ValueError: a factor is infinite or NaN; a pattern is no regular expression; (in init) a tree of factors is no
        prefix of the parameters.

    Warns:
      UserWarning: (in init) a pattern decides for no leaf.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones(1), "head": jnp.ones(1), "norm": jnp.ones(1)}
      >>> tx = gdjax.sgd(gdjax.per_leaf(0.5, {"embed": 0.5, "head": 2.0}))
      >>> u, _ = tx.update(params, tx.init(params))
      >>> print(u["embed"], u["head"], u["norm"])
      [-0.25] [-1.] [-0.5]
    """
    if base is None or isinstance(base, str | bool | type):
        raise TypeError(f"{LABEL}: base must be a number, a scalar array or a schedule, got {base!r}")
    if callable(factors) and jax.tree.leaves(factors) == [factors]:
        return PerLeaf(base, None, factors)
    made = PerLeaf(base, None, factors)
    if isinstance(factors, Mapping) and all(isinstance(x, Number) for x in factors.values()):
        made = PerLeaf(base, tuple(factors), tuple(factors.values()))
    check_patterns(LABEL, made.patterns or ())
    for x in jax.tree.leaves(made.factors, is_leaf=lambda x: x is None):
        if not isinstance(x, Number) or isinstance(x, bool):
            raise TypeError(f"{LABEL}: a factor is {x!r}, not a number")
    if not all(map(math.isfinite, made.constants())):
        raise ValueError(f"{LABEL}: the factors must be finite, got {made.constants()}")
    return made


def base_of(x: Any) -> Any:
    """The innermost base of a `per_leaf`; any other number as it is."""
    return x.number if isinstance(x, PerLeaf) else x


ArrayTree = Any  # a pytree of arrays
Params = Any  # a pytree of arrays
Updates = Any  # a pytree like the parameters
OptState = Any  # a pytree that only its transform reads
Schedule = Callable[[Any], Any]  # int32 count of updates made so far -> scalar
# An array here is a scalar, and may be traced. Some programs call the type, which they could not if `|` made it.
Scalar = Union[float, Array, np.ndarray, np.number]  # noqa: UP007
ScalarOrSchedule = Union[Scalar, Schedule, PerLeaf]  # noqa: UP007
Axis = int | Sequence[int] | None  # of an array; None for all of them

# What an argument of a factory may be, by its type: `gdjax.core.domains` checks it when the factory is called.
Rate = Annotated[ScalarOrSchedule, RATE]
Decay = Annotated[ScalarOrSchedule, DECAY]
Squares = Annotated[ScalarOrSchedule, SQUARES]  # the decay of an average of squares, which may be 1, with a warning
Size = Annotated[ScalarOrSchedule, SIZE]
Positive = Annotated[ScalarOrSchedule, POSITIVE]
Finite = Annotated[ScalarOrSchedule, FINITE]
Bound = Annotated[ScalarOrSchedule, BOUND]  # infinite for none
Share = Annotated[ScalarOrSchedule, SHARE]
Probability = Annotated[ScalarOrSchedule, PROBABILITY]
Steps = Annotated[ScalarOrSchedule, AtLeast(1)]
Count = Annotated[int, AtLeast(1, static=True)]
Natural = Annotated[int, AtLeast(0, static=True)]
DType = Annotated[DTypeLike | Codec, Check("dtype_or_codec")]  # in which a slot is kept: a dtype, or a codec
Floating = Annotated[DTypeLike, Check("dtype")]
KeyLike = Annotated[Array | np.ndarray | int, Check("key")]  # a PRNG key, typed or raw, or an int that makes one
Seed = Annotated[int, Check("key")]
Mask = Annotated[Any, Check("mask")]  # a tree of booleans, a prefix of the parameters, or a function of them to one
Roles = Annotated[Any, Check("roles")]  # a dict from patterns to roles, a tree of dimension numbers, or a function
Dimensions = Annotated[Any, Check("dimensions")]  # a tree of dimension numbers, or a function of the parameters to one
LayerAxes = Annotated[Any, Check("layer_axes")]  # an int, a pattern, a dict from patterns to ints, or a function


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


def is_box(x: object) -> bool:
    """Whether x is a box of Flax: one array under the key `value`, with its kind or its sharding."""
    return is_variable(x) or "AxisMetadata" in _names_in_flax(x)


def is_variable(x: object) -> bool:
    """Whether x is a box of Flax's nnx."""
    return not _names_in_flax(x).isdisjoint(("Variable", "VariableState"))


def _names_in_flax(x: object) -> set[str]:
    return {c.__name__ for c in type(x).__mro__ if c.__module__.startswith("flax.")}


def unboxed(tree: ArrayTree, kind: Callable[[object], bool] = is_box) -> Any:
    """The tree with the array of each box in place of the box."""

    def content(x: object) -> Any:
        inside = jax.tree.leaves(x, is_leaf=lambda y: y is not x) if kind(x) else []
        return inside[0] if len(inside) == 1 else x

    return jax.tree.map(content, tree, is_leaf=kind) if _has_boxes(tree) else tree


def boxed_like(old: Any, new: Any) -> Any:
    """`new` in the boxes of `old`, if it fits their contents; else `new` itself."""
    if not _has_boxes(old) or _has_boxes(new) or jax.tree.structure(unboxed(old)) != jax.tree.structure(new):
        return new
    return jax.tree.structure(old).unflatten(jax.tree.leaves(new))


def _has_boxes(tree: ArrayTree) -> bool:
    return any(map(is_box, jax.tree.leaves(tree, is_leaf=is_box)))


def is_hidden(x: object) -> bool:
    """Whether `x` stands for a leaf that a mask hides: the `MaskedNode` of this library or of Optax."""
    return type(x).__name__ == "MaskedNode"


def is_skipped(g: object) -> bool:
    """Whether a gradient is missing: None, or hidden by a mask."""
    return g is None or is_hidden(g)


def without_skipped(updates: Updates, params: Params) -> Params:
    """The parameters; where a gradient is missing, its placeholder also replaces the parameter.

    The same object if no gradient is missing, or if the structures differ.
    """
    if params is None or not any(map(is_skipped, jax.tree.leaves(updates, is_leaf=is_skipped))):
        return params
    try:
        return jax.tree.map(lambda g, p: g if is_skipped(g) else p, updates, params, is_leaf=is_skipped)
    except (ValueError, TypeError):
        return params


@contextlib.contextmanager
def fitted(updates: Updates, params: Params) -> Iterator[Params]:
    """`without_skipped`; in this context `left_out` finds the parameters that were replaced."""
    fit = without_skipped(updates, params)
    known = WHERE.get().params
    with within(WHERE, params=params if known is None and fit is not params else known):
        yield fit


def left_out(updates: Updates) -> dict[Any, Any]:
    """By path, the parameters given to `update` where `updates` has None; {} if it was given none."""
    paths = jax.tree_util.tree_leaves_with_path(updates, is_leaf=lambda x: x is None)
    missing = {path for path, g in paths if g is None}
    flat = jax.tree_util.tree_leaves_with_path(WHERE.get().params) if missing else []
    return {path: p for path, p in flat if path in missing and hasattr(p, "shape")}
