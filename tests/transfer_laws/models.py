"""Small and large models, and the factors of their leaves."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import gdjax

V = 32


def model(n: int, layers: int = 2, draw: Any = None) -> Any:
    """A transformer's parameters, of width n."""
    rng = np.random.default_rng(n)
    draw = draw or (lambda *shape: jnp.asarray(0.1 * rng.standard_normal(shape), "float32"))

    def block() -> Any:
        attention = {"gain": jnp.ones(n), "qkv": draw(n, 3 * n), "out": draw(n, n)}
        return {"attn": attention, "mlp": {"up": draw(n, 4 * n), "up_bias": jnp.zeros(4 * n), "down": draw(4 * n, n)}}

    return {"embed": draw(V, n), "blocks": [block() for _ in range(layers)], "head": draw(n, V)}


BASE, WIDE, DEEP = model(4), model(16), model(16, layers=8)


def factors(tx: Any, params: Any = WIDE, base: Any = BASE, **more: Any) -> dict[str, tuple[float, ...]]:
    """Rate, decay, eps and start of the leaves of block 0 and outside of blocks, by their last keys."""
    rows = gdjax.transfer_table(tx, params, base, **more).rows
    return {r.path.split("/")[-1]: (r.rate, r.decay, r.eps, r.start) for r in rows if "blocks/1" not in r.path}


def flat(n: int, layers: int) -> Any:
    """Layers stacked along an axis, attention and MLP beside each other, with biases."""
    shapes = {"qkv": (n, 3 * n), "attn_out": (n, n), "w1": (n, 4 * n), "b1": (4 * n,), "w2": (4 * n, n), "b2": (n,)}
    stack = {name: jnp.ones((layers, *shape)) for name, shape in shapes.items()}
    return {"embed": jnp.ones((V, n)), "layers": stack, "head": jnp.ones((n, V))}


def changed(tree: Any, **more: Any) -> Any:
    return {k: x for k, x in (tree | more).items() if x is not None}
