"""Writes dialects_torch_2_13.npz, the points that torch.optim visits where it differs from Optax.

    pip install torch==2.13.0 numpy && python tests/golden/make_dialects.py

`golden/test_golden_dialects.py` reads it. The arrays: "<leaf>/x0", "<leaf>/curvature" and "<leaf>/noise" state the
problem of each leaf, whose gradient at step t is curvature * x + noise[t], and which was run alone; `rates` are the
rates of the steps of runs with a schedule; "<run>/<leaf>/<dtype>" holds the points after each step, in float64 those
of every step and in float32 of the last; `versions` says what wrote them.

Some elements never have a gradient and some have none in the first ten steps, some have gradients of 1e-7, as small as
an eps; not so in the leaf `whole`, which is Muon's, where torch divides by max(norm, eps), and not by norm + eps. That
Muon rounds to bfloat16, which is taken away here, so that its formula can be seen.
"""

from pathlib import Path

import numpy as np
import torch
from torch.optim import _muon

STEPS = 30
SHAPES = {"vector": (6,), "matrix": (4, 3), "stack": (5, 2, 3), "whole": (5, 3)}
RATES = (0.1 / (1 + np.arange(STEPS) // 5)).astype(np.float32).astype(np.float64)
OPTIM = torch.optim
# The optimizer, and whether its rate follows `RATES`.
RUNS = {
    "nadam": (lambda p: OPTIM.NAdam(p, lr=0.1), False),
    "nadam_l2": (lambda p: OPTIM.NAdam(p, lr=0.1, betas=(0.8, 0.9), weight_decay=0.1, momentum_decay=0.5), True),
    "nadamw": (lambda p: OPTIM.NAdam(p, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True), True),
    "radam": (lambda p: OPTIM.RAdam(p, lr=0.1), False),
    "radam_eps": (lambda p: OPTIM.RAdam(p, lr=0.1, betas=(0.8, 0.95), eps=1e-2), True),
    "amsgrad": (lambda p: OPTIM.Adam(p, lr=0.1, amsgrad=True), False),
    "amsgrad_fast": (lambda p: OPTIM.Adam(p, lr=0.1, betas=(0.5, 0.75), eps=1e-3, amsgrad=True), True),
    "adagrad": (lambda p: OPTIM.Adagrad(p, lr=0.1), False),
    "adagrad_eps": (lambda p: OPTIM.Adagrad(p, lr=0.1, eps=1e-2, initial_accumulator_value=0.25), True),
    "rmsprop": (lambda p: OPTIM.RMSprop(p, lr=0.01), False),
    "rmsprop_momentum": (lambda p: OPTIM.RMSprop(p, lr=0.1, momentum=0.9), True),
    "rmsprop_centered": (lambda p: OPTIM.RMSprop(p, lr=0.1, momentum=0.5, centered=True, eps=1e-3), True),
    "adafactor": (lambda p: OPTIM.Adafactor(p), False),
    "adafactor_decay": (lambda p: OPTIM.Adafactor(p, lr=0.5, weight_decay=0.1, d=1.5, beta2_decay=-0.5), False),
    "adafactor_eps": (lambda p: OPTIM.Adafactor(p, lr=0.1, eps=(0.25, 1e-3)), True),
    "muon": (lambda p: OPTIM.Muon(p, lr=0.1), True),
    # Those of which the table says that nothing differs.
    "adadelta": (lambda p: OPTIM.Adadelta(p, lr=0.5), True),
    "adamax": (lambda p: OPTIM.Adamax(p, lr=0.1, eps=1e-2), True),
    "rprop": (lambda p: OPTIM.Rprop(p, lr=0.1), False),
}


def trajectory(run: str, dtype: str, problem: dict[str, np.ndarray]) -> np.ndarray:
    make, scheduled = RUNS[run]
    torch.set_default_dtype(getattr(torch, dtype))  # of NAdam's product
    x = torch.nn.Parameter(torch.tensor(problem["x0"].astype(dtype)))
    h, noise = (torch.tensor(problem[k].astype(dtype)) for k in ("curvature", "noise"))
    optimizer, points = make([x]), []
    for n, rate in zip(noise, RATES, strict=True):
        if scheduled:
            optimizer.param_groups[0]["lr"] = float(rate)
        x.grad = h * x.detach() + n
        optimizer.step()
        points.append(x.detach().numpy().copy())
    return np.stack(points if dtype == "float64" else points[-1:])


def problem(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Exact in float32, so that both dtypes solve the same one."""
    x0, noise = (rng.normal(size=s).astype(np.float32) for s in (shape, (STEPS, *shape)))
    curvature = rng.choice(np.float32([0.125, 0.25, 0.5, 1, 1.5]), shape)
    if shape == SHAPES["whole"]:
        return {"x0": x0, "curvature": curvature, "noise": noise}
    never, late, tiny = (..., 0), (..., 1), (..., 2)
    for place in (never, late, tiny):
        curvature[place] = 0
    noise[never], noise[:10][late] = 0, 0
    noise[tiny] *= np.float32(1e-7)
    return {"x0": x0, "curvature": curvature, "noise": noise}


def muon_without_rounding() -> None:
    """torch's Newton-Schulz in the dtype of the gradient."""
    torch.Tensor.bfloat16 = lambda self: self.clone()  # type: ignore[method-assign]
    assert _muon.EPS == 1e-7


def main() -> None:
    muon_without_rounding()
    rng = np.random.default_rng(29)
    problems = {leaf: problem(rng, shape) for leaf, shape in SHAPES.items()}
    arrays = {f"{leaf}/{k}": x for leaf, found in problems.items() for k, x in found.items()}
    for run in RUNS:
        factored = "adafactor" in run
        leaves = ("vector", "matrix", "stack") if factored else ("whole",) if run == "muon" else ("vector",)
        for leaf in leaves:
            for dtype in ("float64", "float32"):
                arrays[f"{run}/{leaf}/{dtype}"] = trajectory(run, dtype, problems[leaf])
    arrays["rates"] = RATES
    arrays["versions"] = np.array([f"torch {torch.__version__}", f"numpy {np.__version__}"])
    np.savez_compressed(Path(__file__).with_name("dialects_torch_2_13.npz"), **arrays)


if __name__ == "__main__":
    main()
