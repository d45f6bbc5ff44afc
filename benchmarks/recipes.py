"""The optimizers that the benchmarks compare, each written once and built from either library."""

from collections.abc import Callable
from typing import Any


def _schedule(lib: Any) -> Any:
    return lib.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 1000)


RECIPES: dict[str, Callable[[Any], Any]] = {
    "clip + adamw + cosine": lambda lib: lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(_schedule(lib))),
    "momentum": lambda lib: lib.sgd(0.1, 0.9),
    "adam": lambda lib: lib.adam(1e-3),
    "lion": lambda lib: lib.lion(1e-4),
}
