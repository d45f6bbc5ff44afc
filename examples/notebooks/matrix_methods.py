# %% [markdown]
# # Matrix methods
#
# Muon, SOAP and Shampoo treat a weight matrix as a matrix. Which leaves are hidden matrices, and along which
# axes, they learn from *roles*: this notebook shows the roles of a model, gives each method the right leaves,
# and compares the methods.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gdjax

SHAPES = {"embed": (96, 32), "up": (32, 64), "down": (64, 32), "head": (32, 96)}
keys = jax.random.split(jax.random.key(0), len(SHAPES))
drawn = [jax.random.normal(key, shape) / shape[0] ** 0.5 for key, shape in zip(keys, SHAPES.values(), strict=True)]
w = dict(zip(SHAPES, drawn, strict=True))
params = {
    "embed": w["embed"],
    "mlp": {"up": w["up"], "down": w["down"], "bias": jnp.zeros(64)},
    "head": w["head"],
}


def loss(params, batch):
    tokens, labels = batch
    x = params["embed"][tokens]
    x = x + jax.nn.gelu(x @ params["mlp"]["up"] + params["mlp"]["bias"]) @ params["mlp"]["down"]
    return jnp.mean(gdjax.softmax_cross_entropy_with_integer_labels(x @ params["head"], labels))


tokens = jnp.arange(96)
batch = tokens, (7 * tokens + 3) % 96

# %% [markdown]
# ## Roles
#
# They are read from paths and shapes. `matrices_by_role(overrides)` takes corrections where a name says
# something else.

# %%
gdjax.roles(params)

# %% [markdown]
# ## Muon for the hidden matrices, Adam for the rest
#
# `matrices_by_role()` routes inside Muon: embeddings, heads, norms and biases get the Adam inside, with a rate
# of its own. `explain` shows who gets what, before anything runs.

# %%
muon = gdjax.muon(0.02, adam_learning_rate=3e-3, muon_weight_dimension_numbers=gdjax.matrices_by_role())
table = gdjax.explain(muon, params)
print(*zip(table["path"], table["group"], strict=True), sep="\n")
assert {p for p, group in zip(table["path"], table["group"], strict=True) if group == "muon"} == {"mlp/up", "mlp/down"}

# %% [markdown]
# SOAP takes the same roles, under the name `roles`. Its bases are refreshed in turns, some in each step.

# %%
soap = gdjax.soap(1e-2, adam_learning_rate=3e-3, precondition_frequency=5, roles=gdjax.matrices_by_role())
gdjax.tabulate(soap, params)

# %% [markdown]
# ## Side by side
#
# The same start and the same data, each at a rate that suits it. So small a problem says that the methods work,
# not which is better: the page *Compare two runs* tells how to compare fairly.

# %%
STEPS = 60
methods = {"adam": gdjax.adam(3e-3), "muon": muon, "soap": soap}
losses = {}
for name, tx in methods.items():
    losses[name] = gdjax.minimize(loss, params, tx, steps=STEPS, data=[batch]).history["loss"]
    print(f"{name:6} {losses[name][-1]:.4f}")
assert all(np.isfinite(x).all() and x[-1] < x[0] for x in losses.values())

fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
for name, values in losses.items():
    ax.semilogy(values, label=name)
ax.set(xlabel="step", title="loss")
ax.legend()
plt.show()
