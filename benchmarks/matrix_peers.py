"""Matrix methods to compare: this library's, and those of torch's libraries with the same settings.

Those that are not installed are left out: an extra has them, pip install '.[bench-torch]'. Where a library has no
method of that kind the row says so by its absence.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

# Its threads would go on spinning while other peers run.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
try:
    import torch
except ImportError:
    torch = None

EVERY = 10  # steps between two refreshes, of all


class Method(NamedTuple):
    """A method with its settings, the same for all: rate 1e-3, no decay, float32 unless its name says otherwise."""

    make: Callable[[Any], Any]  # from the library gdjax to a transform
    peers: dict[str, Callable[[list[Any]], Any]] = {}
    optax: Callable[[], Any] | None = None
    state: Callable[[int, int], float] | None = None  # numbers of the state for a matrix of m x n, as the formula says


def _torch_muon(ps: list[Any]) -> Any:
    return torch.optim.Muon(ps, lr=1e-3, weight_decay=0.0)


def _of_pytorch_optimizer(name: str, **options: Any) -> Callable[[list[Any]], Any]:
    def make(ps: list[Any]) -> Any:
        import pytorch_optimizer

        return getattr(pytorch_optimizer, name)(ps, lr=1e-3, weight_decay=0.0, **options)

    return make


def _of_heavyball(name: str, **options: Any) -> Callable[[list[Any]], Any]:
    def make(ps: list[Any]) -> Any:
        import heavyball

        heavyball.utils.compile_mode = None  # its default compiles for minutes

        return getattr(heavyball, name)(ps, lr=1e-3, weight_decay=0.0, compile_step=False, **options)

    return make


METHODS: dict[str, Method] = {
    "adamw": Method(lambda lib: lib.adamw(1e-3), {"torch": lambda ps: torch.optim.AdamW(ps, lr=1e-3, foreach=True)}),
    "muon": Method(lambda lib: lib.muon(1e-3), optax=lambda: optax.contrib.muon(1e-3), state=lambda m, n: m * n),
    "muon, bfloat16 products": Method(
        lambda lib: lib.muon(1e-3, ns_dtype="bfloat16"),
        {"torch": _torch_muon},
        lambda: optax.contrib.muon(1e-3),  # float32, the one precision that it has
        state=lambda m, n: m * n,
    ),
    "normuon": Method(lambda lib: lib.normuon(1e-3, ns_coeffs="jordan"), state=lambda m, n: m * n + n),
    "soap": Method(
        lambda lib: lib.soap(1e-3, precondition_frequency=EVERY),
        {
            "pytorch_optimizer": _of_pytorch_optimizer("SOAP", precondition_frequency=EVERY),
            "heavyball": _of_heavyball(
                "SOAP",
                precondition_frequency=EVERY,
                max_precond_dim=10000,
                merge_dims=False,
                use_precond_schedule=False,
                gradient_clipping=None,
                update_clipping=None,
            ),
        },
        state=lambda m, n: 2 * (m * n + m * m + n * n),
    ),
    "shampoo": Method(
        lambda lib: lib.shampoo(1e-3, b1=0.9, grafting="sgd", block_size=512, precondition_frequency=EVERY),
        {
            "pytorch_optimizer": _of_pytorch_optimizer(
                "ScalableShampoo", block_size=512, preconditioning_compute_steps=EVERY, start_preconditioning_step=1
            )
        },
    ),
    "psgd_kron": Method(
        lambda lib: lib.psgd_kron(1e-3, preconditioner_update_probability=1 / EVERY, dQ="EQ"),
        {
            "pytorch_optimizer": _of_pytorch_optimizer("Kron", pre_conditioner_update_probability=1 / EVERY),
            "heavyball": _of_heavyball(
                "PSGDKron",
                preconditioner_update_probability=1 / EVERY,
                max_size_triangular=8192,
                gradient_clipping=None,
                update_clipping=None,
            ),
        },
        state=lambda m, n: m * n + 2 * (m * m + n * n),
    ),
    "dion, a quarter of the rank": Method(
        lambda lib: lib.dion(1e-3, rank_fraction=0.25), state=lambda m, n: m * n + min(m, n) * -(-min(m, n) // 4)
    ),
    "dion2, a quarter of the rows": Method(lambda lib: lib.dion2(1e-3), state=lambda m, n: m * n),
}


def runner(make: Callable[[list[Any]], Any], params: Any, grads: Any) -> Callable[[], None]:
    """A step of a torch optimizer on copies of the arrays of the trees."""
    tensors = lambda tree: [torch.tensor(np.asarray(x)) for x in jax.tree.leaves(tree)]
    ps = [torch.nn.Parameter(x) for x in tensors(params)]
    for p, g in zip(ps, tensors(grads), strict=True):
        p.grad = g
    optimizer, kept = make(ps), tensors(grads)

    def run() -> None:
        for p, g in zip(ps, kept, strict=True):
            p.grad = g.clone()  # HeavyBall takes the gradients away
        optimizer.step()

    return run
