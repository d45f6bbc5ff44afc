"""The transforms of the foundation: the classic methods, their parts, and what combines transforms."""

from typing import Any

import jax.numpy as jnp

import gdjax
from tests.declare import Case, Twin, by_rank, halve, matrices


def _chain(max_norm: Any, learning_rate: Any, weight_decay: Any) -> Any:
    return gdjax.chain(gdjax.clip_by_global_norm(max_norm), gdjax.adamw(learning_rate, weight_decay=weight_decay))


def _named_chain(decay: Any, learning_rate: Any) -> Any:
    return gdjax.named_chain(("momentum", gdjax.trace(decay)), ("rate", gdjax.scale_by_learning_rate(learning_rate)))


def _masked(learning_rate: Any) -> Any:
    return gdjax.masked(gdjax.adam(learning_rate), matrices)


def _partition(learning_rate: Any, momentum: Any) -> Any:
    groups = {"matrix": gdjax.adam(learning_rate), "vector": gdjax.sgd(learning_rate, momentum)}
    return gdjax.partition(groups, by_rank)


def _freeze(learning_rate: Any) -> Any:
    return gdjax.chain(gdjax.adam(learning_rate), gdjax.freeze(matrices))


def _selective(learning_rate: Any) -> Any:
    return gdjax.selective_transform(gdjax.adam(learning_rate), freeze_mask=matrices)


def _inject(learning_rate: Any, b1: Any) -> Any:
    return gdjax.inject_hyperparams(gdjax.adam)(learning_rate, b1)


def _escape(radius: Any, threshold: Any, learning_rate: Any) -> Any:
    return gdjax.escape_saddles(gdjax.sgd(learning_rate), radius, threshold, 1, 0)


def _groups(lib: Any) -> Any:
    return {"matrix": lib.adam(0.1), "vector": lib.sgd(0.1, 0.9)}


@gdjax.leafwise(gdjax.TraceState)
def sign_of_sum(g: Any, s: Any, p: Any, t: Any, rate: Any = 0.1, decay: Any = 0.5) -> Any:
    """A rule that is not the library's own."""
    total = decay * s.trace + g
    return -rate * jnp.sign(total), gdjax.TraceState(trace=total)


@gdjax.transform
def halved_adam(learning_rate: Any) -> Any:
    """A factory that is not the library's own."""
    return gdjax.chain(gdjax.adam(learning_rate), gdjax.scale(0.5))


_MATRIX = {"matrix": True, "vector": False, "scalar": False}
_ADAM = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "eps_root": 0.0}
_MOMENTS = {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "eps_root": 0.0}
_RMS = {"decay": 0.9, "eps": 1e-8, "initial_scale": 0.0}
_NO_DECAY = {"weight_decay": 0.0}

