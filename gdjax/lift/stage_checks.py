"""Errors about stages: the arguments of one, the parameters that it reads, and what it returns."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from gdjax.lift import rule_checks
from gdjax.lift.stages import PLACED
from gdjax.xla.facts import read_inputs


def takes_lists(label: str, f: Callable[..., Any]) -> None:
    """Raises unless a stage takes four arguments by their places."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return
    by_place = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(by_place) < PLACED and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        given = "it gets (gs, s, ps, t), and then by name the hyperparameters that it has"
        raise TypeError(f"{label} takes ({', '.join(by_place)}): {given}")


def with_params(f: Callable[[list[Any]], Any], ps: list[Any], gs: list[Any]) -> Any:
    """What a stage returns, as a function of parameters. It gets zeros like the gradients in the place of missing ones.

    Raises:
      NoParameter: what it returns depends on the parameters, and some are missing.
    """
    if all(p is not None for p in ps):
        return f(ps)
    known = [jax.eval_shape(jnp.zeros_like, g) if p is None else p for g, p in zip(gs, ps, strict=True)]
    traced, types = jax.make_jaxpr(f, return_shape=True)(known)
    if read_inputs(traced):
        raise rule_checks.NoParameter(0)
    return jax.tree.structure(types).unflatten(jaxpr_as_fun(traced)(*known))  # which are not read


def returned(label: str, result: Any) -> dict[str, Any]:
    """The dict that a stage returned; raises if it is none."""
    try:
        return dict(result)
    except (TypeError, ValueError):
        got = rule_checks.shown(result)
        raise TypeError(f"{label}: reduce returned {got}, not a dict from name to value") from None


def accepted(label: str, rule: Callable[..., Any], found: Mapping[str, Any], known: Any) -> None:
    """Raises unless the rule has an argument for all that its stages `found`; `known` are those it gets otherwise."""
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(rule).parameters.values()):
        return
    names = [p.name for p in rule_checks.named(rule, PLACED)]
    if unknown := [name for name in found if name not in names]:
        takes = ", ".join(repr(name) for name in names if name not in known) or "nothing"
        told = f"reduce returned {', '.join(map(repr, unknown))}, no field of the state and no argument of the rule"
        raise TypeError(f"{label}: {told}, which takes {takes} from reduce")
