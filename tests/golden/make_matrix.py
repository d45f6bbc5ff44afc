"""Writes matrix.npz: points that others' matrix optimizers visit on a small problem. `matrix_notes.md` describes it.

    python tests/golden/make_matrix.py CHECKOUTS

needs numpy, torch 2.13.0, pytorch_optimizer 4.1.0, heavyball 3.2.1 and opt_einsum 3.4.0, and CHECKOUTS, a folder with
clones of the repositories of `COMMITS`. Only their code is called; none of it is here.

The arrays of matrix.npz: "problem/<leaf>/<array>" state the problem (see `matrix_problem.py`); "<run>/<leaf>" are the
points after `kept` steps, float32, shape (len(kept), *leaf); "<run>/<leaf>:<name>" is random noise that the run drew
for that leaf; `versions` says what wrote them.
With --check it prints, for each run, how far x0 + 1e-6 leads from it, and how far the same run in float64.
"""

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # torch.compile would only need a compiler.

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import matrix_problem as mp

COMMITS = {
    "SOAP": "nikhilvyas/SOAP a1e5535",
    "psgd_torch": "lixilinx/psgd_torch a8616f1",
    "Muon": "KellerJordan/Muon 857d1ad",
    "dion": "microsoft/dion 0a059a4",
    "optimizers": "facebookresearch/optimizers f606606",
    "scion": "LIONS-EPFL/scion f58a393",
    "NorMuon": "zichongli5/NorMuon d45c9a4",
    "KL-Methods": "yorkerlin/KL-Methods a02e622",
    "Emerging-Optimizers": "NVIDIA-NeMo/Emerging-Optimizers fd77292",
}
CHECKOUTS = Path()
RUNS = {}
NOISE = {}  # What a run drew at random, as "<run>/<leaf>:<name>".


def run(name, leaves=mp.MATRICES):
    """Registers a function params -> optimizer, which is called once a leaf."""

    def register(make):
        RUNS[name] = (make, leaves)
        return make

    return register


def load(path, name):
    """The module in a file of the checkouts."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, CHECKOUTS / path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@contextlib.contextmanager
def full_precision():
    """What the code casts to bfloat16 keeps its dtype (or becomes float32)."""
    half, method = torch.bfloat16, torch.Tensor.bfloat16
    torch.bfloat16, torch.Tensor.bfloat16 = torch.float32, lambda self: self.clone()
    try:
        yield
    finally:
        torch.bfloat16, torch.Tensor.bfloat16 = half, method


def trajectory(name, leaf, dtype=torch.float32, shift=0.0, store=True):
    make, _ = RUNS[name]
    torch.manual_seed(0)
    p = {k: torch.tensor(v).to(dtype) for k, v in mp.make()[leaf].items()}
    x = torch.nn.Parameter(p["x0"] + shift)
    points = []
    with full_precision():
        optimizer = make([x])
        for t in range(mp.STEPS):
            x.grad = mp.gradient(p, x.detach(), t)
            optimizer.step()
            points.append(x.detach().numpy().copy())
    if store:
        for key, value in getattr(optimizer, "drawn", {}).items():
            NOISE[f"{name}/{leaf}:{key}"] = np.asarray(value, np.float32)
    return np.stack(points)[[k - 1 for k in mp.KEPT]]


# SOAP ----------------------------------------------------------------------------------------------------------------

for f in (1, 5):

    @run(f"soap/authors_f{f}", mp.NEAR)
    def _(params, f=f):
        return load("SOAP/soap.py", "authors_soap").SOAP(
            params, lr=0.01, betas=(0.95, 0.9), eps=1e-8, weight_decay=0.0, precondition_frequency=f
        )


@run("soap/authors_vector", ("vector",))
def _(params):
    return load("SOAP/soap.py", "authors_soap").SOAP(params, lr=0.01, betas=(0.95, 0.9), weight_decay=0.0)


@run("soap/authors_decay", mp.NEAR)
def _(params):
    return load("SOAP/soap.py", "authors_soap").SOAP(
        params,
        lr=0.01,
        betas=(0.9, 0.95),
        shampoo_beta=0.8,
        eps=1e-3,
        weight_decay=0.1,
        precondition_frequency=2,
        correct_bias=False,
    )


@run("soap/pytorch_optimizer_f1", mp.NEAR)
def _(params):
    import pytorch_optimizer

    return pytorch_optimizer.SOAP(params, lr=0.01, betas=(0.95, 0.9), weight_decay=0.0, precondition_frequency=1)


# Shampoo -------------------------------------------------------------------------------------------------------------


def distributed_shampoo(params, **settings):
    path = str(CHECKOUTS / "optimizers")
    if path not in sys.path:
        sys.path.insert(0, path)
    from distributed_shampoo import distributed_shampoo as ds

    return ds.DistributedShampoo(params, lr=0.01, **settings)


def shampoo_type(name, **settings):
    from distributed_shampoo import shampoo_types

    return getattr(shampoo_types, name)(**settings)


def main() -> None:
    global CHECKOUTS
    parser = argparse.ArgumentParser()
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    CHECKOUTS = args.checkouts.resolve()

    out = {}
    for name, (_, leaves) in RUNS.items():
        if not name.startswith(args.only):
            continue
        for leaf in leaves:
            out[f"{name}/{leaf}"] = x = trajectory(name, leaf)
            assert np.isfinite(x).all(), name
            if args.check:
                near = trajectory(name, leaf, shift=1e-6, store=False)
                try:
                    exact = trajectory(name, leaf, torch.float64, store=False)
                    rounding = f"{np.abs(exact - x).max():.1e}"
                except Exception as e:
                    rounding = f"no float64 ({type(e).__name__})"
                moved = np.abs(x[-1] - mp.make()[leaf]["x0"]).max()
                print(f"{name}/{leaf}: moved {moved:.2f}, perturbed {np.abs(near - x).max():.1e}, float64 {rounding}", flush=True)
    if args.only:
        return
    for leaf, arrays in mp.make().items():
        out |= {f"problem/{leaf}/{k}": v for k, v in arrays.items()}
    import heavyball  # noqa: F401
    from importlib.metadata import version

    packages = [f"{p} {version(p)}" for p in ("torch", "numpy", "pytorch_optimizer", "heavyball")]
    for folder, commit in COMMITS.items():
        head = subprocess.run(["git", "-C", CHECKOUTS / folder, "rev-parse", "HEAD"], capture_output=True, text=True)
        assert head.stdout.startswith(commit.split()[1]), folder
    out |= {"kept": np.array(mp.KEPT), "versions": np.array(packages + list(COMMITS.values()))}
    path = Path(__file__).with_name("matrix.npz")
    np.savez_compressed(path, **out, **NOISE)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
