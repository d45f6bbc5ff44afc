"""What a rule must look like: its declaration, its arguments, and what it returns.

A rule is checked while it is traced, once for each shape and dtype; `fused` adds the leaf to the error.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import base, callers
from gdjax.core.base import GradientTransformation
from gdjax.core.signatures import code_of, plain_types
from gdjax.core.types import Array
from gdjax.core.values import Call, not_called
from gdjax.numerics import at_least_float32, is_key, real_dtype


def declaration(State: Any, slots: Mapping[str, Any], maker: str = "leafwise") -> None:
    """Raises unless `State` is a NamedTuple class with these slots, or a function of one argument."""
    if _is_state_class(State):
        if unknown := [f for f in slots if f not in State._fields]:
            names, fields = ", ".join(unknown), ", ".join(State._fields)
            raise TypeError(f"gdjax.{maker}: {State.__name__} has no field {names}; its fields are {fields}")
    elif isinstance(State, type) or not callable(State) or not takes(State, None):
        if inspect.isroutine(State) and takes(State, *[None] * 4):
            written = "write @gdjax.leafwise() above it, or @gdjax.leafwise(State) with the class of its state"
            raise TypeError(f"gdjax.leafwise: got the rule {State.__name__} in the place of State: {written}")
        wanted = "a NamedTuple class, or a function from the hyperparameters to one"
        raise TypeError(f"gdjax.leafwise: State must be {wanted}, got {State!r}")


def state_class(label: str, State: Any, hyper: Mapping[str, Any]) -> Any:
    """The NamedTuple class that `State` is, or returns."""
    kind = State if isinstance(State, type) else State(hyper)
    if not _is_state_class(kind):
        raise TypeError(f"{label}: the function given as State returned {kind!r}, not a NamedTuple class")
    return kind


def _is_state_class(x: Any) -> bool:
    return isinstance(x, type) and issubclass(x, tuple) and hasattr(x, "_fields")


def takes(f: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Whether `f` can be called with these arguments; True where it has no signature."""
    try:
        inspect.signature(f).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


class NoParameter(Exception):
    """A rule reads `p`, which is None; `index` is its place among the rules of the pass."""

    def __init__(self, index: int):
        self.index = index


def called(
    rule: Callable[..., Any], index: int, gs: Sequence[Array], s: Any, p: Any, t: Any, hyper: Mapping[str, Any]
) -> Any:
    """The result of a rule. An error caused by `p` or `t` being None says why it is None.

    An error from building a state with too few fields says how to keep the others.
    """
    try:
        return rule(*gs, s, p, t, **hyper)
    except (ValueError, TypeError, AttributeError) as e:
        if f"{type(s).__name__}.__new__() missing" in str(e):
            fields = ", ".join(f"{f}=..." for f in s._fields if f != "count")
            raise TypeError(f"{e}; to keep the other fields of the state write s._replace({fields})") from e
        if "None" not in str(e):
            raise
        if p is None and _is_cured(e, lambda: rule(*gs, s, jnp.zeros_like(gs[-1]), t, **hyper)):
            raise NoParameter(index) from e
        one = jnp.ones((), real_dtype(at_least_float32(gs[0].dtype)))
        if t is None and _is_cured(e, lambda: rule(*gs, s, p, one, **hyper)):
            step = list(inspect.signature(rule).parameters)[len(gs) + 2]
            why = f"the rule uses `{step}`, which is None, since its state has no field `count`: add one"
            raise TypeError(f"{e}; {why}") from e
        raise


def _is_cured(e: Exception, again: Callable[[], Any]) -> bool:
    """Whether a call with other arguments avoids the same error."""
    try:
        again()
    except Exception as other:
        return (type(other), str(other)) != (type(e), str(e))
    return True


@contextlib.contextmanager
def raised_by(index: int) -> Iterator[None]:
    """Marks an error with the place of its rule, for `culprit`."""
    try:
        yield
    except (ValueError, TypeError) as e:
        vars(e)["rule_index"] = index
        raise


