"""Adam-mini, with the blocks of each leaf written down by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

N_HEADS, N_KV_HEADS = 4, 2
SHAPES: dict[str, Any] = {
    "embed": {"embedding": (7, 8)},
    "attention": {
        "query": {"kernel": (8, 12), "bias": (12,)},
        "key": {"kernel": (8, 6)},
        "value": {"kernel": (8, 6)},
        "out": {"kernel": (12, 8)},
    },
    "torch": {"q_proj": {"weight": (12, 8)}, "v_proj": {"weight": (6, 8)}},
    "heads": {"query": {"kernel": (8, 4, 3)}},
    "mlp": {"kernel": (8, 5)},
    "norm": {"scale": (8,)},
    "lm_head": {"kernel": (8, 7)},
}


def per(axis: int, number: int | None = None) -> Any:
    """Blocks along one axis: so many, or one for each place."""

    def ids(shape: Any) -> Any:
        n = shape[axis]
        along = np.arange(n) // (n // (number or n))
        return np.broadcast_to(np.expand_dims(along, [i for i in range(len(shape)) if i != axis % len(shape)]), shape)

    return ids


def each(shape: Any) -> Any:
    return np.arange(np.prod(shape)).reshape(shape)


def one(shape: Any) -> Any:
    return np.zeros(shape, int)


# What the authors' code does with these leaves, there (outputs, inputs); for the heads with an axis of their own too.
BLOCKS: dict[str, Any] = {
    "embed": {"embedding": per(0)},
    "attention": {
        "query": {"kernel": per(1, N_HEADS), "bias": each},
        "key": {"kernel": per(1, N_KV_HEADS)},
        "value": {"kernel": per(1)},
        "out": {"kernel": per(1)},
    },
    "torch": {"q_proj": {"weight": per(0, N_HEADS)}, "v_proj": {"weight": per(0)}},
    "heads": {"query": {"kernel": per(1)}},
    "mlp": {"kernel": per(1)},
    "norm": {"scale": one},
    "lm_head": {"kernel": per(1)},
}


def is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def tree(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: rng.normal(size=shape), SHAPES, is_leaf=is_shape)


def mini(x: Any, gs: Any, ids: Any, lr: float, b1: float, b2: float, eps: float, decay: float) -> Any:
    """Adam with the mean of squares over the numbers of the same id."""
    m, v = np.zeros(x.shape), np.zeros(ids.max() + 1)
    for t, g in enumerate(gs, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.array([np.mean(g[ids == i] ** 2) for i in range(len(v))])
        u = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)[ids]
        x = (1 - lr * decay) * x - lr * u
    return x


@pytest.mark.parametrize("numbers", [(0.9, 0.999, 1e-8, 0.0), (0.8, 0.9, 0.25, 0.125)])
def test_oracle(numbers: Any):
    b1, b2, eps, decay = numbers
    tx = gdjax.adam_mini(0.0625, b1, b2, eps, weight_decay=decay, n_heads=N_HEADS, n_kv_heads=N_KV_HEADS)
    start, gs = tree(0), [tree(seed) for seed in range(1, 11)]
    x: Any = jax.tree.map(lambda a: jnp.asarray(a, "float32"), start)
    state, update = tx.init(x), jax.jit(tx.update)
    for g in gs:
        updates, state = update(jax.tree.map(lambda a: jnp.asarray(a, "float32"), g), state, x)
        x = gdjax.apply_updates(x, updates)
    ids = jax.tree.map(lambda shape, of: of(shape), SHAPES, BLOCKS, is_leaf=is_shape)
    want = jax.tree.map(lambda p, i, *g: mini(p, g, i, 0.0625, b1, b2, eps, decay), start, ids, *gs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), x, want)
    number = jax.tree.map(lambda i: i.max() + 1, ids)
    assert jax.tree.map(jnp.size, gdjax.tree.get(state, "nu")) == number


def test_other_leaves():
    params = {
        "layers": {"norm": {"scale": jnp.ones((3, 8))}, "mlp": {"kernel": jnp.ones((3, 8, 5))}},
        "conv": {"kernel": jnp.ones((3, 3, 4, 6))},
        "qkv": {"kernel": jnp.ones((8, 24))},
        "head": {"weight": jnp.ones((7, 8))},
        "query": {"kernel": jnp.ones((8, 12))},
    }
    nu = gdjax.scale_by_adam_mini().init(params).nu
    assert jax.tree.map(jnp.shape, nu) == {
        "layers": {"norm": {"scale": (3, 1)}, "mlp": {"kernel": (3, 1, 5)}},
        "conv": {"kernel": (1, 1, 1, 6)},
        "qkv": {"kernel": (1, 24)},
        "head": {"weight": (7, 1)},
        "query": {"kernel": (1, 12)},  # how many heads is not known
    }


def test_roles_can_be_given():
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones((4, 3))}
    tx = gdjax.scale_by_adam_mini(roles={"a": gdjax.Matrix(1, 0), "b": "other"})
    assert jax.tree.map(jnp.shape, tx.init(params).nu) == {"a": (4, 1), "b": (1, 1)}


def test_a_function_may_say_that_the_only_leaf_is_no_matrix():
    x = jnp.arange(3.0)
    tx = gdjax.adam_mini(0.1, roles=lambda x: gdjax.Matrix() if jnp.ndim(x) > 1 else None)
    assert gdjax.tree.get(tx.init(x), "nu").shape == (1,)
    assert tx.update(x, tx.init(x))[0].shape == (3,)


def test_with_a_block_for_each_number_it_is_adam():
    params = {"bias": jnp.arange(1.0, 5.0), "b": jnp.ones((2, 3))}
    updates = []
    for tx in (gdjax.adam_mini(0.1), gdjax.adam(0.1)):
        state = tx.init(params)
        for _ in range(3):
            u, state = tx.update(params, state, params)
        updates.append(u)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *updates)


def test_misuse():
    params = {"attention": {"query": {"kernel": jnp.ones((8, 12))}}}
    with pytest.raises(ValueError, match=r"^gdjax.adam_mini: params\['attention'\].* has 12 outputs, .* of 5 heads"):
        gdjax.adam_mini(0.1, n_heads=5).init(params)
    with pytest.raises(ValueError, match="^gdjax.adam_mini: n_heads must be at least 1"):
        gdjax.adam_mini(0.1, n_heads=0)
    with pytest.raises(TypeError, match="^gdjax.adam_mini: n_heads must be an int"):
        gdjax.adam_mini(0.1, n_heads=2.5)
