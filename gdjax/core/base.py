"""The contract: gradient transformations, and how a factory's result becomes one that is a value."""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.core import callers, closures, domains, misuse
from gdjax.core.closures import function_of, value_of
from gdjax.core.closures import label_of as label_of
from gdjax.core.closures import part_of as part_of
from gdjax.core.contexts import PASS, within
from gdjax.core.part import Part, keywords
from gdjax.core.signatures import plain_types
from gdjax.core.structures import as_formed
from gdjax.core.types import (
    OptState,
    Params,
    Transform,
    TransformInitFn,
    TransformUpdateFn,
    Updates,
    fitted,
    without_skipped,
)
from gdjax.core.values import Call, Value, bind, function_behind, is_foreign, not_called

__all__ = [
    "AdaptiveGradClipState", "AddDecayedWeightsState", "ClipByGlobalNormState", "ClipState", "EmptyState",
    "GradientTransformation", "GradientTransformationExtraArgs", "MaskedNode", "NonNegativeParamsState",
    "ScaleByTrustRatioState", "ScaleState", "TransformUpdateExtraArgsFn", "identity", "init_empty_state", "set_to_zero",
    "transform",
]  # fmt: skip

P = ParamSpec("P")
NO_VALUE = (
    jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)  # fmt: skip


class _Pair(NamedTuple):  # a class of its own: the body of a NamedTuple cannot define `__class__`
    init: TransformInitFn
    update: TransformUpdateFn


