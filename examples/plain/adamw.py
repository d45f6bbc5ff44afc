"""AdamW in plain JAX: the numbers of `gdjax.adamw(lr)`.

    m_t = b1 m_{t-1} + (1 - b1) g_t,    v_t = b2 v_{t-1} + (1 - b2) g_t^2
    x_{t+1} = x_t - lr (m_hat_t / (sqrt(v_hat_t) + eps) + decay x_t)

Kingma & Ba 2014, https://arxiv.org/abs/1412.6980; Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101.
"""

import jax
import jax.numpy as jnp


def adamw(lr, b1=0.9, b2=0.999, eps=1e-8, decay=1e-4):
    return over_a_tree(*adamw_of_one(lr, b1, b2, eps, decay))


def adamw_of_one(lr, b1, b2, eps, decay=0.0, nesterov=False):
    """`init` and `update` of one array."""

    def init(x):
        return jnp.zeros_like(x), jnp.zeros_like(x)

    def update(g, s, x, t):
        m, v = s
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        return -lr * (m_hat / (jnp.sqrt(v_hat) + eps) + decay * x), (m, v)

    return init, update


def over_a_tree(init_one, update_one):
    """`init` and `update` of a tree of arrays, from those of one array."""

    def init(params):
        return jnp.zeros(()), jax.tree.map(init_one, params)

    def update(grads, state, params):
        t, s = state
        gs, tree = jax.tree.flatten(grads)
        rows = zip(gs, tree.flatten_up_to(s), tree.flatten_up_to(params), strict=True)
        us, s = zip(*[update_one(g, s, x, t + 1) for g, s, x in rows], strict=True)
        return tree.unflatten(us), (t + 1, tree.unflatten(s))

    return init, update
