"""What an argument of a factory may be, by its name; one of some values, by its type, `Literal[...]`.

A name means the same in every factory of this library, so what it may be stands here once, and not at each of them;
where a paper gives a letter another meaning, "factory.name" says so. This is a table, no guess: a test asks for every
argument. Of rules written elsewhere nothing is looked up: they tell their `domains` themselves.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax.core import argument_kinds as kinds
from gdjax.core import callers, calls, checks
from gdjax.core.number_domains import NUMBERS, RATE, SIZE, SQUARES, Domain, asked
from gdjax.core.per_leaf import PerLeaf
from gdjax.core.signatures import UNIONS

Check = Callable[[str, str, Any], object]  # of the label, the argument's name and its value


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
        calls.schedule(label, name, value)
        return
    if domain is SQUARES and float(value) == 1:
        corrected = "an optimizer that corrects it for its start at 0 then returns NaN"
        callers.warn(f"gdjax: {name} is 1: no gradient enters that average, which stays as it began; {corrected}")
    elif not domain[1](float(value)):
        raise ValueError(f"{where} must be {asked(domain, float(value))}, got {value!r}")


def _known(x: jax.Array) -> bool:
    """Whether an array has a value that can be read without a transfer: it is not traced, and lies on a CPU."""
    if isinstance(x, Tracer) or x.is_deleted() or not x.is_fully_addressable:
        return False
    return all(device.platform == "cpu" for device in x.devices())


def _integer(least: int, label: str, name: str, value: object) -> None:
    """Like `checks.structural`, for an integer that may be traced or a schedule."""
    if isinstance(value, jax.Array):
        if value.shape != () or not jnp.issubdtype(value.dtype, np.integer):
            raise TypeError(f"{label}: {name} must be an integer scalar, got {value.dtype}{list(value.shape)}")
        if _known(value) and int(value) < least:
            raise ValueError(f"{label}: {name} must be at least {least}, got {value!r}")
    elif isinstance(value, type) or not callable(value):
        checks.structural(label, name, value, least)
    else:
        calls.schedule(label, name, value)


def _share(label: str, name: str, value: object) -> None:
    """A share that shapes the program."""
    if isinstance(value, bool) or not isinstance(value, checks.NUMBER):
        raise TypeError(f"{label}: {name} shapes the program and must be a number, got {value!r}")
    if not 0 < value <= 1:
        raise ValueError(f"{label}: {name} must be in (0, 1], got {value!r}")


def _schedule_or_none(label: str, name: str, value: object) -> None:
    """As Optax does it lets None in, for an optimizer of which only the state is wanted."""
    if value is None:
        callers.warn(f"{label}: {name} is None: update will raise an error")
    else:
        kinds.function(label, name, value)


_KINDS: tuple[tuple[Check, str], ...] = (
    *((functools.partial(number, domain), names) for domain, names in NUMBERS.items()),
    (functools.partial(_integer, -(2**31)), "periodic_update.steps"),
    (functools.partial(_integer, 0),
     "swa.start tail_ema.start schedule_free_plus.c_warmup patience cooldown max_consecutive_errors"),
    (functools.partial(_integer, 1),
     "params_ema.every swa.every update_interval update_proj_gap accumulation_size every_k_schedule apply_every.k "
     "growth_interval periodic_update.update_period ns_steps precondition_frequency start_preconditioning_step "
     "transformer_optimizer.steps transformer_optimizer.warmup_steps max_backtracking_steps max_linesearch_steps"),
    (_share, "dion.rank_fraction scale_by_dion.rank_fraction dion2.fraction scale_by_dion2.fraction"),
    (kinds.dtype_or_codec, "mu_dtype nu_dtype accumulator_dtype dtype_momentum"),
    (kinds.dtype, "params_ema.dtype swa.dtype tail_ema.dtype MultiSteps.accumulator_dtype param_dtype state_dtype "
     "ns_dtype"),
    (kinds.function, "f measure should_transform_fn should_skip_update_fn clip_value_fn decay_rate_fn"),
    (_schedule_or_none, "step_size_fn"),
    (kinds.mapping, "partition.transforms monitor.measures"),
    (kinds.groups, "clip_by_global_norm.groups"),
    (kinds.string, "measure_name"),
    (kinds.axes, "adaptive_grad_clip.axis centralize.output_axis"),
    (functools.partial(checks.structural, low=0), "max_size_triangular min_dim_size_to_factor"),
    (
        functools.partial(checks.structural, low=1),
        "block_size max_precond_dim rank n_heads n_kv_heads zclip.warmup_steps max_tries cg_steps",
    ),
    (functools.partial(checks.structural, low=4), "rolling_interval_length"),
    (kinds.key, "key seed random_seed"),
    (kinds.bounds, "bounds"),
    (kinds.mask, "mask freeze_mask weight_decay_mask trust_ratio_mask"),
    (kinds.dimensions, "muon_weight_dimension_numbers weight_dimension_numbers"),
    (kinds.roles, "roles"),
    (kinds.layer_axes, "layer_axes"),
)  # fmt: skip
_CHECKS: Mapping[str, Check] = {name: check for check, names in _KINDS for name in names.split()}


# Integers that decide which program there is.
_SIZES = frozenset(
    "max_consecutive_errors max_size_triangular memory_size min_dim_size_to_factor num_betas rank sync_period wait "
    "n_heads n_kv_heads "
    "print_win_rate_every_n_steps soap_muon.ns_steps scale_by_soap_muon.ns_steps transformer_optimizer.steps "
    "rolling_interval_length zclip.warmup_steps".split()
)


def is_no_number(factory: str, parameter: inspect.Parameter) -> bool:
    """Whether an argument of a factory is known to be a size, a mask, a dtype, a function or the like: no schedule."""
    if not _SIZES.isdisjoint((parameter.name, f"{factory}.{parameter.name}")) or _choices(parameter.annotation):
        return True
    known = _of(factory, parameter.name)
    numeric = isinstance(known, functools.partial) and known.func in (number, _integer)
    return not numeric and known not in (None, kinds.key)  # Optax injects seeds


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The values of an argument that is `Literal[...]`, or that or None; else ()."""
    members = get_args(annotation) if get_origin(annotation) in UNIONS else (annotation,)
    values = [get_args(x) if get_origin(x) is Literal else (None,) * (x is NoneType) for x in members]
    return tuple(itertools.chain(*values)) if all(values) else ()


def _of(factory: str, name: str) -> Check | None:
    return _CHECKS.get(f"{factory}.{name}", _CHECKS.get(name))


_UNKNOWN = inspect.Parameter("unknown", inspect.Parameter.KEYWORD_ONLY)


def check(label: str, arguments: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    """Checks the arguments that have a known name or choices, or are True or False by default; a traced number passes.

    None passes where it is the default, or one of the types.

    Raises:
      TypeError: an argument is of a wrong kind: no number, scalar array or schedule; no dtype; no function; ...
      ValueError: a number outside its domain, an array that is no scalar, a dtype that is not floating, no choice.
    """
    for name, value in arguments.items():
        p = parameters.get(name, _UNKNOWN)
        if value is None and (p.default is None or NoneType in get_args(p.annotation)):
            continue
        if by_name := _of(label.removeprefix("gdjax."), name):
            by_name(label, name, value)
        elif choices := _choices(p.annotation):
            kinds.choice(choices, label, name, value)
        elif isinstance(p.default, bool):
            kinds.flag(label, name, value)
