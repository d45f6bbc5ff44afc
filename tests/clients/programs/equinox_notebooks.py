"""Training loops of Equinox's notebooks, smaller and on random data, with whatever `import optax` gives.

Each is written as its notebook is: what goes into `init`, whether `update` gets the model, what is filtered.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

RNG = np.random.default_rng(0)


def images(batch=16, size=8):
    return jnp.asarray(RNG.normal(size=(batch, 1, size, size)), jnp.float32), jnp.asarray(RNG.integers(0, 4, batch))


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


def test_mnist(numbers):
    model, (x, y) = CNN(jr.PRNGKey(0)), images()
    optim = optax.adamw(3e-3)
    opt_state = optim.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def make_step(model, opt_state, x, y):
        loss, grads = eqx.filter_value_and_grad(cross_entropy)(model, x, y)
        updates, opt_state = optim.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), opt_state, loss

    losses = []
    for _ in range(10):
        model, opt_state, loss = make_step(model, opt_state, x, y)
        losses.append(loss)
    assert losses[-1] < losses[0]
    numbers(losses)


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
    x, y = jnp.asarray(RNG.normal(size=(16, 5, 2)), jnp.float32), jnp.asarray(RNG.integers(0, 2, 16))
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
    x = jnp.asarray(RNG.normal(size=(16, 1)), jnp.float32)
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


def test_stateful(numbers):
    class Normed(eqx.Module):
        norm: eqx.nn.BatchNorm
        mlp: eqx.nn.MLP

        def __init__(self, key):
            self.norm = eqx.nn.BatchNorm(input_size=3, axis_name="batch", mode="batch")
            self.mlp = eqx.nn.MLP(3, "scalar", 8, 1, key=key)

        def __call__(self, x, state):
            x, state = self.norm(x, state)
            return self.mlp(x), state

    model, state = eqx.nn.make_with_state(Normed)(jr.PRNGKey(3))
    x = jnp.asarray(RNG.normal(size=(16, 3)), jnp.float32)
    optim = optax.adam(3e-3)
    opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))

    def compute_loss(model, state, xs, ys):
        pred, state = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(xs, state)
        return jnp.mean((pred - ys) ** 2), state

    @eqx.filter_jit
    def make_step(model, state, opt_state, xs, ys):
        grads, state = eqx.filter_grad(compute_loss, has_aux=True)(model, state, xs, ys)
        updates, opt_state = optim.update(grads, opt_state)
        return eqx.apply_updates(model, updates), state, opt_state

    for _ in range(10):
        model, state, opt_state = make_step(model, state, opt_state, x, x.sum(1))
    numbers([compute_loss(model, state, x, x.sum(1))[0]])


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
    x, y = jnp.asarray(RNG.integers(0, 16, (16, 4))), jnp.asarray(RNG.integers(0, 4, 16))
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


def test_parallelism(numbers):
    """Every argument is donated; model and state are placed on a mesh."""
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    model = eqx.nn.MLP(2, 2, 8, 2, key=jr.PRNGKey(6))
    x = jnp.asarray(RNG.normal(size=(16, 2)), jnp.float32)
    optim = optax.adam(3e-3)
    opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))

    def compute_loss(model, x, y):
        return jnp.mean((y - jax.vmap(model)(x)) ** 2)

    @eqx.filter_jit(donate="all")
    def train_step(model, opt_state, x, y):
        model, opt_state = eqx.filter_shard((model, opt_state), everywhere)
        updates, opt_state = optim.update(eqx.filter_grad(compute_loss)(model, x, y), opt_state)
        return eqx.filter_shard((eqx.apply_updates(model, updates), opt_state), everywhere)

    model, opt_state = eqx.filter_shard((model, opt_state), everywhere)
    for _ in range(10):
        model, opt_state = train_step(model, opt_state, x + 0, 2 * x)
    numbers([compute_loss(model, x, 2 * x)])


def test_score_based_diffusion(numbers):
    """Adabelief; only its function `update` goes into the jitted step."""
    model = eqx.nn.MLP(3, 2, 16, 1, key=jr.PRNGKey(7))
    data = jnp.asarray(RNG.normal(size=(16, 2)), jnp.float32)
    opt = optax.adabelief(3e-4)
    opt_state = opt.init(eqx.filter(model, eqx.is_inexact_array))

    def batch_loss(model, data, key):
        tkey, nkey = jr.split(key)
        t, noise = jr.uniform(tkey, (len(data), 1)), jr.normal(nkey, data.shape)
        pred = jax.vmap(model)(jnp.concatenate([data * (1 - t) + t * noise, t], 1))
        return jnp.mean((pred + noise) ** 2)

    @eqx.filter_jit
    def make_step(model, data, key, opt_state, opt_update):
        loss, grads = eqx.filter_value_and_grad(batch_loss)(model, data, key)
        updates, opt_state = opt_update(grads, opt_state)
        return loss, eqx.apply_updates(model, updates), opt_state

    losses = []
    for key in jr.split(jr.PRNGKey(8), 10):
        loss, model, opt_state = make_step(model, data, key, opt_state, opt.update)
        losses.append(loss)
    numbers(losses)


def test_serialised_state(numbers, tmp_path):
    """The state goes through `tree_serialise_leaves` and back into one made by `eqx.filter_eval_shape`."""
    model, (x, y) = CNN(jr.PRNGKey(9)), images()
    optim = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-2, 10)))
    opt_state = optim.init(eqx.filter(model, eqx.is_array))
    grads = eqx.filter_grad(cross_entropy)(model, x, y)
    _, opt_state = optim.update(grads, opt_state, eqx.filter(model, eqx.is_array))
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", opt_state)
    like = eqx.filter_eval_shape(optim.init, eqx.filter(model, eqx.is_array))
    restored = eqx.tree_deserialise_leaves(tmp_path / "state.eqx", like)
    assert eqx.tree_equal(opt_state, restored)
    updates, _ = optim.update(grads, restored, eqx.filter(model, eqx.is_array))
    numbers([optax.tree.norm(updates)])
