"""Training loops of Equinox's notebooks, smaller and on random data, with whatever `import optax` gives.

Each is written as its notebook is: what goes into `init`, whether `update` gets the model, what is filtered. Functions
and numbers of the model reach the optimizer, and gradients of None.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from equinox_models import CNN, cross_entropy, images, integers, normal


class RNN(eqx.Module):
    hidden_size: int
    cell: eqx.Module
    linear: eqx.nn.Linear
    bias: jax.Array

    def __init__(self, key):
        k1, k2 = jr.split(key)
        self.hidden_size = 8
        self.cell = eqx.nn.GRUCell(2, 8, key=k1)
        self.linear = eqx.nn.Linear(8, 1, use_bias=False, key=k2)
        self.bias = jnp.zeros(1)

    def __call__(self, xs):
        out, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros((self.hidden_size,)), xs)
        return jax.nn.sigmoid(self.linear(out) + self.bias)[0]


@pytest.mark.parametrize("of", ["model", "arrays"])
def test_train_rnn(of, numbers):
    """`update` has no params. With "model", as in the notebook, an `int` is among the leaves that `init` gets."""
    model = RNN(jr.PRNGKey(1))
    x, y = normal(16, 5, 2), integers(2, 16)
    optim = optax.adam(3e-3)
    opt_state = optim.init(model if of == "model" else eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_value_and_grad
    def compute_loss(model, x, y):
        pred = jax.vmap(model)(x)
        return -jnp.mean(y * jnp.log(pred) + (1 - y) * jnp.log(1 - pred))

    @eqx.filter_jit
    def make_step(model, opt_state, x, y):
        loss, grads = compute_loss(model, x, y)
        updates, opt_state = optim.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, loss

    losses = []
    for _ in range(10):
        model, opt_state, loss = make_step(model, opt_state, x, y)
        losses.append(loss)
    numbers(losses)


def test_frozen_layer(numbers):
    """The state is that of the whole model, functions among its leaves; the frozen layers' gradients are None."""
    model = eqx.nn.MLP(in_size=1, out_size=1, width_size=8, depth=1, key=jr.PRNGKey(2))
    x = normal(16, 1)
    spec = jax.tree.map(lambda _: False, model)
    spec = eqx.tree_at(lambda m: (m.layers[-1].weight, m.layers[-1].bias), spec, replace=(True, True))
    optim = optax.sgd(3e-3)
    opt_state = optim.init(model)

    @eqx.filter_jit
    def make_step(model, x, y, opt_state):
        @eqx.filter_grad
        def loss(diff_model, static_model, x, y):
            return jnp.mean((y - jax.vmap(eqx.combine(diff_model, static_model))(x)) ** 2)

        diff_model, static_model = eqx.partition(model, spec)
        updates, opt_state = optim.update(loss(diff_model, static_model, x, y), opt_state)
        return eqx.apply_updates(model, updates), opt_state

    before = model
    for _ in range(10):
        model, opt_state = make_step(model, x, 3 * x, opt_state)
    assert bool(jnp.all(model.layers[0].weight == before.layers[0].weight))
    assert not bool(jnp.all(model.layers[-1].weight == before.layers[-1].weight))
    numbers(model.layers[-1].weight.ravel())


def test_vision_transformer(numbers):
    """`update` gets the model as it is, functions among its leaves; the optimizer is an argument of the step."""
    model, (x, y) = CNN(jr.PRNGKey(4)), images()
    optimizer = optax.adamw(learning_rate=1e-3, b1=0.9, b2=0.999)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step_model(model, optimizer: optax.GradientTransformation, state: optax.OptState, x, y):
        loss, grads = eqx.filter_value_and_grad(cross_entropy)(model, x, y)
        updates, state = optimizer.update(grads, state, model)
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(10):
        model, state, loss = step_model(model, optimizer, state, x, y)
        losses.append(loss)
    numbers(losses)


def test_bert(numbers):
    """A chain whose state is that of the whole model, arrays only; `update` gets the model."""

    class Embedded(eqx.Module):
        embedding: eqx.nn.Embedding
        linear: eqx.nn.Linear

        def __call__(self, ids):
            return self.linear(jnp.mean(jax.vmap(self.embedding)(ids), 0))

    k1, k2 = jr.split(jr.PRNGKey(5))
    model = Embedded(eqx.nn.Embedding(16, 8, key=k1), eqx.nn.Linear(8, 4, key=k2))
    x, y = integers(16, 16, 4), integers(4, 16)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate=1e-2))
    opt_state = tx.init(model)

    @eqx.filter_jit
    def make_step(model, opt_state, x, y):
        loss, grads = eqx.filter_value_and_grad(cross_entropy)(model, x, y)
        updates, opt_state = tx.update(grads, opt_state, model)
        return eqx.apply_updates(model, updates), opt_state, loss

    losses = []
    for _ in range(10):
        model, opt_state, loss = make_step(model, opt_state, x, y)
        losses.append(loss)
    numbers(losses)
