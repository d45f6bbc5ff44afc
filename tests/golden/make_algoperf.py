"""Writes algoperf.npz: steps of AlgoPerf's winner of 2024, Distributed Shampoo; `test_golden_algoperf.py` reads it.

    python tests/golden/make_algoperf.py CHECKOUT

needs numpy, torch 2.13.0 and CHECKOUT, a clone of mlcommons/submissions_algorithms at 12c8e4e. Only its code is
called; none of it is here. The five settings are those of its `tuning_search_space.json`. Their roots are made every
10 steps in place of every 100, so that most of the 50 steps use them; all is float64, and the rate is constant.

Arrays: "x0"; "left", "right", "pull", "rows" and "columns" of the gradient at x in step t,
left @ x @ right + pull + rows[t] @ columns[t]. "settings" is JSON, a list. "points" has the x of each setting after the
steps "kept", counted from 0.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = "previous_leaderboards/algoperf_v05/submissions/external_tuning/shampoo_submission"
ITSELF = "submissions/submissions_algorithms_v0_5/AlgoPerf_Team_21/external_tuning/shampoo_submission"  # in its imports
SHAPE, STEPS, FREQUENCY = (33, 33), 50, 10  # more numbers than 1024: else it is taken for a vector


def problem() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    spd = lambda n: (lambda q: (q * np.linspace(0.1, 0.3, n)) @ q.T)(np.linalg.qr(rng.normal(size=(n, n)))[0])
    u, _, v = np.linalg.svd(rng.normal(size=SHAPE), full_matrices=False)
    return {
        "x0": rng.normal(size=SHAPE), "left": spd(SHAPE[0]), "right": spd(SHAPE[1]),
        "pull": (u * np.linspace(1, 2.5, min(SHAPE))) @ v,
        "rows": rng.normal(size=(STEPS, SHAPE[0], 1)), "columns": 0.3 * rng.normal(size=(STEPS, 1, SHAPE[1])),
    }  # fmt: skip


def trajectory(ds: Any, types: Any, h: dict[str, Any], p: dict[str, np.ndarray]) -> list[np.ndarray]:
    """As `init_optimizer_state` of its submission makes the optimizer."""
    x = torch.nn.Parameter(torch.tensor(p["x0"]))
    adam = types.AdamGraftingConfig(beta2=1.0 - h["one_minus_beta2"], epsilon=h["grafting_epsilon"])
    optimizer = ds.DistributedShampoo(
        [x], lr=h["learning_rate"], betas=(1.0 - h["one_minus_beta1"], 1.0 - h["one_minus_beta2"]),
        epsilon=h["epsilon"], momentum=1.0 - h["one_minus_momentum"] if h["use_momentum"] else 0.0,
        weight_decay=h["weight_decay"], max_preconditioner_dim=h["max_preconditioner_dim"],
        precondition_frequency=FREQUENCY, start_preconditioning_step=h["start_preconditioning_step"],
        inv_root_override=h["inv_root_override"], exponent_multiplier=h["exponent_multiplier"],
        use_nadam=h["use_nadam"], use_nesterov=True, use_bias_correction=True, use_decoupled_weight_decay=True,
        grafting_config=adam if h["grafting_type"] == "ADAM" else types.SGDGraftingConfig(),
        use_normalized_grafting=h["use_normalized_grafting"], use_merge_dims=True, use_pytorch_compile=False,
        preconditioner_dtype=torch.float64, use_protected_eigh=True, track_root_inv_residuals=False,
    )  # fmt: skip
    points, tensors = [], {name: torch.tensor(a) for name, a in p.items()}
    for t in range(STEPS):
        with torch.no_grad():
            x.grad = tensors["left"] @ x @ tensors["right"] + tensors["pull"]
            x.grad += tensors["rows"][t] @ tensors["columns"][t]
        optimizer.step()
        points.append(x.detach().numpy().copy())
    return points


def main(checkout: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / ITSELF
        package.parent.mkdir(parents=True)
        package.symlink_to((checkout / HERE).resolve())
        sys.path.insert(0, folder)
        root = ITSELF.replace("/", ".") + ".optimizers.distributed_shampoo"
        ds, types = (__import__(f"{root}.{name}", fromlist=["x"]) for name in ("distributed_shampoo", "shampoo_types"))
        store = torch.distributed.FileStore(str(Path(folder) / "store"), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        settings, p = json.loads((checkout / HERE / "tuning_search_space.json").read_text()), problem()
        points = [trajectory(ds, types, h, p) for h in settings]
    kept = np.array([0, 8, 9, 19, 49])  # roots are made in 9, 19, 29, ...
    arrays = p | {"points": np.array(points)[:, kept], "kept": kept, "settings": np.array(json.dumps(settings))}
    np.savez_compressed(Path(__file__).with_name("algoperf.npz"), **arrays, versions=f"torch {torch.__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
