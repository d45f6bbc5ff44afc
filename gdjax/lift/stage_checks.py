"""Errors about stages: the arguments of one, and what it returns."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gdjax.lift import rule_checks


def takes_lists(label: str, f: Callable[..., Any], placed: int) -> None:
    """Raises unless a stage takes `placed` arguments by their places."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return
    by_place = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(by_place) < placed and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        needed = ", ".join("us gs s ps t".split()[-placed:])
        given = f"it gets ({needed}), and then by name the hyperparameters that it has"
        raise TypeError(f"{label} takes ({', '.join(by_place)}): {given}")


def returned(label: str, result: Any) -> dict[str, Any]:
    """The dict that a stage returned; raises if it is none."""
    try:
        return dict(result)
    except (TypeError, ValueError):
        got = rule_checks.shown(result)
        raise TypeError(f"{label}: reduce returned {got}, not a dict from name to value") from None


def accepted(label: str, rule: Callable[..., Any], placed: int, found: Mapping[str, Any], known: Any) -> None:
    """Raises unless the rule has an argument for all that its stages `found`; `known` are those it gets otherwise."""
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(rule).parameters.values()):
        return
    names = [p.name for p in rule_checks.named(rule, placed)]
    if unknown := [name for name in found if name not in names]:
        takes = ", ".join(repr(name) for name in names if name not in known) or "nothing"
        told = f"reduce returned {', '.join(map(repr, unknown))}, no field of the state and no argument of the rule"
        raise TypeError(f"{label}: {told}, which takes {takes} from reduce")
