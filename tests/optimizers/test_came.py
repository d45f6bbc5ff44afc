"""CAME."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def test_what_is_kept():
    params = {"a": jnp.ones((5, 4), "bfloat16"), "b": jnp.ones((2, 6, 4)), "c": jnp.ones(9), "d": jnp.ones((3, 0))}
    state = gdjax.scale_by_came().init(params)
    fields = ("v_row", "v_col", "v", "s_row", "s_col")
    shapes = {k: tuple(getattr(state, f)[k].shape for f in fields) for k in params}
    assert shapes == {
        "a": ((4,), (5,), (1,), (4,), (5,)),
        "b": ((2, 4), (2, 6), (1,), (2, 4), (2, 6)),
        "c": ((1,), (1,), (9,), (1,), (1,)),
        "d": ((1,), (1,), (3, 0), (1,), (1,)),
    }
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_the_two_longest_axes_are_a_matrix():
    """But for the clipping, which takes the norm of the whole array."""
    tx = gdjax.scale_by_came(clip_threshold=None)
    gradients = np.random.default_rng(0).normal(size=(3, 5, 2, 4)).astype("float32")
    state, alone = tx.init(gradients[0]), [tx.init(gradients[0, :, i]) for i in range(2)]
    for g in gradients:
        u, state = tx.update(g, state)
        for i in range(2):
            want, alone[i] = tx.update(g[:, i], alone[i])
            np.testing.assert_allclose(u[:, i], want, rtol=1e-5)


def test_a_step_that_differs_from_the_momentum_is_trusted_less():
    """The rows of a gradient that keeps its sign move further than those of one that alternates."""
    tx, x = gdjax.scale_by_came(b3=0.9), jnp.zeros((2, 4))
    state = tx.init(x)
    for t in range(200):
        steady = jnp.ones((1, 4)) + 0.01 * (-1) ** t
        u, state = tx.update(jnp.concatenate([steady, jnp.full((1, 4), (-1.0) ** t)]), state)
    size = np.abs(u).mean(1) / np.abs(state.m).mean(1)  # 1 / sqrt(S)
    assert size[0] > 50 * size[1]


def test_the_first_step():
    u, _ = (tx := gdjax.scale_by_came()).update(jnp.ones((3, 2)), tx.init(jnp.ones((3, 2))))
    np.testing.assert_allclose(u, 0.1 / (0.9 * 0.01), rtol=1e-3)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_huge_gradient_is_forgotten(dtype: str):
    g = jnp.full((4, 3), 6e4 if dtype == "float16" else 1e38, dtype)
    tx = gdjax.scale_by_came(b1=0.5, b2=0.5, b3=0.5)
    u, state = tx.update(g, tx.init(g))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((u, state)))
    clean = tx.init(g)
    for g in jnp.asarray(np.random.default_rng(0).normal(size=(300, 4, 3)), dtype):
        (u, state), (want, clean) = tx.update(g, state), tx.update(g, clean)
    assert np.isfinite(u).all() and (np.abs(want) > 0).all()
    np.testing.assert_allclose(u, want, rtol=1e-2)


def test_misuse():
    with pytest.raises(ValueError, match=r"^gdjax.came: eps1 must be"):
        gdjax.came(0.1, eps1=-1.0)
    with pytest.raises(ValueError, match=r"^gdjax.came: clip_threshold must be at least 0"):
        gdjax.came(0.1, clip_threshold=-1.0)
