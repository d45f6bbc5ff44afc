"""What the benchmarks compare: each recipe written once, and built from either library."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Recipe(NamedTuple):
    """A training step to measure: `make(library)` is its transform."""

    make: Callable[[Any], Any]
    averaged: bool = False  # the step keeps an average of the parameters too
    period: int = 1  # of how many calls one is measured,
    phase: int = 0  # and which
    trees: tuple[str, ...] = ()  # where it runs; everywhere if empty
    reread: int = 0  # arrays like the parameters that a norm or mean needs before the pass that writes


def _cosine(lib: Any) -> Any:
    return lib.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)


def _by_rank(params: Any) -> Any:
    return jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "vector", params)


def _accumulated(lib: Any) -> Any:
    return lib.MultiSteps(lib.adamw(1e-3), 4).gradient_transformation()


def _guarded(lib: Any) -> Any:
    options = {"check_outputs": False} if lib.__name__ == "gdjax" else {}
    return lib.apply_if_finite(lib.adamw(1e-3), 5, **options)


def _muon_bfloat16(lib: Any) -> Any:
    return lib.contrib.muon(1e-3, **({"ns_dtype": "bfloat16"} if lib.__name__ == "gdjax" else {}))


RECIPES: dict[str, Recipe] = {
    "sgd": Recipe(lambda lib: lib.sgd(0.1)),
    "momentum": Recipe(lambda lib: lib.sgd(0.1, 0.9)),
    "nesterov": Recipe(lambda lib: lib.sgd(0.1, 0.9, nesterov=True)),
    "adagrad": Recipe(lambda lib: lib.adagrad(0.1)),
    "rmsprop": Recipe(lambda lib: lib.rmsprop(1e-3)),
    "adam": Recipe(lambda lib: lib.adam(1e-3)),
    "adamw": Recipe(lambda lib: lib.adamw(1e-3)),
    "clip + adamw + cosine": Recipe(
        lambda lib: lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(_cosine(lib))), reread=1
    ),
    "nadamw": Recipe(lambda lib: lib.nadamw(1e-3)),
    "radam": Recipe(lambda lib: lib.radam(1e-3)),
    "amsgrad": Recipe(lambda lib: lib.amsgrad(1e-3)),
    "adabelief": Recipe(lambda lib: lib.adabelief(1e-3)),
    "yogi": Recipe(lambda lib: lib.yogi(1e-2)),
    "adan": Recipe(lambda lib: lib.adan(1e-3)),
    "lion": Recipe(lambda lib: lib.lion(1e-4)),
    "lamb": Recipe(lambda lib: lib.lamb(1e-3), reread=3),
    "lars": Recipe(lambda lib: lib.lars(0.1), reread=2),
    "adafactor": Recipe(lambda lib: lib.adafactor(1e-3), reread=3),
    "adaptive clip + momentum": Recipe(
        lambda lib: lib.chain(lib.adaptive_grad_clip(0.01), lib.sgd(0.1, 0.9)), reread=2
    ),
    "accumulate 4, emitting": Recipe(_accumulated, period=4, phase=3),
    "accumulate 4, other": Recipe(_accumulated, period=4, phase=1),
    # gdjax looks at what comes out too; the second recipe is what Optax looks at, the gradients.
    "finite guard + adamw": Recipe(lambda lib: lib.apply_if_finite(lib.adamw(1e-3), 5), reread=4),
    "gradient guard + adamw": Recipe(_guarded, reread=1),
    "injected adamw": Recipe(lambda lib: lib.inject_hyperparams(lib.adamw)(1e-3)),
    "adamw + averaged params": Recipe(lambda lib: lib.adamw(1e-3), averaged=True),
    "schedule_free_adamw": Recipe(lambda lib: lib.contrib.schedule_free_adamw(1e-3)),
    "two groups": Recipe(
        lambda lib: lib.partition({"matrix": lib.adamw(1e-3), "vector": lib.sgd(1e-2, 0.9)}, _by_rank)
    ),
    "muon": Recipe(lambda lib: lib.contrib.muon(1e-3), trees=("gpt2-hidden",)),
    "muon, bfloat16 products": Recipe(_muon_bfloat16, trees=("gpt2-hidden",)),  # Optax multiplies in float32
}


def step_of(lib: Any, recipe: Recipe) -> tuple[Callable[[Any], Any], Callable[[Any, Any, Any], Any]]:
    """The start of a state, and the step `(params, state, grads) -> (params, state)`, neither compiled."""
    tx = recipe.make(lib)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return lib.apply_updates(params, updates), state

    def averaged(params: Any, state: Any, grads: Any) -> Any:
        params, inner = step(params, state[0], grads)
        return params, (inner, lib.incremental_update(params, state[1], 1e-3))

    if not recipe.averaged:
        return tx.init, step
    return lambda params: (tx.init(params), jax.tree.map(lambda x: x.copy(), params)), averaged


def chosen(tree: str, names: list[str]) -> list[str]:
    """Those of the recipes that run on a tree."""
    return [n for n in names if tree in RECIPES[n].trees or not RECIPES[n].trees and tree != "gpt2-hidden"]
