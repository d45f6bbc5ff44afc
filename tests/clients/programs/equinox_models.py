"""What the programs after Equinox's notebooks share: random data, a model, a loss."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def integers(high, *shape):
    return jnp.asarray(np.random.default_rng(0).integers(0, high, shape))


def images(batch=16, size=8):
    return normal(batch, 1, size, size), integers(4, batch)


class CNN(eqx.Module):
    layers: list

    def __init__(self, key):
        k1, k2 = jr.split(key)
        self.layers = [
            eqx.nn.Conv2d(1, 3, kernel_size=3, key=k1),
            eqx.nn.MaxPool2d(kernel_size=2),
            jax.nn.relu,
            jnp.ravel,
            eqx.nn.Linear(75, 4, key=k2),
        ]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def cross_entropy(model, x, y):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y))