class GradientTransformation(_Pair):
    """A pair of pure functions, `init(params) -> state` and `update(updates, state, params, **extra_args)`.

    `update` turns gradients (or the updates of the transform before it) into updates, to be *added* to the parameters
    by `apply_updates`, and returns them with the new state, which has the structure, shapes and dtypes of the old one.
    One made of two functions need not take extra arguments; those of this library do, see
    `GradientTransformationExtraArgs`.

    In a program that has imported Optax it is an instance of Optax's class of the same name too.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.clip(1.0)
      >>> init, update = tx
      >>> u, state = update(jnp.array([3.0]), init(jnp.zeros(1)))
      >>> print(u)
      [1.]
      >>> isinstance(tx, gdjax.GradientTransformation), tx == gdjax.clip(1.0)
      (True, True)
    """

    __slots__ = ()

    @property
    def __class__(self) -> type:  # type: ignore[override]
        # Optax's wrappers ask isinstance(tx, optax.GradientTransformationExtraArgs). Whoever asks has imported Optax.
        extra = issubclass(type(self), GradientTransformationExtraArgs)
        kind = GradientTransformationExtraArgs if extra else GradientTransformation
        theirs = getattr(sys.modules.get("optax"), kind.__name__, None)
        return theirs if isinstance(theirs, type) else type(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # The default refuses a `__class__` that is not the type, and functions that a call has made.
        return _restored, (type(self), *map(value_of, self)), getattr(self, "__dict__", None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pair) and tuple(map(value_of, self)) == tuple(map(value_of, other))

    def __ne__(self, other: object) -> bool:  # a tuple's own compares the functions
        return not self == other

    def __hash__(self) -> int:
        return hash(tuple(map(value_of, self)))

    def __repr__(self) -> str:
        update = value_of(self.update)
        return repr(update.call) if isinstance(update, Value) else f"{type(self).__name__}{tuple(self)}"


class GradientTransformationExtraArgs(GradientTransformation):
    """A transform whose update accepts extra keyword arguments, also those it has no use for. All of this library do.

    These refuse a name that is one letter from one that they ask for and were not given: a TypeError. A program may ask
    before it passes some, and `with_extra_args_support` makes one of any transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> isinstance(gdjax.adam(1e-3), gdjax.GradientTransformationExtraArgs)
      True
      >>> update = lambda updates, state, params=None: (updates, state)
      >>> plain = gdjax.GradientTransformation(gdjax.init_empty_state, update)
      >>> isinstance(plain, gdjax.GradientTransformationExtraArgs)
      False
    """

    __slots__ = ()


def _restored(cls: Any, *parts: Any) -> Any:
    """The unpickled pair. By `_make`: a subclass may have a `__new__` of its own."""
    return cls._make(function_of(f) if isinstance(f, Value) else f for f in parts)


class EmptyState(NamedTuple):
    """The state of a transform that keeps none."""


# Optax's names for that state in the transforms that keep none, and for the type of an update.
AddDecayedWeightsState = AdaptiveGradClipState = ClipByGlobalNormState = ClipState = EmptyState
NonNegativeParamsState = ScaleByTrustRatioState = ScaleState = EmptyState
TransformUpdateExtraArgsFn = TransformUpdateFn


def init_empty_state(params: Params) -> EmptyState:
    """The `init` of a transform that keeps no state.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def sign(updates, state, params=None):
      ...     return jax.tree.map(jnp.sign, updates), state
      >>> tx = gdjax.GradientTransformation(gdjax.init_empty_state, sign)
      >>> tx.init({"w": jnp.zeros(2)})
      EmptyState()
    """
    return EmptyState()


class MaskedNode(NamedTuple):
    """Takes the place of a leaf that a mask hides; it has no leaves itself."""


class Init(Value):
    """The `init` of a transform."""

    def __call__(self, params: Params) -> OptState:
        if name := self.call.changed():
            callers.warn(
                f"{label_of(self.call)}: {name} was changed after the transform was made, which keeps what it was "
                "given: make it anew"
            )
        return self.fn(params)


class Update(Value):
    """The `update` of a transform. Called with concrete arrays it is one compiled call, not one dispatch per leaf.

    Not so where a function of someone else's takes part: a program may count on each call of it.
    """

    def __call__(self, updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        if extra_args:
            closures.check_extra_args(label_of(self.call), extra_args, self.extra_args)
        return self.from_within(updates, state, params, extra_args)

    extra_args = functools.cached_property(closures.extra_args_read)
    form = functools.cached_property(closures.Form)

    @functools.cached_property
    def compiles(self) -> bool:
        return self.call.comparable and not (self.foreign or self.call.foreign or self.call.traced)

    @functools.cached_property
    def takes_extra_args(self) -> bool:
        return keywords(self.fn)[1]

    def from_within(self, updates: Updates, state: OptState, params: Params, extra_args: dict[str, Any]) -> Any:
        """The update as another transform calls it: the names of the extra arguments are already checked."""
        extra_args = extra_args if self.takes_extra_args else {}
        args = updates, state, params, extra_args
        if self.compiles and not is_concrete(args):  # `params` may be a whole model, with functions in it
            args = updates, state, without_skipped(updates, params), extra_args
        if self.compiles and is_concrete(args):
            return compiled_or_apart(self._compiled, functools.partial(_applied, self.fn), *args)
        return _applied(self.fn, updates, state, params, extra_args)

    def _compiled(self, *args: Any) -> tuple[Updates, OptState]:
        try:
            return _compiled(self.form, self.form.leaves, *args)
        except NO_VALUE:
            if not self.form.leaves:
                raise
            self.form = closures.Form(self, constant=True)  # a rule decides by the value of a number
            return self._compiled(*args)
        except jax.errors.JaxRuntimeError as e:
            if "Disallowed host-to-device transfer" not in str(e):
                raise
            leaves = jax.device_put(self.form.leaves)  # as what the program gave must be
            return _compiled(self.form, leaves, *args)


def _applied(
    update: Callable[..., Any], updates: Updates, state: OptState, params: Params, extra_args: dict[str, Any]
) -> tuple[Updates, OptState]:
    with fitted(updates, params) as fit:
        updates, new = update(_no_narrower(updates, fit), state, fit, **extra_args)
    return updates, as_formed(new, state)


def _no_narrower(updates: Updates, params: Params) -> Updates:
    """The updates, each as wide as its parameter: a step that is rounded to fewer bits may lose its decay.

    The same object if none is narrower.
    """
    gs, structure = jax.tree.flatten(updates)
    ps, of_params = jax.tree.flatten(params)
    if structure != of_params or not any(map(_is_narrower, gs, ps)):
        return updates
    return structure.unflatten([g.astype(p.dtype) if _is_narrower(g, p) else g for g, p in zip(gs, ps, strict=True)])


def _is_narrower(g: Any, p: Any) -> bool:
    floats = all(jnp.issubdtype(getattr(x, "dtype", np.void), jnp.floating) for x in (g, p))
    return floats and g.dtype.itemsize < p.dtype.itemsize


@functools.partial(jax.jit, static_argnums=0)
def _compiled(form: closures.Form, leaves: Sequence[Any], *args: Any) -> tuple[Updates, OptState]:
    return _applied(function_behind(form.function(leaves)), *args)


def compiled_or_apart(compiled: Callable[..., Any], plain: Callable[..., Any], *args: Any) -> Any:
    """A function compiled; or operation by operation where someone has put the leaves on several devices by hand."""
    try:
        return compiled(*args)
    except ValueError as e:
        if "incompatible devices" not in str(e):
            raise
        return plain(*args)


def is_float0(x: object) -> bool:
    """Whether `x` is the gradient of an integer, JAX's float0: there is none."""
    return getattr(x, "dtype", None) == jax.dtypes.float0


def map_arrays(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` over the arrays and numbers of a tree; a float0 leaf stays what it is."""
    return jax.tree.map(lambda x, *ys: x if is_float0(x) else f(x, *ys), tree, *rest)


_NUMBERS = np.ndarray, np.number, float, int, complex


def is_concrete(tree: Any) -> bool:
    """Whether every leaf is a number or an array with a value, so that a compiled function can be called with it."""
    return all(map(_has_value, jax.tree.leaves(tree)))


def _has_value(x: object) -> bool:
    if isinstance(x, jax.Array):
        return not isinstance(x, Tracer)
    return isinstance(x, _NUMBERS) and not is_float0(x)


def transform(factory: Callable[P, Any]) -> Callable[P, GradientTransformation]:
    """Makes what `factory` returns, anything with `init` and `update`, a `GradientTransformation` that is a value.

    Transforms built by equal calls are equal; they hash, pickle and print by the call, and accept extra arguments: an
    update of two functions that takes none gets none. Arguments are what their annotations say: a number
    that is annotated `Annotated[float, "[0, 1)"]` lies there, or the call raises a ValueError.

    Example:
      >>> import gdjax
      >>> @gdjax.transform
      ... def clipped(rate, max_norm=1.0):
      ...     return gdjax.chain(gdjax.clip_by_global_norm(max_norm), gdjax.sgd(rate))
      >>> clipped(0.1), clipped(0.1) == clipped(0.1, max_norm=1.0)
      (clipped(rate=0.1, max_norm=1.0), True)
    """

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        call = checked_call(make, args, kwargs)
        return made_by(call, factory(*call.args, **call.kwargs))

    not_called(make)
    return plain_types(make)


def checked_call(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    call = bind(factory, args, kwargs)
    domains.check(label_of(call), call.arguments, inspect.signature(factory))
    return call


def made_by(call: Call, made: Any) -> GradientTransformation:
    """`made` as the value of `call`; its part reports errors under the name of the call."""
    if (problem := misuse.no_transform(made)) is not None:
        raise TypeError(f"{label_of(call)} returned {made!r}, {problem}")
    plain = type(made) is GradientTransformation or not isinstance(made, GradientTransformation)
    kind = GradientTransformationExtraArgs if plain else type(made)
    before, part = value_of(made.update), part_of(made)
    inner, foreign = (before.calls, not before.compiles) if isinstance(before, Update) else ((), is_foreign(before))
    if part is not None and (labelled := part.labelled(label_of(call))) is not part:
        made = labelled
    init = Init(call, "init", function_behind(made.init), inner, foreign)
    update = Update(call, "update", function_behind(made.update), inner, foreign)
    return kind._make((function_of(init), function_of(update)))


def call_update(
    tx: Transform, updates: Updates, state: OptState, params: Params, extra_args: dict[str, Any]
) -> tuple[Updates, OptState]:
    """`tx.update`, for anything with an `update`; without the extra arguments if it takes none."""
    if isinstance(made := value_of(tx.update), Update):
        return made.from_within(updates, state, params, extra_args)
    if isinstance(tx, Part):
        return _applied(tx.update, updates, state, params, extra_args)
    # Someone else's may be compiled, and run again with the tracers of an earlier trace.
    with within(PASS, selection=None):
        return tx.update(updates, state, params, **(extra_args if closures.takes_extra_args(tx) else {}))


def check_transform(label: str, index: Any, tx: Transform) -> Any:
    if (problem := misuse.no_transform(tx)) is not None:
        raise TypeError(f"{label}: argument {index} is {tx!r}, {problem}")
    return tx


@transform
def identity() -> GradientTransformation:
    """Returns the updates as they are, whatever the tree holds.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def sgd(learning_rate, max_delta=None):
      ...     clip = gdjax.identity() if max_delta is None else gdjax.clip(max_delta)
      ...     return gdjax.chain(clip, gdjax.sgd(learning_rate))
      >>> u, _ = sgd(0.5).update(jnp.array([3.0]), sgd(0.5).init(jnp.zeros(1)))
      >>> print(u)
      [-1.5]
    """

    def update(updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        return updates, state

    return GradientTransformation(init_empty_state, update)


@transform
def set_to_zero() -> GradientTransformation:
    """Replaces every update by zeros. See `freeze`, which does so for some of the parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> groups = {"trained": gdjax.sgd(0.5), "fixed": gdjax.set_to_zero()}
      >>> tx = gdjax.partition(groups, {"a": "trained", "b": "fixed"})
      >>> g = {"a": jnp.array([1.0]), "b": jnp.array([1.0])}
      >>> u, _ = tx.update(g, tx.init(g))
      >>> print(u["a"], u["b"])
      [-0.5] [0.]
    """

    def update(updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        return map_arrays(jnp.zeros_like, updates), state

    return GradientTransformation(init_empty_state, update)
