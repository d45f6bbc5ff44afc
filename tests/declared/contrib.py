"""The parameter-free and other newer methods: those of `optax.contrib`, Polyak's step size, and some Optax has not."""

from typing import Any

import numpy as np

import gdjax
from tests.declare import Case, Twin, matrices, supplied


def _value(value: Any, grads: Any, params: Any) -> dict[str, Any]:
    return {"value": value}


def _polyak_sgd(**hyper: Any) -> Any:
    return supplied(gdjax.polyak_sgd(**hyper), value=0.5)


def _scale_by_polyak(**hyper: Any) -> Any:
    return supplied(gdjax.scale_by_polyak(**hyper), value=0.5)


def _momo(**hyper: Any) -> Any:
    return supplied(gdjax.momo(**hyper), value=np.float64(0.5))


def _momo_adam(**hyper: Any) -> Any:
    return supplied(gdjax.momo_adam(**hyper), value=0.5)


def _plateau(**hyper: Any) -> Any:
    return supplied(gdjax.reduce_on_plateau(**hyper), value=0.5)


def _mechanize(learning_rate: Any, **hyper: Any) -> Any:
    return gdjax.mechanize(gdjax.sgd(learning_rate), **hyper)


def _dog(kind: str, size: Any, **hyper: Any) -> Any:
    return gdjax.dog(init_step=(kind, size), **hyper)


_NO_DECAY = {"weight_decay": 0.0}
_AMIX = {"b1": 0.9, "b2": 0.99, "b3": 0.999, "alpha": 5.0, "eps": 1e-8, "eps_root": 0.0}
_SIMPLE = {"b1": 0.9, "b2": 0.99, "alpha": 5.0, "eps": 1e-8, "eps_root": 0.0}
_POLYAK = {"f_min": 0.0, "max_learning_rate": 1.0, "eps": 0.0}
_PRODIGY = {"learning_rate": 1.0, "beta3": 0.9, "eps": 1e-8, "estim_lr0": 1e-3, "estim_lr_coef": 1.0}
_MOMO = {"learning_rate": 0.1, "lower_bound": 0.0, "weight_decay": 0.01}

CASES = (
    Case("acprop", gdjax.acprop, {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-16, "eps_root": 1e-16,
                                  "weight_decay": 0.01}, quiet=_NO_DECAY, needs_params=True),
    Case("adana", gdjax.adana, {"learning_rate": 0.1, "kappa": 0.75, "delta": 4.0, "eps": 1e-8, "weight_decay": 0.01},
         quiet=_NO_DECAY, needs_params=True),
    Case("scale_by_adana", gdjax.scale_by_adana, {"kappa": 0.75, "delta": 4.0, "eps": 1e-8}, {"mu_dtype": "bfloat16"},
         slow=True),
    Case("ademamix", gdjax.ademamix, {"learning_rate": 0.1, **_AMIX}, quiet=_NO_DECAY),
    Case("simplified_ademamix", gdjax.simplified_ademamix, {"learning_rate": 0.1, **_SIMPLE}, quiet=_NO_DECAY),
    Case("adopt", gdjax.adopt, {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-6}, {"nesterov": True}),
    Case("stable_adamw", gdjax.stable_adamw, {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-6,
                                              "weight_decay": 0.01, "clipping_threshold": 0.5}, quiet=_NO_DECAY,
         needs_params=True),
    Case("cocob", gdjax.cocob, {"learning_rate": 1.0, "alpha": 100.0, "eps": 1e-8}, needs_params=True),
    Case("madgrad", gdjax.madgrad, {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0, "eps": 1e-6},
         needs_params=True),
    Case("polyak_sgd", _polyak_sgd, {"scaling": 0.5, **_POLYAK}, {"variant": "sps+"}),
    Case("dog", gdjax.dog, {"learning_rate": 1.0, "eps": 1e-8}, needs_params=True),
    Case("dog/learning_rate", _dog, {"eps": 1e-8}, {"kind": "learning_rate", "size": 0.1}, needs_params=True,
         slow=True),
    Case("dowg", gdjax.dowg, {"learning_rate": 1.0, "init_estim_sq_dist": 1e-4, "eps": 1e-4}, needs_params=True),
    Case("prodigy", gdjax.prodigy, {**_PRODIGY, "weight_decay": 0.01}, needs_params=True, quiet=_NO_DECAY),
    Case("dadapt_adamw", gdjax.dadapt_adamw, {"learning_rate": 1.0, "eps": 1e-8, "estim_lr0": 1e-3,
                                              "weight_decay": 0.01}, needs_params=True, quiet=_NO_DECAY),
    Case("momo", _momo, {**_MOMO, "beta": 0.9}, {"adapt_lower_bound": True}, quiet=_NO_DECAY, needs_params=True),
    Case("momo_adam", _momo_adam, {**_MOMO, "b1": 0.9, "b2": 0.99, "eps": 1e-8}, quiet=_NO_DECAY, needs_params=True),
    Case("mechanize", _mechanize, {"learning_rate": 1.0, "weight_decay": 0.01, "eps": 1e-8, "s_init": 1e-3},
         needs_params=True),
    Case("reduce_on_plateau", _plateau, {"factor": 0.5, "rtol": 1e-4, "atol": 0.01, "min_scale": 0.01},
         {"patience": 1}, scheduled=False),
    # Parts.
    Case("scale_by_acprop", gdjax.scale_by_acprop, {"b1": 0.9, "b2": 0.99}, {"new_mean": True}, slow=True),
    Case("scale_by_ademamix", gdjax.scale_by_ademamix, _AMIX, {"mu_dtype": "bfloat16"}, slow=True),
    Case("scale_by_simplified_ademamix", gdjax.scale_by_simplified_ademamix, _SIMPLE, slow=True),
    Case("scale_by_adopt", gdjax.scale_by_adopt, {"b1": 0.9, "b2": 0.99, "eps": 1e-6}, {"use_clipping": False},
         slow=True),
    Case("scale_by_adam_atan2", gdjax.scale_by_adam_atan2, {"b1": 0.9, "b2": 0.99, "a": 1.27, "b": 1.0}, slow=True),
    Case("scale_by_stable_adamw", gdjax.scale_by_stable_adamw, {"b1": 0.9, "b2": 0.99, "eps": 1e-6}, slow=True),
    Case("scale_by_laprop", gdjax.scale_by_laprop, {"b1": 0.9, "b2": 0.99, "eps": 1e-15}, slow=True),
    Case("scale_by_cocob", gdjax.scale_by_cocob, {"alpha": 100.0, "eps": 1e-8}, needs_params=True, slow=True),
    Case("scale_by_madgrad", gdjax.scale_by_madgrad, {"learning_rate": 0.1, "momentum": 0.9, "eps": 1e-6},
         needs_params=True, slow=True),
    Case("scale_by_polyak", _scale_by_polyak, _POLYAK, slow=True),
    Case("scale_by_dog", gdjax.scale_by_dog, {"eps": 1e-8}, {"init_step": ("distance", 0.1)}, needs_params=True,
         slow=True),
    Case("scale_by_dowg", gdjax.scale_by_dowg, {"eps": 1e-4}, needs_params=True, slow=True),
)  # fmt: skip


