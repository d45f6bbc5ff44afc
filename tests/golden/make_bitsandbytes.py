"""Writes bitsandbytes_0_50.npz, points that its 8-bit Adam visits on a CPU; `golden/test_golden_codes.py` reads it.

    pip install torch==2.13.0 bitsandbytes==0.50.2 numpy && python tests/golden/make_bitsandbytes.py

The gradient at step t = 0, 1, ... is curvature * x + noise(t). "<run>/x" holds the points after the steps of `STEPS`,
"<run>/m" and "<run>/v" the codes of the last, "signed" and "unsigned" the maps.
"""

from pathlib import Path

import numpy as np

SIZE, STEPS = 600, (1, 2, 5, 10, 20, 35, 50)  # three blocks, the last of them short
RUNS = {"adam": 0.0, "adamw": 0.1}  # the weight decay


def x0() -> np.ndarray:
    return noise(-1) * 2


def curvature() -> np.ndarray:
    """Over three decades, so that numbers in a block are far apart."""
    return (10.0 ** (np.arange(SIZE) % 7 / 2 - 3)).astype(np.float32)


def noise(t: int) -> np.ndarray:
    """Of no generator, so that every version of NumPy makes the same."""
    return (((np.arange(SIZE) * 7919 + (t + 2) * 104729) % 1009) / 504 - 1).astype(np.float32) * curvature()


def main() -> None:
    import bitsandbytes as bnb
    import torch

    found: dict[str, np.ndarray] = {}
    for name, decay in RUNS.items():
        make = bnb.optim.AdamW8bit if name == "adamw" else bnb.optim.Adam8bit
        x = torch.nn.Parameter(torch.tensor(x0()))
        optimizer = make([x], lr=0.01, weight_decay=decay, min_8bit_size=1)
        points = []
        for t in range(STEPS[-1]):
            x.grad = torch.tensor(curvature()) * x.detach() + torch.tensor(noise(t))
            optimizer.step()
            points += [x.detach().numpy().copy()] if t + 1 in STEPS else []
        state = optimizer.state[x]
        found |= {
            f"{name}/x": np.stack(points),
            f"{name}/m": state["state1"].numpy(),
            f"{name}/v": state["state2"].numpy(),
        }
        found |= {"signed": state["qmap1"].numpy(), "unsigned": state["qmap2"].numpy()}
    versions = np.array([f"bitsandbytes {bnb.__version__}", f"torch {torch.__version__}", f"numpy {np.__version__}"])
    np.savez_compressed(Path(__file__).with_name("bitsandbytes_0_50.npz"), versions=versions, **found)


if __name__ == "__main__":
    main()
