"""Writes transfer.json: by what mup and nanoGPT-mup scale a GPT's rates, decays, eps and starts.

    python tests/golden/make_transfer.py CHECKOUT

needs torch 2.13.0, mup 1.0.0, and CHECKOUT, a clone of EleutherAI/nanoGPT-mup at 6f8bc3b (branch completep). Their code
builds the groups of the optimizer and the starts of a small and a wide GPT; none of it is here.

For each width, as a multiple of `BASE`: "mup" has for each leaf the rates and decays of MuAdamW and MuSGD and the
standard deviation of `mup.init.normal_`, "nanogpt" and "nanogpt, twice as deep" the rates, decays, eps and standard
deviations of that code, all over those of the small model; "logits" and "branch" are the factors of the forward pass.
`nanogpt` ties the head to the embedding, and decays no vectors: their decay is None. Of the layers, which are alike,
the first is written down.
"""

import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import mup
import torch
from torch import nn

BASE, WIDTHS, VOCABULARY, LENGTH, LAYERS = 64, (3, 4), 96, 16, 2
spec: Any = importlib.util.spec_from_file_location("model", Path(sys.argv[1]) / "model.py")
sys.modules["model"] = model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model)


class GPT(nn.Module):
    """The parameters of nanoGPT with a head of its own, by the same names."""

    def __init__(self, n: int):
        super().__init__()

        def block() -> nn.Module:
            attn = {"c_attn": nn.Linear(n, 3 * n), "c_proj": nn.Linear(n, n)}
            mlp = {"c_fc": nn.Linear(n, 4 * n), "c_proj": nn.Linear(4 * n, n)}
            parts = {"ln_1": nn.LayerNorm(n), "attn": nn.ModuleDict(attn)}
            return nn.ModuleDict({**parts, "ln_2": nn.LayerNorm(n), "mlp": nn.ModuleDict(mlp)})

        embeddings = {"wte": nn.Embedding(VOCABULARY, n), "wpe": nn.Embedding(LENGTH, n)}
        layers = nn.ModuleList([block() for _ in range(LAYERS)])
        self.transformer = nn.ModuleDict({**embeddings, "h": layers, "ln_f": nn.LayerNorm(n)})
        self.lm_head = mup.MuReadout(n, VOCABULARY, bias=False)


def first(rows: dict[str, Any]) -> dict[str, Any]:
    """Without the layers after the first."""
    return {name: row for name, row in rows.items() if ".h." not in name or ".h.0." in name}


def numbers(tree: nn.Module, optimizer: Any) -> dict[str, dict[str, Any]]:
    """Rate, decay and eps of each leaf."""
    names = {p: name for name, p in tree.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            rate = group["lr"] * group.get("lr_scale", 1.0)
            found[names[p]] = {"rate": rate, "decay": group["weight_decay"], "eps": group.get("eps")}
    return found


def by_mup(m: int) -> dict[str, Any]:
    wide = GPT(m * BASE)
    mup.set_base_shapes(wide, GPT(BASE), delta=GPT(2 * BASE))
    makers = {"adamw": (mup.MuAdamW, {"eps": 1.0}), "sgd": (mup.MuSGD, {})}
    found: dict[str, Any] = {"logits": 1 / wide.lm_head.width_mult()}
    for name, (make, more) in makers.items():
        rows = numbers(wide, make(wide.parameters(), lr=1.0, weight_decay=1.0, **more))
        found[name] = {k: {"rate": row["rate"], "decay": row["decay"]} for k, row in first(rows).items()}
    started: dict[int, float] = {}
    with mock.patch("mup.init._no_grad_normal_", lambda p, mean, std: started.__setitem__(id(p), std)):
        for p in wide.parameters():
            mup.init.normal_(p, std=1.0)
    found["start"] = first({name: started[id(p)] for name, p in wide.named_parameters()})
    return found


def by_nanogpt(m: int, deeper: int) -> dict[str, Any]:
    started: dict[int, float] = {}
    normal = torch.nn.init.normal_

    def noted(p: Any, mean: float = 0.0, std: float = 1.0) -> Any:
        started[id(p)] = std
        return normal(p, mean, std)

    config = model.GPTConfig(
        n_embd=m * BASE, n_head=4, n_layer=LAYERS * deeper, vocab_size=VOCABULARY, block_size=LENGTH, mup_enabled=True,
        mup_width_multiplier=m, depth_alpha_enabled=True, depth_multiplier=deeper, init_std=1.0,
    )  # fmt: skip
    with mock.patch("torch.nn.init.normal_", noted), contextlib.redirect_stdout(io.StringIO()):
        tree = model.GPT(config)
        rows = numbers(tree, tree.configure_optimizers(1.0, 1.0, (0.9, 0.95), 1.0, "cpu"))
    for name, p in tree.named_parameters():
        rows[name]["decay"] = rows[name]["decay"] or None
        rows[name]["start"] = started.get(id(p), 1.0)
    return {"logits": 1 / m, "branch": tree.transformer.h[0].residual_scaling, "adamw": first(rows)}


def main() -> None:
    versions = {"torch": torch.__version__, "mup": "1.0.0", "nanoGPT-mup": "6f8bc3b"}
    sizes = {"base": BASE, "vocabulary": VOCABULARY, "length": LENGTH, "layers": LAYERS}
    found: dict[str, Any] = {"versions": versions, "sizes": sizes}
    for m in WIDTHS:
        found[str(m)] = {
            "mup": by_mup(m), "nanogpt": by_nanogpt(m, 1), "nanogpt, twice as deep": by_nanogpt(m, 2)
        }  # fmt: skip
    (Path(__file__).parent / "transfer.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