def culprit(e: Exception) -> int | None:
    """The place of the rule that raised an error; None if unknown."""
    return vars(e).get("rule_index")


def named(f: Callable[..., Any], placed: int) -> list[inspect.Parameter]:
    """The arguments that a function takes by name, after `placed` others that it takes by position."""
    parameters = list(inspect.signature(f).parameters.values())
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return by_place[placed:] + [p for p in parameters if p.kind is p.KEYWORD_ONLY]


class ReadsUpdates(Exception):
    """A rule brings its updates to a meeting, which needs those of all leaves; `index` is its place."""

    def __init__(self, index: int):
        self.index = index


def returned(State: Any, result: Any, g: Array, slots: Mapping[str, Any]) -> tuple[Array, Any]:
    """The update from a rule, as an array like `g`, and its state, with fields that fit the `slots`.

    Raises:
      ValueError: the update or a field has another shape.
      TypeError: the result is not an update and a state, or the old dtype cannot hold a new field.
    """
    state_name = f"{State.__name__}({', '.join(State._fields)})"
    how = f"return u, s._replace({', '.join(f'{f}=...' for f in slots)})" if slots else "return u, s"
    if not (isinstance(result, tuple | list) and len(result) == 2) or isinstance(result, State):
        got = shown(result)
        raise TypeError(f"the rule returned {got} alone, expected two things, the update and {state_name}: {how}")
    update, state = as_update(result[0], g), result[1]
    nothing = not State._fields and (state is None or isinstance(state, tuple) and not state)
    if getattr(state, "_fields", None) != State._fields and not nothing:
        raise TypeError(f"the rule returned {shown(state)} as its state, expected {state_name}: {how}")
    for field, old in slots.items():
        new = getattr(state, field)
        news, olds = jax.tree.leaves(new), jax.tree.leaves(old)
        if len(news) != len(olds):
            raise TypeError(f"the rule returned {shown(new)} for state.{field}, expected {shown(old)}")
        for x, like in zip(news, olds, strict=True):
            _array(f"for state.{field}", x, like)
    return update, state


def as_update(x: Any, g: Array) -> Array:
    """An update from a rule in the dtype of `g`; raises if its shape differs or that dtype cannot hold it."""
    _array("as the update", x, g)
    return jnp.asarray(x).astype(g.dtype)


def _array(where: str, x: Any, like: Array) -> None:
    """Raises unless `x`, an array or a number, has the shape of `like` and fits its dtype."""
    if getattr(x, "dtype", None) == like.dtype and jnp.shape(x) == like.shape:
        return
    got = f"the rule returned {shown(x)} {where}, expected {shown(like)}"
    if not hasattr(x, "dtype") and not isinstance(x, bool | int | float | complex):
        raise TypeError(got)
    if jnp.shape(x) != like.shape:
        raise ValueError(got)
    if not _fits(x, like.dtype):
        exact = not jnp.issubdtype(like.dtype, jnp.inexact)
        raise TypeError(f"{got}{'; integers, booleans and keys are not cast' if exact else ''}")


def _fits(x: Any, wanted: Any) -> bool:
    """Whether the dtype `wanted` can hold `x`: real numbers are rounded, anything else must keep its value."""
    dtype = x.dtype if hasattr(x, "dtype") else jax.dtypes.canonicalize_dtype(type(x))
    if is_key(x) or jnp.issubdtype(wanted, jax.dtypes.extended):
        return dtype == wanted
    if jnp.issubdtype(wanted, jnp.inexact):
        real = not jnp.issubdtype(dtype, jnp.complexfloating) or jnp.issubdtype(wanted, jnp.complexfloating)
        return real and (jnp.issubdtype(dtype, jnp.number) or dtype == np.bool)
    of_any_width = getattr(x, "weak_type", isinstance(x, int)) and dtype != np.bool  # from Python integers
    if of_any_width and all(jnp.issubdtype(d, jnp.integer) for d in (dtype, wanted)):
        return True
    return dtype == wanted or np.can_cast(jax.dtypes.canonicalize_dtype(dtype), wanted)


