"""SPRING and minSR by NetKet, from `golden/ngd.npz`; its script says how it was made."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.linesearch.problems import precision

with np.load(Path(__file__).parent / "ngd.npz") as file:
    GOLDEN = dict(file)
RATE, SHIFT = float(GOLDEN["rate"]), float(GOLDEN["shift"])
# The projection regularizes what is centred: in exact arithmetic it changes nothing.
RUNS = {"minsr": {}, "spring": {"momentum": 0.9}, "projected": {"momentum": 0.9}}


def log_psi(p: Any, x: Any) -> Any:
    return x @ p["a"] + jnp.sum(jnp.log(jnp.cosh(x @ p["W"] + p["b"])))


def residuals(p: Any, x: Any, energies: Any) -> Any:
    """Their values are the local energies, their derivatives those of the wave function, both centred."""
    logs = jax.vmap(log_psi, (None, 0))(p, x)
    moving = logs - jnp.mean(logs)
    r = 2 * (energies - jnp.mean(energies)) + moving - jax.lax.stop_gradient(moving)
    return r / jnp.sqrt(len(x))


@pytest.mark.parametrize("solver", ["parameters", "residuals", "cg"])
def test_the_steps_of_netket(solver: str):
    with precision("float64"):
        a, b, W = np.split(GOLDEN["start"], [4, 7])
        start = {"a": jnp.asarray(a), "b": jnp.asarray(b), "W": jnp.asarray(W.reshape(4, 3))}
        batches = jnp.asarray(GOLDEN["samples"]), jnp.asarray(GOLDEN["energies"])
        for run, settings in RUNS.items():
            tx = gdjax.chain(
                gdjax.gauss_newton(SHIFT, max_tries=0, solver=solver, cg_tol=1e-12, **settings), gdjax.scale(RATE)
            )

            def step(carry: Any, batch: Any, tx: Any = tx) -> Any:
                p, state = carry
                given = {"residual_fn": lambda p: residuals(p, *batch)}
                u, state = tx.update(p, state, p, **given)
                p = gdjax.apply_updates(p, u)
                return (p, state), jnp.concatenate([jnp.ravel(p[name]) for name in "abW"])

            points = jax.jit(lambda p, tx=tx, step=step: jax.lax.scan(step, (p, tx.init(p)), batches)[1])(start)
            np.testing.assert_allclose(points, GOLDEN[run], rtol=1e-7, atol=1e-9)


def test_momentum_acts():
    assert np.abs(GOLDEN["minsr"][-1] - GOLDEN["spring"][-1]).max() > 1e-2