def _slow_fall(lib: Any) -> Any:
    return lib.linear_schedule(0.0, 8.0, 40)


TWINS = (
    Twin("acprop", lambda lib: lib.contrib.acprop(0.01, weight_decay=0.01)),
    Twin("ademamix", lambda lib: lib.contrib.ademamix(0.1, weight_decay=0.01, mask=matrices)),
    Twin("ademamix/schedule", lambda lib: lib.contrib.ademamix(0.1, alpha=_slow_fall(lib)), rtol64=1e-6),
    Twin("scale_by_ademamix", lambda lib: lib.chain(lib.contrib.scale_by_ademamix(), lib.scale(-0.1))),
    Twin("simplified_ademamix", lambda lib: lib.contrib.simplified_ademamix(0.01, alpha=_slow_fall(lib)), rtol64=1e-6),
    Twin("adopt", lambda lib: lib.contrib.adopt(0.1)),
    Twin("adopt/nesterov", lambda lib: lib.contrib.adopt(0.1, b2=0.9, nesterov=True, use_clipping=False)),
    Twin("cocob", lambda lib: lib.contrib.cocob(weight_decay=0.01)),
    # Optax takes sqrt(t) in float32.
    Twin("madgrad", lambda lib: lib.contrib.madgrad(0.1, weight_decay=0.01), rtol64=1e-6),
    Twin("polyak_sgd", lambda lib: lib.polyak_sgd(0.5, f_min=-8.0), _value),
    Twin("polyak_sgd/sps+", lambda lib: lib.polyak_sgd(0.5, eps=0.1, variant="sps+"), _value),
    Twin("dog", lambda lib: lib.contrib.dog(weight_decay=0.01, mask=matrices)),
    Twin("dog/distance", lambda lib: lib.contrib.dog(0.5, ("distance", 0.1))),
    Twin("dog/learning_rate", lambda lib: lib.contrib.dog(1.0, ("learning_rate", 0.1))),
    Twin("dowg", lambda lib: lib.contrib.dowg()),
    Twin("dowg/estimate", lambda lib: lib.contrib.dowg(0.5, 0.1, weight_decay=0.01)),
    Twin("prodigy", lambda lib: lib.contrib.prodigy(weight_decay=0.01)),
    Twin("prodigy/warmup", lambda lib: lib.contrib.prodigy(lib.linear_schedule(0.1, 1.0, 20), (0.8, 0.99), 0.9,
                                                           estim_lr_coef=0.5, safeguard_warmup=True), rtol64=1e-6),
    Twin("dadapt_adamw", lambda lib: lib.contrib.dadapt_adamw(weight_decay=0.01)),
    Twin("momo", lambda lib: lib.contrib.momo(0.5, lower_bound=-8.0), _value),
    Twin("momo/adapt", lambda lib: lib.contrib.momo(0.5, lower_bound=-8.0, adapt_lower_bound=True), _value),
    Twin("momo_adam", lambda lib: lib.contrib.momo_adam(0.5, lower_bound=-8.0), _value),
    Twin("momo_adam/adapt", lambda lib: lib.contrib.momo_adam(0.5, lower_bound=-8.0, adapt_lower_bound=True), _value),
    Twin("mechanize", lambda lib: lib.contrib.mechanize(lib.sgd(1.0, 0.9), s_init=1e-3)),
    Twin("reduce_on_plateau", lambda lib: lib.chain(lib.adam(0.1), lib.contrib.reduce_on_plateau(
        0.5, patience=2, cooldown=3, accumulation_size=2, min_scale=0.2)), lambda value, g, p: {"value": value + 100}),
)  # fmt: skip
