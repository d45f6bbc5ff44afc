# %% [markdown]
# # Memory
#
# Training with AdamW in float32 keeps 12 bytes for each parameter between two steps: 4 of the parameter and 8 of two
# moments. This notebook counts what each remedy leaves, from shapes alone, and trains with some of them.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gdjax

# %% [markdown]
# ## Count before you train
#
# `state_bytes` takes shapes, so nothing is allocated. These are the arrays of GPT-2 small.

# %%
SHAPES = {
    "tokens": (50257, 768),
    "places": (1024, 768),
    "qkv": (12, 768, 2304),
    "out": (12, 768, 768),
    "up": (12, 768, 3072),
    "down": (12, 3072, 768),
}


def kept(tx, dtype):
    """Bytes of parameters and state for each parameter."""
    shapes = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in SHAPES.items()}
    return jnp.dtype(dtype).itemsize + gdjax.state_bytes(tx, shapes) / sum(x.size for x in shapes.values())


def recipes(rate):
    """An optimizer, and the dtype of the parameters that it is for."""
    adamw = gdjax.adamw(rate)
    coded = gdjax.quantize_state(adamw)
    return {
        "float32": (adamw, "float32"),
        "state in 8 bits": (coded, "float32"),
        "bfloat16, float32 master": (gdjax.with_master_weights(adamw), "bfloat16"),
        "bfloat16 rounded at random, state in 8 bits": (gdjax.with_stochastic_rounding(coded, key=0), "bfloat16"),
        "bfloat16, rounded to nearest": (adamw, "bfloat16"),
    }


for name, (tx, dtype) in recipes(1e-3).items():
    print(f"{kept(tx, dtype):5.1f} bytes a parameter: {name}")
assert round(kept(*recipes(1e-3)["state in 8 bits"])) == 6

# %% [markdown]
# ## Do they train alike?
#
# A network with two hidden layers, at a rate so low that a step is lost when bfloat16 rounds it to the nearest number.

# %%
rng = np.random.default_rng(0)
x = jnp.asarray(rng.normal(size=(512, 16)), jnp.float32)
y = jnp.tanh(x @ rng.normal(size=(16, 8))).astype(jnp.float32)
sizes = (16, 128, 128, 8)
keys = jax.random.split(jax.random.key(0), 3)
start = [jax.random.normal(k, (m, n)) / m**0.5 for k, m, n in zip(keys, sizes, sizes[1:], strict=False)]


def loss(weights, batch):
    h, target = batch
    *hidden, last = [w.astype(jnp.float32) for w in weights]
    for w in hidden:
        h = jnp.tanh(h @ w)
    return jnp.mean((h @ last - target) ** 2)


losses = {}
for name, (tx, dtype) in recipes(1e-4).items():
    weights = jax.tree.map(lambda w, dtype=dtype: w.astype(dtype), start)
    losses[name] = gdjax.minimize(loss, weights, tx, steps=400, data=[(x, y)]).history["loss"]
    print(f"{losses[name][-1]:.4f} {name}")

# %%
fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, values in losses.items():
    ax.semilogy(values, label=name)
ax.set(xlabel="step", title="loss")
ax.legend(fontsize=8)
plt.show()
ends = {name: values[-1] for name, values in losses.items()}
assert ends["state in 8 bits"] < 1.1 * ends["float32"]
assert ends["bfloat16, rounded to nearest"] > 1.1 * ends["bfloat16 rounded at random, state in 8 bits"]

# %% [markdown]
# The last line is the trap: weights in bfloat16 alone stop moving. `check_numerics` finds it before you train. The
# page *Memory* has the figures of language models, and goes on with gradients, activations and many devices.
