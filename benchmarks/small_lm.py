"""The language model of `examples/train_lm.py`, each matrix with two axes, as blocks and matrix methods want."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "examples"))
from lm import model, text  # noqa: E402, F401

HEADS = 2


def start(key: Any, width: int, layers: int) -> Any:
    """The model's parameters."""

    def flat(block: Any) -> Any:
        a = block["attention"]
        d = a["gain"].size
        return block | {"attention": a | {"qkv": a["qkv"].reshape(d, -1), "out": a["out"].reshape(-1, d)}}

    params = model.init(key, width, layers, HEADS)
    return params | {"blocks": [flat(block) for block in params["blocks"]]}


def loss(params: Any, windows: Any) -> Any:
    """Nats a byte of windows, (b, t + 1)."""

    def shaped(block: Any) -> Any:
        a = block["attention"]
        d = a["gain"].size
        qkv, out = a["qkv"].reshape(d, 3, HEADS, d // HEADS), a["out"].reshape(HEADS, d // HEADS, d)
        return block | {"attention": a | {"qkv": qkv, "out": out}}

    return model.loss(params | {"blocks": [shaped(block) for block in params["blocks"]]}, windows)
