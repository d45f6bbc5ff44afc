"""Muon in plain JAX: the numbers of `gdjax.muon(lr)`. Adam with Nesterov's momentum takes what is no matrix.

    mu_t = beta mu_{t-1} + (1 - beta) g_t
    m_t = beta mu_t / (1 - beta^(t+1)) + (1 - beta) g_t / (1 - beta^t)
    x_{t+1} = x_t - lr (sqrt(max(1, columns / rows)) U V^T + decay x_t),    where m_t = U S V^T

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
"""

import jax.numpy as jnp

from plain.adamw import adamw_of_one, over_a_tree


def muon(lr, beta=0.95, ns_steps=5, eps=1e-8, decay=0.0):
    init_rest, update_rest = adamw_of_one(lr, 0.9, 0.999, eps, nesterov=True)

    def init(x):
        return jnp.zeros_like(x) if x.ndim == 2 else init_rest(x)

    def update(g, s, x, t):
        if x.ndim != 2:
            return update_rest(g, s, x, t)
        mu = beta * s + (1 - beta) * g
        m = beta * mu / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
        rows, columns = x.shape
        u = max(1, columns / rows) ** 0.5 * orthogonalized(m, ns_steps, eps)
        return -lr * (u + decay * x), mu

    return over_a_tree(init, update)


def orthogonalized(m, steps, eps):
    """About U V^T, with singular values from 0.7 to 1.2, by Newton-Schulz on the short side."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = m.shape[0] > m.shape[1]
    X = m.T if tall else m
    X = X / (jnp.linalg.norm(X) + eps)
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X.T if tall else X