def shown(x: Any) -> str:
    """The dtype and shape of an array, or of each entry of a tuple, list or dict."""
    if hasattr(x, "dtype"):
        return f"{x.dtype} {jnp.shape(x)}"
    if isinstance(x, tuple | list | dict):
        items = x.values() if isinstance(x, dict) else x
        return f"{type(x).__name__}({', '.join(map(shown, items))})"
    return repr(x)


class Special(NamedTuple):
    """Arguments of a rule that are no hyperparameters, see `leafwise`."""

    static: Mapping[str, Callable[..., list[Any]]] = MappingProxyType({})
    extra: Sequence[str] = ()
    settings: Sequence[str] = ()  # of the starts of slots, or of a rule of the whole tree


class Arguments(NamedTuple):
    """What a rule takes beside the gradient, the state, the parameter and the step."""

    of_factory: list[inspect.Parameter]
    settings: frozenset[str]  # those of them that are no hyperparameters
    unnamed: list[str]  # such as "**kwargs", behind which arguments of the rule may hide

    def call(self, factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """The call of the factory, checked.

        Raises:
          TypeError: the arguments do not fit the signature, or one is of a wrong kind.
          ValueError: one is outside its domain.
        """
        try:
            return base.checked_call(factory, args, kwargs)
        except TypeError as e:
            if not self.unnamed or takes(factory, *args, **kwargs):
                raise
            hidden = f"the rule takes {', '.join(self.unnamed)}: does a decorator hide its arguments"
            raise TypeError(f"{e}; {hidden}? Write @functools.wraps(rule) in it") from None

    def taken_apart(self, call: Call) -> tuple[dict[str, Any], dict[str, Any]]:
        """The hyperparameters in a call of the factory, checked, and the other arguments."""
        arguments = {p.name: call.arguments[p.name] for p in self.of_factory}
        for p in self.of_factory:
            if callable(arguments[p.name]) and not isinstance(arguments[p.name], type) and p.name not in self.settings:
                callers.schedule(base.label_of(call), p.name, arguments[p.name])
        hyper = {name: x for name, x in arguments.items() if name not in self.settings}
        return hyper, {name: x for name, x in arguments.items() if name in self.settings}


def arguments_of(maker: str, rule: Callable[..., Any], placed: int, special: Special) -> Arguments:
    """The arguments of a rule that come after `placed` others.

    Raises:
      TypeError: one of `special` names no argument of the factory.
    """
    arguments = named(rule, placed)
    for what, listed in special._asdict().items():
        if unknown := sorted({*listed} - {p.name for p in arguments}):
            raise TypeError(f"gdjax.{maker}: {what}: the rule has no argument {', '.join(unknown)}")
    of_factory = [p for p in arguments if p.name not in special.extra]
    signs = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    unnamed = [signs[p.kind] + p.name for p in inspect.signature(rule).parameters.values() if p.kind in signs]
    not_hyper = frozenset([*special.settings, *special.static])
    return Arguments(of_factory, not_hyper, unnamed)


def like_rule(factory: Callable[..., Any], rule: Callable[..., Any], parameters: list[inspect.Parameter]) -> Any:
    """The factory with these parameters and the rule's name and documentation, or those of the code behind it."""
    functools.update_wrapper(factory, rule)
    not_called(factory)
    code = code_of(rule)
    if not hasattr(rule, "__name__"):
        factory.__name__, factory.__qualname__ = code.__name__, code.__qualname__
        factory.__module__, factory.__doc__ = code.__module__, code.__doc__
    signature = inspect.Signature(parameters, return_annotation=GradientTransformation)
    factory = plain_types(factory, signature)
    shown = inspect.signature(factory).parameters.values()
    factory.__annotations__ = {p.name: p.annotation for p in shown if p.annotation is not p.empty}
    factory.__annotations__["return"] = GradientTransformation
    return factory


def hashable(rule: Callable[..., Any]) -> Callable[..., Any]:
    """The rule; one that has no hash, as an object of a dataclass, as a function that is equal to itself alone."""
    try:
        hash(rule)
    except TypeError:
        return functools.partial(rule)
    return rule
