"""GaLore against a NumPy statement of its paper, which sides and signs do not blur, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import GaLoreDimensionNumbers as Axes
from tests import oracles

RANK, GAP, LR = 2, 7, 0.05


def galore(x, gradient, side="long", scale=1.0, b1=0.9, b2=0.999, decay=0.0):
    """Algorithm 2, with the signs of the singular vectors, which are arbitrary, as JAX has them."""
    m = v = 0.0
    for t in range(1, oracles.STEPS + 1):
        g = r = gradient(t, x)
        if np.ndim(x) == 2:
            if (t - 1) % GAP == 0:
                left = (g.shape[0] >= g.shape[1]) == (side == "long")
                p, theirs = (first_vectors(svd, g, left) for svd in (np.linalg.svd, jnp.linalg.svd))
                p = p * np.sign(np.sum(p * theirs, 0))
            r = p.T @ g if left else g @ p
        m, v = b1 * m + (1 - b1) * r, b2 * v + (1 - b2) * r**2
        n = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        if np.ndim(x) == 2:
            n = scale * (p @ n if left else n @ p.T)
        x = x - LR * (n + decay * x)
        yield x, {}


def first_vectors(svd, g, left):
    u, _, vh = map(np.asarray, svd(g, full_matrices=False))
    return u[:, :RANK] if left else vh[:RANK].T


@pytest.mark.parametrize("side", ["long", "short"])
def test_oracle(side):
    got, _ = oracles.run(gdjax.galore(LR, RANK, GAP, 0.25, weight_decay=0.1, side=side), "float64")
    want, _ = oracles.expected(lambda x, g: galore(x, g, side, 0.25, decay=0.1))
    # Only the matrix is scaled: what is not projected takes Adam's direction as it is.
    for leaf in oracles.SHAPES:
        np.testing.assert_allclose(got[leaf], want[leaf], rtol=1e-10, atol=1e-10, err_msg=leaf)


def state_after(g, tx):
    return tx.update(g, tx.init(g))[1]


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
@pytest.mark.parametrize("side", ["long", "short"])
def test_the_projector(shape, side):
    g = jnp.asarray(np.random.default_rng(0).normal(size=shape), "float32")
    state = state_after(g, gdjax.scale_by_galore(2, side=side))
    u, _, vh = np.linalg.svd(np.float64(g), full_matrices=False)
    left = (shape[0] > shape[1]) == (side == "long")
    first = u[:, :2] if left else vh[:2].T
    p = np.float64(state.projector)
    np.testing.assert_allclose(p @ p.T, first @ first.T, atol=1e-5)  # the signs cancel
    assert state.base_optimizer_state.mu.shape == ((2, shape[1]) if left else (shape[0], 2))


def test_full_rank_changes_nothing_but_the_basis():
    g = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), "float32")
    tx = gdjax.scale_by_galore(8, base_optimizer=gdjax.identity(), scale=0.5)
    np.testing.assert_allclose(tx.update(g, tx.init(g))[0], 0.5 * g, rtol=1e-5, atol=1e-6)


def test_refresh():
    gs = jnp.asarray(np.random.default_rng(2).normal(size=(5, 4, 3)), "float32")
    tx = gdjax.scale_by_galore(1, 2)
    state, projectors = tx.init(gs[0]), []
    for g in gs:
        _, state = tx.update(g, state)
        projectors.append(np.asarray(state.projector))
    same = [bool((a == b).all()) for a, b in zip(projectors, projectors[1:], strict=False)]
    assert same == [True, False, True, False]


def test_a_state_of_optax_with_empty_projectors():
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    tx = gdjax.scale_by_galore(2)
    state = tx.init(params)
    assert isinstance(state.projector["b"], gdjax.MaskedNode)
    theirs = state._replace(projector={**state.projector, "b": jnp.zeros((0, 0))})
    for a, b in zip(*(jax.tree.leaves(tx.update(params, s)[0]) for s in (state, theirs)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_array_of_three_axes():
    g = np.random.default_rng(3).normal(size=(2, 3, 4)).astype("float32")
    cube = gdjax.scale_by_galore(1, weight_dimension_numbers=Axes(1, (0, 2)))
    flat = gdjax.scale_by_galore(1)
    x = jnp.asarray(g.transpose(1, 0, 2).reshape(3, 8))
    got = np.asarray(cube.update(jnp.asarray(g), cube.init(jnp.asarray(g)))[0])
    want = np.asarray(flat.update(x, flat.init(x))[0])
    np.testing.assert_allclose(got.transpose(1, 0, 2).reshape(3, 8), want, rtol=1e-5, atol=1e-6)


@pytest.mark.full
def test_zero_gradients():
    tx = gdjax.galore(0.1, 2)
    zero = jnp.zeros((4, 3))
    np.testing.assert_array_equal(tx.update(zero, tx.init(zero), zero)[0], 0)
    slope = jax.grad(lambda g: jnp.sum(tx.update(g, tx.init(zero), zero)[0]))(zero)
    assert np.isfinite(slope).all()


def test_bfloat16():
    g = jnp.asarray(np.random.default_rng(4).normal(size=(4, 3)), "bfloat16")
    tx = gdjax.scale_by_galore(2)
    u, state = tx.update(g, tx.init(g))
    assert u.dtype == state.projector.dtype == jnp.bfloat16
    assert np.isfinite(np.float32(u)).all()


@pytest.mark.parametrize("call, message", [
    (lambda: gdjax.galore(0.1, 0), "gdjax.galore: rank must be at least 1, got 0"),
    (lambda: gdjax.galore(0.1, 2.5), "gdjax.galore: rank must be an int, got 2.5"),
    (lambda: gdjax.galore(0.1, side="left"), "gdjax.galore: side must be one of long, short, got 'left'"),
    (lambda: gdjax.galore(0.1, update_proj_gap=0), "gdjax.galore: update_proj_gap must be at least 1"),
    (lambda: gdjax.galore(0.1, scale=gdjax.per_leaf(2, {"a": 2})), "gdjax.*: scale must be one number for the whole"),
    (lambda: gdjax.galore(0.1, weight_dimension_numbers=Axes()).init({"w": jnp.ones((2, 2, 2))}),
     r"gdjax.scale_by_galore: params\['w'\]: dimension numbers .* leave out the axes \(2,\)"),
])  # fmt: skip
def test_errors(call, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        call()


def test_one_set_of_axes_is_for_every_matrix():
    tree = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    state = gdjax.scale_by_galore(2, weight_dimension_numbers=Axes()).init(tree)
    assert state.projector["w"].shape == (4, 2) and state.projector["b"] == gdjax.MaskedNode()
