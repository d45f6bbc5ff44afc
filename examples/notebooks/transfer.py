# %% [markdown]
# # Tune small, train big
#
# The best learning rate of a small network is too high for a wide one. This notebook shows how far it moves with
# the width, and how `transfer` makes it stay.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gdjax
from gdjax import plots

# %% [markdown]
# ## One model, at any width
#
# `make(width)` returns the loss and the parameters. The same code makes the small model and the large one.


# %%
def make(width, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "embed": jax.random.normal(keys[0], (8, width)),
        "hidden": jax.random.normal(keys[1], (width, width)) / width**0.5,
        "head": jax.random.normal(keys[2], (width, 1)) / width**0.5,
    }

    def loss(p, batch):
        x, y = batch
        h = jnp.tanh(jnp.tanh(x @ p["embed"]) @ p["hidden"])
        return jnp.mean(((h @ p["head"])[:, 0] - y) ** 2)

    return loss, params


x = jax.random.normal(jax.random.key(1), (60, 64, 8))
batches = [(xs, jnp.sin(xs.sum(1))) for xs in x]
WIDTHS, STEPS = (32, 64, 128, 256), 60
rates = {"learning_rate": [2.0**-k for k in range(3, 13)]}

# %% [markdown]
# ## One rate for all leaves
#
# `sweep` with `sizes` finds the best rate at each width. `drift` is how many octaves, factors of 2, the best rate
# moves when the width doubles.

# %%
plain = gdjax.sweep(make, None, gdjax.adamw, rates, steps=STEPS, sizes=WIDTHS, data=batches)
plain

# %% [markdown]
# ## Transferred
#
# `transfer(tx, base)` gives each leaf a factor for its rate, decay and eps. The factor follows from the role of the
# leaf and the axes that grew. `transfer_init` does the same for the weights at the start. At the width of `base` all
# factors are 1.

# %%
base = jax.eval_shape(lambda: make(WIDTHS[0])[1])


def make_transferred(width):
    loss, params = make(width)
    return loss, gdjax.transfer_init(params, base)


def transferred(learning_rate):
    return gdjax.transfer(gdjax.adamw(learning_rate), base)


table = gdjax.transfer_table(gdjax.adamw(1e-2), make(WIDTHS[-1])[1], base)
print(*(f"{row.path:7} {row.role:10} rate x {row.rate:.3g}, start x {row.start:.3g}" for row in table), sep="\n")

# %%
carried = gdjax.sweep(make_transferred, None, transferred, rates, steps=STEPS, sizes=WIDTHS, data=batches)
carried

# %%
plots.plot_transfer({"one rate for all leaves": plain, "transferred": carried})
plt.show()
print(f"octaves a doubling: {plain.drift:+.2f} as it is, {carried.drift:+.2f} transferred")
assert abs(carried.drift) < abs(plain.drift) and np.isfinite(carried.drift)

# %% [markdown]
# The dashed line is the best rate of the smallest model. To the left the wide models want less; to the right they
# want about the same. So tune at the small width, and train the large model with `transferred(best)`. One seed and
# 60 steps are few: the page *Tune small, train big* has the measured figures, and what to do about depth, batch and
# length.
