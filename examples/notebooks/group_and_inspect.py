# %% [markdown]
# # Group and inspect
#
# Different leaves get different rates, decay or methods, and `explain` shows what each leaf gets before a step
# is made.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gdjax
from gdjax import plots

key = jax.random.key(0)
params = {
    "embed": jax.random.normal(key, (100, 16)),
    "layer": {"kernel": jax.random.normal(key, (16, 16)) / 4, "bias": jnp.zeros(16)},
    "head": {"kernel": jax.random.normal(key, (16, 10)) / 4, "bias": jnp.zeros(10)},
}


def loss(params, tokens, labels):
    hidden = jnp.tanh(params["embed"][tokens] @ params["layer"]["kernel"] + params["layer"]["bias"])
    logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    return jnp.mean(gdjax.softmax_cross_entropy_with_integer_labels(logits, labels))


tokens = jnp.arange(32) % 100
labels = tokens % 10

# %% [markdown]
# ## A method for each group
#
# `partition` takes a transform for each group, and labels that say which leaf is in which. `label_by_path`
# makes them from patterns: the first that is found in the path of a leaf decides.

# %%
tx = gdjax.partition(
    {
        "slow": gdjax.adamw(1e-3, weight_decay=0.0),
        "fast": gdjax.adamw(1e-2),
        "fixed": gdjax.set_to_zero(),
    },
    gdjax.label_by_path({"^embed": "slow", "^head/bias": "fixed", ".*": "fast"}),
)
table = gdjax.explain(tx, params)
table

# %% [markdown]
# The table is an object too: here are the leaves that do not move.

# %%
frozen = [row.path for row in table if row.frozen]
print(frozen)
assert frozen == ["head/bias"]

# %% [markdown]
# ## A number for each leaf
#
# If the method is the same, a factor is enough. `per_leaf` stands wherever an optimizer takes a number: a tenth
# of the rate for the embedding, no decay for biases.

# %%
rate = gdjax.per_leaf(1e-2, {"^embed": 0.1})
tx = gdjax.adamw(rate, weight_decay=gdjax.per_leaf(1e-2, {"bias$": 0.0}))
gdjax.explain(tx, params)

# %% [markdown]
# ## What the state costs

# %%
print("bytes of the state:", gdjax.state_bytes(tx, params))
gdjax.tabulate(tx, params)

# %% [markdown]
# ## Norms and rates of each step
#
# `with_metrics` keeps them in the state, by group if you like. It works inside `jit` and `scan`.

# %%
tx = gdjax.with_metrics(
    gdjax.chain(gdjax.clip_by_global_norm(1.0), tx), {"^embed": "embed", ".*": "rest"}, norms=("grad", "update")
)


@jax.jit
def step(params, state):
    gradients = jax.grad(loss)(params, tokens, labels)
    updates, state = tx.update(gradients, state, params)
    return gdjax.apply_updates(params, updates), state


trained, state, history = params, tx.init(params), []
for _ in range(20):
    trained, state = step(trained, state)
    history.append(gdjax.metrics(state))
for name, number in history[-1].items():
    print(f"{name:20} {float(number):.4g}")
plots.plot_metrics(jax.device_get(history))
plt.show()
print("loss", float(loss(params, tokens, labels)), "->", float(loss(trained, tokens, labels)))
assert loss(trained, tokens, labels) < loss(params, tokens, labels)

# %% [markdown]
# ## Why a leaf does not move
#
# `explain` sees no gradients; `check_numerics` does. In bfloat16 a small step may be lost when it is added to
# the parameter:

# %%
half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
gradients = jax.grad(loss)(half, tokens, labels)
verdicts = {row.path: row.verdict for row in gdjax.check_numerics(gdjax.adam(1e-5), half, gradients)}
for path, verdict in verdicts.items():
    print(f"{path:14} {verdict}")
assert np.unique(list(verdicts.values())).size > 1
