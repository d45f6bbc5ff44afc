"""Shampoo against Meta's code, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg.matrices import Matrix
from tests.golden_matrices import compare
from tests.support import slow
from tests.trees import precision

LEAVES = ["tall", "wide", *slow(["square"])]


def at_once(every):
    return {"precondition_frequency": lambda count: every, "start_preconditioning_step": every}


@pytest.mark.full
@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("every", [1, 5])
def test_metas_code(every, leaf):
    plain = gdjax.scale_by_shampoo(0.0, 1.0, 1e-4, grafting=None, **at_once(every))
    compare(f"shampoo/distributed_sum_f{every}", leaf, gdjax.chain(plain, gdjax.scale(-0.1)))
    mean = gdjax.scale_by_shampoo(0.9, 0.95, 1e-4, grafting=None, **at_once(every))
    compare(f"shampoo/distributed_mean_f{every}", leaf, gdjax.chain(mean, gdjax.scale(-0.01)))
    grafted = gdjax.scale_by_shampoo(0.9, 0.95, 1e-4, grafting_b2=0.95, **at_once(every))
    run = "graft_adam" if every == 1 else f"graft_adam_f{every}"
    compare(f"shampoo/distributed_{run}", leaf, gdjax.chain(grafted, gdjax.scale(-0.01)))


@pytest.mark.parametrize("leaf", LEAVES)
def test_metas_code_in_other_forms(leaf):
    sgd = gdjax.scale_by_shampoo(0.9, 0.95, 1e-4, 1, grafting="sgd")
    compare("shampoo/distributed_graft_sgd", leaf, gdjax.chain(sgd, gdjax.scale(-0.01)))
    newton = gdjax.scale_by_shampoo(0.9, 0.95, 1e-4, 1, grafting=None, root_method="newton")
    compare("shampoo/distributed_mean_f1", leaf, gdjax.chain(newton, gdjax.scale(-0.01)))
    squared = gdjax.shampoo(0.01, 0.9, 0.95, 1e-3, 1, grafting=None, root=2, weight_decay=0.1, roles=Matrix())
    compare("shampoo/distributed_root2_decay", leaf, squared)


def test_qr_comes_to_the_same_roots():
    g = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), "float32")
    states = []
    for method in ("eigh", "qr"):
        tx = gdjax.scale_by_shampoo(eps=1e-2, precondition_frequency=1, root_method=method)
        state, step = tx.init(g), jax.jit(tx.update)
        for _ in range(60):
            u, state = step(g, state)
        states.append((u, state.PL["4x6"]))
    np.testing.assert_allclose(states[1][0], states[0][0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(states[1][1], states[0][1], rtol=1e-3, atol=1e-3)


def test_before_the_start_the_direction_is_adams():
    gs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3, 4)), "float32")
    tx, adam = gdjax.scale_by_shampoo(precondition_frequency=4), gdjax.scale_by_adam()
    state, other = tx.init(gs[0]), adam.init(gs[0])
    for i, g in enumerate(gs):
        u, state = tx.update(g, state)
        want, other = adam.update(g, other)
        assert np.allclose(u, want, rtol=1e-5) is (i < 3)
        np.testing.assert_allclose(jnp.linalg.norm(u), jnp.linalg.norm(want), rtol=1e-5)


def shampoo(grads, b1=0.9, b2=0.9, eps=1e-3, k=2):
    """Directions of Shampoo without grafting, with the roots from before the step."""
    (m, n), mu = grads[0].shape, 0
    factors, roots = [np.zeros((m, m)), np.zeros((n, n))], [np.eye(m), np.eye(n)]
    for t, g in enumerate(grads, 1):
        mu = b1 * mu + (1 - b1) * g
        yield roots[0] @ mu @ roots[1] / (1 - b1**t)
        factors = [b2 * f + (1 - b2) * x for f, x in zip(factors, (g @ g.T, g.T @ g), strict=True)]
        if t % k == 0:
            values = [np.linalg.eigh(f / (1 - b2**t) + eps * np.eye(len(f))) for f in factors]
            roots = [(q * (w + 1e-7 * w.max()) ** -0.25) @ q.T for w, q in values]


def test_delayed_roots():
    with precision("float64"):
        grads = np.random.default_rng(0).normal(size=(9, 3, 4))
        tx = gdjax.scale_by_shampoo(0.9, 0.9, 1e-3, grafting=None, delayed=True, **at_once(2))
        state, got, update = tx.init(jnp.zeros((3, 4))), [], jax.jit(tx.update)
        for g in grads:
            u, state = update(jnp.asarray(g), state)
            got.append(u)
        np.testing.assert_allclose(got, list(shampoo(grads)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("k", [1, 4])
def test_delayed_roots_start_one_step_later(k):
    gs = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3, 4)), "float32")
    tx, adam = gdjax.scale_by_shampoo(precondition_frequency=k, delayed=True), gdjax.scale_by_adam()
    state, other = tx.init(gs[0]), adam.init(gs[0])
    for i, g in enumerate(gs):
        u, state = tx.update(g, state)
        want, other = adam.update(g, other)
        assert np.allclose(u, want, rtol=1e-5) is (i < k)


def test_one_side_has_the_root_of_one_side():
    g = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), "float32")
    tx = gdjax.scale_by_shampoo(0.0, 1.0, 1e-6, 1, grafting=None, sides="rows")
    u, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(u @ u.T, jnp.eye(3), atol=1e-4)  # (G G^T)^(-1/2) G is orthogonal


def test_errors():
    with pytest.raises(ValueError, match="gdjax.shampoo: root_method must be one of eigh, qr, newton, got 'svd'"):
        gdjax.shampoo(0.1, root_method="svd")
    with pytest.raises(ValueError, match="gdjax.shampoo: grafting must be one of adam, sgd, None, got 'lion'"):
        gdjax.shampoo(0.1, grafting="lion")
