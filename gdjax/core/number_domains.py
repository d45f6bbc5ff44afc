"""The numbers that each hyperparameter may be, by its name."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Domain = tuple[str, Callable[[float], bool]]  # in words, and whether a number is inside

FINITE: Domain = "finite", math.isfinite
RATE: Domain = "finite and at least 0 (gdjax.scale takes a negative factor)", lambda x: 0 <= x < math.inf
SIZE: Domain = "finite and at least 0", lambda x: 0 <= x < math.inf
POSITIVE: Domain = "finite and above 0", lambda x: 0 < x < math.inf
BOUND: Domain = "at least 0", lambda x: x >= 0
SHARE: Domain = "in [0, 1]", lambda x: 0 <= x <= 1

_INTERVAL = re.compile(r"\s*([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])\s*")


def interval(text: str) -> Domain:
    """The domain written as an interval, such as "[0, 1)": a bracket includes its end.

    Raises:
      ValueError: the text is no interval, or an empty one.
    """
    found = _INTERVAL.fullmatch(text)
    try:
        low, high = (float(x) for x in found.group(2, 3)) if found else (math.nan, math.nan)
    except ValueError:
        low = high = math.nan
    if found is None or not low < high:
        raise ValueError(f"{text!r} is no interval such as '[0, 1)', '(0, inf)' or '[-1, 1]'")
    with_low, with_high = found[1] == "[", found[4] == "]"

    def inside(x: float) -> bool:
        # What is below the end in float64 may be the end in float32, in which a step computes.
        y = float(np.float32(x)) if math.isfinite(x) else x
        return (low <= x if with_low else low < min(x, y)) and (x <= high if with_high else max(x, y) < high)

    return f"in {text.strip()}", inside


def asked(domain: Domain, x: float) -> str:
    """The domain in words, for a number outside it; of one that only rounding moves out of an interval it says so."""
    found = _INTERVAL.fullmatch(domain[0].removeprefix("in "))
    if found is None or not float(found[2]) < x < float(found[3]):
        return domain[0]
    side = f"below {found[3]}" if np.float32(x) >= float(found[3]) else f"above {found[2]}"
    return f"{domain[0]}, and {side} in float32 too"


DECAY: Domain = interval("[0, 1)")
SQUARES: Domain = interval("[0, 1)")  # 1 is let in with a warning, as some programs name it and Optax takes it


def declared(maker: str, intervals: Mapping[str, str], names: Sequence[str]) -> dict[str, Domain]:
    """The domains of arguments of a rule, written as intervals.

    Raises:
      TypeError: one is no text, or of no argument of the rule.
      ValueError: one is no interval.
    """
    found = {}
    for name, text in intervals.items():
        if name not in names:
            raise TypeError(f"gdjax.{maker}: domains: the rule has no argument {name!r}; it has {', '.join(names)}")
        if not isinstance(text, str):
            raise TypeError(f"gdjax.{maker}: the domain of {name} must be an interval such as '[0, 1)', got {text!r}")
        try:
            found[name] = interval(text)
        except ValueError as e:
            raise ValueError(f"gdjax.{maker}: the domain of {name}: {e}") from None
    return found


# The names of each domain: "name" in every transform of the library, "transform.name" in that one.
NUMBERS: Mapping[Domain, str] = {
    RATE: "learning_rate adam_learning_rate hyperball_learning_rate precond_lr",
    SQUARES: "b2",
    DECAY: (
        "radam.b2 scale_by_radam.b2 soap.b2 scale_by_soap.b2 soap_muon.b2 scale_by_soap_muon.b2 kl_soap.b2 "
        "scale_by_kl_soap.b2 schedule_free_adamw.b2 "
        "b1 b3 beta1 beta2 beta3 decay momentum adam_b1 adam_b2 muon.beta scale_by_muon.beta momo.beta signum.beta "
        "adadelta.rho scale_by_adadelta.rho beta_lip dion.mu scale_by_dion.mu ef_decay shampoo_beta grafting_b2 "
        "zclip.alpha soap_muon.beta scale_by_soap_muon.beta gpa.mu_x inner_momentum grokfast.alpha"
    ),
    SIZE: (
        "eps eps1 eps2 eps_root epsilon adam_eps grafting_eps adam_eps_root weight_decay adam_weight_decay "
        "weight_decay_rate eta radius embedding_radius head_radius other_radius clipping damping l2_norm_clip "
        "noise_multiplier initial_accumulator_value initial_scale min_norm min_scale min_step_size trust_coefficient "
        "consistent_rms estim_lr_coef init_estim_sq_dist reps_rel s_init scaling slow_step_size adafactor.decay_rate "
        "scale_by_factored_rms.decay_rate reduce_on_plateau.atol ademamix.alpha scale_by_ademamix.alpha "
        "simplified_ademamix.alpha scale_by_simplified_ademamix.alpha cautious.clamp lamb "
        "apollo.scale scale_by_apollo.scale temperature floor outward_scale inward_scale "
        "momentum_decay"
    ),
    FINITE: (
        "step_size decay_offset step_offset gamma f_min lower_bound scale_factor global_scale lookahead optimism "
        "weight_lr_power r galore.scale scale_by_galore.scale optimistic_gradient_descent.alpha "
        "optimistic_gradient_descent.beta scale_by_optimistic_gradient.alpha scale_by_optimistic_gradient.beta "
        "optimistic_adam_v2.alpha optimistic_adam_v2.beta"
    ),
    POSITIVE: (
        "peak_learning_rate init_factor precond_init_scale estim_lr0 init_step[1] smooth_beta cocob.alpha "
        "scale_by_cocob.alpha init_scale minimum_scale adam_atan2.a adam_atan2.b "
        "scale_by_adam_atan2.a scale_by_adam_atan2.b data_size sigma_factor z_thresh gauss_newton.damping "
        "gauss_newton.radius"
    ),
    BOUND: (
        "max_norm max_update_rms max_delta threshold max_learning_rate max_step_size clip_threshold clipping_threshold "
        "tol cg_tol slope_rtol curv_rtol approx_dec_rtol stepsize_precision "
        "scale_by_backtracking_linesearch.atol scale_by_backtracking_linesearch.rtol"
    ),
    SHARE: (
        # A momentum of 1 is a plain sum. A weighted mean with a weight of 1 never moves, and is silently no descent.
        "trace.decay sgd.momentum dpsgd.momentum lars.momentum rmsprop.momentum "
        "incremental_update.step_size eta_minus scale_by_sm3.b2 shampoo.b2 scale_by_shampoo.b2 scion.alpha "
        "scale_by_scion.alpha reduce_on_plateau.rtol preconditioner_update_probability"
    ),
    interval("(0, 1]"): "gpa.mu_y",
    ("at least 1", lambda x: x >= 1): "norm_growth",
    ("above 0", lambda x: x > 0): (
        "increase_factor scale_by_backtracking_linesearch.max_learning_rate scale_by_zoom_linesearch.max_learning_rate"
    ),
    ("between 0 and 1", lambda x: 0 < x < 1): "reduce_on_plateau.factor decrease_factor backoff_factor",
    ("finite and at least 1", lambda x: 1 <= x < math.inf): "eta_plus growth_factor shampoo.root scale_by_shampoo.root",
}
