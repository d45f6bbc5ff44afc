"""The declared cases: one or more for every factory of transforms that gdjax exports. The contract tests run them all."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


class Case(NamedTuple):
    """A transform, and what the contract tests may ask of it. `hyper` are its numbers, which may be traced, scheduled."""

    name: str  # "adam" or "adam/nesterov": what precedes the slash is the factory in gdjax
    factory: Callable[..., Any]
    hyper: Mapping[str, Any] = {}
    fixed: Mapping[str, Any] = {}
    quiet: Mapping[str, Any] = {}  # changes of hyper after which a zero gradient gives a zero update
    needs_params: bool = False
    dtypes: Sequence[str] = ("float16", "bfloat16", "float32", "float64")
    complex: bool = True
    scheduled: bool = True  # every number of hyper takes a schedule
    smooth: bool = True  # the update is a differentiable function of the gradient
    plain: bool = True  # wraps no other transform: gdjax.inject_hyperparams can rebuild it

    def make(self, **changes: Any) -> Any:
        return self.factory(**{**self.fixed, **self.hyper, **changes})

    @property
    def covers(self) -> str:
        return self.name.split("/")[0]


def matrices(tree: Any) -> Any:
    """A mask: True for what has two dimensions or more."""
    return jax.tree.map(lambda x: len(jnp.shape(x)) > 1, tree)


def by_rank(tree: Any) -> Any:
    """Labels: "matrix" or "vector"."""
    return jax.tree.map(lambda x: "matrix" if len(jnp.shape(x)) > 1 else "vector", tree)


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
         needs_params=True, smooth=False),
    Case("noisy_sgd", gdjax.noisy_sgd, {"learning_rate": 0.1, "eta": 0.01, "gamma": 0.55}, {"key": 0},
         quiet={"eta": 0.0}),
    Case("perturbed_gradient_descent", gdjax.perturbed_gradient_descent,
         {"learning_rate": 0.1, "radius": 0.01, "threshold": 0.1}, {"wait": 1, "key": 0}, quiet={"radius": 0.0}),
    Case("rmsprop", gdjax.rmsprop, {"learning_rate": 0.1, **_RMS}),
    Case("rmsprop/centered", gdjax.rmsprop, {"learning_rate": 0.1, "decay": 0.9, "momentum": 0.5},
         {"centered": True, "nesterov": True, "bias_correction": True}),
    Case("sgd", gdjax.sgd, {"learning_rate": 0.1}),
    Case("sgd/momentum", gdjax.sgd, {"learning_rate": 0.1, "momentum": 0.9}),
    Case("sgd/nesterov", gdjax.sgd, {"learning_rate": 0.1, "momentum": 0.9},
         {"nesterov": True, "accumulator_dtype": "float32"}, complex=False),
    # Parts.
    Case("add_decayed_weights", gdjax.add_decayed_weights, {"weight_decay": 1e-2}, quiet=_NO_DECAY, needs_params=True),
    Case("add_noise", gdjax.add_noise, {"eta": 0.01, "gamma": 0.55}, {"key": 0}, quiet={"eta": 0.0}),
    Case("clip", gdjax.clip, {"max_delta": 0.5}),
    Case("clip_by_global_norm", gdjax.clip_by_global_norm, {"max_norm": 0.5}),
    Case("escape_saddles", _escape, {"radius": 0.01, "threshold": 0.1, "learning_rate": 0.1}, quiet={"radius": 0.0},
         plain=False),
    Case("identity", gdjax.identity),
    Case("scale", gdjax.scale, {"step_size": -0.1}),
    Case("scale_by_adam", gdjax.scale_by_adam, _MOMENTS),
    Case("scale_by_learning_rate", gdjax.scale_by_learning_rate, {"learning_rate": 0.1}),
    Case("scale_by_lion", gdjax.scale_by_lion, {"b1": 0.9, "b2": 0.99}, smooth=False),
    Case("scale_by_lion/smooth", gdjax.scale_by_lion, {"b1": 0.9, "b2": 0.99, "smooth_beta": 2.0}, {"mode": "smooth"}),
    Case("scale_by_lion/refined", gdjax.scale_by_lion, {"b1": 0.9, "b2": 0.99}, {"mode": "refined"}, complex=False),
    Case("scale_by_rms", gdjax.scale_by_rms, _RMS),
    Case("scale_by_rms/bias_correction", gdjax.scale_by_rms, _RMS, {"bias_correction": True, "eps_in_sqrt": False}),
    Case("scale_by_rss", gdjax.scale_by_rss, {"initial_accumulator_value": 0.1, "eps": 1e-7}),
    Case("scale_by_schedule", gdjax.scale_by_schedule, {"step_size_fn": gdjax.linear_schedule(0.1, 0.0, 10)},
         scheduled=False, plain=False),
    Case("scale_by_stddev", gdjax.scale_by_stddev, _RMS),
    Case("set_to_zero", gdjax.set_to_zero),
    Case("stateless", gdjax.stateless, fixed={"f": halve}, plain=False),
    Case("stateless_with_tree_map", gdjax.stateless_with_tree_map, fixed={"f": halve}, plain=False),
    Case("trace", gdjax.trace, {"decay": 0.9}, {"nesterov": True}),
    # Combinations.
    Case("chain", _chain, {"max_norm": 0.5, "learning_rate": 0.1, "weight_decay": 1e-2}, quiet=_NO_DECAY,
         needs_params=True),
    Case("freeze", _freeze, {"learning_rate": 0.1}),
    Case("inject_hyperparams", _inject, {"learning_rate": 0.1, "b1": 0.9}, plain=False),
    Case("masked", _masked, {"learning_rate": 0.1}),
    Case("multi_transform", _partition, {"learning_rate": 0.1, "momentum": 0.9}),
    Case("named_chain", _named_chain, {"decay": 0.9, "learning_rate": 0.1}),
    Case("partition", _partition, {"learning_rate": 0.1, "momentum": 0.9}),
    Case("selective_transform", _selective, {"learning_rate": 0.1}),
    # Transforms that are not the library's.
    Case("leafwise", sign_of_sum, {"rate": 0.1, "decay": 0.5}, smooth=False),
    Case("transform", halved_adam, {"learning_rate": 0.1}),
)  # fmt: skip

# A few that differ in kind: for what is asked of every case in the slow sweeps, and of these in `make test`.
SAMPLE = "adamw", "sgd/nesterov", "rmsprop/centered", "noisy_sgd", "chain", "partition", "inject_hyperparams", "lion"


def by_name(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def every(condition: Callable[[Case], bool] = lambda case: True, *, sampled: bool = False) -> Any:
    """Parametrises a test over the cases with the condition; `sampled` marks those out of `SAMPLE` slow."""
    chosen = [case for case in CASES if condition(case)]
    marks = [[pytest.mark.slow] if sampled and case.name not in SAMPLE else [] for case in chosen]
    params = [pytest.param(case, id=case.name, marks=m) for case, m in zip(chosen, marks, strict=True)]
    return pytest.mark.parametrize("case", params)


class Pair(NamedTuple):
    left: Any
    right: Any


SHAPES = {"dense": {"kernel": (3, 2), "bias": (2,)}, "layers": [(2,), (3, 2)], "pair": Pair((), (2,))}
is_shape = lambda x: type(x) is tuple and all(isinstance(n, int) for n in x)  # noqa: E731


def random_tree(seed: int, dtype: Any = "float32", shapes: Any = SHAPES, lead: tuple[int, ...] = ()) -> Any:
    """A tree of standard normal numbers; complex ones have both parts."""
    rng, dtype = np.random.default_rng(seed), jnp.dtype(dtype)

    def leaf(shape: tuple[int, ...]) -> Any:
        x = rng.standard_normal((*lead, *shape))
        if jnp.issubdtype(dtype, jnp.complexfloating):
            x = x + 1j * rng.standard_normal((*lead, *shape))
        return jnp.asarray(np.asarray(x).astype(dtype))

    return jax.tree.map(leaf, shapes, is_leaf=is_shape)


def signature(tree: Any) -> Any:
    """What must not change from step to step: structure, and shape, dtype and weak type of each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype, x.weak_type) for x in leaves]


