"""The declared cases, one or more for every factory of transforms that gdjax exports: the contract tests run them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import gdjax


class Case(NamedTuple):
    """A transform, and what the contract tests may ask of it."""

    name: str  # "adam" or "adam/nesterov": what precedes the slash is the factory in gdjax
    factory: Callable[..., Any]
    hyper: Mapping[str, Any] = {}  # its numbers
    fixed: Mapping[str, Any] = {}
    quiet: Mapping[str, Any] = {}  # changes of hyper after which a zero gradient gives a zero update
    needs_params: bool = False
    complex: bool = True
    random: bool = False
    scheduled: bool = True  # every number of hyper takes a schedule
    slow: bool = False  # near another case: only in the slow sweeps

    def make(self, **changes: Any) -> Any:
        return self.factory(**{**self.fixed, **self.hyper, **changes})

    @property
    def covers(self) -> str:
        return self.name.split("/")[0]


def is_matrix(x: Any) -> bool:
    return len(getattr(x, "shape", ())) > 1


def matrices(tree: Any) -> Any:
    """A mask: True for what has two dimensions or more."""
    return jax.tree.map(is_matrix, tree)


def by_rank(tree: Any) -> Any:
    """Labels: "matrix" or "vector"."""
    return jax.tree.map(lambda x: "matrix" if is_matrix(x) else "vector", tree)


def halve(g: Any, p: Any) -> Any:
    return jax.tree.map(lambda x: x / 2, g)


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


@gdjax.leafwise(gdjax.TraceState)
def sign_of_sum(g: Any, s: Any, p: Any, t: Any, rate: Any = 0.1, decay: Any = 0.5) -> Any:
    """A rule that is not the library's own."""
    total = decay * s.trace + g
    return -rate * jnp.sign(total), gdjax.TraceState(trace=total)


@gdjax.transform
def halved_adam(learning_rate: Any) -> Any:
    """A factory that is not the library's own."""
    return gdjax.chain(gdjax.adam(learning_rate), gdjax.scale(0.5))


_ADAM = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "eps_root": 0.0}
_MOMENTS = {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "eps_root": 0.0}
_RMS = {"decay": 0.9, "eps": 1e-8, "initial_scale": 0.0}
_NO_DECAY = {"weight_decay": 0.0}

CASES = (
    Case("adagrad", gdjax.adagrad, {"learning_rate": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-7}),
    Case("adam", gdjax.adam, _ADAM),
    Case("adam/nesterov", gdjax.adam, _ADAM, {"nesterov": True}),
    Case("adam/mu_bfloat16", gdjax.adam, _ADAM, {"mu_dtype": "bfloat16"}, complex=False),
    Case("adamw", gdjax.adamw, {**_ADAM, "weight_decay": 1e-2}, quiet=_NO_DECAY, needs_params=True),
    Case("adamw/mask", gdjax.adamw, {"learning_rate": 0.1}, {"mask": matrices}, quiet=_NO_DECAY, needs_params=True),
    Case("lion", gdjax.lion, {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "weight_decay": 1e-3}, quiet=_NO_DECAY,
         needs_params=True),
    Case("noisy_sgd", gdjax.noisy_sgd, {"learning_rate": 0.1, "eta": 0.01, "gamma": 0.55}, {"key": 0},
         quiet={"eta": 0.0}, random=True),
    Case("perturbed_gradient_descent", gdjax.perturbed_gradient_descent,
         {"learning_rate": 0.1, "radius": 0.01, "threshold": 0.1}, {"wait": 1, "key": 0}, quiet={"radius": 0.0},
         random=True),
    Case("rmsprop", gdjax.rmsprop, {"learning_rate": 0.1, **_RMS}),
    Case("rmsprop/centered", gdjax.rmsprop, {"learning_rate": 0.1, "decay": 0.9, "momentum": 0.5},
         {"centered": True, "nesterov": True}),
    Case("sgd", gdjax.sgd, {"learning_rate": 0.1}),
    Case("sgd/momentum", gdjax.sgd, {"learning_rate": 0.1, "momentum": 0.9}),
    Case("sgd/nesterov", gdjax.sgd, {"learning_rate": 0.1, "momentum": 0.9},
         {"nesterov": True, "accumulator_dtype": "float32"}, complex=False),
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
    Case("scale_by_lion/smooth", gdjax.scale_by_lion, {"b1": 0.9, "b2": 0.99, "smooth_beta": 2.0}, {"mode": "smooth"}),
    Case("scale_by_lion/refined", gdjax.scale_by_lion, {"b1": 0.9, "b2": 0.99}, {"mode": "refined"}, complex=False),
    Case("scale_by_rms", gdjax.scale_by_rms, _RMS, slow=True),
    Case("scale_by_rms/bias_correction", gdjax.scale_by_rms, _RMS, {"bias_correction": True, "eps_in_sqrt": False}),
    Case("scale_by_rss", gdjax.scale_by_rss, {"initial_accumulator_value": 0.1, "eps": 1e-7}, slow=True),
    Case("scale_by_schedule", gdjax.scale_by_schedule, {"step_size_fn": gdjax.linear_schedule(0.1, 0.0, 10)},
         scheduled=False),
    Case("scale_by_stddev", gdjax.scale_by_stddev, _RMS, slow=True),
    Case("scale_by_stddev/bias_correction", gdjax.scale_by_stddev, {"decay": 0.9, "eps": 1.0},
         {"bias_correction": True}),
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
    Case("leafwise", sign_of_sum, {"rate": 0.1, "decay": 0.5}),
    Case("transform", halved_adam, {"learning_rate": 0.1}),
)  # fmt: skip

# A few that differ in kind: for what is asked of every case in the slow sweeps, and of these in `make test`.
SAMPLE = "adamw", "sgd/nesterov", "rmsprop/centered", "noisy_sgd", "chain", "partition", "inject_hyperparams", "lion"


def by_name(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def every(condition: Callable[[Case], bool] = lambda case: True, *, sampled: bool = False, **axis: Any) -> Any:
    """Parametrises a test over the cases, and over the values of one more argument.

    `make test` runs every case with the first value and those in `SAMPLE` with each; with `sampled` it runs only those.
    """
    ((argument, values),) = axis.items() or [("", [None])]

    def marks(case: Case, i: int) -> list[Any]:
        return [pytest.mark.slow] if case.slow or case.name not in SAMPLE and (sampled or i) else []

    if not argument:
        chosen = [pytest.param(case, id=case.name, marks=marks(case, 0)) for case in CASES if condition(case)]
        return pytest.mark.parametrize("case", chosen)
    return pytest.mark.parametrize(
        ("case", argument),
        [
            pytest.param(case, x, id=f"{case.name}-{x}", marks=marks(case, i))
            for case in CASES
            if condition(case)
            for i, x in enumerate(values)
        ],
    )
