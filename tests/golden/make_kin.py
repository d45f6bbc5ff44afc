"""Writes kin.npz, the points that authors' code of Adam's kin visits; `golden/test_golden_kin.py` reads it.

    python tests/golden/make_kin.py CHECKOUTS

needs numpy, torch 2.13.0, and CHECKOUTS, a folder with clones of the repositories of `COMMITS`. Only their code is
called; none of it is here.

The arrays: "<leaf>/x0", "/curvature" and "/noise" state the problem of a leaf, whose gradient at step t is
curvature * x + noise[t]; "<run>/<leaf>" are the points after `kept` steps, in float64; `versions` says what wrote them.
"""

import importlib.util
import os
import sys
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # torch.compile would only need a compiler.

import numpy as np
import torch

COMMITS = {
    "LaProp-Optimizer": "Z-T-WANG/LaProp-Optimizer a419916",
    "adam-atan2-pytorch": "lucidrains/adam-atan2-pytorch b42d7cb",
    "optimi": "warner-benjamin/optimi 17a3d54",  # has the code of StableAdamW's first author
    "MARS": "AGI-Arena/MARS 4831e28",
    "grokfast": "ironjr/grokfast 93b2248",
}
STEPS, SHAPES = 30, {"matrix": (4, 3), "wide": (3, 5), "vector": (5,)}
KEPT = (1, 2, 3, 5, 10, 20, 30)
CHECKOUTS = Path(sys.argv[1] if len(sys.argv) > 1 else ".")


def load(path):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), CHECKOUTS / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def laprop(**options):
    return lambda p: load("LaProp-Optimizer/laprop.py").LaProp(p, **options)


def atan2(**options):
    return lambda p: load("adam-atan2-pytorch/adam_atan2_pytorch/adam_atan2.py").AdamAtan2(p, **options)


def stable(**options):
    return lambda p: load("optimi/tests/reference/stableadamwunfused.py").StableAdamWUnfused(p, **options)


def mars(kind, **options):
    return lambda p: load("MARS/MARS/optimizers/mars.py").MARS(p, mars_type=kind, **options)


RUNS = {
    "laprop": laprop(lr=0.01),
    "laprop/options": laprop(lr=0.01, betas=(0.95, 0.9), eps=1e-3),
    "adam_atan2": atan2(lr=0.01),
    "adam_atan2/options": atan2(lr=0.01, betas=(0.8, 0.95), a=1.0, b=0.5, weight_decay=0.5),
    "stable_adamw": stable(lr=0.01),
    "stable_adamw/options": stable(lr=0.01, weight_decay=0.5, betas=(0.8, 0.95), eps=1e-3, clip_thresh=0.5),
    "mars/adamw": mars("mars-adamw", lr=0.01, optimize_1d=True),
    "mars/1d": mars("mars-adamw", lr=0.01, weight_decay=0.01, lr_1d=0.02),
    "mars/lion": mars("mars-lion", lr=0.01, gamma=0.05, betas=(0.9, 0.99), optimize_1d=True),
    "mars/shampoo": mars("mars-shampoo", lr=0.01, weight_decay=0.01),
    "grokfast": lambda p: torch.optim.AdamW(p, lr=0.01),
    "grokfast/options": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.5),
}
FILTERS = {"grokfast": {}, "grokfast/options": {"alpha": 0.9, "lamb": 5.0}}


def trajectory(run, x0, curvature, noise):
    model = torch.nn.ParameterList([torch.tensor(x0, dtype=torch.float64)])
    (x,), optimizer, slow = model, RUNS[run](model.parameters()), None
    points = []
    for n in noise.astype(np.float64):
        x.grad = torch.tensor(curvature) * x.detach() + torch.tensor(n)
        if run in FILTERS:
            slow = load("grokfast/grokfast.py").gradfilter_ema(model, slow, **FILTERS[run])
        optimizer.step()
        points.append(x.detach().numpy().copy())
    return np.stack([points[k - 1] for k in KEPT])


def main():
    torch.Tensor.bfloat16 = lambda self: self.clone()  # the Newton-Schulz iteration of MARS keeps its dtype
    rng, arrays = np.random.default_rng(0), {}
    for leaf, shape in SHAPES.items():
        # Exact in float32. Noise that grows a thousandfold in one step makes StableAdamW clip.
        x0, noise = (rng.normal(size=size).astype(np.float32) for size in (shape, (STEPS, *shape)))
        curvature = 2.0 ** rng.integers(-3, 2, shape)
        noise[12] *= 1024
        arrays |= {f"{leaf}/x0": x0, f"{leaf}/curvature": curvature, f"{leaf}/noise": noise}
        arrays |= {f"{run}/{leaf}": trajectory(run, x0, curvature, noise) for run in RUNS}
    versions = np.array([f"torch {torch.__version__}", f"numpy {np.__version__}", *COMMITS.values()])
    path = Path(__file__).with_name("kin.npz")
    np.savez_compressed(path, kept=np.array(KEPT), versions=versions, **arrays)


if __name__ == "__main__":
    main()
