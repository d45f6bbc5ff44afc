"""A decoder-only transformer over bytes, in plain JAX.

Shapes in comments: b sequences, t positions, d width, h heads, k = d / h width of a head, f = 4 d hidden width,
v = 256 bytes. Parameters are a nested dict, and their shapes are all that the functions need to know of the sizes.
"""

from typing import Any

import jax
import jax.numpy as jnp

VOCABULARY = 256
Params = dict[str, Any]


def init(key: jax.Array, width: int, layers: int, heads: int) -> Params:
    """Random parameters, float32.

    The matrices that write to the residual stream and the head start at zero: every block begins as the identity, and
    the model as the uniform distribution, with a loss of ln 256 = 5.545 nats.
    """
    if width % (2 * heads):
        raise ValueError(f"{heads} heads need a width that is a multiple of {2 * heads}, not {width}")
    d, h, k, f = width, heads, width // heads, 4 * width
    normal = jax.nn.initializers.normal

    def block(key: jax.Array) -> Params:
        qkv, up = jax.random.split(key)
        return {
            "attention": {
                "gain": jnp.ones(d),
                "qkv": normal(d**-0.5)(qkv, (d, 3, h, k)),
                "out": jnp.zeros((h, k, d)),
            },
            "mlp": {
                "gain": jnp.ones(d),
                "up": normal(d**-0.5)(up, (d, f)),
                "down": jnp.zeros((f, d)),
            },
        }

    embed, *blocks = jax.random.split(key, layers + 1)
    return {
        "embed": normal(0.1)(embed, (VOCABULARY, d)),
        "blocks": [block(key) for key in blocks],
        "head": {"gain": jnp.ones(d), "out": jnp.zeros((d, VOCABULARY))},
    }


def logits(params: Params, tokens: jax.Array) -> jax.Array:
    """Scores of the next byte, (b, t, v), after each of `tokens`, (b, t) integers; computed in float32."""
    params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    x = params["embed"][tokens]  # (b, t, d)
    for block in params["blocks"]:
        x = x + attention(block["attention"], x)
        x = x + mlp(block["mlp"], x)
    return norm(x, params["head"]["gain"]) @ params["head"]["out"]


def attention(p: Params, x: jax.Array) -> jax.Array:
    """Causal self-attention, (b, t, d) -> (b, t, d): each position reads itself and those before it."""
    q, k, v = jnp.einsum("btd,dshk->sbhtk", norm(x, p["gain"]), p["qkv"])  # (b, h, t, k) each
    scores = jnp.einsum("bhqk,bhsk->bhqs", rotate(q), rotate(k)) * q.shape[-1] ** -0.5  # (b, h, t, t)
    past = jnp.tri(x.shape[1], dtype=bool)[None, None]
    weights = jax.nn.softmax(jnp.where(past, scores, -jnp.inf))
    return jnp.einsum("bhqs,bhsk,hkd->bqd", weights, v, p["out"])


def mlp(p: Params, x: jax.Array) -> jax.Array:
    """Two matrices with a squared ReLU between, (b, t, d) -> (b, t, d)."""
    hidden = jax.nn.relu(norm(x, p["gain"]) @ p["up"])  # (b, t, f)
    return hidden**2 @ p["down"]


def norm(x: jax.Array, gain: jax.Array) -> jax.Array:
    """Root-mean-square normalisation of (b, t, d) with a learned gain (d,)."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * gain[None, None]


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions: turns pair i of (b, h, t, k) at position t by the angle t / 10000^(2 i / k)."""
    t, k = x.shape[-2:]
    position, i = jnp.arange(t, dtype=jnp.float32), jnp.arange(k // 2, dtype=jnp.float32)
    angle = jnp.outer(position, 10_000.0 ** (-2 * i / k))[None, None]  # (1, 1, t, k / 2)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def loss(params: Params, windows: jax.Array) -> jax.Array:
    """Mean negative log-likelihood, nats per byte, of `windows`, (b, t + 1) bytes, each byte given those before it."""
    windows = windows.astype(jnp.int32)
    log_p = jax.nn.log_softmax(logits(params, windows[:, :-1]))
    return -jnp.mean(jnp.take_along_axis(log_p, windows[:, 1:, None], axis=-1))


def generate(params: Params, key: jax.Array, context: jax.Array, count: int, temperature: float) -> jax.Array:
    """`count` bytes that continue `context`, (t,) bytes, each drawn from the softmax of its scores / `temperature`.

    The context slides: each step computes the last t bytes anew, which is quick enough for some hundreds of bytes.
    """

    def step(window: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = logits(params, window[None].astype(jnp.int32))[0, -1]
        drawn = jax.random.categorical(key, scores / temperature).astype(jnp.uint8)
        return jnp.concatenate([window[1:], drawn[None]]), drawn

    return jax.lax.scan(step, context, jax.random.split(key, count))[1]
