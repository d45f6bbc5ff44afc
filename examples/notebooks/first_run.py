# %% [markdown]
# # A first run
#
# A small network learns a curve. You will write the training loop by hand, let `minimize` write it, and choose
# a learning rate by a sweep.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gdjax

rng = np.random.default_rng(0)
x = np.linspace(-3, 3, 256, dtype=np.float32)[:, None]
y = np.sin(2 * x) + 0.1 * rng.normal(size=x.shape).astype(np.float32)

# %% [markdown]
# ## The model
#
# Parameters are any pytree of arrays: here a dict of two layers. The loss is a function of them and of a batch.

# %%
WIDTH = 64


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": {"kernel": jax.random.normal(first, (1, WIDTH)), "bias": jnp.zeros(WIDTH)},
        "out": {"kernel": jax.random.normal(second, (WIDTH, 1)) / WIDTH**0.5, "bias": jnp.zeros(1)},
    }


def predict(params, x):
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def loss(params, batch):
    x, y = batch
    return jnp.mean((predict(params, x) - y) ** 2)


params = init(jax.random.key(0))

# %% [markdown]
# ## The loop by hand
#
# An optimizer is a pair of pure functions. `init` makes the state, and `update` turns gradients into updates,
# which `apply_updates` adds to the parameters. `chain` puts transforms one behind the other: first the
# gradients are clipped, then AdamW makes the step. Its learning rate is a schedule: a warm-up, then a cosine to
# 0.

# %%
STEPS = 300
schedule = gdjax.warmup_cosine_decay_schedule(0.0, 1e-2, STEPS // 10, STEPS)
tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(schedule, weight_decay=1e-4))
print(tx)


@jax.jit
def step(params, state, batch):
    value, gradients = jax.value_and_grad(loss)(params, batch)
    updates, state = tx.update(gradients, state, params)
    return gdjax.apply_updates(params, updates), state, value


trained, state = params, tx.init(params)
for _ in range(STEPS):
    trained, state, value = step(trained, state, (x, y))
print(f"loss {float(value):.4f}")

# %% [markdown]
# ## The same by `minimize`
#
# It compiles the step, runs the loop and keeps a history. `data` is any iterable of batches; a list starts
# over.

# %%
result = gdjax.minimize(loss, params, tx, steps=STEPS, data=[(x, y)])
print(result.message)
assert np.allclose(result.history["loss"][-1], value, rtol=1e-2)

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.semilogy(result.history["loss"])
left.set(xlabel="step", title="loss")
right.plot(x, y, ".", markersize=3)
right.plot(x, predict(result.params, x))
right.set(title="data and fit")
plt.show()

# %% [markdown]
# ## Which learning rate?
#
# `sweep` makes the run for every rate at once: one step, compiled once, for all of them.

# %%
found = gdjax.sweep(loss, params, gdjax.adam, {"learning_rate": np.geomspace(1e-4, 1, 9)}, steps=100, data=[(x, y)])
print(found)
print("the best:", found.best.point)

# %% [markdown]
# Go on with *Group and inspect*, the next notebook, or with the page *How to choose*.
