"""Writes torch_2_13.npz, the points that torch.optim visits on a small problem; `golden/test_golden.py` reads it.

    pip install torch==2.13.0 numpy && python tests/golden/make_torch.py

The arrays: `x0`, `curvature` and `noise` state the problem, whose gradient at step t is curvature * x + noise[t];
"<run>/<dtype>" holds the points after each step; `versions` says what wrote them.
"""

from pathlib import Path

import numpy as np
import torch

STEPS, SIZE = 30, 6
RUNS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "rmsprop_centered": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
    "rmsprop_momentum": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def trajectory(run: str, dtype: str, x0: np.ndarray, curvature: np.ndarray, noise: np.ndarray) -> np.ndarray:
    x = torch.nn.Parameter(torch.tensor(x0.astype(dtype)))
    h, ns = (torch.tensor(a.astype(dtype)) for a in (curvature, noise))
    optimizer = RUNS[run]([x])
    points = []
    for n in ns:
        x.grad = h * x.detach() + n
        optimizer.step()
        points.append(x.detach().numpy().copy())
    return np.stack(points)


def main() -> None:
    rng = np.random.default_rng(0)
    # Exact in float32, so that both dtypes solve the same problem.
    x0, noise = (rng.normal(size=size).astype(np.float32) for size in (SIZE, (STEPS, SIZE)))
    curvature = np.array([0.125, 0.25, 0.5, 1, 1.5, 2], np.float32)
    runs = {f"{r}/{d}": trajectory(r, d, x0, curvature, noise) for r in RUNS for d in ("float32", "float64")}
    versions = np.array([f"torch {torch.__version__}", f"numpy {np.__version__}"])
    path = Path(__file__).with_name("torch_2_13.npz")
    np.savez_compressed(path, x0=x0, curvature=curvature, noise=noise, versions=versions, **runs)


if __name__ == "__main__":
    main()
