"""Writes records.npz: points that optimizers of records visit in float64; `golden/test_golden_records.py` reads it.

    python tests/golden/make_records.py CHECKOUTS

needs numpy, torch 2.13.0, and CHECKOUTS, a folder with clones of KellerJordan/modded-nanogpt at f411b3d, as
`modded-nanogpt`, and of kcc-lion/muown at 3bd0c05, as `muown`. The definitions of their scripts are cut out and run;
none of them is here. Their casts to 16 and 32 bits are taken out, so that all is in float64.

Each matrix is a problem of its own, as in `matrix_problem.py`, here with `STEPS` steps. The arrays: "problem/<leaf>/
<array>"; "<run>/<leaf>" are the points after `kept` steps, shape (len(kept), *leaf), (outputs, inputs).
"""

import __future__

import ast
import os
import re
import subprocess
import sys
import types
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # torch.compile would only need a compiler.

import matrix_problem as mp
import numpy as np
import torch

STEPS, KEPT = 50, (1, 2, 3, 5, 10, 20, 30, 50)
# Of eighty seeds one with which SOAP's second moments are never so small that our `soap_muon` raises them, see there;
# its tests leave out that they turn where a turn would lengthen an update.
SEED = 600
CHECKOUTS = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
RECORDS = "modded-nanogpt:records/track_3_optimization/results/"
LONE = types.SimpleNamespace(  # the one process of a run that is not distributed
    get_world_size=lambda: 1, get_rank=lambda: 0, all_gather=lambda *_: None
)  # fmt: skip
RATE, DECAY = 0.02, 0.1


def script(file: str, classes: str) -> dict[str, object]:
    """These classes, the functions and the settings of a training script, or of the log that begins with it."""
    repository, _, path = file.partition(":")
    show = ["git", "-C", CHECKOUTS / repository, "show", f"HEAD:{path}"]
    source = subprocess.run(show, capture_output=True, text=True, check=True).stdout.split("\n" + "=" * 100)[0]
    source = re.sub(r"\.(float|bfloat16)\(\)", "", source)
    source = re.sub(r"torch\.(float32|bfloat16)", "torch.float64", source)
    kept = [x for x in ast.parse(source).body if _is_function(x) or _is_setting(x) or _is_one_of(x, classes)]
    names = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "Tensor": torch.Tensor, "dist": LONE}
    names |= {"Optimizer": torch.optim.Optimizer, "Path": Path, "os": os, "__name__": repository}
    names |= {"Optional": types.SimpleNamespace(), "WORLD_SIZE": 1, "RANK": 0}
    exec(compile(ast.Module(kept, []), file, "exec", __future__.annotations.compiler_flag), names)  # not evaluated
    return names


def _is_function(x: ast.stmt) -> bool:
    decorators = [ast.unparse(y) for y in getattr(x, "decorator_list", ())]
    return isinstance(x, ast.FunctionDef) and all(y.startswith(("torch.compile", "torch.no_grad")) for y in decorators)


def _is_one_of(x: ast.stmt, classes: str) -> bool:
    return isinstance(x, ast.ClassDef) and x.name in classes.split()


def _is_setting(x: ast.stmt) -> bool:
    """Whether it gives a constant, or another setting, a name."""
    if not (isinstance(x, ast.Assign) and isinstance(x.targets[0], ast.Name)):
        return False
    return isinstance(x.value, ast.Constant) or isinstance(x.value, ast.Name) and x.value.id.isupper()


def soap_muon(p):
    """Result 44: SOAP before Muon, the radial part halved outwards, a least size of the update, no drift."""
    code = script(f"{RECORDS}20260609_soap_f1_auxb2_clean/train_gpt_clean_SOTA.py", "Muon")
    return code["Muon"]([("blocks.0.mlp.fc.weight", p)], lr=RATE, mu=0.95)


def normuon(p):
    """Result 10."""
    code = script(f"{RECORDS}20260503_normuon/08ffadff-3576-496b-9795-2dc5cf8f4f46.txt", "NorMuon")
    return code["NorMuon"]([p], lr=RATE, weight_decay=DECAY, mu=0.95)


def dynmuon(p, power):
    """Result 28, at one power."""
    code = script(f"{RECORDS}20260519_dynmuon/train_gpt_simple_dynmuon.py", "Muon DynMuon")
    return code["DynMuon"]([p], lr=RATE, weight_decay=DECAY, mu=0.95, p=power)


def muown(p):
    code = script("muown:optim/muown.py", "Muown")
    code["ZEROPOWER_BACKENDS"] = {"newtonschulz5": code["zeropower_via_newtonschulz5"]}
    return code["Muown"]([p], lr=RATE, weight_decay=DECAY, betas=(0.9, 0.95), momentum=0.95)


def snoo(p):
    """The outer optimizer of the record around plain descent; its outer steps after 7, 14, ... updates."""
    log = "records/track_2_medium/2025-09-16_Snoo/000_01db7a67-f715-4114-a7b5-6bfe23bac1b1.txt"
    code = script(f"modded-nanogpt:{log}", "Snoo")
    inner = torch.optim.SGD([p], lr=RATE)
    outer = code["Snoo"](types.SimpleNamespace(parameters=lambda: iter([p])), lr=0.68, momentum=0.37, k=7)
    outer.current_step = 1

    def step():
        inner.step()
        outer.step()

    return types.SimpleNamespace(step=step)


RUNS = {
    "soap_muon": (soap_muon, mp.NEAR),
    "normuon": (normuon, mp.MATRICES),
    "dynmuon/0.25": (lambda p: dynmuon(p, 0.25), mp.MATRICES),
    "dynmuon/-0.25": (lambda p: dynmuon(p, -0.25), mp.MATRICES),
    "muown": (muown, mp.MATRICES),
    "snoo": (snoo, ("square",)),
}
SIZE = {"dynmuon/0.25": 8 * 64 * 1024, "dynmuon/-0.25": 8 * 64 * 1024}  # of a batch, whose gradients they add up


def trajectory(run: str, problem: dict[str, np.ndarray]) -> np.ndarray:
    arrays = {k: torch.tensor(x.astype(np.float64)) for k, x in problem.items()}
    p, points = torch.nn.Parameter(arrays["x0"].clone()), []
    optimizer = RUNS[run][0](p)
    for t in range(STEPS):
        p.grad = mp.gradient(arrays, p.detach(), t) * SIZE.get(run, 1)
        optimizer.step()
        points.append(p.detach().numpy().copy())
    return np.stack(points)[np.array(KEPT) - 1]


def main() -> None:
    torch.set_default_dtype(torch.float64)
    problems = mp.make(STEPS, SEED)
    leaves = sorted({leaf for _, leaves in RUNS.values() for leaf in leaves})
    out = {f"problem/{leaf}/{k}": x for leaf in leaves for k, x in problems[leaf].items()}
    for run, (_, leaves) in RUNS.items():
        out |= {f"{run}/{leaf}": trajectory(run, problems[leaf]) for leaf in leaves}
    assert all(np.isfinite(x).all() for x in out.values())
    np.savez_compressed(Path(__file__).parent / "records.npz", kept=KEPT, rate=RATE, decay=DECAY, **out)


if __name__ == "__main__":
    main()
