"""Training loops of Equinox's notebooks, smaller and on random data, with whatever `import optax` gives.

Each is written as its notebook is: what goes into `init`, whether `update` gets the model, what is filtered. Only
arrays reach the optimizer.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from equinox_models import CNN, cross_entropy, images, normal


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
    x = normal(16, 3)
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


def test_parallelism(numbers):
    """Every argument is donated; model and state are placed on a mesh."""
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    model = eqx.nn.MLP(2, 2, 8, 2, key=jr.PRNGKey(6))
    x = normal(16, 2)
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
    data = normal(16, 2)
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
