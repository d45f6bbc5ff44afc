"""The recipes that torch.optim has, on the CPU; without torch there are none."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# Its threads would go on spinning while other peers run.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
try:
    import torch
except ImportError:  # an extra: pip install '.[bench-torch]'
    torch = None

FUSED = "sgd momentum nesterov adagrad adam adamw amsgrad".split() + ["clip + adamw + cosine"]


def makers() -> dict[str, Callable[..., Any]]:
    """A constructor `(parameters, foreach=..., fused=...) -> optimizer` for each recipe."""
    if torch is None:
        return {}
    o = torch.optim
    found = {
        "sgd": lambda p, **k: o.SGD(p, lr=0.1, **k),
        "momentum": lambda p, **k: o.SGD(p, lr=0.1, momentum=0.9, **k),
        "nesterov": lambda p, **k: o.SGD(p, lr=0.1, momentum=0.9, nesterov=True, **k),
        "adagrad": lambda p, **k: o.Adagrad(p, lr=0.1, **k),
        "rmsprop": lambda p, **k: o.RMSprop(p, lr=1e-3, alpha=0.9, **k),
        "adam": lambda p, **k: o.Adam(p, lr=1e-3, **k),
        "adamw": lambda p, **k: o.AdamW(p, lr=1e-3, **k),
        "clip + adamw + cosine": lambda p, **k: o.AdamW(p, lr=1e-3, **k),
        "nadamw": lambda p, **k: o.NAdam(p, lr=1e-3, decoupled_weight_decay=True, weight_decay=1e-4, **k),
        "radam": lambda p, **k: o.RAdam(p, lr=1e-3, **k),
        "amsgrad": lambda p, **k: o.Adam(p, lr=1e-3, amsgrad=True, **k),
        "adafactor": lambda p, **k: o.Adafactor(p, lr=1e-3, **k),
    }
    if hasattr(o, "Muon"):
        # It multiplies in bfloat16.
        found["muon"] = found["muon, bfloat16 products"] = lambda p, **k: o.Muon(p, lr=1e-3, weight_decay=0.0)
    return found


def runners(recipe: str, params: Any, grads: Any, dtype: str) -> dict[str, Callable[[], Callable[[], None]]]:
    """Makers of a step of each implementation that torch has, on copies of the arrays of the trees."""
    make = makers().get(recipe)
    if make is None:
        return {}
    kinds: dict[str, dict[str, bool]] = {"torch foreach": {"foreach": True}}
    if recipe in FUSED:
        kinds["torch fused"] = {"fused": True}
    return {
        kind: functools.partial(_runner, recipe, make, options, params, grads, dtype) for kind, options in kinds.items()
    }


def _runner(recipe: str, make: Any, options: Any, params: Any, grads: Any, dtype: str) -> Callable[[], None]:
    tensors = lambda tree: [torch.tensor(np.asarray(x, np.float32)).to(kind) for x in jax.tree.leaves(tree)]
    kind = getattr(torch, dtype)
    ps = [torch.nn.Parameter(x) for x in tensors(params)]
    for p, g in zip(ps, tensors(grads), strict=True):
        p.grad = g
    optimizer = make(ps, **options)

    def run() -> None:
        if recipe.startswith("clip"):
            torch.nn.utils.clip_grad_norm_(ps, 1.0, foreach=True)
        optimizer.step()

    return run
