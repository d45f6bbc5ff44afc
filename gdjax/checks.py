"""Errors: raised once, at construction or while tracing, naming the transform, the leaf and both sides.

Nothing here looks at a traced value or adds an operation to a compiled step.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NUMBER = int, float, np.number


def _at_least_zero(x: float) -> bool:
    return x >= 0 and math.isfinite(x)


def _below_one(x: float) -> bool:
    return 0 <= x and bool(np.float32(x) < 1)


_RATE = "finite and at least 0 (gdjax.scale takes a negative factor)", _at_least_zero
_SIZE = "finite and at least 0", _at_least_zero
_BOUND = "at least 0", lambda x: x >= 0
_DECAY = "in [0, 1), and below 1 in float32 too", _below_one
_FINITE = "finite", math.isfinite
_POSITIVE = "finite and above 0", lambda x: x > 0 and math.isfinite(x)

# What a hyperparameter of this name may be, in every transform of the library or, as "transform.name", in one.
DOMAINS: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "learning_rate": _RATE,
    "b1": _DECAY,
    "b2": _DECAY,
    "decay": _DECAY,
    "momentum": _DECAY,
    "eps": _SIZE,
    "eps_root": _SIZE,
    "weight_decay": _SIZE,
    "eta": _SIZE,
    "gamma": ("finite", math.isfinite),
    "radius": _SIZE,
    "max_norm": _BOUND,
    "max_delta": _BOUND,
    "threshold": _BOUND,
    "initial_accumulator_value": _SIZE,
    "initial_scale": _SIZE,
    "step_size": ("finite", math.isfinite),
    "b3": _DECAY,
    "momo.beta": _DECAY,
    "clipping": _SIZE,
    "l2_norm_clip": _SIZE,
    "noise_multiplier": _SIZE,
    "update_interval": ("at least 1", lambda x: x >= 1),
    "update_proj_gap": ("at least 1", lambda x: x >= 1),
    "muon.beta": _DECAY,
    "scale_by_muon.beta": _DECAY,
    "adam_b1": _DECAY,
    "adam_b2": _DECAY,
    "adam_eps_root": _SIZE,
    "adam_weight_decay": _SIZE,
    "adam_learning_rate": _RATE,
    "consistent_rms": _SIZE,
    "beta1": _DECAY,
    "beta2": _DECAY,
    "beta3": _DECAY,
    "estim_lr0": _POSITIVE,
    "estim_lr_coef": _SIZE,
    "init_estim_sq_dist": _SIZE,
    "s_init": _SIZE,
    "f_min": _FINITE,
    "lower_bound": _FINITE,
    "max_learning_rate": _BOUND,
    "scaling": _SIZE,
    "reduce_on_plateau.factor": ("between 0 and 1", lambda x: 0 < x < 1),
    "reduce_on_plateau.rtol": ("in [0, 1]", lambda x: 0 <= x <= 1),
    "reduce_on_plateau.atol": _SIZE,
    "min_scale": _SIZE,
    "adadelta.rho": _DECAY,
    "scale_by_adadelta.rho": _DECAY,
    "signum.beta": _DECAY,
    "scale_by_sm3.b2": ("in [0, 1]", lambda x: 0 <= x <= 1),
    "min_norm": _SIZE,
    "trust_coefficient": _SIZE,
    "scale_factor": ("finite", math.isfinite),
    "global_scale": ("finite", math.isfinite),
    "reps_rel": _SIZE,
    "eta_minus": ("in [0, 1]", lambda x: 0 <= x <= 1),
    "eta_plus": ("finite and at least 1", lambda x: 1 <= x < math.inf),
    "min_step_size": _SIZE,
    "max_step_size": _BOUND,
    "epsilon": _SIZE,
    "adafactor.decay_rate": _SIZE,
    "scale_by_factored_rms.decay_rate": _SIZE,
    "weight_decay_rate": _SIZE,
}
RESTORE = "restored from a checkpoint, give the restorer init(params) as its target"
DTYPES = "mu_dtype", "nu_dtype", "accumulator_dtype", "dtype_momentum", "param_dtype"


def hyperparameters(label: str, arguments: Mapping[str, Any], optional: Mapping[str, Any]) -> None:
    """Checks the concrete numbers among `arguments`; `optional` holds the defaults (None is fine where it is one).

    Raises:
      TypeError: not a number, scalar array or schedule; not a dtype.
      ValueError: outside its domain, not a scalar, not a floating dtype.
    """
    for name, value in arguments.items():
        if value is None and name in optional and optional[name] is None:
            continue
        domain = DOMAINS.get(f"{label.removeprefix('gdjax.')}.{name}", DOMAINS.get(name))
        if domain is not None:
            _number(f"{label}: {name}", value, *domain)
        elif name in DTYPES:
            _dtype(f"{label}: {name}", value)


def _number(where: str, value: Any, domain: str, inside: Callable[[float], bool]) -> None:
    if isinstance(value, jax.Array | np.ndarray):
        if np.shape(value) != ():
            raise ValueError(f"{where} must be a scalar, got shape {np.shape(value)}")
    elif isinstance(value, bool | np.bool) or not (isinstance(value, NUMBER) or callable(value)):
        raise TypeError(f"{where} must be a number, a scalar array or a schedule, got {value!r}")
    elif isinstance(value, NUMBER) and not inside(float(value)):
        raise ValueError(f"{where} must be {domain}, got {value!r}")


def _dtype(where: str, value: Any) -> None:
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        raise TypeError(f"{where} must be a dtype, got {value!r}") from None
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"{where} must be a floating dtype, got {dtype}")


def structural(label: str, name: str, value: Any, low: int) -> int:
    """A count that shapes the program, such as a number of steps: a Python integer of at least `low`."""
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{label}: {name} shapes the program and cannot be traced; with inject_hyperparams name it in static_args"
        )
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{label}: {name} must be an int, got {value!r}")
    if value < low:
        raise ValueError(f"{label}: {name} must be at least {low}, got {value}")
    return int(value)


def leaf(label: str, where: str, x: Any) -> None:
    """Raises unless `x` can be a parameter: an array (or its shape and dtype) of a supported kind, or a number."""
    if not hasattr(x, "dtype"):
        if isinstance(x, bool | int | float | complex):
            return
        raise TypeError(
            f"{label}: {where} is {_name(x)}, not an array: keep only the arrays of a model, "
            "for instance eqx.filter(model, eqx.is_inexact_array)"
        )
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):
        raise TypeError(f"{label}: {where} is a PRNG key ({x.dtype}), not a parameter: mask it")
    if not jnp.issubdtype(x.dtype, jnp.number) and x.dtype not in (np.bool, jax.dtypes.float0):
        raise TypeError(f"{label}: {where} has dtype {x.dtype}, which is not numeric")
    if x.dtype.itemsize == 1 and jnp.issubdtype(x.dtype, jnp.floating) or "int4" in str(x.dtype):
        raise TypeError(f"{label}: {where} has dtype {x.dtype}: keep the parameters in bfloat16 or wider")


def gradient(label: str, where: Callable[[], str], g: Any, p: Any) -> None:
    """Raises unless the gradient `g` has a differentiable dtype and fits its parameter `p` (None where not given)."""
    if not jnp.issubdtype(g.dtype, jnp.inexact):
        leaf(label, where(), g)
        raise TypeError(f"{label}: {where()}: gradient has dtype {g.dtype}; mask or freeze what is not differentiable")
    if p is None:
        return
    if g.shape != p.shape:
        raise ValueError(f"{label}: {where()}: gradient shape {g.shape} does not match parameter shape {p.shape}")
    if not jnp.issubdtype(p.dtype, jnp.inexact):
        raise TypeError(f"{label}: {where()} has dtype {p.dtype}, and takes no gradient: mask or freeze it")
    if jnp.issubdtype(g.dtype, jnp.complexfloating) and not jnp.issubdtype(p.dtype, jnp.complexfloating):
        raise TypeError(f"{label}: {where()}: complex gradient ({g.dtype}) for a real parameter ({p.dtype})")


def flatten_like(label: str, names: tuple[str, str], structure: Any, like: Any, tree: Any) -> list[Any]:
    """The leaves of `tree`, which must have `structure`, that of `like`; `names` are what to call `like` and `tree`.

    Raises:
      ValueError: the structures differ; the message lists the paths that only one of them has.
    """
    try:
        return structure.flatten_up_to(tree)
    except (ValueError, TypeError) as e:
        try:  # again with the masked nodes of both sides, which may be Optax's, as None
            return jax.tree.structure(_unmasked(like)).flatten_up_to(_unmasked(tree))
        except (ValueError, TypeError):
            pass
        ours, theirs = _paths(like), _paths(tree)
        lines = [f"{names[1]}{path} is missing" for path in ours if path not in theirs]
        lines += [f"{names[1]}{path} has no counterpart in the {names[0]}" for path in theirs if path not in ours]
        lines = lines or [f"{names[0]} {structure} and {names[1]} {jax.tree.structure(tree)} are of different types"]
        raise ValueError(f"{label}: {'; '.join(lines)}") from e


def _unmasked(tree: Any) -> Any:
    masked = lambda x: type(x).__name__ == "MaskedNode"  # noqa: E731
    return jax.tree.map(lambda x: None if masked(x) else x, tree, is_leaf=masked)


def state(label: str, got: Any, expected: type) -> None:
    """Raises unless `got` has the fields of the state class `expected`."""
    if getattr(got, "_fields", None) == getattr(expected, "_fields", None):
        return
    if got is None:
        raise ValueError(f"{label}: state is None; call init(params) first")
    fields = getattr(got, "_fields", None)
    shown = f"fields {fields}" if fields is not None else f"type {type(got).__name__}"
    wanted = getattr(expected, "_fields", ())
    hint = f"; {RESTORE}" if isinstance(got, dict | list) else ""
    raise ValueError(f"{label}: state has {shown}, expected {expected.__name__} with fields {wanted}{hint}")


def scalar(label: str, name: str, value: Any) -> Any:
    """`value` as a scalar array; what a schedule returned under the hyperparameter's `name`."""
    try:
        x = jnp.asarray(value)
    except TypeError:
        raise TypeError(f"{label}: the schedule of {name} returned {value!r}, not a number") from None
    if x.shape != ():
        raise ValueError(f"{label}: the schedule of {name} returned shape {x.shape}, expected a scalar")
    return x


def extra(label: str, name: str, value: Any) -> Any:
    """An extra argument of `update`, of any real type, as a scalar array."""
    if value is None or jnp.shape(value):
        got = "None" if value is None else f"shape {jnp.shape(value)}"
        raise ValueError(f"{label}: {name} must be a scalar, got {got}; call update(..., params, {name}=...)")
    return jnp.asarray(value)


def _paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _name(x: Any) -> str:
    return f"the function {x.__name__}" if hasattr(x, "__name__") else f"{x!r} ({type(x).__name__})"