def numbers(tree: Any) -> list[np.ndarray]:
    """The leaves as NumPy arrays, 16-bit ones in float64, keys as their data."""
    keys = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)]
    arrays = [np.asarray(x) for x in keys]
    return [x.astype(np.float64) if x.dtype.kind not in "biuc" else x for x in arrays]


def assert_close(got: Any, wanted: Any, rtol: float = 2e-6, atol: float = 2e-6) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for x, y in zip(numbers(got), numbers(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def assert_equal(got: Any, wanted: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for x, y in zip(numbers(got), numbers(wanted), strict=True):
        np.testing.assert_array_equal(x, y)


def steps(tx: Any, params: Any, gradients: Sequence[Any]) -> tuple[Any, Any]:
    """The parameters and the state after an update with each of the gradients."""
    state = tx.init(params)
    for g in gradients:
        updates, state = tx.update(g, state, params)
        params = gdjax.apply_updates(params, updates)
    return params, state


def epsilon(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps)


@contextlib.contextmanager
def precision(dtype: Any) -> Any:
    """64-bit numbers inside the block where the dtype asks for them."""
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    wide = jnp.dtype(dtype).name in ("float64", "complex128")
    with enable(True) if wide else contextlib.nullcontext():
        yield


def finite(tree: Any) -> bool:
    return all(math.prod(x.shape) == 0 or bool(np.isfinite(x).all()) for x in numbers(tree))
