"""The arguments of a rule: those of its factory, and those that `update` gets."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from gdjax.core import base, calls, types
from gdjax.core.base import GradientTransformation
from gdjax.core.number_domains import declared
from gdjax.core.signatures import code_of, short_types
from gdjax.core.values import Call, not_called
from gdjax.lift import rule_checks
from gdjax.lift.rule_checks import named


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
            if not self.unnamed or rule_checks.takes(factory, *args, **kwargs):
                raise
            hidden = f"the rule takes {', '.join(self.unnamed)}: does a decorator hide its arguments"
            raise TypeError(f"{e}; {hidden}? Write @functools.wraps(rule) in it") from None

    def taken_apart(self, call: Call) -> tuple[dict[str, Any], dict[str, Any]]:
        """The hyperparameters in a call of the factory, checked, and the other arguments."""
        given = {p.name: call.arguments[p.name] for p in self.of_factory}
        for p in self.of_factory:
            if callable(given[p.name]) and not isinstance(given[p.name], type) and p.name not in self.settings:
                calls.schedule(base.label_of(call), p.name, given[p.name])
        hyper = {name: x for name, x in given.items() if name not in self.settings}
        return hyper, {name: x for name, x in given.items() if name in self.settings}


def arguments_of(
    maker: str, rule: Callable[..., Any], placed: int, special: Special, intervals: Mapping[str, str] | None
) -> Arguments:
    """The arguments of a rule that come after `placed` others. `intervals` are the domains of some of them.

    Raises:
      TypeError: one of `special` or `intervals` names no argument of the factory, or an interval is no text.
      ValueError: a text is no interval.
    """
    arguments = named(rule, placed)
    for what, listed in special._asdict().items():
        if unknown := sorted({*listed} - {p.name for p in arguments}):
            raise TypeError(f"gdjax.{maker}: {what}: the rule has no argument {', '.join(unknown)}")
    own = [p for p in arguments if p.name not in special.extra]
    signs = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    unnamed = [signs[p.kind] + p.name for p in inspect.signature(rule).parameters.values() if p.kind in signs]
    not_hyper = frozenset([*special.settings, *special.static])
    found = declared(maker, intervals or {}, [p.name for p in own])
    own = [p.replace(annotation=Annotated[p.annotation, found[p.name]]) if p.name in found else p for p in own]
    return Arguments(own, not_hyper, unnamed)


def like_rule(factory: Callable[..., Any], rule: Callable[..., Any], parameters: list[inspect.Parameter]) -> Any:
    """The factory with these parameters and the rule's name and documentation, or those of the code behind it."""
    functools.update_wrapper(factory, rule)
    not_called(factory)
    code = code_of(rule)
    if not hasattr(rule, "__name__"):
        factory.__name__, factory.__qualname__ = code.__name__, code.__qualname__
        factory.__module__, factory.__doc__ = code.__module__, code.__doc__
    own = inspect.Signature(parameters, return_annotation=GradientTransformation)
    factory = short_types(factory, own, **types.SHOWN)
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
