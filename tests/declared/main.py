"""The optimizers of Optax's main list beyond the classic ones, and their parts."""

from typing import Any

import gdjax
from tests.declare import Case, Twin, matrices

_MOMENTS = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-8}
_PART = {"b1": 0.9, "b2": 0.99, "eps": 1e-8}
_NO_DECAY = {"weight_decay": 0.0}
_TORCH = {"like": "torch"}
_FACTORED = {"min_dim_size_to_factor": 2}
_NO_SCALAR = (("matrix", (4, 3)), ("vector", (5,)))  # on which Optax fails


def _as_optax(lib: Any, **arguments: Any) -> dict[str, Any]:
    """Arguments that give Optax's numbers where its default is another method than the reference's."""
    return arguments if lib is gdjax else {}


def _lamb_mask(learning_rate: Any, eps: Any, weight_decay: Any) -> Any:
    return gdjax.lamb(learning_rate, eps=eps, weight_decay=weight_decay, mask=matrices)


CASES = (
    Case("adabelief", gdjax.adabelief, {**_MOMENTS, "eps_root": 1e-16}),
    Case("adabelief/nesterov", gdjax.adabelief, _MOMENTS, {"nesterov": True}, slow=True),
    Case("adadelta", gdjax.adadelta, {"learning_rate": 0.1, "rho": 0.9, "eps": 1e-6, "weight_decay": 1e-2},
         quiet=_NO_DECAY, needs_params=True),
    Case("adafactor", gdjax.adafactor,
         {"learning_rate": 0.1, "decay_rate": 0.8, "decay_offset": 0, "clipping_threshold": 1.0, "momentum": 0.9,
          "weight_decay_rate": 1e-2, "eps": 1e-30}, _FACTORED, quiet={"weight_decay_rate": 0.0}, needs_params=True),
    Case("adafactor/plain", gdjax.adafactor, {"clipping_threshold": 1.0}, {**_FACTORED, "factored": False},
         needs_params=True, slow=True),
    Case("adafactor/torch", gdjax.adafactor, {"learning_rate": 0.1, "eps": 1e-7, "weight_decay_rate": 1e-2}, _TORCH,
         quiet={"weight_decay_rate": 0.0}, needs_params=True),
    Case("adafactor/layers", gdjax.adafactor, {"learning_rate": 0.1, "eps": 1e-30}, {**_FACTORED, "layer_axes": 1},
         needs_params=True),
    Case("adamax", gdjax.adamax, _MOMENTS),
    Case("adamaxw", gdjax.adamaxw, {**_MOMENTS, "weight_decay": 1e-2}, {"mask": matrices}, quiet=_NO_DECAY,
         needs_params=True, slow=True),
    Case("adamc", gdjax.adamc, {**_MOMENTS, "eps_root": 0.0, "weight_decay": 1e-2, "peak_learning_rate": 0.2},
         quiet=_NO_DECAY, needs_params=True),
    Case("adan", gdjax.adan, {**_MOMENTS, "b3": 0.99, "eps_root": 1e-8, "weight_decay": 1e-2}, quiet=_NO_DECAY,
         needs_params=True),
    Case("adan/lookahead", gdjax.scale_by_adan, {"lookahead": 0.92}, slow=True),
    Case("amsgrad", gdjax.amsgrad, {**_MOMENTS, "eps_root": 0.0}),
    Case("amsgrad/torch", gdjax.amsgrad, {**_MOMENTS, "eps_root": 0.0}, _TORCH, slow=True),
    Case("came", gdjax.came,
         {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "b3": 0.999, "eps1": 1e-30, "eps2": 1e-16,
          "clip_threshold": 1.0, "weight_decay": 1e-2}, quiet=_NO_DECAY, needs_params=True),
    Case("fromage", gdjax.fromage, {"learning_rate": 0.1, "min_norm": 1e-6}, quiet={"learning_rate": 0.0},
         needs_params=True),
    Case("lamb", gdjax.lamb, {**_MOMENTS, "eps_root": 0.0, "weight_decay": 1e-2}, quiet=_NO_DECAY, needs_params=True),
    Case("lamb/mask", _lamb_mask, {"learning_rate": 0.1, "eps": 1e-6, "weight_decay": 1e-2}, quiet=_NO_DECAY,
         needs_params=True, slow=True),
    Case("lars", gdjax.lars,
         {"learning_rate": 0.1, "weight_decay": 1e-2, "trust_coefficient": 0.1, "eps": 1e-8, "momentum": 0.9},
         {"trust_ratio_mask": matrices}, quiet=_NO_DECAY, needs_params=True),
    Case("nadam", gdjax.nadam, {**_MOMENTS, "eps_root": 0.0}, slow=True),
    Case("nadam/torch", gdjax.nadam, {**_MOMENTS, "eps_root": 0.0, "momentum_decay": 0.5}, _TORCH),
    Case("nadamw", gdjax.nadamw, {**_MOMENTS, "weight_decay": 1e-2}, quiet=_NO_DECAY, needs_params=True),
    Case("novograd", gdjax.novograd, {**_MOMENTS, "eps_root": 0.0, "weight_decay": 1e-2}, quiet=_NO_DECAY,
         needs_params=True),
    Case("novograd/layers", gdjax.novograd, {**_MOMENTS, "weight_decay": 1e-2}, {"layer_axes": 1}, quiet=_NO_DECAY,
         needs_params=True, slow=True),
    Case("optimistic_adam", gdjax.optimistic_adam, {**_MOMENTS, "optimism": 0.05}),
    Case("optimistic_adam_v2", gdjax.optimistic_adam_v2, {**_MOMENTS, "alpha": 1.0, "beta": 0.5}, slow=True),
    Case("optimistic_gradient_descent", gdjax.optimistic_gradient_descent,
         {"learning_rate": 0.1, "alpha": 1.0, "beta": 0.5}),
    Case("radam", gdjax.radam, {**_MOMENTS, "eps_root": 0.0, "threshold": 5.0}),
    Case("radam/torch", gdjax.radam, {**_MOMENTS, "eps_root": 0.0, "threshold": 5.0}, _TORCH, slow=True),
    Case("radam/nesterov", gdjax.radam, {**_MOMENTS, "b2": 0.5}, {"nesterov": True}, slow=True),
    Case("rprop", gdjax.rprop,
         {"learning_rate": 0.1, "eta_minus": 0.5, "eta_plus": 2.0, "min_step_size": 1e-6, "max_step_size": 50.0},
         complex=False),
    Case("sign_sgd", gdjax.sign_sgd, {"learning_rate": 0.1}),
    Case("signum", gdjax.signum, {"learning_rate": 0.1, "beta": 0.9}),
    Case("sm3", gdjax.sm3, {"learning_rate": 0.1, "momentum": 0.9}),
    Case("yogi", gdjax.yogi, {**_MOMENTS, "eps": 1e-3}),
    # Parts.
    Case("normalize_by_update_norm", gdjax.normalize_by_update_norm, {"scale_factor": 2.0, "eps": 1e-6}),
    Case("scale_by_adadelta", gdjax.scale_by_adadelta, {"rho": 0.9, "eps": 1e-6}, slow=True),
    Case("scale_by_adamax", gdjax.scale_by_adamax, _PART, slow=True),
    Case("scale_by_adan", gdjax.scale_by_adan, {**_PART, "b3": 0.99, "eps_root": 0.0}, slow=True),
    Case("scale_by_amsgrad", gdjax.scale_by_amsgrad, _PART, {"bias_correction_mu": False, "bias_correction_nu": False},
         slow=True),
    Case("scale_by_belief", gdjax.scale_by_belief, _PART, slow=True),
    Case("scale_by_came", gdjax.scale_by_came, {"b1": 0.9, "b2": 0.99, "b3": 0.999, "clip_threshold": 1.0}, slow=True),
    Case("scale_by_distance_over_gradients", gdjax.scale_by_distance_over_gradients,
         {"reps_rel": 1e-2, "eps": 1e-8, "global_scale": 1.0}, needs_params=True),
    Case("scale_by_factored_rms", gdjax.scale_by_factored_rms, {"decay_rate": 0.8, "step_offset": 0, "epsilon": 1e-30},
         _FACTORED, slow=True),
    Case("scale_by_novograd", gdjax.scale_by_novograd, {**_PART, "weight_decay": 1e-2}, quiet=_NO_DECAY,
         needs_params=True, slow=True),
    Case("scale_by_optimistic_gradient", gdjax.scale_by_optimistic_gradient, {"alpha": 1.0, "beta": 0.5}, slow=True),
    Case("scale_by_param_block_norm", gdjax.scale_by_param_block_norm, {"min_scale": 1e-3}, needs_params=True),
    Case("scale_by_param_block_rms", gdjax.scale_by_param_block_rms, {"min_scale": 1e-3}, needs_params=True),
    Case("scale_by_radam", gdjax.scale_by_radam, _PART, slow=True),
    Case("scale_by_rprop", gdjax.scale_by_rprop, {"learning_rate": 0.1}, complex=False, slow=True),
    Case("scale_by_sign", gdjax.scale_by_sign),
    Case("scale_by_sm3", gdjax.scale_by_sm3, {"b1": 0.9, "b2": 0.9, "eps": 1e-8}, slow=True),
    Case("scale_by_trust_ratio", gdjax.scale_by_trust_ratio, {"min_norm": 0.0, "trust_coefficient": 0.1, "eps": 1e-8},
         needs_params=True),
    Case("scale_by_yogi", gdjax.scale_by_yogi, {**_PART, "initial_accumulator_value": 1e-6}, slow=True),
)  # fmt: skip