CASES = (
    Case("adagrad", gdjax.adagrad, {"learning_rate": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-7}),
    Case("adagrad/torch", gdjax.adagrad, {"learning_rate": 0.1, "eps": 1e-10}, {"like": "torch"}, slow=True),
    Case("adam", gdjax.adam, _ADAM),
    Case("adam/nesterov", gdjax.adam, _ADAM, {"nesterov": True}, slow=True),
    Case("adam/mu_bfloat16", gdjax.adam, _ADAM, {"mu_dtype": "bfloat16"}),
    Case("adamw", gdjax.adamw, {**_ADAM, "weight_decay": 1e-2}, quiet=_NO_DECAY, needs_params=True),
    Case("adamw/mask", gdjax.adamw, {"learning_rate": 0.1}, {"mask": matrices}, quiet=_NO_DECAY, needs_params=True,
         slow=True),
    Case("lion", gdjax.lion, {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "weight_decay": 1e-3}, quiet=_NO_DECAY,
         needs_params=True),
    Case("noisy_sgd", gdjax.noisy_sgd, {"learning_rate": 0.1, "eta": 0.01, "gamma": 0.55}, {"key": 0},
         quiet={"eta": 0.0}, random=True),
    Case("perturbed_gradient_descent", gdjax.perturbed_gradient_descent,
         {"learning_rate": 0.1, "radius": 0.01, "threshold": 0.1}, {"wait": 1, "key": 0}, quiet={"radius": 0.0},
         random=True),
    Case("psgld", gdjax.psgld, {"learning_rate": 0.1, "data_size": 10.0, "decay": 0.9, "eps": 1e-5, "temperature": 1.0},
         {"key": 0}, quiet={"temperature": 0.0}, random=True),
    Case("rmsprop", gdjax.rmsprop, {"learning_rate": 0.1, **_RMS}),
    Case("rmsprop/centered", gdjax.rmsprop, {"learning_rate": 0.1, "decay": 0.9, "momentum": 0.5},
         {"centered": True, "nesterov": True}),
    Case("sgd", gdjax.sgd, {"learning_rate": 0.1}),
    Case("sgd/momentum", gdjax.sgd, {"learning_rate": 0.1, "momentum": 0.9}, slow=True),
    Case("sgd/nesterov", gdjax.sgd, {"learning_rate": 0.1, "momentum": 0.9},
         {"nesterov": True, "accumulator_dtype": "float32"}),
    Case("sghmc", gdjax.sghmc, {"learning_rate": 0.1, "data_size": 10.0, "momentum": 0.9, "temperature": 1.0},
         {"key": 0}, quiet={"temperature": 0.0}, random=True),
    Case("sgld", gdjax.sgld, {"learning_rate": 0.1, "data_size": 10.0, "temperature": 1.0}, {"key": 0},
         quiet={"temperature": 0.0}, random=True),
    # Parts.
    Case("add_decayed_weights", gdjax.add_decayed_weights, {"weight_decay": 1e-2}, quiet=_NO_DECAY, needs_params=True),
    Case("add_noise", gdjax.add_noise, {"eta": 0.01, "gamma": 0.55}, {"key": 0}, quiet={"eta": 0.0}, random=True,
         slow=True),
    Case("clip", gdjax.clip, {"max_delta": 0.5}),
    Case("clip_by_global_norm", gdjax.clip_by_global_norm, {"max_norm": 0.5}),
    Case("escape_saddles", _escape, {"radius": 0.01, "threshold": 0.1, "learning_rate": 0.1},
         quiet={"radius": 0.0}, random=True, slow=True),
    Case("identity", gdjax.identity),
    Case("scale", gdjax.scale, {"step_size": -0.1}),
    Case("scale_by_adam", gdjax.scale_by_adam, _MOMENTS, slow=True),
    Case("scale_by_learning_rate", gdjax.scale_by_learning_rate, {"learning_rate": 0.1}),
    Case("scale_by_lion", gdjax.scale_by_lion, {"b1": 0.9, "b2": 0.99}, slow=True),
    Case("scale_by_lion/smooth", gdjax.scale_by_lion, {"b1": 0.9, "b2": 0.99, "smooth_beta": 2.0},
         {"mode": "smooth"}, slow=True),
    Case("scale_by_lion/refined", gdjax.scale_by_lion, {"b1": 0.9, "b2": 0.99},
         {"mode": "refined"}, slow=True),
    Case("scale_by_rms", gdjax.scale_by_rms, _RMS, slow=True),
    Case("scale_by_rms/bias_correction", gdjax.scale_by_rms, _RMS,
         {"bias_correction": True, "eps_in_sqrt": False}, slow=True),
    Case("scale_by_rss", gdjax.scale_by_rss, {"initial_accumulator_value": 0.1, "eps": 1e-7}, slow=True),
    Case("scale_by_schedule", gdjax.scale_by_schedule, {"step_size_fn": gdjax.linear_schedule(0.1, 0.0, 10)},
         scheduled=False),
    Case("scale_by_stddev", gdjax.scale_by_stddev, _RMS, slow=True),
    Case("scale_by_stddev/bias_correction", gdjax.scale_by_stddev, {"decay": 0.9, "eps": 1.0},
         {"bias_correction": True}, slow=True),
    Case("set_to_zero", gdjax.set_to_zero),
    Case("stateless", gdjax.stateless, fixed={"f": halve}),
    Case("stateless_with_tree_map", gdjax.stateless_with_tree_map, fixed={"f": halve}),
    Case("trace", gdjax.trace, {"decay": 0.9}, {"nesterov": True}),
    # Combinations.
    Case("chain", _chain, {"max_norm": 0.5, "learning_rate": 0.1, "weight_decay": 1e-2}, quiet=_NO_DECAY,
         needs_params=True),
    Case("freeze", _freeze, {"learning_rate": 0.1}),
    Case("inject_hyperparams", _inject, {"learning_rate": 0.1, "b1": 0.9}),
    Case("masked", _masked, {"learning_rate": 0.1}),
    Case("multi_transform", _partition, {"learning_rate": 0.1, "momentum": 0.9}, slow=True),
    Case("named_chain", _named_chain, {"decay": 0.9, "learning_rate": 0.1}),
    Case("partition", _partition, {"learning_rate": 0.1, "momentum": 0.9}),
    Case("selective_transform", _selective, {"learning_rate": 0.1}),
    # Transforms that are not the library's.
    Case("inject_stateful_hyperparams", _inject, {"learning_rate": 0.1, "b1": 0.9}, slow=True),
    Case("leafwise", sign_of_sum, {"rate": 0.1, "decay": 0.5}),
    Case("transform", halved_adam, {"learning_rate": 0.1}),
)  # fmt: skip

