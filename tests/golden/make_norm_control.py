"""Writes norm_control.npz, matrices under a record's control of norms; `golden/test_golden_norm_control.py` reads it.

    python tests/golden/make_norm_control.py CHECKOUT

needs numpy, torch 2.13.0, and CHECKOUT, a clone of KellerJordan/modded-nanogpt at f411b3d. The part of its optimizer's
step that controls norms is cut out of the file of result 46, and run; none of it is here.

The arrays: "<shape>/start" is a matrix, (outputs, inputs), "<shape>/updates" are its updates, which the rate `RATE`
multiplies and the step subtracts; "<run>/<shape>" is the matrix after each step, in float32.
"""

import ast
import sys
import textwrap
from pathlib import Path

import numpy as np
import torch

RECORD = "records/track_3_optimization/results/20260619_cwd_rowfloor_tailema/train_gpt_cwd_SOTA.py"
STEPS, RATE, FLOOR = 6, 0.25, 0.375
RUNS = {"brake": (0.0, False), "floor": (FLOOR, False), "outputs": (FLOOR, True)}

source = (Path(sys.argv[1] if len(sys.argv) > 1 else ".") / RECORD).read_text("utf-8")
NEEDED = {"scale_radial_update", "target_radius_after_update", "rescale_to_radius"}
functions = [x for x in ast.parse(source).body if isinstance(x, ast.FunctionDef) and x.name in NEEDED]
functions = "\n".join(filter(None, (ast.get_source_segment(source, x) for x in functions)))
lines = source.splitlines()
first = next(i for i, line in enumerate(lines) if line.strip() == "update = scale_radial_update(update, p)")
last = next(i for i, line in enumerate(lines) if line.strip() == "rescale_to_radius(p, target_radius)")
step = compile(textwrap.dedent("\n".join(lines[first : last + 1])), RECORD, "exec")

rng = np.random.default_rng(0)
arrays = {}
for shape in ((4, 3), (3, 5)):
    name = f"{shape[0]}x{shape[1]}"
    start = rng.normal(size=shape).astype(np.float32)
    # Long and short ones, outward and inward; outputs of different lengths.
    updates = rng.normal(size=(STEPS, *shape)) * rng.choice([0.05, 0.5], size=(STEPS, shape[0], 1))
    updates[::2] -= 0.3 * start
    updates[1::2] += 0.3 * start
    updates = updates.astype(np.float32)
    arrays |= {f"{name}/start": start, f"{name}/updates": updates}
    for run, (floor, outputs) in RUNS.items():
        space = {"torch": torch, "Tensor": torch.Tensor, "RADIAL_OUTWARD_SCALE": 0.5, "RADIAL_INWARD_SCALE": 1.0}
        space |= {"ROWFLOOR": outputs, "ROWFLOOR_RHO": 1.0, "CWD": 0.0, "use_soap": False, "group": {"lr": RATE}}
        p, points = torch.tensor(start), []
        for u in updates:
            space |= {"p": p, "update": torch.tensor(u), "NONSOAP_TARGET_UW": floor}
            exec(functions, space)
            exec(step, space)
            points.append(p.numpy().copy())
        arrays[f"{run}/{name}"] = np.stack(points)
np.savez_compressed(Path(__file__).parent / "norm_control.npz", rate=RATE, floor=FLOOR, **arrays)