TWINS = (
    Twin("adabelief", lambda lib: lib.adabelief(0.1)),
    Twin("adabelief/nesterov", lambda lib: lib.adabelief(0.1, eps=1e-8, eps_root=1e-8, nesterov=True)),
    Twin("adadelta", lambda lib: lib.adadelta(1.0)),
    Twin("adadelta/decay", lambda lib: lib.adadelta(0.5, 0.95, weight_decay=0.1, weight_decay_mask=matrices)),
    Twin("adafactor", lambda lib: lib.adafactor(0.1, min_dim_size_to_factor=2)),
    Twin("adafactor/options",
         lambda lib: lib.adafactor(lib.exponential_decay(0.1, 10, 0.5), 2, 0.7, 0, False, 0.5, 0.9, "float32", 0.01,
                                   1e-3, weight_decay_mask=matrices),
         shapes=(("cube", (3, 2, 4)), ("matrix", (4, 3)), ("vector", (5,)), ("scalar", ())), rtol64=1e-6),
    Twin("adafactor/whole", lambda lib: lib.adafactor(factored=False, clipping_threshold=None, momentum=0.5)),
    Twin("adamax", lambda lib: lib.adamax(0.1)),
    Twin("adamaxw", lambda lib: lib.adamaxw(0.1, mask=matrices)),
    Twin("adan", lambda lib: lib.adan(0.1, **_as_optax(lib, lookahead=1 - 0.92))),
    Twin("adan/decay",
         lambda lib: lib.adan(0.1, weight_decay=0.1, mask=matrices, **_as_optax(lib, lookahead=1 - 0.92))),
    # Optax takes 1 - b2^t as a difference, wrong by 6e-8 / 0.001 at the first step, which the maximum remembers.
    Twin("amsgrad", lambda lib: lib.amsgrad(0.1)),
    Twin("amsgrad/reference",
         lambda lib: lib.amsgrad(0.1, b2=0.9, bias_correction_mu=False, bias_correction_nu=False)),
    Twin("fromage", lambda lib: lib.fromage(0.1)),
    Twin("fromage/schedule", lambda lib: lib.fromage(lib.exponential_decay(0.1, 10, 0.5)), rtol64=1e-6),
    Twin("lamb", lambda lib: lib.lamb(0.1)),
    Twin("lamb/decay", lambda lib: lib.lamb(0.1, weight_decay=0.1, mask=matrices)),
    Twin("lars", lambda lib: lib.lars(0.1, trust_coefficient=0.1)),
    Twin("lars/masks", lambda lib: lib.lars(0.1, 0.1, matrices, 0.1, 1e-3, matrices, nesterov=True)),
    Twin("nadam", lambda lib: lib.nadam(0.1)),
    Twin("nadamw", lambda lib: lib.nadamw(0.1, mask=matrices)),
    # The size of the noise is computed in float32 in both.
    Twin("noisy_sgd", lambda lib: lib.noisy_sgd(0.1, key=0), rtol64=1e-6),
    Twin("normalize_by_update_norm", lambda lib: lib.chain(lib.normalize_by_update_norm(2.0), lib.scale(-0.1))),
    Twin("novograd", lambda lib: lib.novograd(0.1)),
    Twin("novograd/decay", lambda lib: lib.novograd(0.1, 0.95, 0.98, weight_decay=0.01)),
    Twin("optimistic_adam_v2", lambda lib: lib.optimistic_adam_v2(0.1, alpha=0.8, beta=0.5)),
    Twin("optimistic_gradient_descent", lambda lib: lib.optimistic_gradient_descent(0.1)),
    # Optax's rho_t, 5 at the sixth step, is the difference of two numbers near 2000, each rounded by 1e-4.
    Twin("radam", lambda lib: lib.radam(0.1)),
    Twin("radam/nesterov", lambda lib: lib.radam(0.1, b2=0.9, threshold=4.5, nesterov=True)),
    Twin("rprop", lambda lib: lib.rprop(0.1, **_as_optax(lib, delayed=True))),
    Twin("sign_sgd", lambda lib: lib.sign_sgd(0.1)),
    Twin("signum", lambda lib: lib.signum(0.1)),
    Twin("sm3", lambda lib: lib.sm3(0.1), shapes=_NO_SCALAR),
    # Optax starts mu at 1e-6 too: 9e-6 in the first mu_hat, which ten steps of 0.01 add up to 3e-7, and to 8e-6 where
    # there is no gradient.
    Twin("yogi", lambda lib: lib.yogi(0.01), rtol64=1e-5),
    Twin("scale_by_adadelta", lambda lib: lib.chain(lib.scale_by_adadelta(), lib.scale(-1.0))),
    Twin("scale_by_adamax", lambda lib: lib.chain(lib.scale_by_adamax(), lib.scale(-0.1))),
    Twin("scale_by_adan",
         lambda lib: lib.chain(lib.scale_by_adan(**_as_optax(lib, lookahead=1 - 0.92)), lib.scale(-0.1))),
    Twin("scale_by_amsgrad", lambda lib: lib.chain(lib.scale_by_amsgrad(), lib.scale(-0.1))),
    Twin("scale_by_belief", lambda lib: lib.chain(lib.scale_by_belief(), lib.scale(-0.1))),
    Twin("scale_by_distance_over_gradients",
         lambda lib: lib.chain(lib.scale_by_distance_over_gradients(1e-2), lib.scale(-0.1)), shapes=_NO_SCALAR),
    Twin("scale_by_factored_rms",
         lambda lib: lib.chain(lib.scale_by_factored_rms(min_dim_size_to_factor=3), lib.scale(-0.1))),
    Twin("scale_by_novograd", lambda lib: lib.chain(lib.scale_by_novograd(), lib.scale(-0.1))),
    Twin("scale_by_optimistic_gradient",
         lambda lib: lib.chain(lib.scale_by_optimistic_gradient(1.0, 0.5), lib.scale(-0.1))),
    Twin("scale_by_param_block_norm", lambda lib: lib.chain(lib.scale_by_param_block_norm(), lib.scale(-0.1))),
    Twin("scale_by_param_block_rms", lambda lib: lib.chain(lib.scale_by_param_block_rms(), lib.scale(-0.1))),
    Twin("scale_by_radam", lambda lib: lib.chain(lib.scale_by_radam(), lib.scale(-0.1))),
    Twin("scale_by_rprop",
         lambda lib: lib.chain(lib.scale_by_rprop(0.1, **_as_optax(lib, delayed=True)), lib.scale(-1.0))),
    Twin("scale_by_sign", lambda lib: lib.chain(lib.scale_by_sign(), lib.scale(-0.1))),
    Twin("scale_by_sm3", lambda lib: lib.chain(lib.scale_by_sm3(0.5, 0.9, 1e-6), lib.scale(-0.1)),
         shapes=_NO_SCALAR),
    Twin("scale_by_trust_ratio", lambda lib: lib.chain(lib.scale_by_trust_ratio(1e-3, 0.5, 0.1), lib.scale(-0.1))),
    Twin("scale_by_yogi",
         lambda lib: lib.chain(lib.scale_by_yogi(initial_accumulator_value=0.0), lib.scale(-0.1))),
)  # fmt: skip
