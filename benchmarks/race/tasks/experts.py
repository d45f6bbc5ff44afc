"""A mixture of experts: the byte language model with four experts in the place of each block's second half."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
from small_lm import HEADS, model, text
from small_lm import start as dense

from . import Task
from .language import LAYERS, LENGTH, STEPS, WIDTH, drawing

EXPERTS, CHOSEN, HIDDEN, BALANCE = 4, 2, 128, 0.01


def make() -> Task:
    data = text.read()
    few, many = (jnp.asarray(text.spread(data.held_out, n, LENGTH)) for n in (64, 512))

    def loss(params: Any, windows: Any) -> Any:
        nats, uneven = nats_and_balance(params, windows)
        return nats + BALANCE * uneven

    def held_out(windows: Any) -> Any:
        batches = windows.reshape(-1, 32, LENGTH + 1)
        return lambda params: jax.lax.map(lambda w: nats_and_balance(params, w)[0], batches).mean()

    about = f"`language` with {EXPERTS} experts of width {HIDDEN} a block, {CHOSEN} of them for each byte"
    return Task(
        about, STEPS, start, drawing(data.train), loss, held_out(many), held_out(few), "nats a byte, held out",
        data=hashlib.sha256(data.train.tobytes() + data.held_out.tobytes()).hexdigest()[:16],
    )  # fmt: skip


def start(key: Any) -> Any:
    params = dense(key, WIDTH, LAYERS)
    return params | {"blocks": [_with_experts(jax.random.fold_in(key, i), b) for i, b in enumerate(params["blocks"])]}


def _with_experts(key: Any, block: Any) -> Any:
    up, router = jax.random.split(key)
    experts = {
        "gain": jnp.ones(WIDTH),
        "router": jax.random.normal(router, (WIDTH, EXPERTS)) * WIDTH**-0.5,
        "experts": {
            "up": jax.random.normal(up, (EXPERTS, WIDTH, HIDDEN)) * WIDTH**-0.5,
            "down": jnp.zeros((EXPERTS, HIDDEN, WIDTH)),
        },
    }
    return {"attention": block["attention"], "mlp": experts}


def nats_and_balance(params: Any, windows: Any) -> tuple[Any, Any]:
    """The loss in nats a byte, and how unevenly experts are chosen (1 at best), the mean over the blocks."""
    windows = windows.astype(jnp.int32)
    x, uneven = params["embed"][windows[:, :-1]], []
    for block in params["blocks"]:
        a = block["attention"]
        shaped = a | {
            "qkv": a["qkv"].reshape(WIDTH, 3, HEADS, WIDTH // HEADS),
            "out": a["out"].reshape(HEADS, WIDTH // HEADS, WIDTH),
        }
        x = x + model.attention(shaped, x)
        y, own = mixture(block["mlp"], x)
        x, uneven = x + y, [*uneven, own]
    scores = model.norm(x, params["head"]["gain"]) @ params["head"]["out"]
    picked = jnp.take_along_axis(jax.nn.log_softmax(scores), windows[:, 1:, None], axis=-1)
    return -jnp.mean(picked), jnp.stack(uneven).mean()


def mixture(p: Any, x: Any) -> tuple[Any, Any]:
    """Every expert is computed, which is quick at this size; those that are not chosen have the weight 0."""
    h = model.norm(x, p["gain"])
    scores = jax.nn.softmax(h @ p["router"])  # (b, t, e)
    best, which = jax.lax.top_k(scores, CHOSEN)
    share = jax.nn.one_hot(which, EXPERTS)  # (b, t, chosen, e)
    weights = (share * (best / best.sum(-1, keepdims=True))[..., None]).sum(-2)
    hidden = jax.nn.relu(jnp.einsum("btd,edf->btef", h, p["experts"]["up"])) ** 2
    y = jnp.einsum("btef,efd,bte->btd", hidden, p["experts"]["down"], weights)
    # Fedus et al. 2022: the share of the bytes of each expert times its mean score.
    chosen = share.sum(-2).mean((0, 1)) / CHOSEN
    return y, EXPERTS * jnp.sum(chosen * scores.mean((0, 1)))
