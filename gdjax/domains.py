"""What a hyperparameter may be, by its name."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import checks

Domain = tuple[str, Callable[[float], bool]]  # in words, and whether a number is inside

_FINITE: Domain = "finite", math.isfinite
_RATE: Domain = "finite and at least 0 (gdjax.scale takes a negative factor)", lambda x: 0 <= x < math.inf
_SIZE: Domain = "finite and at least 0", lambda x: 0 <= x < math.inf
_POSITIVE: Domain = "finite and above 0", lambda x: 0 < x < math.inf
_BOUND: Domain = "at least 0", lambda x: x >= 0
_DECAY: Domain = "in [0, 1), and below 1 in float32 too", lambda x: 0 <= x and bool(np.float32(x) < 1)
_SHARE: Domain = "in [0, 1]", lambda x: 0 <= x <= 1

# The names of each domain: "name" in every transform of the library, "transform.name" in that one.
_NAMES: tuple[tuple[Domain, str], ...] = (
    (_RATE, "learning_rate adam_learning_rate"),
    (
        _DECAY,
        "b1 b2 b3 beta1 beta2 beta3 decay momentum adam_b1 adam_b2 muon.beta scale_by_muon.beta momo.beta signum.beta "
        "adadelta.rho scale_by_adadelta.rho",
    ),
    (
        _SIZE,
        "eps eps_root epsilon adam_eps_root weight_decay adam_weight_decay weight_decay_rate eta radius clipping "
        "l2_norm_clip noise_multiplier initial_accumulator_value initial_scale min_norm min_scale min_step_size "
        "trust_coefficient consistent_rms estim_lr_coef init_estim_sq_dist reps_rel s_init scaling "
        "adafactor.decay_rate scale_by_factored_rms.decay_rate reduce_on_plateau.atol",
    ),
    (_FINITE, "step_size gamma f_min lower_bound scale_factor global_scale"),
    (_POSITIVE, "estim_lr0"),
    (_BOUND, "max_norm max_delta threshold max_learning_rate max_step_size"),
    (_SHARE, "eta_minus scale_by_sm3.b2 reduce_on_plateau.rtol"),
    (("between 0 and 1", lambda x: 0 < x < 1), "reduce_on_plateau.factor"),
    (("finite and at least 1", lambda x: 1 <= x < math.inf), "eta_plus"),
    (("at least 1", lambda x: x >= 1), "update_interval update_proj_gap"),
)
_DOMAINS: Mapping[str, Domain] = {name: domain for domain, names in _NAMES for name in names.split()}
_DTYPES = "mu_dtype", "nu_dtype", "accumulator_dtype", "dtype_momentum", "param_dtype"


def check(label: str, arguments: Mapping[str, Any], optional: Mapping[str, Any]) -> None:
    """Checks the concrete numbers among `arguments`; `optional` holds the defaults (None is fine where it is one).

    Raises:
      TypeError: not a number, scalar array or schedule; not a dtype.
      ValueError: outside its domain, not a scalar, not a floating dtype.
    """
    for name, value in arguments.items():
        if value is None and name in optional and optional[name] is None:
            continue
        domain = _DOMAINS.get(f"{label.removeprefix('gdjax.')}.{name}", _DOMAINS.get(name))
        if domain is not None:
            _number(f"{label}: {name}", value, *domain)
        elif name in _DTYPES:
            _dtype(f"{label}: {name}", value)


def _number(where: str, value: Any, domain: str, inside: Callable[[float], bool]) -> None:
    if isinstance(value, jax.Array | np.ndarray):
        if np.shape(value) != ():
            raise ValueError(f"{where} must be a scalar, got shape {np.shape(value)}")
    elif isinstance(value, bool | np.bool) or not (isinstance(value, checks.NUMBER) or callable(value)):
        raise TypeError(f"{where} must be a number, a scalar array or a schedule, got {value!r}")
    elif isinstance(value, checks.NUMBER) and not inside(float(value)):
        raise ValueError(f"{where} must be {domain}, got {value!r}")


def _dtype(where: str, value: Any) -> None:
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        raise TypeError(f"{where} must be a dtype, got {value!r}") from None
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"{where} must be a floating dtype, got {dtype}")
