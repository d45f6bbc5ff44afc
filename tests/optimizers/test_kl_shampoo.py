"""KL-Shampoo against the paper's equations in NumPy, which with the divisors of before are its authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.golden_matrices import FILE
from tests.support import slow

RUNS = {  # b1, shampoo_beta, eps, k, init_factor, least eigenvalue, rate times decay
    "authors_f1": (0.9, 0.95, 1e-8, 1, 0.1, 0.01, 0.0),
    "authors_f5": (0.9, 0.95, 1e-8, 5, 0.1, 0.01, 0.0),
    "authors_decay": (0.95, 0.8, 1e-3, 2, 0.1, 0.01, 0.001),
    "authors_unclamped_init1": (0.9, 0.95, 1e-8, 1, 1.0, 0.0, 0.0),
}


def kl_shampoo(x, gradient, steps, numbers, seen):
    """The points of KL-Shampoo; `seen` tells whether an update divides by eigenvalues that have seen its gradient."""
    b1, beta, eps, k, init, least, decay = numbers
    (rows, columns), m = x.shape, np.zeros(x.shape)
    dL, dR = np.full((rows, 1), init), np.full((1, columns), init)
    for t in range(steps):
        g = gradient(x, t)
        if t == 0:
            L, R = (1 - beta) * g @ g.T / columns, (1 - beta) * g.T @ g / rows
            QL, QR = (np.linalg.eigh(a)[1][:, ::-1] for a in (L, R))
            yield x
            continue
        m, G, before = b1 * m + (1 - b1) * g, QL.T @ g @ QR, (dL, dR)
        by_right, by_left = g @ QR / np.sqrt(dR), QL.T @ g / np.sqrt(dL)
        L = beta * L + (1 - beta) * by_right @ by_right.T / columns
        R = beta * R + (1 - beta) * by_left.T @ by_left / rows
        new = np.mean(G**2 / dR, 1, keepdims=True), np.mean(G**2 / dL, 0, keepdims=True)
        dL, dR = (np.maximum(beta * d + (1 - beta) * x, least) for d, x in zip(before, new, strict=True))
        left, right = (dL, dR) if seen else before
        x = (1 - decay) * (x - 0.01 * QL @ ((QL.T @ m @ QR) / (np.sqrt(left * right) + eps)) @ QR.T)
        if t % k == 0:
            QL, QR = np.linalg.qr(L @ QL)[0], np.linalg.qr(R @ QR)[0]
        yield x


@pytest.mark.parametrize("leaf", ["tall1", "wide1", *slow(["square"])])
@pytest.mark.parametrize("run", RUNS)
def test_the_paper_and_its_authors_code(run, leaf):
    if not FILE.is_file():
        pytest.skip("golden/matrix.npz is not there")
    with np.load(FILE) as file:
        p = {k: np.asarray(file[f"problem/{leaf}/{k}"], float) for k in ("x0", "left", "right", "pull", "noise")}
        kept, golden = file["kept"] - 1, file[f"kl_shampoo/{run}/{leaf}"]
    gradient = lambda x, t: p["left"] @ x @ p["right"] + p["pull"] + p["noise"][t]
    steps, numbers = len(p["noise"]), RUNS[run]
    paper, authors = (
        np.array(list(kl_shampoo(p["x0"], gradient, steps, numbers, seen)))[kept] for seen in (True, False)
    )
    np.testing.assert_allclose(authors, golden, rtol=1e-4, atol=1e-5)

    b1, beta, eps, k, init, _, decay = numbers
    tx = gdjax.scale_by_kl_shampoo(b1, beta, eps, lambda count: k, init_factor=init)
    state, x, got, step = tx.init(jnp.asarray(p["x0"], "float32")), p["x0"], [], jax.jit(tx.update)
    for t in range(steps):
        u, state = step(jnp.asarray(gradient(x, t), "float32"), state)
        x = (x - 0.01 * np.asarray(u, float)) * (1 - decay * (t > 0))
        got.append(x)
    np.testing.assert_allclose(np.array(got)[kept], paper, rtol=1e-4, atol=1e-5)
    assert np.abs(paper - golden).max() > 1e-3  # the divisors of before are another method


def test_eigenvalues_have_a_least_value():
    tx = gdjax.scale_by_kl_shampoo(shampoo_beta=0.5, precondition_frequency=1)
    g = jnp.eye(3) * 1e-6
    state = tx.init(g)
    for _ in range(20):
        u, state = jax.jit(tx.update)(g, state)
    np.testing.assert_allclose(next(iter(state.dL.values())), 0.01, rtol=1e-5)  # 1 / sqrt(d) is at most 10
    np.testing.assert_allclose(jnp.diag(u), 1e-6 / (0.01 + 1e-8) * (1 - 0.9**19), rtol=1e-3)


def test_a_side_without_a_factor_is_whitened_by_nothing():
    g = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), "float32")
    tx = gdjax.scale_by_kl_shampoo(shampoo_beta=0.5, max_precond_dim=4)
    _, state = tx.update(g, tx.init(g))
    _, state = tx.update(g, state)
    assert state.R == {"3x5": gdjax.MaskedNode()} == state.dR
    np.testing.assert_allclose(state.L["3x5"][0], 0.75 * g @ g.T / 5, rtol=1e-5)
