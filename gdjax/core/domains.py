"""Checks that an argument of a factory is what its annotation says, see `gdjax.core.types`."""

import inspect
import itertools
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.core import argument_kinds as kinds
from gdjax.core import callers, checks
from gdjax.core.number_domains import RATE, SIZE, SQUARES, AtLeast, Check, Domain, Fact, in_words
from gdjax.core.signatures import UNIONS, facts_of
from gdjax.core.types import PerLeaf


def number(domain: Domain, label: str, name: str, value: object) -> None:
    """Raises unless an argument is a number of the domain, a schedule, or a scalar array that is not `_known`."""
    where = f"{label}: {name}"
    if isinstance(value, PerLeaf):
        number(domain, label, name, value.number)
        known = isinstance(value.number, checks.NUMBER)
        for factor in value.constants() if known or domain in (RATE, SIZE) else ():
            scaled = factor * (float(value.number) if known else 1.0)
            number(domain, label, f"{name} times a factor of per_leaf", scaled)
        return
    if isinstance(value, jax.Array | np.ndarray):
        if np.shape(value) != ():
            raise ValueError(f"{where} must be a scalar, got shape {np.shape(value)}")
        if not (jnp.issubdtype(value.dtype, np.floating) or jnp.issubdtype(value.dtype, np.integer)):
            raise TypeError(f"{where} must be a real number, got {value.dtype}")
        if isinstance(value, jax.Array) and not _known(value):
            return
    elif isinstance(value, bool | np.bool | np.complexfloating | type) or not (
        isinstance(value, checks.NUMBER) or callable(value)
    ):
        params = name == "learning_rate" and isinstance(value, Mapping | list | tuple)  # as in torch.optim
        factors = isinstance(value, Mapping) and all(isinstance(x, checks.NUMBER) for x in value.values())
        rates, elsewhere = "for rates per leaf write per_leaf(rate, {pattern: factor})", "parameters go to init(params)"
        got = f"a {type(value).__name__}; {rates if factors else elsewhere}" if params else repr(value)
        raise TypeError(f"{where} must be a number, a scalar array or a schedule, got {got}")
    elif callable(value):
        callers.schedule(label, name, value)
        return
    if domain is SQUARES and float(value) == 1:
        corrected = "an optimizer that corrects it for its start at 0 then returns NaN"
        callers.warn(f"gdjax: {name} is 1: no gradient enters that average, which stays as it began; {corrected}")
    elif not domain.inside(float(value)):
        raise ValueError(f"{where} must be {in_words(domain, float(value))}, got {value!r}")


def _known(x: jax.Array) -> bool:
    """Whether an array has a value that can be read without a transfer: it is not traced, and lies on a CPU."""
    if isinstance(x, Tracer) or x.is_deleted() or not x.is_fully_addressable:
        return False
    return all(device.platform == "cpu" for device in x.devices())


def integer(label: str, name: str, value: object, least: int) -> None:
    """Like `checks.structural`, for an integer that may be traced or a schedule."""
    if isinstance(value, jax.Array):
        if value.shape != () or not jnp.issubdtype(value.dtype, np.integer):
            raise TypeError(f"{label}: {name} must be an integer scalar, got {value.dtype}{list(value.shape)}")
        if _known(value) and int(value) < least:
            raise ValueError(f"{label}: {name} must be at least {least}, got {value!r}")
    elif isinstance(value, type) or not callable(value):
        checks.structural(label, name, value, least)
    else:
        callers.schedule(label, name, value)


def is_no_number(signature: inspect.Signature, parameter: inspect.Parameter) -> bool:
    """Whether an argument of a factory is known to be a size, a mask, a dtype, a function or the like: no schedule."""
    declared = parameter.annotation in (int, int | None) or bool(_choices(parameter.annotation))
    kinds = [x for x in facts_of(signature, parameter.name) if isinstance(x, Check)]
    return (declared or bool(kinds)) and Check("key") not in kinds  # Optax injects seeds


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The values of an argument that is `Literal[...]`, or that or None; else ()."""
    members = get_args(annotation) if get_origin(annotation) in UNIONS else (annotation,)
    values = [get_args(x) if get_origin(x) is Literal else (None,) * (x is NoneType) for x in members]
    return tuple(itertools.chain(*values)) if all(values) else ()


def check(label: str, arguments: Mapping[str, Any], signature: inspect.Signature) -> None:
    """Checks the arguments that have a domain or choices, or are True or False by default; a traced number passes.

    None passes where it is the default, or one of the types.

    Raises:
      TypeError: an argument is of a wrong kind: no number, scalar array or schedule; no dtype; no function; ...
      ValueError: a number outside its domain, an array that is no scalar, a dtype that is not floating, no choice.
    """
    for name, value in arguments.items():
        p = signature.parameters[name]
        if value is None and (p.default is None or NoneType in get_args(p.annotation)):
            continue
        for fact in (facts := facts_of(signature, name)):
            fulfil(fact, label, name, value)
        if facts or not label.startswith("gdjax."):
            continue
        if choices := _choices(p.annotation):
            kinds.choice(choices, label, name, value)
        elif isinstance(p.default, bool):
            kinds.flag(label, name, value)


def fulfil(fact: Fact, label: str, name: str, value: Any) -> None:
    """Raises unless the value of an argument is what its annotation says."""
    if isinstance(fact, Domain):
        number(fact, label, name, value)
    elif isinstance(fact, AtLeast):
        (checks.structural if fact.static else integer)(label, name, value, fact.least)
    else:
        getattr(kinds, fact.name)(label, name, value)
