"""Writes spikes.npz, what authors' code does about spikes; `golden/test_golden_spikes.py` reads it.

    python tests/golden/make_spikes.py CHECKOUTS

needs numpy, torch 2.13.0, and CHECKOUTS, a folder with clones of the repositories of `COMMITS`. Only their code is
called; none of it is here. Two helpers that place tensors on a device are replaced.

The arrays: "losses" and "norms" of the steps; "factor/<run>" is 1 for each step that `SkipStepOptimizer` makes, 0 for
one that it skips; "clipped/<run>" are the norms after `ZClip`, whose gradient is the norm itself in a unit direction.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch

COMMITS = {"ZClip": "bluorion-com/ZClip 584ce4f", "OLMo-core": "allenai/OLMo-core fa6c501"}
CHECKOUTS = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
STEPS = 200
SKIPS = {"default": {}, "options": {"rolling_interval_length": 16, "sigma_factor": 3}}
CLIPS = {
    "default": {},
    "unbounded": {"max_grad_norm": None},
    "options": {"alpha": 0.75, "z_thresh": 1.5, "max_grad_norm": 1.25, "eps": 0.125, "warmup_steps": 4},
}

utils = types.ModuleType("olmo_core.utils")
utils.get_default_device = lambda: torch.device("cpu")
utils.move_to_device = lambda x, device: x.to(device)
sys.modules["olmo_core.utils"] = utils
sys.path[:0] = [str(CHECKOUTS / "ZClip"), str(CHECKOUTS / "OLMo-core/src/olmo_core/optim")]

from skip_step_optimizer import SkipStepOptimizer  # noqa: E402
from zclip.zclip import ZClip  # noqa: E402


def problem():
    rng = np.random.default_rng(0)
    losses = 3 * 0.99 ** np.arange(STEPS) + 0.05 * rng.normal(size=STEPS)
    norms = 0.8 + 0.1 * rng.normal(size=STEPS)
    losses[[20, 70, 90, 150]] += [2, 4, 1, 9]
    norms[[20, 30, 80, 90, 120, 121, 122, 160]] += [3, 2, 5, 0.5, 8, 8, 8, 1]
    return losses, np.abs(norms)


def factors(losses, norms, **options):
    optimizer = SkipStepOptimizer([torch.nn.Parameter(torch.zeros(1))], {}, **options)
    found = []
    for loss, norm in zip(losses, norms, strict=True):
        optimizer.latest_loss, optimizer.latest_grad_norm = torch.tensor(loss), torch.tensor(norm)
        found.append(float(optimizer.get_step_factor()))
    return np.array(found)


def clipped(norms, **options):
    model = torch.nn.Linear(3, 1, bias=False, dtype=torch.float64)
    clip, found = ZClip(**options), []
    for norm in norms:
        model.weight.grad = norm * torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
        clip.step(model)
        found.append(float(model.weight.grad.norm()))
    return np.array(found)


losses, norms = problem()
arrays = {"losses": losses, "norms": norms}
arrays |= {f"factor/{name}": factors(losses, norms, **options) for name, options in SKIPS.items()}
arrays |= {f"clipped/{name}": clipped(norms, **options) for name, options in CLIPS.items()}
versions = np.array([*COMMITS.values(), f"torch {torch.__version__}"])
np.savez_compressed(Path(__file__).parent / "spikes.npz", versions=versions, **arrays)
