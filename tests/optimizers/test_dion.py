"""Dion against the paper's Algorithm 1 in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.polar_oracles import RNG, gradients, points


def dion(x, gs, q, lr=0.05, mu=0.95, eps=1e-8, decay=0.0):
    m = np.zeros_like(x)
    turned = x.shape[1] >= x.shape[0]
    for g in gs:
        b = m + g
        b = b.T if turned else b
        p, _ = np.linalg.qr(b @ q)
        r = b.T @ p
        m = b - (1 - mu) * p @ r.T
        q = r / (np.linalg.norm(r, axis=0, keepdims=True) + eps)
        u = p @ q.T
        m, u = (m.T, u.T) if turned else (m, u)
        x = x - lr * (np.sqrt(x.shape[1] / x.shape[0]) * u + decay * x)
        yield x, m, q


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
@pytest.mark.parametrize("fraction, rank", [(1.0, 1.0), (0.5, 0.5), (0.1, 0.1)])
def test_oracle(shape, fraction, rank):
    start, *gs = gradients(shape)
    q = RNG.normal(size=(min(shape), int(np.ceil(fraction * min(shape)))))
    tx = gdjax.dion(0.05, 0.8, fraction, eps=0.1, weight_decay=0.1)
    found = []

    def change(state):
        found.append(gdjax.tree.get(state, "Q")["w"][0].shape)
        return gdjax.tree.set(state, Q={"w": [jnp.asarray(q)[None]]})

    got, state = points(tx, start, gs, change)
    wanted = list(dion(start, gs, q, mu=0.8, eps=0.1, decay=0.1))
    assert found == [(1, *q.shape)]
    np.testing.assert_allclose(got, [x for x, _, _ in wanted], rtol=1e-9)
    np.testing.assert_allclose(gdjax.tree.get(state, "mu", filtering=_of_dion)["w"], wanted[-1][1], rtol=1e-9)
    np.testing.assert_allclose(gdjax.tree.get(state, "Q")["w"][0][0], wanted[-1][2], rtol=1e-9, atol=1e-12)


def _of_dion(path, value):
    return "ScaleByDionState" in str(path)


def test_of_full_rank_it_finds_the_polar_factor():
    # The same gradient again and again: P Q^T is U V^T of it.
    g = RNG.normal(size=(6, 4))
    got, _ = points(gdjax.chain(gdjax.scale_by_dion(), gdjax.scale(-1.0)), 0 * g, [g] * 200)
    u, _, vh = np.linalg.svd(g, full_matrices=False)
    np.testing.assert_allclose(got[-2] - got[-1], np.sqrt(4 / 6) * u @ vh, atol=1e-3)


def test_what_is_not_used_waits():
    # Of rank 1 the largest direction comes first; in the end all of the sum has been used.
    g = np.diag([3.0, 2.0, 1.0])
    tx = gdjax.chain(gdjax.scale_by_dion(0.0, 0.3), gdjax.scale(-1.0))
    got, state = points(tx, 0 * g, [g, 0 * g, 0 * g, 0 * g])
    updates = -np.diff(got, axis=0, prepend=np.zeros((1, 3, 3)))
    assert [np.linalg.matrix_rank(u, 1e-6) for u in updates] == [1, 1, 1, 0] or np.allclose(updates[3], 0, atol=1e-6)
    assert np.abs(gdjax.tree.get(state, "mu")["w"]).max() < 1e-6


def test_the_start_is_random_and_the_same_each_time():
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones((4, 3))}
    first, again, other = (gdjax.scale_by_dion(key=k).init(params).Q for k in (0, 0, 1))
    np.testing.assert_array_equal(first["a"][0], again["a"][0])
    assert not np.array_equal(first["a"][0], first["b"][0]) and not np.array_equal(first["a"][0], other["a"][0])


@pytest.mark.parametrize(
    "fraction, error", [(0.0, ValueError), (1.5, ValueError), ("all", TypeError), (True, TypeError)]
)
def test_errors(fraction, error):
    with pytest.raises(error, match="gdjax.dion: rank_fraction"):
        gdjax.dion(0.1, rank_fraction=fraction)
