"""SOAP in plain JAX: the numbers of `gdjax.soap(lr, precondition_frequency=lambda count: k)`. Adam takes what is no
matrix.

    G'_t = QL^T G_t QR,    m_t = b1 m_{t-1} + (1 - b1) G'_t,    v_t = b2 v_{t-1} + (1 - b2) G'_t^2
    x_{t+1} = x_t - lr (QL (m_hat_t / (sqrt(v_hat_t) + eps)) QR^T + decay x_t)

QL and QR are bases of eigenvectors of L and R, the averages of G G^T and G^T G, renewed in every k-th step. The first
step makes them and moves no matrix: m and v are counted from the second.

Vyas et al. 2024, Algorithms 3 and 4, https://arxiv.org/abs/2409.11321.
"""

import jax
import jax.numpy as jnp

from plain.adamw import adamw_of_one, over_a_tree


def soap(lr, b1=0.95, b2=0.95, eps=1e-8, k=10, decay=0.0):
    init_rest, update_rest = adamw_of_one(lr, b1, b2, eps)

    def init(x):
        if x.ndim != 2:
            return init_rest(x)
        bases = [jnp.eye(n, dtype=x.dtype) for n in x.shape]
        return [0 * x, 0 * x, *[0 * Q for Q in bases], *bases]

    def update(G, s, x, t):
        if x.ndim != 2:
            return update_rest(G, s, x, t)
        m, v, L, R, QL, QR = s
        g, n = jnp.where(t > 1, QL.T @ G @ QR, 0), jnp.maximum(t - 1, 1)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        u = m / (1 - b1**n) / (jnp.sqrt(v / (1 - b2**n)) + eps)
        U = QL @ u @ QR.T
        L = b2 * L + (1 - b2) * G @ G.T
        R = b2 * R + (1 - b2) * G.T @ G
        s = jax.lax.cond((t - 1) % k == 0, lambda: turned(m, v, L, R, QL, QR, t == 1), lambda: [m, v, L, R, QL, QR])
        return -lr * (U + decay * x), s

    return over_a_tree(init, update)


def turned(m, v, L, R, QL, QR, first):
    (PL, WL), (PR, WR) = new_basis(L, QL, first), new_basis(R, QR, first)
    return [PL.T @ QL @ m @ QR.T @ PR, WL @ v @ WR.T, L, R, PL, PR]


def new_basis(A, Q, first):
    """At first the eigenvectors of A, later one power step from Q to them; and W, which takes v to the new coordinates.

    Where A says nothing of a direction, its eigenvectors are rounding: there the old basis says it, with a hundredth of
    fixed numbers, which keep the columns independent.
    """
    eps, n = jnp.finfo(A.dtype).eps, len(A)
    values = jnp.diag(Q.T @ A @ Q)
    A, values = A / jnp.max(values), values / jnp.max(values)
    cosines = values / (jnp.linalg.norm(A @ Q, axis=0) + eps**0.4)
    X = A @ Q + eps**0.4 * (1 - cosines**2) ** 3 * Q
    order = jnp.argsort(-jnp.where(values > eps**0.4, jax.lax.reduce_precision(values, 8, 10), 0))
    X, W = jnp.where(first, Q, X)[:, order], jnp.eye(n, dtype=A.dtype)[order]
    eigenvalues, V = jnp.linalg.eigh(A)
    known = first & (eigenvalues > eps ** (2 / 3) * eigenvalues[-1])[::-1]
    X = jnp.where(known, V[:, ::-1], X + 0.01 * first * fixed_numbers(n))
    W = jnp.where(known[:, None], (V[:, ::-1].T @ Q) ** 2, W)
    P, triangle = jnp.linalg.qr(X)
    return P * jnp.sign(jnp.diag(triangle)), W


def fixed_numbers(n):
    i, j = jnp.indices((n, n), dtype="uint32")
    k = (i * 40503 + j) * jnp.uint32(2654435769)
    k = (k ^ (k >> 15)) * jnp.uint32(2246822519)
    return (k >> 8) / 2**23 - 1
