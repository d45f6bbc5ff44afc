"""Variational inference of NumPyro with optimizers built as in its tests and tutorials."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import optax_to_numpyro

DATA = np.random.default_rng(0).normal(2, 1, 50).astype(np.float32)


def scheduled():
    """That of the tests `test_autosemidais` and `test_autosldais`."""
    scheduler = optax.piecewise_constant_schedule(0.01, {100: 0.1, 150: 0.5})
    return optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(scheduler), optax.scale(-1.0))


OPTIMIZERS = {
    "scheduled": scheduled,
    "adam": lambda: optax.adam(0.02),
    "decayed": lambda: optax.adamw(optax.exponential_decay(0.02, 50, 0.9)),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(10.0), optax.adam(0.02)),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=optax.cosine_decay_schedule(0.02, 200)),
}


def model(data):
    loc = numpyro.sample("loc", dist.Normal(0, 5))
    scale = numpyro.sample("scale", dist.LogNormal(0, 1))
    with numpyro.plate("data", len(data)):
        numpyro.sample("x", dist.Normal(loc, scale), obs=data)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_svi(name, wrapped, numbers):
    tx = OPTIMIZERS[name]()
    svi = SVI(model, AutoNormal(model), optax_to_numpyro(tx) if wrapped else tx, Trace_ELBO())
    result = svi.run(jax.random.key(0), 200, DATA, progress_bar=False)
    assert bool(jnp.all(jnp.isfinite(result.losses)))
    numbers(result.losses[::40])


def test_stable_update(numbers):
    """`stable_update` keeps the old state where the loss is not finite: it selects between two states leaf by leaf."""
    svi = SVI(model, AutoNormal(model), scheduled(), Trace_ELBO())
    state = svi.init(jax.random.key(0), DATA)
    for _ in range(3):
        state, loss = jax.jit(svi.stable_update)(state, DATA)
    numbers([loss])
