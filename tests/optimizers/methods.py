"""The table of methods: of each the paper's rule and the settings in which the optimizer is to visit its points."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

import gdjax
from tests import oracles, vectors
from tests.declare import matrices
from tests.oracles import fall
from tests.papers import adam, descent, whole


class Method(NamedTuple):
    """An optimizer and its oracle, which take the same arguments."""

    make: Callable[..., Any]
    oracle: Callable[..., Any]
    settings: Mapping[str, dict[str, Any]]
    float32: Any = None  # rtol and atol, or one number for both, where those of `check` are too strict
    float64: Any = None
    loose: Mapping[str, float] = {}  # in float32, for some of the settings
    optax: str | None = None  # compared with Optax too, in all settings but this
    near: float = 2e-6  # atol of that
    check: Callable[..., None] = oracles.assert_follows
    numbers: Mapping[str, Any] = {"learning_rate": 0.01}  # of all settings

    def arguments(self, setting: str) -> dict[str, Any]:
        return {**self.numbers, **self.settings[setting]}

    def tolerance(self, setting: str, dtype: str) -> dict[str, float]:
        digits = self.float64 if dtype == "float64" else self.loose.get(setting, self.float32)
        both = digits if isinstance(digits, tuple) else (digits, digits)
        return {} if digits is None else dict(zip(("rtol", "atol"), both, strict=True))


def rate(x: Any) -> dict[str, Any]:
    return {"learning_rate": x}


partly = partial(oracles.assert_follows, some=True)  # a state has fields that the oracle has not
FALL = rate(fall)
BOTH_FALL = {**FALL, "weight_decay": fall}


# --- schedules for single methods, of numbers that every dtype holds exactly, where no dtype is said ---


def half(count: Any) -> Any:
    return jnp.where(count < 20, 0.5, 0.125)


def double(count: Any) -> Any:
    return jnp.where(count < 20, 2.0, 4.0)


def slower(count: Any) -> Any:
    return jnp.where(count < 20, 0.75, 0.875)


def relative(count: Any) -> Any:
    return jnp.minimum(0.01, jnp.float32(count + 1) ** -0.5)


def annealed(count: Any) -> Any:
    """The way of the authors of ScheduleFree+ from 0.9 to 0.965; for an oracle in doubles."""
    if isinstance(count, int):
        return 1 - max(0.1 * 0.35 ** (count / 20), 0.035)
    return 1 - gdjax.exponential_decay(0.1, 20, 0.35, end_value=0.035)(count)


def above(**numbers: Any) -> Any:
    """ScheduleFree+ on the function of the oracles, lifted: the method takes 0 for its least value."""
    tx = gdjax.schedule_free_plus(**numbers)

    def update(g: Any, state: Any, params: Any = None, *, value: Any) -> Any:
        return tx.update(g, state, params, value=value + 8.0)

    return gdjax.GradientTransformation(tx.init, update)


def whole_tree(make: Any, oracle: Any, settings: Any, float32: Any = None, float64: Any = None, **more: Any) -> Method:
    """A method with numbers for the whole tree."""
    return Method(make, oracle, settings, float32, float64, **{"check": vectors.assert_follows, "numbers": {}, **more})


# Where a setting has a schedule, the decays of `adafactor` and `came` are computed in float32 in both dtypes.
FACTORED = {"float32": 4e-6, "float64": (2e-6, 2e-7), "check": partly, "numbers": {}}
AMSGRAD = {"b2": 0.75, "bias_correction_nu": False}
NADAM = {
    "default": {},
    "schedule": {**FALL, "b1": 0.75},
    "options": {"b1": 0.5, "b2": 0.75, "eps": 0.25, "eps_root": 0.125, "momentum_decay": 0.5},
    "no momentum": {"b1": 0.0},
    "half": {"momentum_decay": 0.0},
}
ADAGRADS = {"default": {}, "others": {**FALL, "initial_accumulator_value": 0.5, "eps": 0.25}}
ADAPTED = {"learning_rate": 0.5, "lower_bound": -20.0, "weight_decay": 0.125, "adapt_lower_bound": True}
PRODIGIES = {"betas": (0.8, 0.9), "eps": 0.125, "estim_lr0": 0.01, "weight_decay": 0.25, "bias_correction": False}
PAPERS_AMSGRAD = {"bias_correction_mu": False, "bias_correction_nu": False, "eps": 0.0}

# By the public name, with a slash where it has several; `make mutants` finds the method of a module by it.
METHODS: dict[str, Method] = {
    # A step is divided by a root down to 1e-1, which magnifies the rounding of the mean.
    "acprop": Method(gdjax.acprop, adam.acprop, {
        "default": {},
        "all": {"b1": 0.8, "b2": 0.9, "eps": 0.125, "eps_root": 0.0625, "weight_decay": 0.25, "new_mean": True},
        "schedule": {**FALL, "b2": 0.75, "eps_root": 0.25},
    }, 1e-5, 1e-13),
    "adabelief": Method(gdjax.adabelief, adam.adabelief, {
        "default": {},
        "schedule": FALL,
        "reference": {"eps": 1e-8, "eps_root": 1e-8},
        "options": {"b1": 0.75, "b2": 0.9, "eps": 0.25, "eps_root": 0.125},
        "nesterov": {"nesterov": True, "b1": 0.8},
        "decay": {"weight_decay": 0.25, "eps": 0.25},
    }),
    "adadelta": Method(gdjax.adadelta, descent.adadelta, {
        "default": {},
        "schedules": BOTH_FALL,
        "options": {"learning_rate": 0.5, "rho": 0.75, "eps": 1e-3, "weight_decay": 0.5},
        "mask": {"learning_rate": 2.0, "weight_decay": 0.5, "weight_decay_mask": matrices},
    }, numbers={}),
    "adafactor": Method(gdjax.adafactor, descent.adafactor, {
        "default": {},
        "factored": {"learning_rate": 0.0625, "min_dim_size_to_factor": 3},
        "relative steps": {"learning_rate": relative, "min_dim_size_to_factor": 1},
        "whole": {"learning_rate": 0.0625, "min_dim_size_to_factor": 3, "factored": False},
        "no clipping": {"learning_rate": 0.0625, "clipping_threshold": None, "multiply_by_parameter_scale": False},
        "momentum": {**FALL, "momentum": 0.5, "min_dim_size_to_factor": 2},
        "decay": {"weight_decay_rate": fall, "weight_decay_mask": matrices, "learning_rate": 0.0625},
        "options": {"decay_rate": 0.5, "decay_offset": 7, "eps": 0.25, "clipping_threshold": 0.5,
                    "learning_rate": 0.0625, "weight_decay_rate": 0.125, "min_dim_size_to_factor": 2},
        "scheduled decay": {"decay_rate": lambda count: 0.5 + count % 2 / 4, "decay_offset": lambda count: count // 8,
                            "learning_rate": 0.0625},
    }, **FACTORED),
    "adafactor/torch": Method(partial(gdjax.adafactor, like="torch"), descent.torchs_adafactor, {
        "default": {},
        "schedule": {**FALL, "weight_decay_rate": 0.5},
        "options": {"learning_rate": 0.5, "decay_rate": 0.5, "eps": 0.25, "clipping_threshold": 0.5},
        "no clipping": {"clipping_threshold": None, "learning_rate": None},
    }, **FACTORED),
    "adagrad": Method(gdjax.adagrad, descent.adagrad, {
        "default": {},
        "schedule": FALL,
        "options": {"initial_accumulator_value": 0.5, "eps": 0.25},
        "reference": {"initial_accumulator_value": 0.0, "eps": 0.0},
    }, optax="", numbers=rate(0.1)),
    "adagrad/paper": Method(partial(gdjax.adagrad, like="paper"), descent.adagrad_eps_outside, ADAGRADS,
                            numbers=rate(0.1)),
    "adagrad/torch": Method(partial(gdjax.adagrad, like="torch"), partial(descent.adagrad_eps_outside, eps=1e-10),
                            ADAGRADS, numbers=rate(0.1)),
    # Optax takes 1 - b2^t as a difference in float32: at the first step that is wrong by 6e-8 / 0.001, the direction by
    # half of it, and the rate of `fall`, 0.06, adds the error to parameters of order 1 a few times over.
    "adam": Method(gdjax.adam, adam.adam, {
        "default": {},
        "schedule": FALL,
        "b1, b2": {"b1": 0.75, "b2": 0.9},
        "b1 = b2 = 0": {"b1": 0.0, "b2": 0.0},
        "eps": {"eps": 0.25},
        "eps_root": {"eps": 0.0, "eps_root": 0.25},
        "eps = 0": {"eps": 0.0},
        "nesterov": {"nesterov": True, "b1": 0.8},
        "nesterov, eps": {"nesterov": True, "eps": 0.25, "eps_root": 0.125},
    }, optax="eps = 0", near=2e-5),
    "adamw": Method(gdjax.adamw, partial(adam.adam, weight_decay=1e-4), {
        "default": {},
        "weight_decay": {"weight_decay": 0.5},
        "schedules": BOTH_FALL,
        "mask": {"weight_decay": 0.5, "mask": matrices},
        "mask, schedule, nesterov": {"weight_decay": fall, "mask": matrices, "nesterov": True, "b2": 0.9},
    }, optax="", near=2e-5),
    "adam_atan2": Method(gdjax.adam_atan2, adam.adam_atan2, {
        "default": {},
        "all": {"b1": 0.75, "b2": 0.5, "a": 2.0, "b": 0.25, "weight_decay": 0.5, "mask": matrices},
        "schedules": BOTH_FALL,
    }),
    "adamax": Method(gdjax.adamax, adam.adamax, {
        "default": {},
        "schedule": FALL,
        "reference": {"eps": 0.0},
        "options": {"b1": 0.5, "b2": 0.75, "eps": 0.25},
    }),
    "adamaxw": Method(gdjax.adamaxw, partial(adam.adamax, weight_decay=1e-4), {
        "default": {},
        "decay": {"weight_decay": 0.5},
        "decay, mask": {"weight_decay": fall, "mask": matrices, "b1": 0.5},
    }),
    # A schedule is computed in float32 in both dtypes.
    "adamc": Method(gdjax.adamc, adam.adamc, {
        "default": {},
        "all": {"b1": 0.8, "b2": 0.9, "eps": 0.5, "weight_decay": 0.5},
        "mask": {"weight_decay": 0.5, "mask": matrices},
    }, (1e-5, 2e-6), (1e-6, 1e-7), numbers={**FALL, "peak_learning_rate": 0.25}),
    "adan": Method(gdjax.adan, adam.adan, {
        "default": {},
        "schedules": BOTH_FALL,
        "mask": {"weight_decay": 0.5, "mask": matrices},
        "options": {"b1": 0.75, "b2": 0.5, "b3": 0.875, "eps": 0.25, "eps_root": 0.125},
        "Optax": {"lookahead": 0.08},
    }),
    "adana": Method(gdjax.adana, adam.adana, {
        "default": {},
        "all": {"kappa": 0.5, "delta": 3.0, "eps": 0.125, "weight_decay": half, **FALL},
    }, 5e-6),
    # Directions are up to 50 times those of Adam, and so is the rounding.
    "ademamix": Method(gdjax.ademamix, adam.ademamix, {
        "default": {},
        "all": {"b1": 0.8, "b2": 0.9, "b3": 0.99, "alpha": 8.0, "eps": 0.125, "eps_root": 0.0625, "weight_decay": 0.25},
        "schedules": {**FALL, "b3": slower, "alpha": double},
    }, 2e-5, 1e-13),
    "simplified_ademamix": Method(gdjax.simplified_ademamix, adam.simplified, {
        "default": {},
        "all": {"b1": 0.8, "b2": 0.9, "alpha": 8.0, "eps": 0.125, "eps_root": 0.0625, "weight_decay": 0.25},
        "schedules": {**FALL, "alpha": double, "b1": 0.5},
    }, 2e-5, 1e-13, numbers=rate(0.001)),
    # An element whose first gradient is 0.05 is divided by that: 20 times the rounding, in directions of order 10.
    "adopt": Method(gdjax.adopt, adam.adopt, {
        "default": {},
        "all": {"b1": 0.8, "b2": 0.9, "eps": 0.5, "nesterov": True},
        "no clipping": {"use_clipping": False, "eps": 0.25},
        "schedule": FALL,
    }, 5e-5),
    # The oracle's 1 - b2^t is a difference, wrong by 1e-16 / 0.001 at the first step, which the maximum remembers.
    "amsgrad": Method(gdjax.amsgrad, adam.amsgrad, {
        "default": {},
        "schedule": FALL,
        "reference": {**PAPERS_AMSGRAD, "b2": 0.75},
        "options": {"b1": 0.5, "b2": 0.5, "eps": 0.25, "eps_root": 0.125},
        "mu only": AMSGRAD,
        "nu only": {"b2": 0.75, "bias_correction_mu": False},
        "torch": {"like": "torch"},
        "torch, options": {"b2": 0.75, "eps": 0.25, "eps_root": 0.125, **FALL, "like": "torch"},
        "torch, mu only": {**AMSGRAD, "like": "torch"},
        "torch, nu only": {"b2": 0.75, "bias_correction_mu": False, "like": "torch"},
    }, float64=(1e-13, 1e-14)),
    "amsgrad/paper": Method(partial(gdjax.amsgrad, like="paper"), partial(adam.amsgrad, **PAPERS_AMSGRAD),
                            {"default": {}}, float64=(1e-13, 1e-14)),
    "came": Method(gdjax.came, descent.came, {
        "default": {},
        "all": {"b1": 0.8, "b2": 0.9, "b3": 0.95, "eps1": 0.25, "eps2": 0.125, "clip_threshold": 0.5},
        "no clipping": {"clip_threshold": None},
        "decay": {"weight_decay": 0.125, "mask": matrices},
        "schedule": FALL,
    }, (2e-5, 1e-5), (2e-6, 1e-7), check=partly),
    # The sums G, of order 100 after 50 steps, carry 50 roundings.
    "cocob": Method(gdjax.cocob, descent.cocob, {
        "default": {},
        "all": {"alpha": 4.0, "eps": 0.5, "weight_decay": 0.25},
        "schedule": {**FALL, "alpha": 8.0},
    }, 1e-5, 1e-13, numbers=rate(1.0)),
    "dadapt_adamw": whole_tree(gdjax.dadapt_adamw, whole.dadapt_adamw, {
        "default": {},
        "all": PRODIGIES,
        "schedule": {**FALL, "estim_lr0": 0.01},
    }, 2e-5, 1e-10),
    # By default the first step is 3e-6 long, which float32 measures to 2 %.
    "dog": whole_tree(gdjax.dog, whole.dog, {
        "default": {},
        "distance": {"init_step": ("distance", 0.5), "eps": 2.0, "weight_decay": 0.25},
        "learning_rate": {"init_step": ("learning_rate", 0.125)},
        "schedule": {**FALL, "init_step": ("heuristic", 0.25)},
    }, loose={"default": 2e-4}),
    "dowg": whole_tree(gdjax.dowg, whole.dowg, {
        "default": {},
        "all": {"learning_rate": 0.5, "init_estim_sq_dist": 0.25, "eps": 0.5, "weight_decay": 0.25},
    }),
    "fromage": Method(gdjax.fromage, descent.fromage, {
        "default": {}, "schedule": FALL, "min_norm": {"min_norm": 2.0},
    }, numbers=rate(0.0625)),
    "lamb": Method(gdjax.lamb, adam.lamb, {
        "default": {},
        "schedules": BOTH_FALL,
        "mask": {"weight_decay": 0.5, "mask": matrices},
        "options": {"b1": 0.5, "b2": 0.75, "eps": 0.25, "eps_root": 0.125, "weight_decay": 0.25},
    }, numbers=rate(0.0625)),
    "laprop": Method(gdjax.laprop, adam.laprop, {
        "default": {},
        "all": {"b1": 0.75, "b2": 0.5, "eps": 0.25, "weight_decay": 0.5, "mask": matrices},
        "schedules": BOTH_FALL,
    }),
    "lars": Method(gdjax.lars, descent.lars, {
        "default": {},
        "schedules": {**BOTH_FALL, "trust_coefficient": 0.125},
        "decay": {"weight_decay": 0.5, "weight_decay_mask": matrices, "trust_coefficient": 0.125},
        "masks": {"trust_ratio_mask": matrices, "weight_decay_mask": False, "weight_decay": 9.0, "nesterov": True},
        "options": {"momentum": 0.5, "eps": 0.25, "trust_coefficient": 0.25, "weight_decay": 0.125},
    }, numbers=rate(0.0625)),
    "lion": Method(gdjax.lion, partial(descent.lion, weight_decay=1e-3), {
        "default": {},
        "schedule": FALL,
        "b1, b2": {"b1": 0.5, "b2": 0.75},
        "b1 = b2 = 0": {"b1": 0.0, "b2": 0.0},  # sign descent
        "weight_decay": {"weight_decay": 0.5},
        "mask, schedules": {**BOTH_FALL, "mask": matrices},
    }, optax=""),
    "madgrad": Method(gdjax.madgrad, descent.madgrad, {
        "default": {},
        "all": {"momentum": 0.5, "weight_decay": 0.25, "eps": 0.125},
        "schedule": FALL,
    }, 1e-5, 1e-13),
    # x - x_0, near 1e-6 at first, is divided by a scale near 1e-6: in float32 that has two digits.
    "mechanize": whole_tree(lambda rate, **k: gdjax.mechanize(gdjax.sgd(rate), **k), whole.mechanic, {
        "default": {},
        "all": {"weight_decay": 0.25, "eps": 1e-3, "s_init": 0.01, "num_betas": 3},
        "of the paper": {"bounded": False, "s_init": 0.01},
        "schedule": {"rate": fall, "s_init": 0.01},
    }, 1e-3, 1e-9, loose={"default": 5e-2}, numbers={"rate": 0.5}),
    "momo": whole_tree(gdjax.momo, whole.momo, {
        "default": {"lower_bound": -6.0},
        "all": {"learning_rate": 0.5, "beta": 0.75, "lower_bound": -6.0, "weight_decay": 0.25},
        "adapted": ADAPTED,
        "schedule": {"learning_rate": lambda count: 16 * fall(count), "lower_bound": -6.0},
    }),
    "momo_adam": whole_tree(gdjax.momo_adam, whole.momo_adam, {
        "default": {"learning_rate": 0.25, "lower_bound": -6.0, "eps": 1e-6},
        "all": {"learning_rate": 0.5, "b1": 0.75, "b2": 0.875, "eps": 0.5, "lower_bound": -6.0, "weight_decay": 0.25},
        "adapted": {**ADAPTED, "eps": 1e-6},
    }),
    "nadam/paper": Method(partial(gdjax.nadam, like="paper"), adam.nadam, NADAM, float64=(1e-13, 1e-14)),
    "nadam/torch": Method(partial(gdjax.nadam, like="torch"), adam.nadam, NADAM, float64=(1e-13, 1e-14)),
    "nadamw/torch": Method(partial(gdjax.nadamw, like="torch"), adam.nadam, {
        "schedule": {**FALL, "weight_decay": 0.125},
    }, float64=(1e-13, 1e-14)),
    "novograd": Method(gdjax.novograd, adam.novograd, {
        "default": {},
        "schedules": BOTH_FALL,
        "reference": {"b1": 0.95, "b2": 0.98, "weight_decay": 0.001},
        "options": {"b1": 0.5, "eps": 0.25, "eps_root": 0.125, "weight_decay": 0.25},
    }),
    "optimistic_adam": Method(gdjax.optimistic_adam, descent.optimistic_adam, {
        "default": {}, "optimism": {"optimism": 0.25}, "schedule": {"optimism": fall},
    }, numbers={**rate(0.0625), "b2": 0.99, "nesterov": False}),
    "optimistic_adam_v2": Method(gdjax.optimistic_adam_v2, partial(descent.optimistic, direction=descent.adams), {
        "default": {}, "options": {"alpha": 0.5, "beta": 0.25}, "schedule": FALL,
    }, numbers=rate(0.0625)),
    "optimistic_gradient_descent": Method(gdjax.optimistic_gradient_descent, descent.optimistic, {
        "default": {},
        "options": {"alpha": 0.5, "beta": 0.25},
        "schedules": {**FALL, "beta": fall},
        "beta = 0": {"beta": 0.0},
    }, numbers=rate(0.0625)),
    "polyak_sgd": whole_tree(gdjax.polyak_sgd, whole.polyak, {
        "default": {"f_min": -4.0, "max_learning_rate": 0.25},
        "all": {"f_min": -4.0, "max_learning_rate": 0.5, "scaling": 0.5, "eps": 0.25, "variant": "sps+"},
        "schedule": {"f_min": -6.0, "max_learning_rate": 0.5, "scaling": fall},
    }),
    # Estimates grow by quotients of sums, and with them their rounding. The numbers of the state go up to 1e6. By
    # default the first x - x_0, which the estimate is made from, are near 1e-6: float32 has them to 2 %.
    "prodigy": whole_tree(gdjax.prodigy, whole.prodigy, {
        "default": {},
        "all": {**PRODIGIES, "beta3": 0.75, "estim_lr_coef": 0.5, "safeguard_warmup": True},
        "schedule": {**FALL, "estim_lr0": 0.01},
    }, 1e-4, 1e-10, loose={"default": 5e-2}),
    # A rounding of rho, amplified by 1 / (rho - 4), and the double precision of the oracle's own powers.
    "radam": Method(gdjax.radam, adam.radam, {
        "default": {},
        "schedule": FALL,
        "options": {"b1": 0.75, "b2": 0.9, "eps": 0.25, "eps_root": 0.125, "threshold": 4.5},
        "never": {"b2": 0.5},
        "nesterov": {"b2": 0.99, "nesterov": True},
        "torch": {"b2": 0.99, "eps": 0.25, "eps_root": 0.125, "like": "torch"},
        "torch, nesterov": {"b1": 0.75, "b2": 0.99, "nesterov": True, **FALL, "like": "torch"},
    }, 4e-6, 1e-12),
    "rmsprop": Method(gdjax.rmsprop, descent.rmsprop, {
        "default": {},
        "decay, eps": {"decay": 0.75, "eps": 0.25},
        "schedule": FALL,
        "initial_scale": {"initial_scale": 0.5},
        "eps outside": {"eps_in_sqrt": False, "eps": 0.25},
        "bias_correction": {"bias_correction": True},
        "momentum": {"momentum": 0.9},
        "nesterov": {"momentum": 0.8, "nesterov": True, **FALL},
        "centered": {"centered": True},
        "centered, eps outside": {"centered": True, "eps_in_sqrt": False, "eps": 0.25},
        "all": {"decay": 0.75, "eps": 0.25, "initial_scale": 0.5, "eps_in_sqrt": False, "centered": True,
                "momentum": 0.5, "nesterov": True, "bias_correction": True},
    }, optax=""),
    "rprop": Method(gdjax.rprop, descent.rprop, {
        "default": {},
        "options": {"eta_minus": 0.75, "eta_plus": 1.5, "min_step_size": 0.01, "max_step_size": 0.25},
    }, numbers=rate(0.0625)),
    "schedule_free_plus": whole_tree(above, whole.schedule_free_plus, {
        "default": {},
        "weights": {"weight_decay": 0.5, "r": 2.0, "weight_lr_power": 1.0},
        "averaged": {"polyak_beta": 0.75, "c_warmup": 5},
        "schedules": {**FALL, "sf_b1": annealed},
    }),
    "sgd": Method(gdjax.sgd, descent.sgd, {
        "plain": {},
        "schedule": FALL,
        "momentum": {"momentum": 0.9},
        "momentum, schedule": {"momentum": 0.9, **FALL},
        "nesterov": {"momentum": 0.8, "nesterov": True},
    }, optax="", numbers=rate(0.05)),
    "sign_sgd": Method(gdjax.sign_sgd, descent.sign_sgd, {"default": {}, "schedule": FALL}, numbers=rate(0.0625)),
    "signum": Method(gdjax.signum, descent.signum, {
        "default": {}, "beta": {"beta": 0.5}, "schedule": FALL,
    }, numbers=rate(0.0625)),
    "sm3": Method(gdjax.sm3, descent.sm3, {
        "default": {}, "no momentum": {"momentum": 0.0}, "schedule": FALL,
    }, check=partly, numbers=rate(0.0625)),
    "stable_adamw": Method(gdjax.stable_adamw, adam.stable_adamw, {
        "default": {},
        "all": {"b1": 0.75, "b2": 0.5, "eps": 0.25, "weight_decay": 0.5, "mask": matrices, "clipping_threshold": 0.5},
        "schedules": BOTH_FALL,
        "no clipping": {"clipping_threshold": None},
    }),
    "yogi": Method(gdjax.yogi, adam.yogi, {
        "default": {},
        "schedule": FALL,
        "options": {"b1": 0.75, "b2": 0.9, "eps": 0.25},
    }),
}  # fmt: skip

# Without an eps, or with one that is 0 in 16 bits: where a gradient is 0, so is what it is divided by.
QUIET = {
    "adabelief": gdjax.adabelief(0.1, eps=0.0, eps_root=0.0),
    "adadelta": gdjax.adadelta(eps=0.0),
    "adafactor": gdjax.adafactor(0.1, 2, eps=0.0),
    "adafactor/eps": gdjax.adafactor(0.1, 2, eps=1e-30),
    "adamax": gdjax.adamax(0.1, eps=0.0),
    "adamax/eps": gdjax.adamax(0.1, eps=1e-8),
    "amsgrad": gdjax.amsgrad(0.1),
    "novograd": gdjax.novograd(0.1, eps=0.0),
    "scale_by_ademamix": gdjax.scale_by_ademamix(eps=0.0),
    "scale_by_simplified_ademamix": gdjax.scale_by_simplified_ademamix(eps=0.0),
    "scale_by_sm3": gdjax.scale_by_sm3(eps=0.0),
    "yogi": gdjax.yogi(0.1),
}