TWINS = (
    Twin("adam", lambda lib: lib.adam(0.1)),
    Twin("adam/schedule", lambda lib: lib.adam(lib.cosine_decay_schedule(0.1, 100), b1=0.8, eps=1e-6), rtol64=1e-6),
    Twin("adam/nesterov", lambda lib: lib.adam(0.1, nesterov=True)),
    Twin("adamw", lambda lib: lib.adamw(0.1, weight_decay=0.01)),
    Twin("adamw/mask", lambda lib: lib.adamw(0.1, mask=matrices)),
    Twin("sgd", lambda lib: lib.sgd(0.1)),
    Twin("sgd/momentum", lambda lib: lib.sgd(0.1, momentum=0.9)),
    Twin(
        "sgd/nesterov",
        lambda lib: lib.sgd(lib.exponential_decay(0.1, 10, 0.5), momentum=0.9, nesterov=True),
        rtol64=1e-6,
    ),
    Twin("rmsprop", lambda lib: lib.rmsprop(0.1)),
    Twin("rmsprop/momentum", lambda lib: lib.rmsprop(0.1, momentum=0.9, centered=True)),
    Twin("adagrad", lambda lib: lib.adagrad(0.1)),
    Twin("lion", lambda lib: lib.lion(0.1)),
    Twin("chain", lambda lib: lib.chain(lib.clip_by_global_norm(1.0), lib.clip(0.5), lib.adamw(0.1))),
    Twin("named_chain", lambda lib: lib.named_chain(("clip", lib.clip(0.5)), ("sgd", lib.sgd(0.1, 0.9)))),
    Twin("masked", lambda lib: lib.masked(lib.adam(0.1), matrices)),
    Twin("trace", lambda lib: lib.chain(lib.add_decayed_weights(0.1), lib.trace(0.9), lib.scale(-0.1))),
    Twin(
        "inject_hyperparams",
        lambda lib: lib.inject_hyperparams(lib.adam)(learning_rate=lib.linear_schedule(0.1, 0.0, 10)),
        rtol64=1e-6,
    ),
    # Parts: each before a step of -0.1.
    *(
        Twin(name, lambda lib, make=make: lib.chain(make(lib), lib.scale(-0.1)), rtol64=1e-7)  # noise is float32
        for name, make in {
            "add_decayed_weights": lambda lib: lib.add_decayed_weights(0.1, matrices),
            "add_noise": lambda lib: lib.add_noise(0.01, 0.55, 0),
            "freeze": lambda lib: lib.transforms.freeze(matrices),
            "identity": lambda lib: lib.identity(),
            "scale": lambda lib: lib.scale(0.5),
            "scale_by_adam": lambda lib: lib.scale_by_adam(0.8, 0.95, 1e-6, 1e-6),
            "scale_by_lion": lambda lib: lib.scale_by_lion(0.8, 0.95),
            "scale_by_rms": lambda lib: lib.scale_by_rms(0.8, bias_correction=True),
            "scale_by_rss": lambda lib: lib.scale_by_rss(0.2, 1e-6),
            "scale_by_stddev": lambda lib: lib.scale_by_stddev(0.8, initial_scale=1.0),
            "set_to_zero": lambda lib: lib.set_to_zero(),
            "stateless": lambda lib: lib.stateless(halve),
            "stateless_with_tree_map": lambda lib: lib.stateless_with_tree_map(lambda g, p: g / 2 + p / 8),
        }.items()
    ),
    Twin("scale_by_schedule", lambda lib: lib.scale_by_schedule(lib.linear_schedule(-0.1, 0.0, 10)), rtol64=1e-6),
    Twin("selective_transform", lambda lib: lib.transforms.selective_transform(lib.adam(0.1), freeze_mask=_MATRIX)),
    *(
        Twin(name, lambda lib, name=name: getattr(lib, name)(_groups(lib), by_rank))
        for name in ("multi_transform", "partition")
    ),
)
